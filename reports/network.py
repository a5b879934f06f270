"""The map of the network in an audit: each module's own error, forward and backward."""

from collections.abc import Mapping, Sequence
from typing import Any

from parity.claims import verdicts_of
from parity.judge import Verdict
from reports.document import Block, Cell, Column, Figure, Plot, Table, Text, number
from reports.layer_map import LEGEND, Module, groups, layer_map, part_of

NARROW, WIDE = 360, 1080
WAYS = (
    (
        "forward",
        ("isolated_function", "same_function"),
        ("given the reference's inputs", "in place, errors of earlier modules included"),
    ),
    (
        "backward",
        ("train_gradients_isolated", "train_gradients"),
        ("given the reference's gradients", "in place, errors of later modules included"),
    ),
)
"""Direction; claims that say it, the best first; and how each of them measured."""

TEXT = (
    "Every cell is a module, in order of execution, coloured by the largest error of what it "
    "returns, as a share of its limit."
)
ISOLATE = (
    "Measured in place: a module also shows what it inherits. parity audit --isolate runs each "
    "module alone and shows its own error."
)


def blocks(claims: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    """The maps that these claims allow, and one sortable table of all modules; maybe nothing."""
    by_id = {one["id"]: one for one in claims if one.get("measured")}
    figures, columns = [], {}
    inherited = False
    for way, identities, hows in WAYS:
        for identity, how in zip(identities, hows, strict=True):
            if identity in by_id:
                modules = modules_of(verdicts_of(by_id[identity]["measured"]))
                figures.append(_figure(modules, f"{way}, {how}"))
                columns[f"{way}, {how.partition(',')[0]}"] = modules
                inherited = inherited or identity != identities[0]
                break
    if not figures:
        return ()
    note = [Text(ISOLATE)] if inherited else []
    return (Text(TEXT), *note, *figures, _table(columns))


def modules_of(verdicts: Mapping[str, Verdict]) -> list[Module]:
    """By module, the verdict on its results or gradients that is nearest to its limit."""
    worst: dict[str, Verdict] = {}
    for key, verdict in verdicts.items():
        path, _, kind = key.partition(":")
        if kind.startswith("input"):
            continue
        before = worst.get(path)
        if before is None or verdict.margin > before.margin:
            worst[path] = verdict
    return [
        Module(
            path,
            verdict.margin,
            verdict.passed,
            f"{path}: {number(verdict.value)}, limit {number(verdict.threshold.value)}",
        )
        for path, verdict in worst.items()
    ]


def _figure(modules: Sequence[Module], title: str) -> Figure:
    rows = groups(modules)
    wrong = [module.path for module in modules if not module.passed]
    worst = max(modules, key=lambda module: module.share)
    said = f"above their limit: {', '.join(wrong[:5])}" if wrong else "none is above its limit"
    description = (
        f"Map of {len(modules)} modules, {title}; {said}; nearest to its limit: {worst.label}. "
        "Values: see the table of modules."
    )
    narrow, wide = (layer_map(rows, title, description, width) for width in (NARROW, WIDE))
    legend = tuple((css, name) for css, name in LEGEND if wrong or css != "mbad")
    caption = f"{len(modules)} modules, {title}. Hover over a cell for its module and figures."
    return Figure(caption, (Plot(title, narrow, wide),), series=legend)


def _table(columns: Mapping[str, Sequence[Module]]) -> Table:
    paths = dict.fromkeys(module.path for modules in columns.values() for module in modules)
    by_path = [{module.path: module for module in modules} for modules in columns.values()]
    rows = []
    for index, path in enumerate(paths, 1):
        found = [one.get(path) for one in by_path]
        passed = all(one.passed for one in found if one is not None)
        rows.append(
            (
                Cell(str(index), index),
                Cell(path or "model", path),
                Cell(part_of(path), part_of(path)),
                Cell("holds" if passed else "fails", tone="good" if passed else "bad"),
                *(
                    Cell("", "")
                    if one is None
                    else Cell(f"{100 * one.share:.3g} %", one.share, "" if one.passed else "bad")
                    for one in found
                ),
            )
        )
    heads = (
        Column("#", numeric=True),
        Column("Module", code=True),
        Column("Part", choices=True),
        Column("Verdict", choices=True),
        *(Column(name, numeric=True) for name in columns),
    )
    caption = "Modules, with their largest error as a share of its limit"
    return Table(caption, heads, tuple(rows), interactive=True)

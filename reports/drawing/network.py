"""The map of the network in an audit: each module's own error, forward and backward."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from parity.claims import Claim
from parity.judge import Verdict
from parity.measurements import Margins
from parity.trace import module_of
from reports.document import Block, Cell, Column, Figure, Plot, Table, Text, number
from reports.drawing.boxes import HANDED, boxes
from reports.drawing.layer_map import LEGEND, Module, colour, groups, layer_map, part_of

NARROW, WIDE = 360, 1080


@dataclass(frozen=True)
class Way:
    """One direction through the network, and the claims that measured it.

    `own` is of every module run alone, `in_place` of all modules together; `given` says what a
    module that runs alone is given, `inherits` from where an error in place may come, `option`
    what makes an audit run every module alone.
    """

    name: str
    own: str
    in_place: str
    given: str
    inherits: str
    option: str


WAYS = (
    Way(
        "forward",
        "isolated_function",
        "same_function",
        "the reference's inputs",
        "the modules before it",
        "--isolate",
    ),
    Way(
        "backward",
        "train_gradients_isolated",
        "train_gradients",
        "the reference's inputs and output gradients",
        "the modules after it",
        "--train --isolate",
    ),
)

NOWHERE: Mapping[str, str] = {}

TEXT = (
    "Every cell is a module, in the order of the forward pass, coloured by its largest error as a "
    "share of that tensor's limit."
)
OWN = (
    "Own error, {name}: each module ran alone, given {given}; in place of the modules it calls "
    "stood what these do in the reference. Nothing that is shown is inherited."
)
IN_PLACE = (
    "The {name} map is not of own errors: every module was measured in place, so a module also "
    "shows what {inherits} handed to it. parity audit {option} runs each module alone and "
    "shows its own error."
)
TOLD_APART = (
    "The {name} map is of errors in place. Modules that differ ran alone, given {given}: those "
    "that are right there only pass on what {inherits} handed to them, and are told apart."
)
EMPTY = (
    "A module without a value for its own error is no call of its own in the reference, such as "
    "the projections inside of an attention: its caller's value covers it."
)


def blocks(claims: Sequence[Claim], places: Mapping[str, str] = NOWHERE) -> tuple[Block, ...]:
    """The maps that these claims allow, and one sortable table of all modules; maybe nothing.

    A map is of the modules' own errors where these were measured, else of errors in place, and
    then says so. `places` are the modules that differ when they run alone, where it was tried, and
    at which tensor: all others that differ in the forward pass inherit.
    """
    measured = {one.id: one.measured for one in claims if isinstance(one.measured, Margins)}
    found: list[tuple[Way, list[Module], list[Module]]] = []
    for way in WAYS:
        own, in_place = (
            modules_of(measured[identity].verdicts()) if identity in measured else []
            for identity in (way.own, way.in_place)
        )
        if places and way.name == "forward" and not own:
            in_place = [replace(one, inherited=one.path not in places) for one in in_place]
        if own or in_place:
            found.append((way, own, in_place))
    paths = [module.path for _, own, in_place in found for module in (*in_place, *own)]
    order = {path: index for index, path in enumerate(dict.fromkeys(paths))}
    texts, figures = [], []
    for way, own, in_place in found:
        words = {"name": way.name, "given": way.given, "inherits": way.inherits}
        text, title = (OWN, "own error") if own else (IN_PLACE, "error in place")
        if not own and any(one.inherited for one in in_place):
            text = TOLD_APART
        texts.append(Text(text.format(**words, option=way.option)))
        figures.append(_figure(own or in_place, f"{title}, {way.name}", order))
    if not figures:
        return ()
    alone = any(own for _, own, _ in found)
    drawn = boxes(
        {
            f"{'own error' if own else 'error in place'}, {way.name}": own or in_place
            for way, own, in_place in found
        },
        {
            key: verdict
            for way, *_ in found
            if way.own in measured
            for key, verdict in measured[way.own].verdicts().items()
            if HANDED in key
        },
        places,
    )
    table = _table(found, order)
    return (Text(TEXT), *texts, *figures, drawn, table, *([Text(EMPTY)] if alone else []))


def modules_of(verdicts: Mapping[str, Verdict]) -> list[Module]:
    """By module, the verdict on its results or gradients that is nearest to its limit.

    What a module is given counts for the one that made it.
    """
    worst: dict[str, Verdict] = {}
    for key, verdict in verdicts.items():
        path, kind = module_of(key), key.partition(":")[2]
        if kind.startswith(("input", "grad_output")):
            continue
        before = worst.get(path)
        if before is None or _margin(verdict) > _margin(before):
            worst[path] = verdict
    return [
        Module(
            path,
            _margin(verdict),
            verdict.passed,
            f"{path}: {_figures(verdict)}",
        )
        for path, verdict in worst.items()
    ]


def _margin(verdict: Verdict) -> float:
    """The share of the limit; infinite where there is no number."""
    return math.inf if math.isnan(verdict.margin) else verdict.margin


def _figures(verdict: Verdict) -> str:
    return verdict.problem or (f"{number(verdict.value)}, limit {number(verdict.threshold.value)}")


def _figure(modules: Sequence[Module], title: str, order: Mapping[str, int]) -> Figure:
    parts = list(dict.fromkeys(map(part_of, order)))
    found = groups(sorted(modules, key=lambda module: order[module.path]))
    rows = {part: found[part] for part in parts if part in found}
    wrong = [module.path for module in modules if not module.passed]
    worst = max(modules, key=lambda module: module.share)
    said = f"above their limit: {', '.join(wrong[:5])}" if wrong else "none is above its limit"
    description = (
        f"Map of {len(modules)} modules, {title}; {said}; nearest to its limit: {worst.label}. "
        "Values: see the table of modules."
    )
    narrow, wide = (
        layer_map(rows, title, description, width, labels=width == WIDE) for width in (NARROW, WIDE)
    )
    used = {colour(module) for module in modules}
    legend = tuple(one for one in LEGEND if one[0] in used or one[0] not in ("mbad", "mi"))
    hint = "On a wide screen, hover over a cell for its module and figures."
    caption = f"{len(modules)} modules, {title}. {hint}"
    return Figure(caption, (Plot(title, narrow, wide),), series=legend)


def _table(
    found: Sequence[tuple[Way, Sequence[Module], Sequence[Module]]], order: Mapping[str, int]
) -> Table:
    measured = [
        (way, *({module.path: module for module in modules} for modules in both))
        for way, *both in found
    ]
    columns = [
        (f"{title}, {way.name}", by_path)
        for way, own, in_place in measured
        for title, by_path in (("Own error", own), ("In place", in_place))
        if by_path
    ]
    rows = []
    for index, path in enumerate(sorted(order, key=order.__getitem__), 1):
        verdict, tone = _verdict(
            (own.get(path), in_place.get(path)) for _, own, in_place in measured
        )
        rows.append(
            (
                Cell(str(index), index),
                Cell(path, path),
                Cell(part_of(path), part_of(path)),
                Cell(verdict, tone=tone),
                *(_share(by_path.get(path)) for _, by_path in columns),
            )
        )
    heads = (
        Column("#", numeric=True),
        Column("Module", code=True),
        Column("Part", choices=True),
        Column("Verdict", choices=True),
        *(Column(name, numeric=True) for name, _ in columns),
    )
    caption = "Every module, its largest error as a share of that tensor's limit"
    return Table(caption, heads, tuple(rows), interactive=True)


def _share(module: Module | None) -> Cell:
    if module is None:
        return Cell("", "")
    percent = 100 * module.share
    return Cell(f"{number(percent)} %", percent, "" if module.passed else "bad")


def _verdict(ways: Iterable[tuple[Module | None, Module | None]]) -> tuple[str, str]:
    """A module's verdict in a word, and its tone, from its own error and that in place."""
    words = []
    for own, in_place in ways:
        if own is not None and not own.passed:
            words.append("own error")
        elif in_place is not None and not in_place.passed:
            words.append("inherited" if own is not None or in_place.inherited else "fails")
    for word in ("own error", "fails", "inherited"):
        if word in words:
            return word, "bad"
    return "holds", "good"

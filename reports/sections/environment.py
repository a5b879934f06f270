"""The environment of the two sides, and of the results among each other: what differs."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.document import Block, Cell, Column, Table, Text, describe, flatten
from reports.evidence import Evidence

FRAMEWORKS = {"torch": "torch", "tf": "tensorflow"}
SHARED = ("python", "platform", "cpu", "cores")


def blocks(found: Sequence[Evidence]) -> tuple[Block, ...]:
    """Two tables: the sides beside each other, and the facts in which results differ."""
    sides = _sides(found)
    made: list[Block] = []
    if any(sides.values()):
        made.append(_sides_table(sides))
    if table := _results_table(found):
        made.append(table)
    if not made:
        return (Text("No result recorded its environment."),)
    return tuple(made)


def _sides(found: Sequence[Evidence]) -> dict[str, dict[str, list[str]]]:
    """By side and fact, the distinct values that results recorded, in order."""
    sides: dict[str, dict[str, list[str]]] = {"torch": {}, "tf": {}}

    def add(side: str, name: str, value: Any) -> None:
        values = sides[side].setdefault(name, [])
        text = describe(value)
        if value is not None and text not in values:
            values.append(text)

    for one in found:
        if one.kind.special.environment is not None:
            for side, name, value in one.kind.special.environment(one.result):
                add(side, name, value)
            continue
        provenance = one.result.provenance
        if not provenance:
            for side, name in FRAMEWORKS.items():
                add(side, "framework", _named(name, getattr(one.result, "versions", {})))
            continue
        for side, name in FRAMEWORKS.items():
            add(side, "framework", _named(name, provenance.get("packages", {})))
            for key, value in flatten(provenance.get(name) or {}):
                chosen = key.endswith("threads") and value == "0"
                add(side, key.replace("_", " "), "one per core (not set)" if chosen else value)
            for key in SHARED:
                add(side, key, provenance.get(key))
    return sides


def _named(name: str, packages: Mapping[str, Any]) -> str | None:
    return f"{name} {packages[name]}" if packages.get(name) else None


def _sides_table(sides: Mapping[str, Mapping[str, Sequence[str]]]) -> Table:
    rows = []
    for name in dict.fromkeys((*sides["torch"], *sides["tf"])):
        texts = ["; ".join(side.get(name, ())) or "not recorded" for side in sides.values()]
        if texts == ["not recorded"] * 2:
            continue
        if name == "framework":
            compared = "by design"
        elif "not recorded" in texts:
            compared = "one side only"
        else:
            compared = "same" if texts[0] == texts[1] else "differs"
        rows.append((Cell(name), *map(Cell, texts), Cell(compared)))
    columns = (
        Column("Item"),
        Column("Reference (PyTorch)"),
        Column("Port (TensorFlow)"),
        Column("Compared"),
    )
    return Table("The two sides, over all results", columns, tuple(rows))


def _results_table(found: Sequence[Evidence]) -> Table | None:
    """Facts that should be one and are not, such as the commit; None where all results agree."""
    by_fact: dict[str, dict[str, list[str]]] = {}
    for one in found:
        provenance = one.result.provenance
        facts = {key: provenance.get(key) for key in SHARED}
        facts["commit"] = (provenance.get("git") or {}).get("commit") or getattr(
            one.result, "git_commit", None
        )
        facts["files changed since the commit"] = (provenance.get("git") or {}).get("dirty")
        facts["numpy"] = (provenance.get("packages") or {}).get("numpy")
        for name, value in facts.items():
            if value is not None:
                by_fact.setdefault(name, {}).setdefault(describe(value), []).append(one.title)
    rows = tuple(
        (Cell(name), Cell(value), Cell("; ".join(titles)))
        for name, values in by_fact.items()
        for value, titles in values.items()
        if len(values) > 1
    )
    columns = (Column("Item"), Column("Value"), Column("Results"))
    return (
        Table("Where results were made in different surroundings", columns, rows) if rows else None
    )

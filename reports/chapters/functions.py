"""The sections of compared functions: every result of every case, and why one differs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.comparing.functions import FunctionsResult
from parity.measurements import verdicts_of
from reports import words
from reports.checks import Content, Difference, by_id, differ, equal
from reports.document import Cell, Chapter, Column, Facts, Items, Section, Table, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """The chapter of two functions: all that the result holds."""
    result = one.content
    sections = [Section("Every result", (_outputs(result["outputs"]),))]
    if result.get("causes"):
        sections.insert(
            0, Section("What the port does otherwise", (Items(tuple(result["causes"])),))
        )
    facts = (("command", result["command"]), *flatten(result["provenance"]))
    return words.chapter(
        one,
        claims,
        _headline(result),
        *sections,
        Section("What both were given", (_cases(result["cases"]),)),
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: Content) -> str:
    text = f"{number(len(result['outputs']))} results of {number(len(result['cases']))} cases"
    if result["verdict"] == "equal":
        ties = sum(bool(one.get("tie")) for one in result["outputs"])
        more = f", {number(ties)} of them by decisions that cost the same" if ties else ""
        return f"{text} are the same{more}."
    return f"{text}; the first that differs is {result.get('first') or 'one that a side lacks'}."


def _outputs(outputs: Sequence[Content]) -> Table:
    columns = (
        Column("Result", code=True),
        Column("Size"),
        Column("Kind", choices=True),
        Column("Float64, of its limit", numeric=True),
        Column("Float32, of its limit", numeric=True),
        Column("Where it differs most", prose=True),
    )
    return Table("Results", columns, tuple(map(_row, outputs)), interactive=True)


def _row(one: Content) -> tuple[Cell, ...]:
    return (
        Cell(one["key"]),
        Cell("x".join(map(str, one["size"])) or "1"),
        Cell("decisions" if one["discrete"] else "numbers"),
        *(_margin(one[name]) for name in ("float64", "float32")),
        Cell(one.get("tie") or one.get("detail") or ""),
    )


def _margin(value: float | None) -> Cell:
    if value is None:
        return Cell("")
    return Cell(number(value), value, tone="good" if value <= 1 else "bad")


def _cases(cases: Sequence[Content]) -> Table:
    rows = tuple(
        (Cell(one["name"]), Cell(name), Cell(size), Cell(digest[:16]))
        for one in cases
        for name, size, digest in one["inputs"]
    )
    columns = (
        Column("Case"),
        Column("Input", code=True),
        Column("Size"),
        Column("sha256", code=True),
    )
    return Table("Inputs", columns, rows)


def recheck(content: Content) -> Iterator[Difference]:
    """Where the table of results disagrees with what the claims rest on."""
    yield from equal(content)
    claims = by_id(content)
    margins: dict[tuple[str, str], float] = {}
    for identity, column in (
        ("same_function", "float64"),
        ("same_decisions_float64", "float64"),
        ("same_precision", "float32"),
        ("same_decisions_float32", "float32"),
    ):
        if identity in claims:
            for key, verdict in verdicts_of(claims[identity]["measured"]).items():
                margins[key, column] = verdict.margin
    for index, one in enumerate(content["outputs"]):
        for column in ("float64", "float32"):
            expected = margins.get((one["key"], column))
            yield from differ(f"outputs[{index}].{column}", expected, one[column])


def _subject(content: Content) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    return {
        "title": content.get("title"),
        "inputs": [
            f"{one['name']} {x[0]} {x[2][:16]}" for one in content["cases"] for x in one["inputs"]
        ],
    }


KIND = Kind(
    schema=FunctionsResult.schema,
    name="functions",
    title="Functions",
    detail=None,
    subject=_subject,
    rungs={"": "functions"},
    chapter=chapter,
    recheck=recheck,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

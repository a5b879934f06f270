"""The sections of compared functions: every result of every case, and why one differs."""

from collections.abc import Iterator, Sequence

from parity.claims import Claim
from parity.comparing.functions import Case, FunctionsResult, Output
from parity.measurements import Margins
from reports import words
from reports.checks import Difference, differ, equal
from reports.document import Cell, Chapter, Column, Facts, Items, Section, Table, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of two functions: all that the result holds."""
    result = one.result
    sections = [Section("Every result", (_outputs(result.outputs),))]
    if result.causes:
        sections.insert(0, Section("What the port does otherwise", (Items(tuple(result.causes)),)))
    facts = (("command", result.command), *flatten(result.provenance))
    return words.chapter(
        one,
        claims,
        _headline(result),
        *sections,
        Section("What both were given", (_cases(result.cases),)),
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: FunctionsResult) -> str:
    text = f"{number(len(result.outputs))} results of {number(len(result.cases))} cases"
    if result.verdict == "equal":
        ties = sum(bool(one.tie) for one in result.outputs)
        more = f", {number(ties)} of them by decisions that cost the same" if ties else ""
        return f"{text} are the same{more}."
    return f"{text}; the first that differs is {result.first or 'one that a side lacks'}."


def _outputs(outputs: Sequence[Output]) -> Table:
    columns = (
        Column("Result", code=True),
        Column("Size"),
        Column("Kind", choices=True),
        Column("Float64, of its limit", numeric=True),
        Column("Float32, of its limit", numeric=True),
        Column("Where it differs most", prose=True),
    )
    return Table("Results", columns, tuple(map(_row, outputs)), interactive=True)


def _row(one: Output) -> tuple[Cell, ...]:
    return (
        Cell(one.key),
        Cell("x".join(map(str, one.size)) or "1"),
        Cell("decisions" if one.discrete else "numbers"),
        *(_margin(getattr(one, name)) for name in ("float64", "float32")),
        Cell(one.tie or one.detail or ""),
    )


def _margin(value: float | None) -> Cell:
    if value is None:
        return Cell("")
    return Cell(number(value), value, tone="good" if value <= 1 else "bad")


def _cases(cases: Sequence[Case]) -> Table:
    rows = tuple(
        (Cell(one.name), Cell(name), Cell(size), Cell(digest[:16]))
        for one in cases
        for name, size, digest in one.inputs
    )
    columns = (
        Column("Case"),
        Column("Input", code=True),
        Column("Size"),
        Column("sha256", code=True),
    )
    return Table("Inputs", columns, rows)


def recheck(result: FunctionsResult) -> Iterator[Difference]:
    """Where the table of results disagrees with what the claims rest on."""
    yield from equal(result)
    margins: dict[tuple[str, str], float] = {}
    for identity, column in (
        ("same_function", "float64"),
        ("same_decisions_float64", "float64"),
        ("same_precision", "float32"),
        ("same_decisions_float32", "float32"),
    ):
        for made in result.claims:
            if made.id == identity and isinstance(made.measured, Margins):
                for key, verdict in made.measured.verdicts().items():
                    margins[key, column] = verdict.margin
    for index, one in enumerate(result.outputs):
        for column in ("float64", "float32"):
            expected = margins.get((one.key, column))
            yield from differ(f"outputs[{index}].{column}", expected, getattr(one, column))


def _subject(result: FunctionsResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {
        "title": result.title,
        "inputs": [f"{one.name} {x[0]} {x[2][:16]}" for one in result.cases for x in one.inputs],
    }


KIND = Kind(
    result=FunctionsResult,
    name="functions",
    title="Functions",
    detail=None,
    subject=_subject,
    rungs={"same_precision": "precision", "": "activations"},
    chapter=chapter,
    recheck=recheck,
    given={
        "cases": "names, shapes and hashes of inputs and tensors",
        **dict.fromkeys(
            ("outputs.*.size", "outputs.*.discrete", "outputs.*.tie", "outputs.*.detail"),
            "names, shapes and hashes of inputs and tensors",
        ),
        **dict.fromkeys(("causes", "first"), "the runs that looked for places and causes"),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(of_pairs=True),
)

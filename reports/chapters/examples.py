"""The sections of two input pipelines: every array, and the first difference drawn."""

import base64
from collections.abc import Iterator, Sequence

from parity.claims import Claim
from parity.comparing.examples import ExamplesResult, Field
from reports import words
from reports.checks import Difference, differ, equal
from reports.document import (
    Cell,
    Chapter,
    Column,
    Facts,
    Pictures,
    Section,
    Table,
    flatten,
    number,
)
from reports.drawing.pictures import embedded
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of two pipelines: all that the result holds."""
    result = one.result
    sections = [Section("Every array", (_fields(result.fields),))]
    if result.picture:
        sections.append(Section("The first difference", (_picture(result),)))
    facts = (("command", result.command), *flatten(result.provenance))
    return words.chapter(
        one,
        claims,
        _headline(result),
        *sections,
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: ExamplesResult) -> str:
    text = f"{number(result.count)} examples of {number(len(result.fields))} arrays"
    if result.verdict == "equal":
        return f"{text} are the same."
    failing = [one.title.lower() for one in result.claims if one.verdict != "holds"]
    first = f", first in {result.first}" if result.first else ""
    return f"{text}; what does not hold: {'; '.join(failing)}{first}."


def _fields(fields: Sequence[Field]) -> Table:
    rows = tuple(
        (
            Cell(one.key),
            Cell(one.kind),
            Cell(f"{number(one.different)} of {number(one.examples)}", one.different),
            Cell(f"{100 * one.share:.3g} %", one.share),
            Cell(
                number(one.largest),
                one.largest,
                tone="good" if one.largest <= one.limit else "bad",
            ),
            Cell(f"{one.mean:+.3g}" if one.mean else "0", one.mean),
            Cell("" if one.overlap is None else number(one.overlap)),
            Cell(one.cause or one.detail or ""),
        )
        for one in fields
    )
    columns = (
        Column("Array", code=True),
        Column("Kind", choices=True),
        Column("Examples that differ", numeric=True),
        Column("Elements", numeric=True),
        Column("Largest difference", numeric=True),
        Column("Mean signed difference", numeric=True),
        Column("Least overlap", numeric=True),
        Column("What it is", prose=True),
    )
    return Table("Arrays of the examples", columns, rows, interactive=True)


def _picture(result: ExamplesResult) -> Pictures:
    drawn = embedded("first difference.png", base64.b64decode(result.picture))
    caption = "The reference, the port, and where they differ."
    return Pictures(caption, result.first or "an example", (drawn,))


def recheck(result: ExamplesResult) -> Iterator[Difference]:
    """Where the table of arrays disagrees with what the claims rest on."""
    yield from equal(result)
    claims = {made.id: made for made in result.claims}
    for kind in ("pixels", "numbers"):
        measured = claims[kind].measured if kind in claims else None
        largest = measured.beside_it["largest"] if measured is not None else {}
        for index, one in enumerate(result.fields):
            if one.kind == kind:
                yield from differ(f"fields[{index}].largest", largest.get(one.key), one.largest)


def _subject(result: ExamplesResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {
        "title": result.title,
        "count": result.count,
        "arrays": [one.key for one in result.fields],
    }


KIND = Kind(
    result=ExamplesResult,
    name="examples",
    title="Examples",
    detail=None,
    subject=_subject,
    rungs={"": "data"},
    chapter=chapter,
    recheck=recheck,
    given={
        **dict.fromkeys(("count", "fields.*", "first", "picture"), "what is said of single arrays"),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(of_pairs=True),
)

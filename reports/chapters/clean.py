"""The sections of clean audits: how often the harness cries wolf at a port that is right."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.results import CLEAN_AUDITS
from reports import words
from reports.checks import Content, Difference, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """The chapter of clean audits: all that the result holds."""
    result = one.content
    facts = (
        ("command", result["command"]),
        ("seconds", f"{result['seconds']:.0f}"),
        *flatten(result["provenance"]),
    )
    return words.chapter(
        one,
        claims,
        (
            f"{number(result['runs'])} audits of a port that is right, {number(result['alarms'])} "
            f"false alarms: with {100 * result['confidence']:.0f} % confidence their rate is below "
            f"{100 * result['bound']:.2f} %."
        ),
        Section("Every audit", (_audits(result["outcomes"]),)),
        Section("How it was run", (Facts(facts),)),
    )


def _audits(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for one in outcomes for name in one["case"]))
    rows = tuple(
        (
            Cell(one["verdict"], tone="good" if one["verdict"] == "equal" else "bad"),
            *(Cell(number(one["case"].get(name))) for name in names),
            Cell(number(one["float64"]), one["float64"]),
            Cell(
                ", ".join(f"{name} {number(ratio)}" for name, ratio in one["float32"].items()),
                max(one["float32"].values(), default=0.0),
            ),
            Cell("; ".join(one["failed"])),
        )
        for one in outcomes
    )
    columns = (
        Column("Verdict", choices=True),
        *(Column(name, choices=name in ("backbone", "execution")) for name in names),
        Column("Float64, of its limit", numeric=True),
        Column("Float32 ratios"),
        Column("Claims that fail"),
    )
    return Table("Audits of the sound port", columns, rows, interactive=True)


def recheck_clean_audits(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "holds", "fails")
    outcomes = content["outcomes"]
    alarms = sum(one["verdict"] != "equal" for one in outcomes)
    yield from differ("runs", len(outcomes), content["runs"])
    yield from differ("alarms", alarms, content["alarms"])
    (claim,) = content["claims"]
    yield from differ("claims[0].value", alarms, claim["value"])
    yield from differ("claims[0].cases", len(outcomes), claim["cases"])


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    return {"cases": [one["case"] for one in content["outcomes"]]}


KIND = Kind(
    schema=CLEAN_AUDITS,
    name="clean-audits",
    title="Clean audits",
    detail=None,
    subject=_subject,
    rungs={"": "harness"},
    chapter=chapter,
    recheck=recheck_clean_audits,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

"""The sections of an audit of every architecture: one row for each, and what it stands for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.auditing.result import FunctionSummary
from parity.measurements import verdicts_of
from parity.records import plain
from parity.results import AUDIT_ALL
from reports import words
from reports.checks import Content, Difference, all_hold, by_id, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.ladder import AUDITED
from reports.subjects import WEIGHTS, picked


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """The chapter of an audit of all architectures: all that the result holds but provenances."""
    result = one.content
    rows = result["architectures"]
    facts = (
        ("command", result["command"]),
        ("weights", result["weights"]),
        ("image size", result["size"]),
        ("seconds", f"{result['seconds']:.0f}"),
        ("most memory, GB", f"{result['peak_memory_gb']:.1f}"),
    )
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Every architecture", (_table(rows),)),
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: Mapping[str, Any]) -> str:
    rows = result["architectures"]
    different = [row["config"] for row in rows if row["verdict"] != "equal"]
    text = (
        f"{number(len(rows))} architectures, which {number(result['entries_covered'])} entries of "
        "the zoo share"
    )
    if different:
        return f"{text}: {', '.join(different)} differ."
    worst = max(float(row["worst_gap"]) for row in rows)
    return f"{text}, are equal in float64; the worst gap is {number(worst)}."


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    diverge = any(row["first_divergence"] for row in rows)
    found = []
    for row in rows:
        nearest = row["nearest"]
        value, limit = float(nearest["value"]), float(nearest["limit"])
        good = row["verdict"] == "equal"
        found.append(
            (
                Cell(row["config"], row["config"]),
                Cell(row["verdict"], tone="good" if good else "bad"),
                Cell(number(row["taps"]), row["taps"]),
                Cell(number(float(row["worst_gap"])), float(row["worst_gap"])),
                Cell(words.margin(value, limit), value / limit if limit else 0.0),
                Cell(nearest["tap"]),
                *([Cell(row["first_divergence"] or "")] if diverge else []),
                Cell(f"{row['seconds']:.0f}", row["seconds"]),
                Cell(", ".join(row["covers"][1:])),
            )
        )
    columns = (
        Column("Architecture", code=True),
        Column("Verdict", choices=True),
        Column("Tensors", numeric=True),
        Column("Worst gap", numeric=True),
        Column("Nearest to its limit"),
        Column("Tensor", code=True),
        *([Column("First divergence", code=True)] if diverge else []),
        Column("Seconds", numeric=True),
        Column("Also stands for"),
    )
    return Table("Float64 audit of each architecture", columns, tuple(found), interactive=True)


def recheck_audit_all(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "equal", "different")
    claims = by_id(content)
    for index, row in enumerate(content["architectures"]):
        name = row["config"]
        place = f"architectures[{index}] ({name})"
        own = [one for one in content["claims"] if one["id"].startswith(f"{name}/")]
        verdict = "equal" if all_hold(own) else "different"
        figures = plain(
            FunctionSummary.of(verdicts_of(claims[f"{name}/same_function"]["measured"]))
        )
        expected = {
            "verdict": verdict,
            "taps": claims[f"{name}/same_function"]["cases"],
            "worst_gap": figures["worst_gap"],
            "worst_tap": figures["worst_tap"],
            "nearest": {**figures["nearest_to_limit"], "ratio": figures["worst_ratio"]},
        }
        yield from differ(place, expected, row)


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    rows = content["architectures"]
    return {
        **picked(content, ("size", "weights")),
        "architectures": [
            {"config": row["config"], **picked(row.get("provenance", {}), WEIGHTS)} for row in rows
        ],
    }


KIND = Kind(
    schema=AUDIT_ALL,
    name="audit-all",
    title="Audit of every architecture",
    detail=None,
    subject=_subject,
    rungs=AUDITED,
    chapter=chapter,
    recheck=recheck_audit_all,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(members=True),
)

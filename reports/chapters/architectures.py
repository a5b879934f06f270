"""The sections of an audit of every architecture: one row for each, and what it stands for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from parity.auditing.result import FunctionSummary, Nearest, Unpaired
from parity.claims import Claim, verdict_of
from parity.results import Result
from parity.trace import module_of, shown
from reports import words
from reports.checks import Difference, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.ladder import AUDITED
from reports.subjects import WEIGHTS, Subject, picked


@dataclass(frozen=True)
class NearestRatio(Nearest):
    """The tensor nearest to its limit, with its gap in units of the floor."""

    ratio: float


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The float64 audit of one architecture; `covers` are the entries of the zoo that have it."""

    config: str
    covers: tuple[str, ...]
    taps: int
    unpaired: Unpaired
    worst_gap: float
    worst_tap: str
    nearest: NearestRatio
    first_divergence: str | None
    verdict: str
    seconds: float
    peak_memory_gb: float
    provenance: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ArchitecturesResult(Result):
    """The float64 audits of every architecture; claims have the ids `ARCHITECTURE/CLAIM`."""

    schema: ClassVar[str] = "maskformer-replication/audit-all/2"
    derived: ClassVar[tuple[str, ...]] = ("claim", "entries_covered", "peak_memory_gb")
    claim = "in float64 both compute the same function, tap by tap"

    size: str
    weights: str
    architectures: tuple[Architecture, ...]
    seconds: float

    @property
    def entries_covered(self) -> int:
        """How many entries of the zoo are stood for."""
        return sum(len(one.covers) for one in self.architectures)

    @property
    def peak_memory_gb(self) -> float:
        """The most that a process held."""
        return max(one.peak_memory_gb for one in self.architectures)


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of an audit of all architectures: all that the result holds but provenances."""
    result = one.result
    rows = result.architectures
    facts = (
        ("command", result.command),
        ("weights", result.weights),
        ("image size", result.size),
        ("seconds", f"{result.seconds:.0f}"),
        ("most memory, GB", f"{result.peak_memory_gb:.1f}"),
    )
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Every architecture", (_table(rows),)),
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: Mapping[str, Any]) -> str:
    rows = result.architectures
    different = [row.config for row in rows if row.verdict != "equal"]
    text = (
        f"{number(len(rows))} architectures, which {number(result.entries_covered)} entries of "
        "the zoo share"
    )
    if different:
        return f"{text}: {', '.join(different)} differ."
    worst = max(row.worst_gap for row in rows)
    return f"{text}, are equal in float64; the worst gap is {number(worst)}."


def _table(rows: Sequence[Architecture]) -> Table:
    diverge = any(row.first_divergence for row in rows)
    found = []
    for row in rows:
        nearest = row.nearest
        value, limit = nearest.value, nearest.limit
        good = row.verdict == "equal"
        found.append(
            (
                Cell(row.config, row.config),
                Cell(row.verdict, tone="good" if good else "bad"),
                Cell(number(row.taps), row.taps),
                Cell(number(row.worst_gap), row.worst_gap),
                Cell(words.margin(value, limit), value / limit if limit else 0.0),
                Cell(nearest.tap),
                *([Cell(row.first_divergence or "")] if diverge else []),
                Cell(f"{row.seconds:.0f}", row.seconds),
                Cell(", ".join(row.covers[1:])),
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


def recheck_audit_all(result: ArchitecturesResult) -> Iterator[Difference]:
    yield from differing_verdict(result, "equal", "different")
    for index, row in enumerate(result.architectures):
        name = row.config
        place = f"architectures[{index}] ({name})"
        own = [one for one in result.claims if one.id.startswith(f"{name}/")]
        verdict = verdict_of(own)
        function = result.claimed(f"{name}/same_function")
        judged = function.measured.verdicts()
        figures = FunctionSummary.of(judged)
        failed = [module_of(key) for key, one in judged.items() if one.fails]
        unpaired = [*row.unpaired.reference, *row.unpaired.port]
        pairing = result.claimed(f"{name}/pairing").measured.found
        yield from differ(f"{place}.unpaired", pairing, unpaired)
        if not failed or failed[0] != "model":
            first = shown(row.first_divergence) if row.first_divergence else None
            yield from differ(f"{place}.first_divergence", failed[0] if failed else None, first)
        expected = {
            "verdict": verdict,
            "taps": function.cases,
            "worst_gap": figures.worst_gap,
            "worst_tap": figures.worst_tap,
            "nearest": nearest_of(figures),
        }
        yield from differ(place, expected, row)


def nearest_of(figures: FunctionSummary) -> NearestRatio:
    """The tensor nearest to its limit, of an audit's summary."""
    return NearestRatio(**vars(figures.nearest_to_limit), ratio=figures.worst_ratio)


def _subject(result: ArchitecturesResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    rows = result.architectures
    return {
        **picked(result, ("size", "weights")),
        "architectures": [
            {"config": row.config, **picked(row.provenance, WEIGHTS)} for row in rows
        ],
    }


KIND = Kind(
    result=ArchitecturesResult,
    name="audit-all",
    title="Audit of every architecture",
    detail=None,
    subject=_subject,
    rungs=AUDITED,
    chapter=chapter,
    recheck=recheck_audit_all,
    given={
        **dict.fromkeys(
            ("size", "weights", "architectures.*.covers", "architectures.*.config"),
            "what was compared",
        ),
        "architectures.*.provenance": "versions, machine and hashes of what was compared",
        **dict.fromkeys(
            ("seconds", "architectures.*.seconds", "architectures.*.peak_memory_gb"), "times"
        ),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(members=True),
)

"""The sections of clean audits: how often the harness cries wolf at a port that is right."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from parity.claims import Claim
from parity.records import plain
from parity.results import Result
from reports import words
from reports.checks import Difference, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject


@dataclass(frozen=True)
class Case:
    """What one clean audit is of; `backbone` is "own" or "swin", `train` adds a training step.

    `weights` are as usual, or "scaled" layer by layer; `pixels` are drawn, or an extreme kind.
    """

    config: str
    backbone: str
    seed: int
    size: str
    batch: int
    execution: str
    threads: int
    onednn: bool
    train: bool = False
    weights: str = "usual"
    pixels: str = "drawn"


@dataclass(frozen=True, kw_only=True)
class CleanOutcome:
    """One audit of a port that is right.

    Args:
        failed: ids of the claims that fail, of as many as `claims`.
        undecided: ids of those that rounding alone may be what is measured by.
        float64: the share of its limit that the nearest tensor uses.
        float32: the worst ratio by execution.
    """

    case: Case
    verdict: str
    failed: tuple[str, ...]
    claims: int
    float64: float
    float32: Mapping[str, float]
    seconds: float
    undecided: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CleanResult(Result):
    """Audits of a port that is right: `alarms` of `runs` found a fault.

    With probability `confidence` their rate is below `bound`.
    """

    schema: ClassVar[str] = "maskformer-replication/clean-audits/2"

    runs: int
    alarms: int
    bound: float
    confidence: float
    outcomes: tuple[CleanOutcome, ...]
    seconds: float


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of clean audits: all that the result holds."""
    result = one.result
    facts = (
        ("command", result.command),
        ("seconds", f"{result.seconds:.0f}"),
        *flatten(result.provenance),
    )
    return words.chapter(
        one,
        claims,
        (
            f"{number(result.runs)} audits of a port that is right, {number(result.alarms)} "
            f"false alarms{_open(result.outcomes)}: with {100 * result.confidence:.0f} % "
            f"confidence their rate is below {100 * result.bound:.2f} %."
        ),
        Section("Every audit", (_audits(result.outcomes),)),
        Section("How it was run", (Facts(facts),)),
    )


def _open(outcomes: Sequence[CleanOutcome]) -> str:
    count = sum(bool(one.undecided) for one in outcomes)
    return f" and {number(count)} in which something is not decided" if count else ""


def _audits(outcomes: Sequence[CleanOutcome]) -> Table:
    names = [one.name for one in fields(Case)]
    rows = tuple(
        (
            Cell(one.verdict, tone=words.tone(one.verdict)),
            *(Cell(number(getattr(one.case, name))) for name in names),
            Cell(number(one.float64), one.float64),
            Cell(
                ", ".join(f"{name} {number(ratio)}" for name, ratio in one.float32.items()),
                max(one.float32.values(), default=0.0),
            ),
            Cell("; ".join((*one.failed, *one.undecided))),
        )
        for one in outcomes
    )
    columns = (
        Column("Verdict", choices=True),
        *(Column(name, choices=name in ("backbone", "execution")) for name in names),
        Column("Float64, of its limit", numeric=True),
        Column("Float32 ratios"),
        Column("Claims that do not hold"),
    )
    return Table("Audits of the sound port", columns, rows, interactive=True)


def recheck_clean_audits(result: CleanResult) -> Iterator[Difference]:
    yield from differing_verdict(result, "holds", "fails")
    outcomes = result.outcomes
    alarms = sum(one.verdict == "different" for one in outcomes)
    yield from differ("runs", len(outcomes), result.runs)
    yield from differ("alarms", alarms, result.alarms)
    yield from differ("bound", upper_bound(alarms, len(outcomes), result.confidence), result.bound)
    for index, one in enumerate(outcomes):
        expected = "different" if one.failed else "not decided" if one.undecided else "equal"
        yield from differ(f"outcomes[{index}].verdict", expected, one.verdict)
    (claim,) = result.claims
    yield from differ("claims[0].value", alarms, claim.value)
    yield from differ("claims[0].cases", len(outcomes), claim.cases)


def upper_bound(alarms: int, runs: int, confidence: float) -> float:
    """The exact one-sided upper bound of the alarm rate (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    return 1.0 if alarms == runs else float(betaincinv(alarms + 1, runs - alarms, confidence))


def _subject(result: CleanResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {"cases": [plain(one.case) for one in result.outcomes]}


KIND = Kind(
    result=CleanResult,
    name="clean-audits",
    title="Clean audits",
    detail=None,
    subject=_subject,
    rungs={"": "harness"},
    chapter=chapter,
    recheck=recheck_clean_audits,
    given={
        **dict.fromkeys(
            (
                *("outcomes.*.case", "outcomes.*.failed.*", "outcomes.*.claims"),
                "outcomes.*.undecided.*",
                *("outcomes.*.float64", "outcomes.*.float32", "confidence"),
            ),
            "what each audit of a port that is right said",
        ),
        **dict.fromkeys(("seconds", "outcomes.*.seconds"), "times"),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

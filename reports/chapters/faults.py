"""The sections of a fault score: what the harness says of faults that were planted on purpose."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from parity.claims import Claim
from parity.faults import Outcome, Score
from parity.faults import score as score_of
from parity.results import Result
from reports import words
from reports.checks import Difference, differ, differing_verdict
from reports.document import Block, Cell, Chapter, Column, Facts, Section, Table, Text, flatten
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject


@dataclass(frozen=True, kw_only=True)
class FaultScoreResult(Result):
    """What was said of faults that were planted on purpose, one after another.

    Args:
        size: of the image, "HxW".
        criteria_on_the_sound_port: by bench, which customary checks alarm on a port that is right.
    """

    schema: ClassVar[str] = "maskformer-replication/fault-score/2"

    config: str
    size: str
    score: Score
    criteria_on_the_sound_port: Mapping[str, Mapping[str, bool]]
    outcomes: tuple[Outcome, ...]
    seconds: float


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """A fault score's chapter: all that the result holds."""
    result = one.result
    facts = (
        ("command", result.command),
        ("config", result.config),
        ("image size", result.size),
        ("seconds", f"{result.seconds:.0f}"),
        *flatten(result.provenance),
    )
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Beside customary checks", _customary(result)),
        Section("Every fault", (_faults(result.outcomes),)),
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: Mapping[str, Any]) -> str:
    outcomes = result.outcomes
    detected, placed, explained = (
        sum(getattr(one, key) for one in outcomes)
        for key in ("detected", "place_exact", "cause_named")
    )
    planted = "1 fault" if len(outcomes) == 1 else f"{len(outcomes)} faults"
    return (
        f"{planted} planted: {detected} detected, {placed} named at the right place, "
        f"{explained} explained."
    )


def _customary(result: Mapping[str, Any]) -> tuple[Block, ...]:
    """What usual criteria would have said of the same faults, and of the sound port."""
    outcomes = result.outcomes
    names = list(dict.fromkeys(name for one in outcomes for name in one.noticed))
    rows = [
        (
            Cell("this harness"),
            Cell(str(len(outcomes)), len(outcomes)),
            _share(sum(not one.detected for one in outcomes), len(outcomes)),
            Cell("no alarm"),
        )
    ]
    for name in names:
        judged = [one for one in outcomes if name in one.noticed]
        missed = sum(not one.noticed[name] for one in judged)
        alarms = [
            bench
            for bench, noticed in result.criteria_on_the_sound_port.items()
            if noticed.get(name)
        ]
        sound = f"alarms in {', '.join(alarms)}" if alarms else "no alarm"
        rows.append(
            (
                Cell(name),
                Cell(str(len(judged)), len(judged)),
                _share(missed, len(judged)),
                Cell(sound),
            )
        )
    columns = (
        Column("Check"),
        Column("Faults it can judge", numeric=True),
        Column("Missed", numeric=True),
        Column("On the sound port"),
    )
    text = "What checks that ports usually have would have said of the same outputs."
    return (Text(text), Table("Faults that each check misses", columns, tuple(rows)))


def _share(missed: int, of: int) -> Cell:
    share = missed / of if of else 0.0
    return Cell(f"{missed} ({100 * share:.0f} %)", share, "bad" if missed else "good")


def _faults(outcomes: Sequence[Outcome]) -> Table:
    def said(value: bool) -> Cell:
        return Cell("yes" if value else "no", tone="good" if value else "bad")

    rows = tuple(
        (
            Cell(one.id, one.id),
            said(one.detected),
            said(one.place_exact),
            said(one.cause_named),
            Cell((one.named[0].causes or ("",))[0] if one.named else ""),
            Cell(one.named[0].place if one.named else one.problem or ""),
            Cell(one.what),
            Cell(one.stage, one.stage, stage=one.stage),
            Cell(one.imitates),
        )
        for one in outcomes
    )
    columns = (
        Column("Fault", code=True),
        Column("Detected", choices=True),
        Column("Placed", choices=True),
        Column("Explained", choices=True),
        Column("Cause named", prose=True),
        Column("Place named", code=True),
        Column("What was planted", prose=True),
        Column("Stage", choices=True),
        Column("Imitates"),
    )
    return Table("Planted faults, and what was said of each", columns, rows, interactive=True)


def recheck_fault_score(result: FaultScoreResult) -> Iterator[Difference]:
    yield from differing_verdict(result, "holds", "does not hold")
    outcomes, score = result.outcomes, result.score
    kinds = (
        ("detected", "undetected"),
        ("placed", "misplaced"),
        ("explained", "unexplained"),
    )
    yield from differ("score", replace(score_of(outcomes), seconds=score.seconds), score)
    for identity, listed in kinds:
        place = f"claims ({identity}).measured.found"
        yield from differ(place, getattr(score, listed), result.claimed(identity).measured.found)


def _subject(result: FaultScoreResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {"size": result.size, "faults": [one.id for one in result.outcomes]}


KIND = Kind(
    result=FaultScoreResult,
    name="fault-score",
    title="Planted faults",
    detail=None,
    subject=_subject,
    rungs={"": "harness"},
    chapter=chapter,
    recheck=recheck_fault_score,
    given={
        **dict.fromkeys(("config", "size"), "what was compared"),
        **dict.fromkeys(
            ("outcomes", "criteria_on_the_sound_port"),
            "what each audit of a planted fault said",
        ),
        **dict.fromkeys(("seconds", "score.seconds"), "times"),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

"""The sections of a comparison of two training runs, as it was made when they ended."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from maskformer.metrics import statistics
from maskformer.model import zoo
from parity.claims import Claim, claim
from parity.measurements import Findings
from parity.results import Result
from reports import words
from reports.checks import Difference, differ, near
from reports.document import Block, Cell, Chapter, Column, Section, Table, Text, number
from reports.evidence import SIDES, Evidence
from reports.kind import Kind, Special
from reports.labels import difference, label
from reports.subjects import Subject, command_words


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What one run reached: its last scores in percent, and where its time went, in seconds.

    `data_wait_share` is the share of its time in which it waited for data.
    """

    folder: str
    metrics_sha256: str
    scores: Mapping[str, float | None]
    seconds: float
    step_seconds: float
    data_wait_share: float


@dataclass(frozen=True, kw_only=True)
class LossGap:
    """How far two curves of a loss are apart over the steps that both have, relative.

    At the first step, as median, at most, and at most where both are smoothed; `end` is the last
    smoothed value of each.
    """

    steps: int
    first_gap: float
    median_gap: float
    largest_gap: float
    smoothed_gap: float
    end: tuple[float, float]


@dataclass(frozen=True)
class RunComparison:
    """Two runs compared; `of` says which is subtracted from which, as "tf - torch"."""

    of: str
    same_data: bool
    losses: Mapping[str, LossGap]
    scores: Mapping[str, statistics.Comparison | statistics.Missing]

    @property
    def intervals(self) -> dict[str, statistics.Interval]:
        """The intervals of the scores' differences, of those scores that have one."""
        return {
            name: one.interval
            for name, one in self.scores.items()
            if isinstance(one, statistics.Comparison)
        }

    @property
    def away(self) -> list[str]:
        """The scores whose interval leaves 0 out."""
        return [name for name, one in self.intervals.items() if not one.low <= 0 <= one.high]


@dataclass(frozen=True, kw_only=True)
class RunsResult(Result):
    """What one training run reached, or two and how far they are apart."""

    schema: ClassVar[str] = "maskformer-replication/training-runs/1"

    config: str
    steps: int
    sides: Mapping[str, Reached]
    comparison: RunComparison | None = None
    command: str | None

    @property
    def judged(self) -> str:
        """The verdict: two runs agree where every score's interval holds 0."""
        if self.comparison is None:
            return "trained"
        if not self.comparison.intervals:
            return "not judged"
        return "different" if self.comparison.away else "agree"


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """A comparison's chapter: all that the result holds."""
    result = one.result
    compared = []
    if result.comparison is not None:
        compared = [
            Section("How far the losses are apart", _losses(result.comparison)),
            Section("Scores compared", _scores(result.comparison)),
        ]
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("What each run reached", (_reached(result.sides),)),
        *compared,
    )


def _headline(result: Mapping[str, Any]) -> str:
    names = {"panoptic_quality": "PQ", "mean_iou": "mIoU"}
    parts = [
        f"{SIDES.get(side, side)}: "
        + ", ".join(
            f"{short} {one.scores[key]:.2f}"
            for key, short in names.items()
            if one.scores.get(key) is not None
        )
        for side, one in result.sides.items()
    ]
    return f"{number(result.steps)} steps of {result.config}; {'; '.join(parts)}."


def _reached(sides: Mapping[str, Reached]) -> Table:
    scores = list(dict.fromkeys(name for one in sides.values() for name in one.scores))
    rows = tuple(
        (
            Cell(SIDES.get(side, side)),
            *(_numeric(one.scores.get(name)) for name in scores),
            _numeric(one.seconds),
            _numeric(one.step_seconds),
            Cell(f"{100 * one.data_wait_share:.1f} %", one.data_wait_share),
            Cell(one.metrics_sha256),
        )
        for side, one in sides.items()
    )
    columns = (
        Column("Side"),
        *(Column(label(name), numeric=True) for name in scores),
        Column("Seconds", numeric=True),
        Column("A step", numeric=True),
        Column("Waiting for data", numeric=True),
        Column("sha256 of its rows", code=True),
    )
    return Table("Scores in percent", columns, rows)


def _numeric(value: float | None) -> Cell:
    return Cell("", "") if value is None else Cell(number(value), value)


def _losses(comparison: RunComparison) -> tuple[Block, ...]:
    rows = tuple(
        (
            Cell(label(name)),
            _numeric(one.first_gap),
            _numeric(one.median_gap),
            _numeric(one.largest_gap),
            _numeric(one.smoothed_gap),
            *map(_numeric, one.end),
        )
        for name, one in comparison.losses.items()
    )
    columns = (
        Column("Loss"),
        Column("At the first step", numeric=True),
        Column("Median", numeric=True),
        Column("Largest", numeric=True),
        Column("Largest, smoothed", numeric=True),
        Column("Reference ends at", numeric=True),
        Column("Port ends at", numeric=True),
    )
    same = "the same data" if comparison.same_data else "other data"
    text = f"Both runs read {same}. Gaps are relative to the mean of both losses."
    return (Text(text), Table("Relative gaps of the loss curves", columns, rows))


def _scores(comparison: RunComparison) -> tuple[Block, ...]:
    rows = []
    for name, one in comparison.scores.items():
        score = Cell(label(name))
        if isinstance(one, statistics.Missing):
            rows.append((score, Cell(""), Cell(f"none: {one.reason}"), Cell("")))
            continue
        interval = one.interval
        bounds = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"
        rows.append(
            (
                score,
                Cell(f"{100 * interval.value:+.2f}", interval.value),
                Cell(bounds),
                _numeric(one.p_value),
            )
        )
    if not rows:
        return (Text("The two runs were not evaluated on the same images."),)
    columns = (
        Column("Score"),
        Column("Difference", numeric=True),
        Column("95 % interval"),
        Column("p", numeric=True),
    )
    caption = f"{difference(comparison.of)} on the same images, in points"
    return (Table(caption, columns, tuple(rows)),)


def recheck_training_runs(result: RunsResult) -> Iterator[Difference]:
    yield from differ("verdict", result.judged, result.verdict)
    if result.comparison is None:
        return
    ours, theirs = (result.sides[side].scores for side in result.comparison.of.split(" - "))
    for name, interval in result.comparison.intervals.items():
        if None not in (ours.get(name), theirs.get(name)):
            place = f"comparison.scores.{name}.interval.value"
            yield from near(place, (ours[name] - theirs[name]) / 100, interval.value)


def of_training_runs(one: Evidence) -> list[Claim]:
    result = one.result
    comparison = result.comparison
    if comparison is None or not comparison.intervals:
        return []
    return [
        claim(
            "metric_trained/summary",
            "No score of the trained models differs beyond its 95 % interval, as was recorded",
            Findings(len(comparison.intervals), comparison.away),
            "intervals of the paired difference over images, as recorded at the end of training",
            result.command
            or shlex.join(["parity", "train", *zoo.config_words(result.config), "--side", "both"]),
        )
    ]


def run_subject(result: RunsResult) -> Subject:
    return {
        "steps": result.steps,
        "sides": sorted(result.sides),
        "settings": command_words(result.command),
    }


KIND = Kind(
    result=RunsResult,
    name="training-runs",
    title="Comparison of two training runs",
    detail=None,
    subject=run_subject,
    rungs={"": "metric_trained"},
    chapter=chapter,
    recheck=recheck_training_runs,
    given={
        **dict.fromkeys(("config", "steps", "sides"), "what was trained, and what it scored"),
        **dict.fromkeys(
            ("comparison.of", "comparison.same_data", "comparison.losses", "comparison.scores"),
            "how far curves and scores are apart whose runs are not in the recording",
        ),
    },
    derived=of_training_runs,
    records_claims=False,
    changes=None,
    special=Special(),
)

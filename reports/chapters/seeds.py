"""The sections of training from several seeds: the scores' differences, and their spread."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from parity.claims import Claim, all_hold
from parity.results import Result
from reports import words
from reports.chapters.training_runs import RunsResult, recheck_training_runs, run_subject
from reports.checks import Difference, differ
from reports.document import Cell, Chapter, Column, Facts, Section, Table, Text, number
from reports.evidence import SIDES, Evidence
from reports.kind import Kind, Special
from reports.labels import difference, label
from reports.subjects import Subject

SCORE = "panoptic_quality"
"""The score that the claim is about."""

CONTROL = (
    "Two runs of one side differ as well when their seeds differ. The last columns say by how "
    "much: a difference between the sides below that is no sign of another function."
)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """An interval that holds the mean with probability `confidence`."""

    confidence: float
    low: float
    high: float


@dataclass(frozen=True)
class Control:
    """How far every two seeds of one side are apart: the mean and the largest gap."""

    mean: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A score over seeds, in percent: differences in the order of the seeds, and their spread.

    `scores` and `between_seeds` are by side.
    """

    differences: tuple[float, ...]
    mean: float
    standard_deviation: float
    interval: Bounds
    between_seeds: Mapping[str, Control]
    scores: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class SeedsResult(Result):
    """Both sides trained from several seeds.

    Args:
        of: which side is subtracted from which, as "tf - torch".
        margin: in points; `p_value` and `alpha` are of the test for equivalence within it.
        scores: by name; `seeds` are the comparisons of both runs by seed.
        files: sha256 of what was compared.
    """

    schema: ClassVar[str] = "maskformer-replication/training-seeds/2"

    config: str
    steps: int
    of: str
    margin: float
    alpha: float
    p_value: float
    scores: Mapping[str, Spread]
    seeds: Mapping[str, RunsResult]
    files: Mapping[str, str]


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of a comparison over seeds: all that the result holds."""
    result = one.result
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Differences over seeds", (Text(CONTROL), _differences(result))),
        Section("Every seed", (_seeds(result),)),
        Section("Files that were compared", (Facts(tuple(result.files.items())),)),
    )


def _headline(result: Mapping[str, Any]) -> str:
    one = result.scores[SCORE]
    interval = one.interval
    shown = "shown" if result.verdict == "equivalent" else "not shown"
    if max(value for side in one.scores.values() for value in side) <= result.margin:
        shown += ", as no run scores more than that"
    return (
        f"{difference(result.of)} over {len(result.seeds)} seeds of "
        f"{number(result.steps)} steps: PQ {one.mean:+.2f} points, "
        f"{100 * interval.confidence:.0f} % interval {interval.low:+.2f} to "
        f"{interval.high:+.2f}; equivalence within {result.margin:g} points {shown} "
        f"(p {number(result.p_value)})."
    )


def _differences(result: Mapping[str, Any]) -> Table:
    sides = list(next(iter(result.scores.values())).between_seeds)
    rows = tuple(
        (
            Cell(label(name)),
            Cell(f"{one.mean:+.2f}", one.mean),
            Cell(f"{one.standard_deviation:.2f}", one.standard_deviation),
            Cell(f"{one.interval.low:+.2f} to {one.interval.high:+.2f}"),
            *(
                Cell(f"{value:.2f}", value)
                for side in sides
                for value in (one.between_seeds[side].mean, one.between_seeds[side].largest)
            ),
        )
        for name, one in result.scores.items()
    )
    columns = (
        Column("Score"),
        Column("Mean difference", numeric=True),
        Column("Its spread (sd)", numeric=True),
        Column("90 % interval"),
        *(
            Column(f"{SIDES.get(side, side)}: {what} of two seeds", numeric=True)
            for side in sides
            for what in ("mean gap", "largest gap")
        ),
    )
    return Table(f"{difference(result.of)}, in points", columns, rows)


def _seeds(result: Mapping[str, Any]) -> Table:
    sides = list(next(iter(result.scores.values())).scores)
    rows = []
    for name, one in result.scores.items():
        for index, seed in enumerate(result.seeds):
            values = [one.scores[side][index] for side in sides]
            apart = one.differences[index]
            rows.append(
                (
                    Cell(label(name), name),
                    Cell(str(seed), index),
                    *(Cell(f"{value:.2f}", value) for value in values),
                    Cell(f"{apart:+.2f}", apart),
                )
            )
    columns = (
        Column("Score", choices=True),
        Column("Seed", numeric=True),
        *(Column(SIDES.get(side, side), numeric=True) for side in sides),
        Column("Difference", numeric=True),
    )
    return Table("Scores in percent", columns, tuple(rows), interactive=True)


def recheck_training_seeds(result: SeedsResult) -> Iterator[Difference]:
    shown = "equivalent" if all_hold(result.claims) else "not shown"
    yield from differ("verdict", shown, result.verdict)
    (claim,) = result.claims
    yield from differ("p_value", claim.value, result.p_value)
    yield from differ("margin", claim.measured.margin, result.margin)
    yield from differ("alpha", claim.measured.limit, result.alpha)
    names = result.of.split(" - ")[::-1]
    for name, one in result.scores.items():
        again = spread(one.scores, names, (1 - one.interval.confidence) / 2)
        yield from differ(f"scores.{name}", again, one)
        if name == SCORE:
            differences = dict(zip(result.seeds, one.differences, strict=True))
            yield from differ("claims[0].measured.differences", differences, _differences_of(claim))
    for seed, one in result.seeds.items():
        for place, *values in recheck_training_runs(one):
            yield f"seeds.{seed}.{place}", *values
        for name, each in result.scores.items():
            at = list(result.seeds).index(seed)
            for side, scores in each.scores.items():
                place = f"seeds.{seed}.sides.{side}.scores.{name}"
                yield from differ(place, scores[at], one.sides[side].scores.get(name))


def _differences_of(claim: Claim) -> Mapping[str, float]:
    return {seed: float(value) for seed, value in claim.measured.differences.items()}


def spread(values: Mapping[str, Sequence[float]], names: Sequence[str], alpha: float) -> Spread:
    """Differences second minus first by seed, their mean, spread and interval, and the control.

    The interval leaves `alpha` out on each side, by Student's t. The control are the absolute
    differences between every two seeds of one side.
    """
    from scipy.special import stdtrit

    differences = np.subtract(values[names[1]], values[names[0]])
    count = len(differences)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    half = float(stdtrit(count - 1, 1 - alpha)) * deviation / math.sqrt(count)
    control = {
        side: [abs(a - b) for a, b in itertools.combinations(values[side], 2)] for side in names
    }
    return Spread(
        differences=tuple(differences.tolist()),
        mean=mean,
        standard_deviation=deviation,
        interval=Bounds(confidence=1 - 2 * alpha, low=mean - half, high=mean + half),
        between_seeds={
            side: Control(float(np.mean(gaps)), max(gaps)) for side, gaps in control.items()
        },
        scores={side: tuple(scores) for side, scores in values.items()},
    )


def _subject(result: SeedsResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    first = next(iter(result.seeds.values()))
    return {**run_subject(first), "seeds": list(result.seeds), "margin": result.margin}


KIND = Kind(
    result=SeedsResult,
    name="training-seeds",
    title="Training from several seeds",
    detail=None,
    subject=_subject,
    rungs={"": "metric_trained"},
    chapter=chapter,
    recheck=recheck_training_seeds,
    given={
        **dict.fromkeys(
            ("config", "steps", "scores.*.scores", "scores.*.interval.confidence"),
            "what was trained, and what it scored",
        ),
        "seeds": "how far curves and scores are apart whose runs are not in the recording",
        "files": "hashes of the runs",
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

"""The sections of a trajectory: many updates on both sides, and how far the two come apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from parity.claims import Claim
from parity.results import Result
from parity.training.trajectory import Update, column
from reports import words
from reports.checks import Difference, differ, differing_verdict
from reports.document import (
    Block,
    Cell,
    Chapter,
    Column,
    Facts,
    Figure,
    Plot,
    Section,
    Table,
    Text,
    flatten,
    number,
)
from reports.drawing.curves import Series, curve_plot, described
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import WEIGHTS, Subject, picked

MEASURES = {
    "weight_gap": "all weights, relative gap",
    "loss_gap": "total loss, relative gap",
    "norm_gap": "gradient norm, relative gap",
    "pairs_differ": "queries matched otherwise",
}
BESIDE = {
    "twin": "the reference, started one unit in the last place away",
    "torch": "PyTorch in float32",
}
SHORT = {"twin": "The reference's twin", "torch": "PyTorch in float32"}
PORT, OTHER, REFERENCE = "a1", "a0", "a2"
SIZE = (360, 260)


@dataclass(frozen=True)
class Worst:
    """The largest value of a measure, and the first step that has it."""

    value: float
    step: int


@dataclass(frozen=True, kw_only=True)
class TrajectoryResult(Result):
    """Both models trained side by side.

    Args:
        dtype: of the port; the reference is in float64.
        size: of the `batch` images, "HxW"; `execution` is how TensorFlow ran a step.
        beside: what the port is held to, "twin" or "torch" as in `Update`.
        worst: by measure, then by "port" and `beside`.
    """

    schema: ClassVar[str] = "maskformer-replication/trajectory/2"

    config: str
    dtype: str
    base_lr: float
    batch: int
    size: str
    execution: str
    beside: str
    worst: Mapping[str, Mapping[str, Worst]]
    steps: tuple[Update, ...]

    def column(self, side: str, measure: str) -> dict[str, float]:
        """A measure of "port" or `beside` by step."""
        return column(self.steps, side, measure)


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """A trajectory's chapter: all that the result holds."""
    result = one.result
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Gaps from step to step", _gaps(result)),
        Section("Loss", (_losses(result),)),
        Section("Every step", (_steps(result),)),
        Section("How it was run", (Facts(_facts(result)),)),
    )


def _headline(result: Mapping[str, Any]) -> str:
    worst = result.worst["weight_gap"]
    ours, theirs = worst["port"].value, worst[result.beside].value
    return (
        f"{number(len(result.steps))} updates in {result.dtype}: the weights come apart by "
        f"at most {number(ours)}; {BESIDE[result.beside]}: {number(theirs)}."
    )


def _gaps(result: Mapping[str, Any]) -> tuple[Block, ...]:
    beside = result.beside
    plots = []
    for measure, title in MEASURES.items():
        series = [
            Series(name, css, (_curve(result, key, measure),))
            for name, css, key in (
                ("port", PORT, "port"),
                (BESIDE[beside], OTHER, beside),
            )
        ]
        drawn = curve_plot(series, title, described(series, title), SIZE, log=True)
        if drawn is not None:
            plots.append(Plot(title, drawn))
    text = (
        "Training is chaotic: two runs of the same program that start one rounding apart come "
        "apart as well. A port that computes the same comes apart no faster."
    )
    names = ((PORT, "port (TensorFlow)"), (OTHER, BESIDE[beside]))
    rows = tuple(
        (
            Cell(title),
            *(
                cell
                for side in ("port", beside)
                for cell in (
                    _numeric(result.worst[measure][side].value),
                    _numeric(result.worst[measure][side].step),
                )
            ),
        )
        for measure, title in MEASURES.items()
    )
    columns = (
        Column("Gap from the reference"),
        Column("Port, largest", numeric=True),
        Column("at step", numeric=True),
        Column(f"{SHORT[beside]}, largest", numeric=True),
        Column("at step", numeric=True),
    )
    caption = "Gap from the float64 reference at each step; zero is below every logarithmic axis."
    return (
        Text(text),
        Figure(caption, tuple(plots), series=names),
        Table("The largest gaps", columns, rows),
    )


def _curve(result: Mapping[str, Any], key: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([*result.column(key, measure).values()], float)
    # On a logarithmic axis a gap of zero has no place; a count keeps it.
    if measure != "pairs_differ":
        values[values == 0] = np.nan
    return np.array([row.step for row in result.steps], float), values


def _losses(result: Mapping[str, Any]) -> Figure:
    steps = np.array([row.step for row in result.steps], float)
    values = np.array([row.total for row in result.steps])
    series = [Series("reference", REFERENCE, ((steps, values),))]
    drawn = curve_plot(series, "total loss", described(series, "Total loss"), (360, 220))
    plots = () if drawn is None else (Plot("total loss", drawn),)
    return Figure(
        "The reference's total loss. The port's differs by less than the line's width while the "
        "gap above is small.",
        plots,
        series=((REFERENCE, "reference"),),
    )


def _steps(result: Mapping[str, Any]) -> Table:
    beside = result.beside
    rows = tuple(
        (
            _numeric(row.step),
            _numeric(row.total),
            *(
                _numeric(getattr(getattr(row, side), measure))
                for side in ("port", beside)
                for measure in MEASURES
            ),
        )
        for row in result.steps
    )
    short = {
        "weight_gap": "weights",
        "loss_gap": "loss",
        "norm_gap": "norm",
        "pairs_differ": "pairs",
    }
    columns = (
        Column("Step", numeric=True),
        Column("Loss", numeric=True),
        *(
            Column(f"{side} {short[measure]}", numeric=True)
            for side in ("port", beside)
            for measure in MEASURES
        ),
    )
    return Table("Gaps at every step", columns, rows, interactive=True)


def _numeric(value: float) -> Cell:
    return Cell(number(value), value)


def _facts(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    facts = [
        (name, number(getattr(result, key)))
        for name, key in (
            ("command", "command"),
            ("config", "config"),
            ("base learning rate", "base_lr"),
            ("images per step", "batch"),
            ("image size", "size"),
            ("TensorFlow runs as", "execution"),
        )
    ]
    return tuple(facts) + tuple(flatten(result.provenance))


def recheck_trajectory(result: TrajectoryResult) -> Iterator[Difference]:
    yield from differing_verdict(result, "holds", "fails")
    column, beside = result.column, result.beside
    for one in result.claims:
        measured, place = one.measured, f"claims ({one.id}).measured"
        measure = one.id.removeprefix(f"{beside}_")
        if measure != one.id:
            yield from differ(f"{place}.port", column("port", measure), measured.port)
            yield from differ(f"{place}.beside", column(beside, measure), measured.beside)
        else:
            name = {"loss": "loss_gap", "pairs": "pairs_differ"}[one.id]
            yield from differ(f"{place}.values", column("port", name), measured.values)
    for measure, sides in result.worst.items():
        for side, worst in sides.items():
            values = column(side, measure)
            first = max(values, key=values.__getitem__)
            expected = Worst(values[first], int(first))
            yield from differ(f"worst.{measure}.{side}", expected, worst)


def _subject(result: TrajectoryResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    asked = ("dtype", "base_lr", "batch", "size", "execution")
    return {
        **picked(result, asked),
        "steps": len(result.steps),
        **picked(result.provenance, WEIGHTS),
    }


KIND = Kind(
    result=TrajectoryResult,
    name="trajectory",
    title="Trajectory",
    detail=lambda result: f", {result.dtype}",
    subject=_subject,
    rungs={"": "trajectory"},
    chapter=chapter,
    recheck=recheck_trajectory,
    given={
        **dict.fromkeys(
            ("config", "dtype", "base_lr", "batch", "size", "execution"), "what was compared"
        ),
        "steps": "losses and gradient norms of single steps",
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

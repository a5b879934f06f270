"""Training side by side: how far the port comes apart from the reference, beside its own twin."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from parity.claims import Claim, claim
from parity.judge import FUNCTION_FACTOR, PRECISION_FACTOR
from parity.measurements import Largest, Multiple, Running, Sum
from parity.training.sides import Side


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """How far one step is from that of the float64 reference; gaps are relative.

    `worst_loss` is the loss that is furthest; `pairs_differ` counts queries matched otherwise, None
    where nothing is matched.
    """

    loss_gap: float
    worst_loss: str
    norm_gap: float
    weight_gap: float
    pairs_differ: int | None = None


@dataclass(frozen=True, kw_only=True)
class Update:
    """One update: the reference's losses and the norm of its gradients, and how far others are.

    Beside the port stands the reference's `twin`, or the reference in float32 (`torch`).
    """

    step: int
    total: float
    losses: Mapping[str, float]
    norm: float
    port: Gaps
    twin: Gaps | None = None
    torch: Gaps | None = None


def column(steps: Sequence[Update], side: str, measure: str) -> dict[str, float]:
    """A measure of one side's gaps, by step."""
    return {str(row.step): getattr(getattr(row, side), measure) for row in steps}


class Run(Protocol):
    """One side in training, one update at a time."""

    def step(self, number: int) -> Mapping[str, Any]:
        """Makes update `number`: `losses` by name, their `total`, and the gradients' `norm`."""

    def weights(self) -> Mapping[str, np.ndarray]:
        """The parameters by the reference's keys, valid until the next step."""


class SideRun:
    """A side of a pair with this `port` in training; `masks` gives each update's dropout masks."""

    def __init__(self, side: Side, masks: Callable[[int], Any], port: Side) -> None:
        self.side, self._masks, self._port = side, masks, port
        self._trained = set(port.parameters())
        self.optimizer = side.optimizer()
        self._arrive = side.scheduled(self.optimizer)

    def step(self, number: int) -> dict[str, Any]:
        """One update by the gradients of its own loss."""
        self._arrive(number)
        recorder = self.side.gradient_recorder("eager", self._masks(number))
        gradients: dict[str, np.ndarray | None] = dict.fromkeys(self.side.parameters())

        def keep(tap: Any) -> None:
            if tap.kind == "param_grad":
                gradients[f"{tap.path}.{tap.name}" if tap.path else tap.name] = tap.array

        with self.side.built.precision():
            with self.side.trainer.training(self.side.model, self.side.inputs) as inputs:
                recorder(inputs, keep)
            self.side.update(self.optimizer, gradients)
        sizes = [float(np.linalg.norm(one)) for one in gradients.values() if one is not None]
        return {
            "losses": dict(recorder.terms),
            "total": sum(recorder.terms.values()),
            "norm": math.hypot(*sizes),
        }

    def weights(self) -> dict[str, np.ndarray]:
        """The parameters, as the port could have them."""
        found, trained = self._port.seen(self.side.state(self.side.tensors)), self._trained
        return {key: value for key, value in found.items() if key in trained}


def followed(
    runs: Mapping[str, Run], steps: int, advance: Callable[[Update], None] = lambda row: None
) -> list[Update]:
    """What each step is on each side, beside "reference"; only the current weights are in memory.

    The other runs are called as the sides of an `Update`.
    """
    rows = []
    for number in range(steps):
        found = {name: run.step(number) for name, run in runs.items()}
        after = {name: run.weights() for name, run in runs.items()}
        theirs = found["reference"]
        gaps = {
            name: compare_step(found[name], theirs, weight_gap(after[name], after["reference"]))
            for name in runs
            if name != "reference"
        }
        parts = {key: theirs[key] for key in ("total", "losses", "norm")}
        row = Update(step=number, **parts, **gaps)
        rows.append(row)
        advance(row)
    return rows


def weight_gap(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """||ours - theirs|| / ||theirs|| over all parameters together, in float64."""
    squares = total = 0.0
    for key, reference in theirs.items():
        wanted = reference.astype(np.float64).ravel()
        gap = ours[key].astype(np.float64).ravel() - wanted
        squares += float(np.einsum("i,i->", gap, gap))
        total += float(np.einsum("i,i->", wanted, wanted))
    return math.sqrt(squares / total)


def compare_step(ours: Mapping[str, Any], theirs: Mapping[str, Any], gap: float) -> Gaps:
    """How far one step is from that of the reference; gaps are relative, infinite where NaN.

    A loss that only one side has is infinitely far. Where the steps match `pairs`, those that
    differ are counted.
    """
    names = {*ours["losses"], *theirs["losses"]}
    missing = math.inf if ours["losses"].keys() != theirs["losses"].keys() else 0.0
    by_loss = {
        name: _relative(ours["losses"].get(name, math.nan), theirs["losses"].get(name, math.nan))
        for name in sorted(names)
    }
    paired = "pairs" in theirs
    return Gaps(
        loss_gap=max(missing, _relative(ours["total"], theirs["total"])),
        worst_loss=max(by_loss, key=by_loss.__getitem__),
        norm_gap=_relative(ours["norm"], theirs["norm"]),
        weight_gap=gap if math.isfinite(gap) else math.inf,
        pairs_differ=int((ours["pairs"] != theirs["pairs"]).sum()) if paired else None,
    )


def _relative(value: float, reference: float) -> float:
    if not (math.isfinite(value) and math.isfinite(reference)):
        return math.inf
    return abs(value - reference) / abs(reference) if reference else abs(value)


def twin_claims(steps: Sequence[Update], command: str, prefix: str = "twin") -> list[Claim]:
    """The port stays as near to the reference as the reference's own twin does, in float64."""
    return [
        running_claim(
            steps,
            (measure, "twin", "the reference's twin"),
            f"{prefix}_{measure}",
            "floor_factor",
            f"The {measure.replace('_', ' ')} stays within {FUNCTION_FACTOR:g} times that of the "
            "reference to itself, started one unit in the last place away",
            sys.float_info.epsilon,
            command,
        )
        for measure in ("weight_gap", "loss_gap")
    ]


def with_wider_twin(steps: Sequence[Update], further: Sequence[Update]) -> list[Update]:
    """The steps, whose twin is at each as far away as it or the `port` of `further` is."""
    found = []
    for row, more in zip(steps, further, strict=True):
        wider = {
            name: max(getattr(row.twin, name), getattr(more.port, name))
            for name in ("loss_gap", "norm_gap", "weight_gap")
        }
        found.append(replace(row, twin=replace(row.twin, **wider)))
    return found


def float32_claims(
    steps: Sequence[Update], beside: tuple[str, str], names: tuple[str, str], command: str
) -> list[Claim]:
    """In float32 the port strays from the float64 run no faster than the reference's float32 does.

    Args:
        beside: the reference's float32 run, as an `Update` and as people call it.
        names: what people call the port's framework and the reference's.
    """
    port, reference = names
    return [
        running_claim(
            steps,
            (measure, *beside),
            f"{beside[0]}_{measure}",
            "float32_ratio",
            f"In float32 {port}'s {measure.replace('_', ' ')} from float64 stays within "
            f"{PRECISION_FACTOR:g} times {reference}'s",
            float(2.0**-24),
            command,
        )
        for measure in ("weight_gap", "loss_gap")
    ]


def calm_claims(steps: Sequence[Update], rate: float, command: str) -> list[Claim]:
    """Losses, and what is matched, are the same at every step, where no rate is above `rate`."""
    gaps, pairs = (column(steps, "port", name) for name in ("loss_gap", "pairs_differ"))
    return [
        claim(
            "loss",
            "The total loss is the same at every step",
            Largest(gaps, Multiple("trajectory_loss_gap", 1)),
            f"largest relative gap of any step; at a base rate of at most {rate:g} "
            "training does not amplify rounding",
            command,
        ).decided_by(largest(steps, "port", "loss_gap")[1]),
        claim(
            "pairs",
            "Every query is matched to the same target at every step",
            Sum(pairs, 0),
            "queries that are matched otherwise, over all layers and steps",
            command,
        ).decided_by(next((int(step) for step, count in pairs.items() if count), None)),
    ]


def largest(steps: Sequence[Update], side: str, measure: str) -> tuple[float, int]:
    """The largest value of one measure over all steps, and the first step that has it."""
    values = column(steps, side, measure)
    step = max(values, key=values.__getitem__)
    return values[step], int(step)


def running_claim(
    steps: Sequence[Update],
    measured: tuple[str, str, str],
    identity: str,
    limit: str,
    title: str,
    least: float,
    command: str,
) -> Claim:
    """The port's largest gap up to each step, in units of that of another run up to there.

    Args:
        measured: which gap, of which run beside the port, and that run in words.
        least: the rounding of one number, below which no gap is counted.
    """
    measure, beside, words = measured
    running = Running(
        column(steps, "port", measure),
        column(steps, beside, measure),
        least,
        Multiple(limit, 1),
    )
    one = claim(
        identity,
        title,
        running,
        f"the port's largest gap up to a step in units of that of {words} up to "
        f"there, which counts as no less than the rounding of one number, {least:.2g}",
        command,
    )
    _, place = running.worst()
    return one.decided_by(None if place is None else int(place))

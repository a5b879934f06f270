"""A few updates of one side: what they are in float64, and how far others are from that."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from parity.judge import MIXED, MORE, PRECISION_FACTOR
from parity.metrics import Gap, gap, worst
from parity.steps import give_back
from parity.training.measured import TWINS
from parity.training.trajectory import weight_gap

Arrays = Mapping[str, np.ndarray]
NORM, TOTAL = "norm", "total"
MODES = {"float64": "float64", "float32": "float32", "bf16": MIXED}
"""Precisions, and what TensorFlow calls how a model computes in each."""


class Run(Protocol):
    """One side in training, without dropout."""

    def step(self, number: int) -> Mapping[str, float]:
        """Makes update `number`; its losses by name, their weighted `TOTAL`, and the gradients'
        `NORM` before clipping."""

    def gradients(self) -> Arrays:
        """The gradients of the last update as the optimizer used them, clipped, by state-dict key
        and in torch's layout."""

    def weights(self) -> Arrays:
        """The parameters after the last update, likewise."""


@dataclass(frozen=True)
class Exact:
    """Updates in float64: `numbers` of each step, what the first one's `gradients` are, and the
    `weights` after the steps that are kept, counted from 0."""

    numbers: Sequence[Mapping[str, float]]
    gradients: Arrays
    weights: Mapping[int, Arrays]


@dataclass(frozen=True)
class Measured:
    """How far updates are from the exact ones.

    Args:
        numbers, gradients: gaps of the first update.
        losses, weights: relative gap of the total loss, and of all weights together, by step,
            counted from 1.
        whole: relative gap of the first update's gradients, all together.
    """

    numbers: Mapping[str, Gap]
    gradients: Mapping[str, Gap]
    losses: Mapping[str, float]
    weights: Mapping[str, float]
    whole: float


def kept_steps(steps: int) -> list[int]:
    """The steps whose weights are compared, counted from 0: the first and the last."""
    return sorted({0, steps - 1})


def exact_updates(run: Run, steps: int) -> Exact:
    """Makes so many updates in float64."""
    numbers, gradients, weights = [], {}, {}
    for number in range(steps):
        numbers.append(dict(run.step(number)))
        if not number:
            gradients = {key: np.array(one) for key, one in run.gradients().items()}
        if number in kept_steps(steps):
            weights[number] = {key: np.array(one) for key, one in run.weights().items()}
    return Exact(numbers, gradients, weights)


def measured_updates(run: Run, exact: Exact) -> Measured:
    """Makes as many updates as `exact` has, and compares each when it is made."""
    losses, weights = {}, {}
    first: dict = {}
    gradients: dict[str, Gap] = {}
    whole = 0.0
    for number, wanted in enumerate(exact.numbers):
        numbers = run.step(number)
        losses[str(number + 1)] = relative(numbers[TOTAL], wanted[TOTAL])
        if not number:
            first = {
                name: gap(np.float64(numbers[name]), np.float64(wanted[name])) for name in wanted
            }
            found = run.gradients()
            gradients = {
                key: gap(found[key], one) for key, one in exact.gradients.items() if key in found
            }
            whole = weight_gap({**exact.gradients, **found}, exact.gradients)
        if number in exact.weights:
            weights[str(number + 1)] = weight_gap(run.weights(), exact.weights[number])
    return Measured(first, gradients, losses, weights, whole)


def twins(
    start: Callable[[int | None], Run],
    reordered: Callable[[], AbstractContextManager],
    exact: Exact,
) -> tuple[Measured, ...]:
    """How far rounding alone takes a side from the exact updates: weights and images moved by one
    unit in the last place, as often as `TWINS` says, and once with its sums reordered.

    `start(seed)` is the side at its start, moved where there is a seed.
    """
    found = []
    for seed in TWINS:
        give_back()
        found.append(measured_updates(start(seed), exact))
    give_back()
    with reordered():
        found.append(measured_updates(start(None), exact))
    return tuple(found)


def further_gradients(start: Callable[..., Run], exact: Exact) -> Mapping[str, Gap]:
    """What gradients may be off where all that they are made from is off by its own limit.

    The largest gaps of the first update's gradients in `MORE` runs whose weights and images are
    moved by `PRECISION_FACTOR` units in the last place, divided by that factor, as a limit is
    multiplied by it. Within that error a ReLU or a maximum next to a tie decides either way, of
    which a gradient shows the whole effect. `start(seed, units)` is the side at its start.
    """
    first, found = Exact(exact.numbers[:1], exact.gradients, {}), []
    for seed in range(max(TWINS) + 1, max(TWINS) + 1 + MORE):
        give_back()
        found.append(measured_updates(start(seed, int(PRECISION_FACTOR)), first).gradients)
    return {key: _shared(worst(one[key] for one in found)) for key in found[0]}


def _shared(one: Gap) -> Gap:
    return replace(one, l2=one.l2 / PRECISION_FACTOR, max=one.max / PRECISION_FACTOR)


def relative(value: float, exact: float) -> float:
    """|value - exact| / |exact|; infinite where either is not finite."""
    if not np.isfinite([value, exact]).all():
        return float("inf")
    return abs(value - exact) / abs(exact) if exact else abs(value)


def clip_factor(norm: float, clip: float | None) -> float:
    """By which clipping gradients of this norm scales them (`torch.nn.utils.clip_grad_norm_`)."""
    return 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))

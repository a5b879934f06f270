"""One training step of the reference in float64, and how far its own rounding moves it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.calls import fill, flatten, is_array
from parity.gradients import parameter_key
from parity.masks import Masks
from parity.metrics import Gap, gap, perturb_ulp, worst
from parity.on_disk import ArraysOnDisk, TraceOnDisk
from parity.pairing import tap_gap
from parity.steps import give_back
from parity.trace import Tap, Trace
from parity.training.sides import Arrays, Side

TWINS = (0, 1)
NOTHING_DROPPED = Masks(None, lambda path, kind, name, rank: "")


@dataclass(frozen=True)
class Floored:
    """Values by name, and how far rounding alone moves each."""

    values: Any
    floors: Mapping[str, Gap]


@dataclass(frozen=True)
class ReferenceStep:
    """One float64 training step of the reference, in training mode; nothing is dropped.

    `forward` and `backward` are its recorders, whose last runs made `taps` and `gradients`, which
    are on disk, as `before` is.
    `losses` are its terms in place, `alone` the same of its outputs by themselves, `by_output`
    their gradients there. `buffers` are those after the step, of those that it changes.
    """

    side: Side
    forward: Any
    backward: Any
    taps: Trace
    gradients: Floored
    losses: Floored
    alone: Floored
    by_output: Floored
    buffers: Floored
    before: Arrays
    decided: Any

    @property
    def outputs(self) -> Mapping[str, Tap]:
        """The outputs' taps."""
        return {
            key: tap for key, tap in self.taps.items() if tap.path == "" and tap.kind == "output"
        }

    def gradient(self, key: str) -> np.ndarray | None:
        """The gradient of one parameter; None where it has none."""
        found = self.gradients.values.get(parameter_key(key))
        return None if found is None else found.array


def measure_step(side: Side) -> ReferenceStep:
    """Runs the reference's step and its twins."""
    floors_of = side.built.framework.measure_floors
    forward = side.recorder("eager", NOTHING_DROPPED)
    backward = side.gradient_recorder("eager", NOTHING_DROPPED)
    with side.training() as inputs:
        buffers = side.buffers()
        before = ArraysOnDisk(side.state(side.tensors))
        taps, gradients = TraceOnDisk(), TraceOnDisk()
        forward(inputs, taps.add)
        after = side.state(buffers)
        changed = [key for key in buffers if not np.array_equal(after[key], before[key])]
        side.assign({key: before[key] for key in changed})
        moved: list[Arrays] = []
        calls = forward.calls
        for seed in TWINS if changed else ():
            with backward.perturbed(seed):
                forward(_perturbed(inputs, seed), lambda tap: None)
                moved.append(side.state(changed))
        forward.calls = calls
        backward(inputs, gradients.add)
        give_back()
        losses = {name: np.asarray(value) for name, value in backward.terms.items()}
        calls = backward.calls
        twins: list[Arrays] = []
        floors = floors_of(
            backward,
            inputs,
            gradients,
            observe=lambda total: twins.append(
                {name: np.asarray(value) for name, value in backward.terms.items()}
            ),
        )
        backward.calls = calls
    give_back()
    outputs = {key: tap for key, tap in taps.items() if tap.path == "" and tap.kind == "output"}
    terms, by_output = side.alone(forward, outputs, "eager")
    again = [side.alone(forward, _moved(outputs, seed), "eager") for seed in TWINS]
    return ReferenceStep(
        side,
        forward,
        backward,
        taps,
        Floored(gradients, floors),
        Floored(losses, _floors(losses, twins)),
        Floored(terms, _floors(terms, [one for one, _ in again])),
        Floored(
            by_output,
            {
                key: worst(tap_gap(run[key], tap) for _, run in again if key in run)
                for key, tap in by_output.items()
            },
        ),
        Floored({key: after[key] for key in changed}, _floors(after, moved) if changed else {}),
        before,
        decided_by(side, forward, outputs),
    )


def decided_by(side: Side, recorder: Any, outputs: Mapping[str, Tap]) -> dict[str, np.ndarray]:
    """What the side decides by these outputs, by name."""
    if side.decisions is None:
        return {}
    found = side.decisions(side.outputs(recorder, outputs), *side.targets)
    found = found if isinstance(found, Mapping) else {"decision": found}
    return {name: np.asarray(value) for name, value in found.items()}


def _floors(values: Arrays, twins: list[Arrays]) -> dict[str, Gap]:
    return {
        key: worst(gap(twin[key], value) for twin in twins)
        for key, value in values.items()
        if all(key in twin for twin in twins)
    }


def _moved(taps: Mapping[str, Tap], seed: int) -> dict[str, Tap]:
    return {
        key: replace(tap, array=perturb_ulp(tap.array, seed + index))
        for index, (key, tap) in enumerate(taps.items())
    }


def _perturbed(inputs: Any, seed: int) -> Any:
    template, arrays = flatten(inputs, is_array)
    moved = {name: perturb_ulp(array, seed + index) for index, (name, array) in enumerate(arrays)}
    return fill(template, lambda slot: moved[slot.name])

"""A training step of one side, captured: losses, every gradient, and an update, in float64.

What an optimizer makes of gradients is captured by gradients that are drawn, the same for both
sides: those of a loss that are zero in theory are rounding, of which an optimizer may make a step.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.captures.kept import Run
from parity.captures.stored import StoredTaps, TapWriter
from parity.metrics import Gap, gap, perturb_ulp, worst
from parity.trace import Tap
from parity.training.measured import NOTHING_DROPPED, TWINS
from parity.training.sides import Arrays, Side

PRECISION, EXECUTION = "float64", "training"
LOSS = "loss"
SIZE = 1e-3  # of drawn gradients: all together they are longer than a clip, as in training


@dataclass(frozen=True)
class Trained:
    """A side in training without dropout, in float64; `losses()` are its terms by name."""

    side: Side
    losses: Callable[[], Mapping[str, float]]


def capture_step(trained: Trained, place: Path, file: str) -> Run:
    """Captures one training step; the weights are put back."""
    with TapWriter(place / file) as writer:
        for tap in _losses(trained):
            writer(tap)
        side = trained.side
        with side.training() as inputs:
            side.gradient_recorder("eager", NOTHING_DROPPED)(inputs, writer)
        for key, value in updated(side).items():
            writer(_tap(key, value))
    return Run(
        precision=PRECISION, execution=EXECUTION, device="cpu", file=file, taps=writer.entries
    )


def step_floors(trained: Trained, taps: StoredTaps) -> dict[str, Gap]:
    """How far rounding alone moves each tap of a reference's captured step."""
    side = trained.side
    recorder = side.gradient_recorder("eager", NOTHING_DROPPED)
    gradients = {one.key: taps[one.key] for one in taps.entries if "grad" in one.kind}
    with side.training() as inputs:
        floors = dict(side.built.framework.measure_floors(recorder, inputs, gradients))
    twins: list[dict[str, Tap]] = []
    for seed in TWINS:
        with recorder.perturbed(seed):
            found = {one.key: one for one in _losses(trained)}
        found |= {one.key: one for one in (_tap(*pair) for pair in updated(side, seed).items())}
        twins.append(found)
    for key in twins[0]:
        floors[key] = worst(gap(twin[key].array, taps[key].array) for twin in twins)
    return floors


def updated(side: Side, seed: int | None = None) -> Arrays:
    """Every parameter after one update by drawn gradients, by key.

    With `seed`, gradients and weights are moved by up to one unit in the last place first.
    """
    with side.restored():
        before = side.state(side.parameters())
        given = {key: drawn(key, value.shape) for key, value in before.items()}
        if seed is not None:
            given = {key: perturb_ulp(one, seed) for key, one in given.items()}
            before = {key: perturb_ulp(one, seed) for key, one in before.items()}
            side.assign(before)
        side.update(side.optimizer(), given)
        return side.state(side.parameters())


def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of one parameter, float64, the same on every machine."""
    return SIZE * np.random.default_rng(zlib.crc32(key.encode())).normal(size=shape)


def _losses(trained: Trained) -> list[Tap]:
    return [
        Tap(LOSS, "output", name, 0, "", np.asarray(value, np.float64))
        for name, value in trained.losses().items()
    ]


def _tap(key: str, value: np.ndarray) -> Tap:
    path, _, name = key.rpartition(".")
    return Tap(path, "update", name, 0, "ABCDEFGH"[: value.ndim], value)

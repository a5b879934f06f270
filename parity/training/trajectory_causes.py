"""Where, and by which mistake, a port in training leaves the reference after some updates."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from parity.judge import FUNCTION_CAP, FUNCTION_FACTOR
from parity.training.sides import Arrays
from parity.training.trajectory import Update

EXPLAINED = 1e-6  # of the movement of the weights; Adam magnifies the rounding of small gradients
LEAST = 1e-15  # of all weights, relative, of which rounding alone makes as much
Prepare = Callable[[Any, int], None]


def place_and_causes(
    rows: Sequence[Update],
    ends: tuple[Arrays, Arrays],
    rerun: Callable[[Prepare], Arrays] | None,
) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Where the first update that leaves the reference does so, and the mistake that explains it.

    The place is a loss, the matching, the gradients or the update, and beside it the number.

    Args:
        rows: each update.
        ends: weights by key: those that both began with, and the port's after the last update.
        rerun: runs the reference again, with what is called before each update, given the
            optimizer and the number; the weights after the last. None where its optimizer has no
            state that mistakes could be made in.
    """
    for row in rows:
        port, twin, at = row.port, row.twin, f"step {row.step}"
        for place, measure in (("loss", "loss_gap"), ("gradients", "norm_gap")):
            if getattr(port, measure) > max(FUNCTION_CAP, FUNCTION_FACTOR * getattr(twin, measure)):
                return (place, f"{at}: {port.worst_loss}"), ()
        if port.pairs_differ:
            return ("matching", at), ()
        if port.weight_gap > max(LEAST, FUNCTION_FACTOR * twin.weight_gap):
            found = _of_update(ends, rerun) if rerun is not None else iter(())
            return ("update", at), tuple(itertools.islice(found, 1))
    return ("update", "all steps"), ()


def _of_update(ends: tuple[Arrays, Arrays], rerun: Callable[[Prepare], Arrays]) -> Iterator[str]:
    """The mistakes of the optimizer with which the reference's weights end where the port's do."""
    start, ours = ends
    moved = _distance(rerun(lambda optimizer, number: None), start)
    for text, prepare in _MISTAKES:
        if _distance(ours, rerun(prepare)) <= EXPLAINED * moved:
            yield text


def _distance(one: Arrays, other: Arrays) -> float:
    return float(np.sqrt(sum(np.sum((one[key] - value) ** 2) for key, value in other.items())))


def _betas(first: float | None, second: float | None, optimizer: Any, number: int) -> None:
    for group in optimizer.param_groups:
        if "betas" in group:
            own = group["betas"]
            given = zip((first, second), own, strict=True)
            group["betas"] = tuple(beta if one is None else one for one, beta in given)


def _forgotten(names: Sequence[str], optimizer: Any, number: int) -> None:
    for state in optimizer.state.values():
        for name in names:
            if name in state:
                state[name].zero_()


_MISTAKES: tuple[tuple[str, Prepare], ...] = (
    ("the step is counted as the first every time", partial(_forgotten, ("step",))),
    ("the first moment is not kept", partial(_forgotten, ("exp_avg",))),
    ("the second moment is not kept", partial(_forgotten, ("exp_avg_sq",))),
    ("no moment is kept", partial(_forgotten, ("exp_avg", "exp_avg_sq", "momentum_buffer"))),
    *(
        (f"beta_2 is {beta:g}", partial(_betas, None, beta))
        for beta in (0.9, 0.95, 0.98, 0.99, 0.999, 0.9999)
    ),
    *((f"beta_1 is {beta:g}", partial(_betas, beta, None)) for beta in (0.0, 0.5, 0.8, 0.9, 0.95)),
)

"""Which mistake explains that the port's training leaves the reference's after some steps."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

EXPLAINED = 1e-6  # of the movement of the weights; Adam magnifies the rounding of small gradients
Steps = Sequence[tuple[Mapping[str, Any], Mapping[str, np.ndarray]]]


def place_and_causes(
    request: Any, weights: Any, ours: Steps, theirs: Steps, rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Where the first step that leaves the reference does so, and the mistakes that explain it.

    The place is a loss, the matching, the gradients or the update, and beside it the step.
    """
    total = ours[0][0]["total"]
    if total != theirs[0][0]["total"] and total == float(np.float32(total)):
        return ("loss", "step 0: total"), ("the total loss is rounded to float32",)
    for row in rows:
        port, twin = row.port, row.twin
        at = f"step {row.step}"
        for place, measure in (("loss", "loss_gap"), ("gradients", "norm_gap")):
            if getattr(port, measure) > max(1e-9, 32 * getattr(twin, measure)):
                return (place, f"{at}: {port.worst_loss}"), ()
        if port.pairs_differ:
            return ("matching", at), ()
        if port.weight_gap > max(1e-15, 32 * twin.weight_gap):
            causes = _of_update(request, weights, ours, theirs)
            return ("update", at), tuple(itertools.islice(causes, 1))
    return ("update", "all steps"), ()


def _of_update(request: Any, weights: Any, ours: Steps, theirs: Steps) -> Iterator[str]:
    """The mistakes of the optimizer with which the reference's weights end where the port's do."""
    from replication.training.trajectory import batches, reference_run

    start = {key: weights.state[key].astype(np.float64) for key in theirs[0][1]}
    moved = _size(theirs[-1][1], start)
    for text, prepare in _MISTAKES:
        run = reference_run(request, weights, "float64")
        for number, batch in enumerate(batches(request)):
            prepare(run.optimizer, number)
            run.step(*batch)
        if _size(ours[-1][1], run.weights()) <= EXPLAINED * moved:
            yield text


def _size(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum((one[key] - value) ** 2) for key, value in other.items())))


def _betas(first: float, second: float, optimizer: Any, number: int) -> None:
    for group in optimizer.param_groups:
        group["betas"] = (first, second)


def _forgotten(names: Sequence[str], optimizer: Any, number: int) -> None:
    for state in optimizer.state.values():
        for name in names:
            if name in state:
                state[name].zero_()


_MISTAKES: tuple[tuple[str, Callable[[Any, int], None]], ...] = (
    ("the step is counted as the first every time", partial(_forgotten, ("step",))),
    ("the first moment is not kept", partial(_forgotten, ("exp_avg",))),
    ("the second moment is not kept", partial(_forgotten, ("exp_avg_sq",))),
    ("no moment is kept", partial(_forgotten, ("exp_avg", "exp_avg_sq"))),
    *(
        (f"beta_2 is {second:g} instead of 0.999", partial(_betas, 0.9, second))
        for second in (0.9, 0.95, 0.98, 0.99, 0.9999)
    ),
    *(
        (f"beta_1 is {first:g} instead of 0.9", partial(_betas, first, 0.999))
        for first in (0.0, 0.5, 0.8, 0.95)
    ),
)

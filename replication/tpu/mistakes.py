"""Which mistake in the reduction makes replicas have what they have.

From each rank's own share of the gradient, as the reference finds it in float64, follows what every
replica would update by under a mistake, and what its losses would be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from parity.judge import PRECISION_FACTOR
from parity.training.trajectory import weight_gap
from replication.tpu.ranks import Share
from replication.tpu.stepping import Arrays, clip_factor
from tf_impl.tpu.reductions import WRONG

if TYPE_CHECKING:
    from replication.tpu.training_case import Case


@dataclass(frozen=True)
class Found:
    """What each replica has after the first update: its losses, and the gradients that it updated
    by before they were clipped.

    Args:
        error: relative error of such gradients, all together, that the precision may make.
        loss_error: the same of a loss.
    """

    losses: Sequence[Mapping[str, float]]
    gradients: Sequence[Arrays]
    error: float
    loss_error: float


def cause(case: "Case", normalisation: str, given: Sequence[Share], found: Found) -> str | None:
    """The mistake with which the reference, of whose ranks these are the shares, has what the
    replicas have; None where none explains it to within what the precision may make of it."""
    wrong = _divided_apart(case, normalisation, given)
    if wrong and all(
        abs(ours[name] - theirs[name]) <= found.loss_error * abs(theirs[name])
        for ours, theirs in zip(found.losses, wrong, strict=True)
        for name in theirs
    ):
        return WRONG["counts-apart"].what
    gradients = [one.gradients for one in given]
    gaps = {
        identity: max(map(weight_gap, found.gradients, expected(gradients, case.clip)))
        for identity, expected in _EXPECTED.items()
    }
    nearest = min(gaps, key=gaps.__getitem__)
    if gaps[nearest] <= found.error:
        return WRONG[nearest].what
    return WRONG["partly-summed"].what if _is_partly_summed(gradients, found) else None


def _summed(given: Sequence[Arrays], factors: Sequence[float]) -> dict[str, np.ndarray]:
    return {
        key: sum(factor * one[key] for factor, one in zip(factors, given, strict=True))
        for key in given[0]
    }


def _everywhere(factors: Callable[[int], Sequence[float]]) -> Callable[..., list[Arrays]]:
    """The same sum of shares, each times its factor, on every replica."""

    def expected(given: Sequence[Arrays], clip: float | None) -> list[Arrays]:
        return [_summed(given, factors(len(given)))] * len(given)

    return expected


def _clipped_first(given: Sequence[Arrays], clip: float | None) -> list[Arrays]:
    norms = [np.linalg.norm([np.linalg.norm(one) for one in own.values()]) for own in given]
    factors = [clip_factor(float(norm), clip) for norm in norms]
    return [_summed(given, factors)] * len(given)


def _largest(given: Sequence[Arrays], clip: float | None) -> list[Arrays]:
    most = {key: np.maximum.reduce([one[key] for one in given]) for key in given[0]}
    return [most] * len(given)


_EXPECTED: Mapping[str, Callable[..., list[Arrays]]] = {
    "mean-for-sum": _everywhere(lambda n: [1 / n] * n),
    "share-lost": _everywhere(lambda n: [1.0] * (n - 1) + [0.0]),
    "share-twice": _everywhere(lambda n: [2.0] + [1.0] * (n - 1)),
    "summed-again": _everywhere(lambda n: [float(n)] * n),
    "shares-apart": lambda given, clip: list(given),
    "neighbours-share": lambda given, clip: [given[-1], *given[:-1]],
    "largest-for-sum": _largest,
    "clip-first": _clipped_first,
}


def _is_partly_summed(given: Sequence[Arrays], found: Found) -> bool:
    """Whether every parameter has the sum or the replica's own share, and some have each.

    Parameters whose gradient is rounding alone are too small to tell, and are told by none.
    """
    total = _summed(given, [1.0] * len(given))
    largest = max(float(np.linalg.norm(one)) for one in total.values())
    kinds = set()
    for ours, own in zip(found.gradients, given, strict=True):
        for key, wanted in total.items():
            allowed = found.error * largest
            gaps = {
                "sum": float(np.linalg.norm(ours[key] - wanted)),
                "share": float(np.linalg.norm(ours[key] - own[key])),
            }
            near = [kind for kind, gap in gaps.items() if gap <= allowed]
            if not near:
                return False
            if len(near) == 1:
                kinds |= set(near)
    return len(kinds) == len(("sum", "share"))


def _divided_apart(
    case: "Case", normalisation: str, given: Sequence[Share]
) -> list[dict[str, float]]:
    """What each replica's losses would be, were they divided by its own counts; none of a head
    that counts nothing."""
    if case.config.is_per_pixel:
        return []
    targets = case.batches[0].targets
    parts = [targets[start : start + case.per_replica] for start in _starts(case)]
    counts = [sum(len(one["labels"]) for one in part) for part in parts]
    queries = case.config.matching.queries * case.per_replica
    nothing = float(np.float32(case.config.loss.no_object_weight))
    weights = [count + (queries - count) * nothing for count in counts]
    found = []
    for own, count, weight in zip(given, counts, weights, strict=True):
        if normalisation == "global":
            masks, classes = max(sum(counts), 1) / max(count, 1), sum(weights) / weight
        else:
            mean = max(sum(counts) / case.replicas, 1)
            masks, classes = mean / max(count / case.replicas, 1), 1.0
        found.append(
            {
                name: value * (classes if name.startswith("loss_ce") else masks)
                for name, value in own.losses.items()
            }
        )
    return found


def _starts(case: "Case") -> range:
    return range(0, case.replicas * case.per_replica, case.per_replica)


def allowed(errors: Sequence[float], epsilon: float) -> float:
    """The error that the precision claim allows, of the reference's own errors."""
    return PRECISION_FACTOR * max([epsilon, *errors])

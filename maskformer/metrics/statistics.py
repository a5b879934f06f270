"""Intervals and tests for scores of a data set, by resampling its images.

A score such as PQ or mIoU is a function of statistics summed over images, so a resample is a
weighted sum: no image is looked at twice, and thousands of resamples are one matrix product.
Intervals are bias-corrected and accelerated (BCa: Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 14). Everything is deterministic in its seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from parity.errors import InputError

_CHUNK = 2**22
Found = TypeVar("Found")


@dataclass(frozen=True)
class Sample:
    """Images as rows of statistics [N,F] float64, and the score of their sum: [..., F] -> [...]."""

    statistics: np.ndarray
    metric: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        if self.statistics.ndim != 2 or len(self.statistics) < 2:
            raise InputError(
                f"the sample is {list(self.statistics.shape)}",
                "expected: [images, statistics] with at least two images",
                "One image has no spread to estimate an interval from.",
            )

    @property
    def value(self) -> float:
        """The score of all images."""
        return float(self.metric(self.statistics.sum(axis=0)))


@dataclass(frozen=True)
class Interval:
    """A score with the interval that covers the population's score at the given confidence."""

    value: float
    low: float
    high: float
    confidence: float
    resamples: int
    images: int
    seed: int


@dataclass(frozen=True)
class Missing:
    """Why there is no such figure."""

    reason: str


def known(make: Callable[[], Found]) -> Found | Missing:
    """What `make` gives, or why too few images show what it needs."""
    try:
        return make()
    except InputError as error:
        return Missing(str(error).splitlines()[0])


@dataclass(frozen=True)
class Comparison:
    """`interval` of (first - second) and the two-sided p-value that they are exchangeable."""

    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Equivalence:
    """Whether the difference is shown to lie inside (-margin, margin) at level alpha.

    `interval` has confidence 1 - 2 alpha; `p_value` is the larger of the two one-sided ones.
    """

    holds: bool
    margin: float
    alpha: float
    p_value: float
    interval: Interval


def bootstrap_interval(
    sample: Sample, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The BCa interval of a score over images drawn with replacement.

    Raises InputError for a confidence outside (0, 1), and where a resample has no score (too few
    images show what the score needs).
    """
    low, high, _ = _bca(_distribution(sample, None, resamples, seed), confidence)
    return Interval(sample.value, low, high, confidence, resamples, len(sample.statistics), seed)


def compare(
    first: Sample,
    second: Sample,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Interval and test of the difference (first - second) of two models on the same images.

    Images are resampled in pairs. The p-value is a permutation test's: the two models' results are
    swapped image by image at random, p = (1 + swaps at least as far apart) / (1 + swaps).
    Raises InputError where the samples are not of the same images.
    """
    distribution = _distribution(first, second, resamples, seed)
    low, high, _ = _bca(distribution, confidence)
    interval = Interval(
        distribution.value, low, high, confidence, resamples, len(first.statistics), seed
    )
    return Comparison(interval, _permutation_p_value(first, second, resamples, seed))


def judge_equivalence(
    first: Sample,
    second: Sample,
    *,
    margin: float,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987) that two models' scores differ by less than `margin`.

    `margin` is in units of the score and must be stated before the data are seen.
    Raises InputError for a margin or alpha that is not positive, and as `compare`.
    """
    if not margin > 0:
        raise InputError(f"the margin is {margin}", "expected: a positive difference of scores")
    distribution = _distribution(first, second, resamples, seed)
    low, high, level = _bca(distribution, 1 - 2 * alpha)
    p_value = max(level(-margin), 1 - level(margin))
    interval = Interval(
        distribution.value, low, high, 1 - 2 * alpha, resamples, len(first.statistics), seed
    )
    return Equivalence(p_value < alpha, margin, alpha, p_value, interval)


@dataclass(frozen=True)
class _Distribution:
    """The score, its resamples [R] and its values with one image left out [N]."""

    value: float
    resampled: np.ndarray
    left_out: np.ndarray


def _distribution(first: Sample, second: Sample | None, resamples: int, seed: int) -> _Distribution:
    if resamples < 100:
        raise InputError(f"resamples is {resamples}", "expected: at least 100")
    samples = [first] if second is None else [first, second]
    images = len(first.statistics)
    if len(samples[-1].statistics) != images:
        raise InputError(
            f"the first sample has {images} images, the second {len(samples[-1].statistics)}",
            "expected: the same images in the same order",
        )
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // images)
    parts = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, images, (count, images))
        drawn += np.arange(count)[:, None] * images
        weights = np.bincount(drawn.reshape(-1), minlength=count * images)
        weights = weights.reshape(count, images).astype(np.float64)
        parts.append(_difference([s.metric(weights @ s.statistics) for s in samples]))
    resampled = np.concatenate(parts)
    left_out = _difference([s.metric(s.statistics.sum(axis=0) - s.statistics) for s in samples])
    if lost := int(np.isnan(resampled).sum() + np.isnan(left_out).sum()):
        raise InputError(
            f"{lost} of {resamples} resamples have no score",
            f"too few of the {images} images show a class the score is about",
            "Evaluate more images.",
        )
    return _Distribution(_difference([s.value for s in samples]), resampled, left_out)


def _difference(values: list) -> np.ndarray | float:
    return values[0] if len(values) == 1 else values[0] - values[1]


def _bca(
    distribution: _Distribution, confidence: float
) -> tuple[float, float, Callable[[float], float]]:
    """The BCa interval, and the function that gives the level whose end point is a threshold."""
    if not 0 < confidence < 1:
        raise InputError(f"the confidence is {confidence}", "expected: a value in (0, 1)")
    resampled, value = distribution.resampled, distribution.value
    if np.ptp(resampled) == 0:
        return value, value, lambda threshold: float(threshold >= value)
    from scipy.special import ndtr, ndtri

    count = len(resampled)

    def quantile_of(threshold: float) -> float:
        below = (np.sum(resampled < threshold) + np.sum(resampled <= threshold)) / 2
        return float(ndtri(np.clip(below / count, 0.5 / count, 1 - 0.5 / count)))

    bias = quantile_of(value)
    spread = distribution.left_out.mean() - distribution.left_out
    scale = 6 * np.sum(spread**2) ** 1.5
    acceleration = float(np.sum(spread**3) / scale) if scale > 0 else 0.0

    def end(level: float) -> float:
        z = bias + ndtri(level)
        return float(np.quantile(resampled, ndtr(bias + z / (1 - acceleration * z))))

    def level(threshold: float) -> float:
        z = quantile_of(threshold) - bias
        return float(ndtr(z / (1 + acceleration * z) - bias))

    tail = (1 - confidence) / 2
    return end(tail), end(1 - tail), level


def _permutation_p_value(first: Sample, second: Sample, resamples: int, seed: int) -> float:
    images = len(first.statistics)
    generator = np.random.default_rng([seed, 1])
    change = second.statistics - first.statistics
    sums = [first.statistics.sum(axis=0), second.statistics.sum(axis=0)]
    observed = abs(first.value - second.value)
    rows = max(1, _CHUNK // images)
    extreme = 0
    for start in range(0, resamples, rows):
        swaps = generator.integers(0, 2, (min(rows, resamples - start), images))
        moved = swaps.astype(np.float64) @ change
        differences = first.metric(sums[0] + moved) - second.metric(sums[1] - moved)
        # The identity is one of the permutations; rounding must not make it look smaller.
        extreme += int(np.sum(np.abs(differences) >= observed * (1 - 1e-12)))
    return (1 + extreme) / (1 + resamples)

"""Verdicts on gaps: limits are derived from the reference's own rounding, never typed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from parity.metrics import Gap

FUNCTION_FACTOR = 32.0
FUNCTION_CAP = 1e-9
PRECISION_FACTOR = 4.0
MARGINAL, MORE = 8.0, 12
"""Times its limit, up to which a float32 error is judged again, and by how many more runs of the
reference: where one number that is rounded early decides what comes later, the errors of two runs
are two draws, whose ratio has no bound."""
METRICS = ("l2", "max")
DECISIONS = "decisions"
"""The metric of a float32 gradient that counts its elements that are zero on one side only, because
a ReLU or a maximum next to a tie let another element through."""
BFLOAT16 = "bfloat16"
"""The execution in which a model multiplies in bfloat16, and keeps its weights in float32."""
MIXED = "mixed_bfloat16"
"""The precision of such a model."""
EPSILONS = {"float64": 2.0**-52, "float32": 2.0**-23, BFLOAT16: 2.0**-7}
"""The relative distance of neighbouring numbers, at most."""
CLAIMS = ("same_function", "same_gradient", "same_precision", "same_decisions")


@dataclass(frozen=True)
class Limits:
    """What verdicts are judged by; stored measurements can be judged by others.

    Args:
        floor_factor: in float64, largest gap in units of the reference's own floor.
        cap: in float64, largest gap whatever the floor; one above it that the floor explains is not
            decided.
        float32_ratio: in float32, largest error in units of the reference's own.
        decision_margin: largest margin of a decision that may differ, in units of derived errors.
        loss_gap: in float64, largest relative gap of one loss; thousands of roundings.
        trajectory_loss_gap: the same of the total loss at any step of a calm trajectory.
        placed, explained: least part of planted faults whose place and whose cause are named.
    """

    floor_factor: float = FUNCTION_FACTOR
    cap: float = FUNCTION_CAP
    float32_ratio: float = PRECISION_FACTOR
    decision_margin: float = 1.0
    loss_gap: float = 1e-12
    trajectory_loss_gap: float = 1e-9
    placed: float = 0.95
    explained: float = 0.70


DEFAULT = Limits()


@dataclass(frozen=True)
class Threshold:
    """A limit, the floor it was derived from, and how.

    Args:
        value: the largest value that passes.
        floor: the reference's own error, which the limit is a multiple of.
        derivation: how the limit came about, in words a reader can check.
        rounding: the largest value that rounding explains, where the limit lies below it; what is
            in between shows neither that both are the same nor that they are not.
    """

    value: float
    floor: float
    derivation: str
    rounding: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """Whether one claim holds for one tap, and by how much.

    Args:
        key: the tap's key.
        claim: one of `CLAIMS`.
        metric: `l2` or `max`, whichever is nearer to its limit, or `margin` for decisions.
        value: what was measured.
        threshold: its limit.
        detail: where the largest difference is, and both values.
        problem: why nothing could be measured, or None.
        measured: by metric, the value and the base of its limit: all that judging it again needs.
    """

    key: str
    claim: str
    metric: str
    value: float
    threshold: Threshold
    detail: str = ""
    problem: str | None = None
    measured: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    derived: ClassVar[tuple[str, ...]] = ("passed", "undecided", "fails", "ratio", "margin")

    @property
    def passed(self) -> bool:
        """True where the value was measured and is within its limit."""
        return self.problem is None and self.value <= self.threshold.value

    @property
    def undecided(self) -> bool:
        """Whether the reference, moved by rounding alone, is as far from itself as the port is,
        though that is above the limit."""
        most = self.threshold.rounding
        measured = self.problem is None or math.isinf(most)  # else the problem is the port's
        return not self.passed and measured and math.isfinite(self.value) and self.value <= most

    @property
    def fails(self) -> bool:
        """Whether the port is further away than rounding explains."""
        return not (self.passed or self.undecided)

    @property
    def ratio(self) -> float:
        """The value in units of the floor; infinite with a problem."""
        return _quotient(math.inf if self.problem else self.value, self.threshold.floor)

    @property
    def margin(self) -> float:
        """The value in units of its limit: at most 1 passes."""
        return _quotient(math.inf if self.problem else self.value, self.threshold.value)

    def __str__(self) -> str:
        """`X is 1.3e-4, but should be below 2e-9 [same_function, l2]` and where."""
        if self.problem is not None:
            text = f"{self.key}: {self.problem} [{self.claim}]"
        else:
            should = "but should be below" if self.fails else "which rounding explains, above"
            should = "is below its limit" if self.passed else should
            text = (
                f"{self.key} is {self.value:.2g}, {should} {self.threshold.value:.2g} "
                f"[{self.claim}, {self.metric}]"
            )
        return f"{text}\n  {self.detail}" if self.detail else text


def same_function(
    gaps: Mapping[str, Gap],
    floors: Mapping[str, Gap],
    *,
    factor: float = FUNCTION_FACTOR,
    cap: float = FUNCTION_CAP,
) -> list[Verdict]:
    """Claim 1, float64: each gap is at most min(factor * floor, cap), in both metrics.

    One between `cap` and factor * floor is not decided: at that conditioning rounding alone makes
    such gaps, and mistakes as small may hide in it. So is one where the reference's own NaN,
    infinite or whole numbers are others when its roundings move.

    Args:
        gaps: the port's gap from the float64 reference, by key.
        floors: the reference's gap from itself under moved roundings, for every key of `gaps`.
        factor, cap: the rule of the claim; other values re-judge stored gaps.
    """
    return [function_verdict(key, found, floors[key], factor, cap) for key, found in gaps.items()]


def function_verdict(
    key: str, found: Gap, floor: Gap, factor: float = FUNCTION_FACTOR, cap: float = FUNCTION_CAP
) -> Verdict:
    """The verdict of `same_function` on one tap."""
    bases = least_floor(found, floor, "float64")
    return _verdict(key, "same_function", found, bases, floor.problem, Limits(factor, cap))


def gradient_verdict(
    key: str,
    found: Gap,
    floor: Gap,
    factor: float = FUNCTION_FACTOR,
    cap: float = FUNCTION_CAP,
) -> Verdict:
    """The float64 claim on one gradient: at most min(factor * floor, cap).

    A gradient that is zero in theory is rounding noise: its own floor leaves it not one digit
    (32 x floor is above 1). There the port's gradient must be as small as that noise, so
    factor * floor alone is the limit.
    """
    bases = least_floor(found, floor, "float64")
    return _verdict(key, "same_gradient", found, bases, floor.problem, Limits(factor, cap))


def same_precision(
    gaps: Mapping[str, Gap],
    reference: Mapping[str, Gap],
    floors: Mapping[str, Gap],
    *,
    factor: float = PRECISION_FACTOR,
    dtype: str = "float32",
) -> list[Verdict]:
    """Claim 2: the port's error is at most factor * max(reference's error, floor).

    Args:
        gaps: the gap of the port, run in `dtype`, from the float64 reference, by key.
        reference: the same of the reference run in `dtype`.
        floors: the same of the reference run in `dtype` under moved roundings.
        factor: the rule of the claim.
        dtype: the precision judged, of `EPSILONS`, whose epsilon is the least floor.
    """
    return [
        precision_verdict(key, found, reference[key], floors[key], factor, dtype)
        for key, found in gaps.items()
    ]


def precision_verdict(
    key: str,
    found: Gap,
    reference: Gap,
    floor: Gap,
    factor: float = PRECISION_FACTOR,
    dtype: str = "float32",
) -> Verdict:
    """The verdict of `same_precision` on one tap."""
    least = least_floor(found, floor, dtype)
    bases = {metric: max(getattr(reference, metric), least[metric]) for metric in METRICS}
    problem = reference.problem or floor.problem
    limits = Limits(float32_ratio=factor)
    return _verdict(key, "same_precision", found, bases, problem, limits)


def decided_otherwise(
    verdict: Verdict, count: int, most: int, rest: Verdict | None = None
) -> Verdict:
    """The verdict of `same_precision` on a gradient at or behind elements that are zero on one side
    only: not decided where the reference's own runs have as many, within the same factor.

    Args:
        verdict: on the gradient, which fails.
        count: how many such elements the port has there. most: a run of the reference, at most.
        rest: where they are this gradient's own, the verdict on all its other elements, which must
            pass.
    """
    measured = {**verdict.measured, DECISIONS: (float(count), float(most))}
    if rest is not None:
        measured |= {f"{metric} of the rest": rest.measured[metric] for metric in METRICS}
    return judge_again(verdict.key, verdict.claim, measured, verdict.problem, detail=verdict.detail)


def least_floor(found: Gap, floor: Gap, dtype: str) -> dict[str, float]:
    """The floor of each metric, at least what one rounding of the tap itself can make.

    A constant such as a position encoding does not move when inputs and weights do, so its measured
    floor is 0; yet two mathematics libraries, each correct to the last place, give values one
    place apart. One unit in the last place is a relative change of up to epsilon of each element:
    epsilon in l2, and epsilon times the largest element in units of the RMS in max.
    """
    epsilon = EPSILONS[dtype]
    return {
        "l2": max(floor.l2, epsilon),
        "max": max(floor.max, epsilon * max(1.0, found.peak, floor.peak)),
    }


def same_decisions(
    key: str, port: np.ndarray, reference: np.ndarray, error: float | np.ndarray, axis: int = -1
) -> Verdict:
    """Claim 3: argmax along `axis` is the same, or the margin there is below the derived error.

    Args:
        key: what decides, for the verdict.
        port, reference: scores of one shape and axis order; the reference in float64.
        error: largest error of a single score that the precision claim allows, absolute, a number
            or an array that broadcasts to the shape without `axis`. Two scores, each off by this
            much, swap places while the reference's margin is up to twice as large.
        axis: the axis whose largest score decides.
    Returns: value = the reference's largest margin, in units of what the error allows, among the
        places that are decided otherwise (0 if there are none), limit 1.
    """

    def verdict(value: float, detail: str = "", problem: str | None = None) -> Verdict:
        measured = {"margin": (value, 1.0)}
        return judge_again(key, "same_decisions", measured, problem, detail=detail)

    if port.shape != reference.shape:
        return verdict(math.inf, problem=f"shape {port.shape} instead of {reference.shape}")
    wild = ~(np.isfinite(port) & np.isfinite(reference))
    alike = (np.isnan(port) & np.isnan(reference)) | (port == reference)
    if (wild & ~alike).any():
        return verdict(math.inf, problem="non-finite scores on one side")
    ours, theirs = port.argmax(axis), reference.argmax(axis)
    places = np.argwhere(ours != theirs)
    if not len(places):
        return verdict(0.0, f"all {ours.size} decisions are the same")
    scores = np.moveaxis(reference, axis, -1)
    allowed = 2.0 * np.broadcast_to(np.asarray(error, np.float64), ours.shape)
    margins = {
        tuple(int(i) for i in place): float(
            scores[(*place, theirs[tuple(place)])] - scores[(*place, ours[tuple(place)])]
        )
        for place in places
    }
    values = {place: _quotient(margin, float(allowed[place])) for place, margin in margins.items()}
    worst = max(values, key=values.__getitem__)
    detail = (
        f"{len(places)} of {ours.size} decisions differ; worst at {list(worst)}: port "
        f"{ours[worst]}, reference {theirs[worst]}, margin {margins[worst]:.2g}, "
        f"derived error {allowed[worst]:.2g}"
    )
    return verdict(values[worst], detail)


def narrower(error: float) -> str | None:
    """The type whose rounding makes such a relative error: half a unit in its last place, down to a
    hundredth of that where means of many have cancelled most; both where it may be either, None
    where it is neither."""
    digits = {BFLOAT16: 8, "float16": 11}
    found = [name for name, n in digits.items() if 0.01 * 2.0**-n <= error <= 2.0**-n]
    return " or ".join(found) or None


def describe(found: Gap) -> str:
    """Where the largest difference of a gap is, and both values there; empty where unknown."""
    if found.problem is not None and not found.where:
        return ""
    place = f"largest at {list(found.where)}: " if found.where else ""
    # As many digits as it takes to see the difference.
    texts = ((f"{found.value:.{n}g}", f"{found.reference:.{n}g}") for n in range(6, 18))
    port, reference = next((pair for pair in texts if pair[0] != pair[1]), (found.value,) * 2)
    return f"{place}port {port}, reference {reference}"


def _verdict(
    key: str,
    claim: str,
    found: Gap,
    bases: Mapping[str, float],
    unusable: str | None,
    limits: Limits,
) -> Verdict:
    problem = found.problem
    if problem is None and unusable is not None:
        problem = f"the reference has no floor here: {unusable}"
    measured = {metric: (getattr(found, metric), base) for metric, base in bases.items()}
    return judge_again(key, claim, measured, problem, limits, describe(found))


def judge_again(
    key: str,
    claim: str,
    measured: Mapping[str, tuple[float, float]],
    problem: str | None,
    limits: Limits = DEFAULT,
    detail: str = "",
) -> Verdict:
    """The verdict of `claim` on what was measured: by metric, a value and the base of its limit."""
    thresholds = _thresholds(claim, measured, problem, limits)

    def badness(name: str) -> tuple[bool, float]:
        found, limit = measured[name][0], thresholds[name]
        return not found <= limit.rounding, _quotient(found, limit.value)

    metric = max(measured, key=badness)
    value, threshold = measured[metric][0], thresholds[metric]
    return Verdict(key, claim, metric, value, threshold, detail, problem, measured)


def _thresholds(
    claim: str, measured: Mapping[str, tuple[float, float]], problem: str | None, limits: Limits
) -> dict[str, Threshold]:
    if claim == "same_precision":
        ratio = limits.float32_ratio
        rule = f"{ratio:g} x the larger of the reference's error and its floor, "
        count, most = measured.get(DECISIONS, (0.0, 0.0))
        # What one more or less that comes through makes has no bound.
        unbounded = METRICS if 0.0 < count <= ratio * most else ()
        return {
            m: Threshold(ratio * b, b, f"{rule}{b:.2g}", math.inf if m in unbounded else ratio * b)
            for m, (_, b) in measured.items()
        }
    if claim == "same_decisions":
        margin, rule = limits.decision_margin, "reference's margin / (2 x derived error of a score)"
        return {m: Threshold(margin * b, b, rule, margin * b) for m, (_, b) in measured.items()}
    factor, cap = limits.floor_factor, limits.cap
    # Of a gradient that is noise, the noise is the limit.
    noise = claim == "same_gradient" and FUNCTION_FACTOR * measured["l2"][1] >= 1.0
    if noise and problem is None:
        cap = math.inf
    return {
        metric: Threshold(
            min(factor * base, cap),
            base,
            f"min({factor:g} x floor {base:.2g}, {cap:g})",
            factor * base,
        )
        for metric, (_, base) in measured.items()
    }


def _quotient(value: float, base: float) -> float:
    if value == 0.0:
        return 0.0
    return value / base if base > 0.0 else math.inf

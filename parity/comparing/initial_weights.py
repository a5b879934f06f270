"""The weights that a model starts from: both sides draw every parameter from one distribution.

Numbers drawn on two sides cannot be compared one by one. What is compared is what they were drawn
from, by statistics whose error is known: with the port drawing as the reference does, any parameter
is called different once in `1 / ALARM` comparisons.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.claims import Claim, Place, claim
from parity.measurements import Largest

ALARM = 1e-6
MOST = 50_000
"""Values of a parameter that are kept of a side; more would only find smaller differences."""
ENOUGH = 1_000
"""Values from which the mean and the deviation of a sample are as good as normally distributed."""
TESTS = 4

Draw = Callable[[int], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Sample:
    """What one side drew for one parameter, over all seeds.

    Args:
        values: float64, sorted, at most `MOST`, which stand for all that was drawn.
        shape: of the parameter.
        fixed: whether every seed gave the same numbers.
        twins: other parameters that had the same numbers in every draw, which are not constant.
    """

    values: np.ndarray
    shape: tuple[int, ...]
    fixed: bool
    twins: tuple[str, ...] = ()

    @property
    def constant(self) -> bool:
        """Whether all numbers are one."""
        return bool(self.values[0] == self.values[-1])

    @property
    def mean(self) -> float:
        """Of the values."""
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation of the values."""
        return float(self.values.std())

    @property
    def kurtosis(self) -> float:
        """Fourth moment over the squared second: 1.8 of a uniform, 3 of a normal distribution."""
        centred = self.values - self.mean
        return float(np.mean(centred**4) / self.deviation**4) if self.deviation else 0.0

    def described(self) -> str:
        """The distribution in words, such as `uniform in -0.14 to 0.14`."""
        low, high = self.values[0], self.values[-1]
        if self.constant:
            return f"always {low:.6g}"
        if self.fixed:
            return f"the same numbers for every seed, in {low:.3g} to {high:.3g}"
        if len(self.values) >= ENOUGH and abs(self.kurtosis - 1.8) < 0.1:
            return f"uniform in {low:.3g} to {high:.3g}"
        if len(self.values) >= ENOUGH and abs(self.kurtosis - 3.0) < 0.3:
            return f"normal, deviation {self.deviation:.3g}, mean {self.mean:.2g}"
        return f"deviation {self.deviation:.3g} in {low:.3g} to {high:.3g}"


@dataclass(frozen=True)
class Compared:
    """One parameter of both sides: what each draws, and how far that is from being one thing.

    Args:
        key: of the parameter.
        reference, port: the distributions in words, None where the side has no such parameter.
        values: how many values of each side were compared.
        tests: statistic and limit by name; infinite where nothing has to be estimated.
        cause: what the difference looks like, where it is known.
    """

    key: str
    reference: str | None
    port: str | None
    values: tuple[int, int] = (0, 0)
    tests: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cause: str | None = None

    @property
    def ratio(self) -> float:
        """The largest statistic as a multiple of its limit."""
        return ratio(self.tests)


def ratio(tests: Mapping[str, Sequence[float]]) -> float:
    """The largest statistic as a multiple of its limit, of {test: (statistic, limit)}."""
    return max((value / limit for value, limit in tests.values()), default=0.0)


def sample(draw: Draw, seeds: Sequence[int]) -> dict[str, Sample]:
    """What `draw` gives for each seed, by parameter.

    Args:
        draw: from a seed, every parameter by key, floats of any shape.
        seeds: at least two, or a parameter that has the same numbers for every seed is not seen.
    """
    kept: dict[str, list[np.ndarray]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    twins: list[dict[str, tuple[str, ...]]] = []
    for seed in seeds:
        drawn = draw(seed)
        groups: dict[bytes, list[str]] = {}
        for key, array in drawn.items():
            flat = np.asarray(array).reshape(-1)
            shapes[key] = np.shape(array)
            step = max(1, math.ceil(len(flat) * len(seeds) / MOST))
            kept.setdefault(key, []).append(flat[::step].astype(np.float64))
            if flat.size > 1 and (flat != flat[0]).any():
                groups.setdefault(np.ascontiguousarray(flat).tobytes(), []).append(key)
        twins.append({key: tuple(sorted(one)) for one in groups.values() for key in one})
    return {
        key: Sample(
            np.sort(np.concatenate(parts)),
            shapes[key],
            len(parts) > 1 and all(np.array_equal(parts[0], one) for one in parts[1:]),
            _always_twins(key, twins),
        )
        for key, parts in kept.items()
    }


def _always_twins(key: str, twins: Sequence[Mapping[str, tuple[str, ...]]]) -> tuple[str, ...]:
    common = set.intersection(*(set(one.get(key, ())) for one in twins))
    return tuple(sorted(common - {key}))


def compare(reference: Mapping[str, Sample], port: Mapping[str, Sample]) -> list[Compared]:
    """Every parameter of either side, the reference's order first.

    The tests, each at the level `ALARM` divided by their number and that of the parameters:
    "distribution", the largest distance of the two distribution functions, by Massart's inequality
    for two samples; "bounds", how many values of one side lie beyond all of the other, whose
    chance is a share to that power; "deviation" and "mean", from `ENOUGH` values on, as normally
    distributed. A parameter that is constant, or the same for every seed, or the same as another
    one, on one side only, needs no test.
    """
    keys = [*reference, *(key for key in port if key not in reference)]
    level = ALARM / (TESTS * max(1, len(keys)))
    return [_compared(key, reference.get(key), port.get(key), level) for key in keys]


def claim_of(found: Sequence[Compared], command: str, member: str = "") -> Claim:
    """The claim on all parameters; its value is the largest ratio of a statistic to its limit."""
    made = claim(
        f"{member}initial_weights",
        "training starts every parameter from the reference's distribution",
        Largest({one.key: one.ratio for one in found}, 1.0),
        "statistics of what both sides draw, each as a multiple of its limit; the limits are set "
        f"so that a sound port fails once in {1 / ALARM:,.0f} comparisons",
        command,
    )
    worst = max(found, key=lambda one: one.ratio)
    return made.located(Place.at(worst.key), worst.cause)


def _compared(key: str, ours: Sample | None, theirs: Sample | None, level: float) -> Compared:
    if ours is None or theirs is None:
        return Compared(
            key,
            ours.described() if ours else None,
            theirs.described() if theirs else None,
            tests={"one side only": (math.inf, 1.0)},
            cause="the port has no such parameter" if theirs is None else "the port's alone",
        )
    tests = _certain(ours, theirs) or _estimated(ours, theirs, level)
    return Compared(
        key,
        ours.described(),
        theirs.described(),
        (len(ours.values), len(theirs.values)),
        tests,
        _cause(ours, theirs) if ratio(tests) > 1.0 else None,
    )


def _certain(ours: Sample, theirs: Sample) -> dict[str, tuple[float, float]]:
    """The tests that decide without an error, where one of them applies."""
    if ours.constant and theirs.constant:
        same = ours.values[0] == theirs.values[0]
        return {"constant": (0.0 if same else math.inf, 1.0)}
    found = {}
    if ours.constant != theirs.constant and min(len(ours.values), len(theirs.values)) > 1:
        found["constant"] = (math.inf, 1.0)
    elif ours.fixed != theirs.fixed:
        found["seeds"] = (math.inf, 1.0)
    elif ours.twins != theirs.twins:
        found["twins"] = (math.inf, 1.0)
    return found


def _estimated(ours: Sample, theirs: Sample, level: float) -> dict[str, tuple[float, float]]:
    a, b = ours.values, theirs.values
    count = len(a) * len(b) / (len(a) + len(b))
    tests = {
        # Wei and Dudley 2012: 2.17 covers samples of every size.
        "distribution": (_distance(a, b), math.sqrt(math.log(2.17 / level) / (2.0 * count))),
        "bounds": _bounds(a, b, level),
    }
    if min(len(a), len(b)) >= ENOUGH and not (ours.fixed or theirs.fixed):
        from scipy.special import ndtri

        width = -float(ndtri(level / 2.0))
        error = math.hypot(ours.deviation / math.sqrt(len(a)), theirs.deviation / math.sqrt(len(b)))
        tests["mean"] = (abs(ours.mean - theirs.mean), width * error)
        error = math.sqrt(
            sum((one.kurtosis - 1.0) / (4.0 * len(one.values)) for one in (ours, theirs))
        )
        tests["deviation"] = (abs(math.log(theirs.deviation / ours.deviation)), width * error)
    return tests


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance of two empirical distribution functions; both sorted."""
    places = np.concatenate([a, b])
    below = [np.searchsorted(one, places, side="right") / len(one) for one in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _bounds(a: np.ndarray, b: np.ndarray, level: float) -> tuple[float, float]:
    """The number of values beyond all of the other side that is nearest to its limit, and that."""
    found = []
    for beyond, other in ((a, b), (b, a)):
        share = len(beyond) / (len(a) + len(b))
        limit = max(1.0, math.log(level / 4.0) / math.log(share))
        found += [
            (float((beyond > other[-1]).sum()), limit),
            (float((beyond < other[0]).sum()), limit),
        ]
    return max(found, key=lambda one: one[0] / one[1])


def _cause(ours: Sample, theirs: Sample) -> str | None:
    """What the difference looks like; None where it is like nothing known."""
    if theirs.twins != ours.twins:
        side, twins = ("port", theirs.twins) if theirs.twins else ("reference", ours.twins)
        return f"on the {side} it always has the numbers of {', '.join(twins[:3])}"
    if theirs.constant and not ours.constant:
        return f"the port starts it at {theirs.values[0]:.6g}, the reference draws it"
    if ours.constant and not theirs.constant:
        return f"the port draws it, the reference starts it at {ours.values[0]:.6g}"
    if theirs.fixed != ours.fixed:
        side = "port" if theirs.fixed else "reference"
        return f"the {side} draws the same numbers for every seed"
    if ours.constant:
        return f"{theirs.described()} instead of {ours.described()}"
    change = theirs.deviation / ours.deviation
    error = 6.0 * math.sqrt(sum((s.kurtosis - 1) / (4 * len(s.values)) for s in (ours, theirs)))
    for words, expected in _scales(ours.shape).items():
        if abs(math.log(change / expected)) <= error:
            return f"deviation {theirs.deviation:.3g} instead of {ours.deviation:.3g}: {words}"
    if abs(math.log(change)) > error:
        return f"deviation {theirs.deviation:.3g} instead of {ours.deviation:.3g}"
    return f"{theirs.described()} instead of {ours.described()}"


def _scales(shape: tuple[int, ...]) -> dict[str, float]:
    """Ratios of deviations that mistakes are known to make, by what they are.

    `shape` is [out,in,...], as the reference has it.
    """
    # What truncation at two deviations leaves of a normal distribution's deviation.
    known = {"truncated at two deviations": 0.87963, "corrected for a truncation": 1.0 / 0.87963}
    if len(shape) < 2:
        return known
    area = math.prod(shape[2:])
    fans = {"fan_in": shape[1] * area, "fan_out": shape[0] * area}
    fans["the mean of both fans"] = (fans["fan_in"] + fans["fan_out"]) / 2
    for right, width in fans.items():
        for wrong, other in fans.items():
            if width != other:
                known[f"{wrong} in place of {right}"] = math.sqrt(width / other)
    return {**known, "a gain of the root of 2 more": math.sqrt(2), "that gain less": math.sqrt(0.5)}

"""How far two arrays are apart, in numbers that do not depend on the size of the array."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

BLOCK = 1 << 16
ULP_BINS = 1 << 16


@dataclass(frozen=True)
class Gap:
    """The difference of an array `a` from a reference `b`.

    Args:
        l2: ||a - b|| / ||b||, Euclidean norms in float64; 0 where both are zero, else infinite
            where the reference is zero.
        max: max |a - b| / rms(b), with rms(b) = ||b|| / sqrt(size).
        where: index of that largest difference, in the axis order of the reference.
        value: a there. reference: b there.
        peak: max |b| / rms(b), the weight of one relative error at the largest element.
        rms: rms(b).
        shape: shape of the reference.
        ulps: 50th and 99th percentile and maximum of the distance of float32 values from the
            reference rounded to float32, counted in float32 steps (percentiles saturate at
            65,535); None unless asked for.
        problem: why the two cannot be compared (shape, axes, dtype, non-finite on one side), or
            None. With a problem l2 and max are infinite.
        same_not_finite: at how many places both have NaN, or both the same infinity. Those are
            equal, and all other numbers are of the places that are left.
    """

    l2: float
    max: float
    where: tuple[int, ...] = ()
    value: float = 0.0
    reference: float = 0.0
    peak: float = 0.0
    rms: float = 0.0
    shape: tuple[int, ...] = ()
    ulps: tuple[int, int, int] | None = None
    problem: str | None = None
    same_not_finite: int = 0


def failed(problem: str, shape: tuple[int, ...] = (), **places: Any) -> Gap:
    """The gap of two arrays that cannot be compared."""
    return Gap(math.inf, math.inf, shape=shape, problem=problem, **places)


def gap(a: np.ndarray, b: np.ndarray, *, ulps: bool = False) -> Gap:
    """The gap of `a` from the reference `b`, computed in float64 with small temporaries.

    Args:
        a, b: numpy arrays in the same axis order; never broadcast, never transposed. Integers
            and booleans must be equal. NaN and infinite numbers are values: a problem where only
            one side has them, equal where both have. Where no two numbers differ by as
            much as the smallest normal one of the narrower dtype, the gap is 0: below it TensorFlow
            rounds to zero.
        ulps: also count float32 steps; needs `a` in float32.
    """
    if a.shape != b.shape:
        return failed(f"shape {a.shape} instead of {b.shape}", b.shape)
    if (a.dtype.kind == "f") != (b.dtype.kind == "f") or a.dtype.kind not in "fiub":
        return failed(f"dtype {a.dtype} instead of {b.dtype}", b.shape)
    if a.size == 0:
        return Gap(0.0, 0.0, shape=b.shape)
    if a.dtype.kind != "f":
        return _exact(a, b)
    with np.errstate(over="ignore", invalid="ignore"):  # both are looked into where they occur
        return _measure(a, b, ulps and a.dtype == np.float32, 1.0)


def _exact(a: np.ndarray, b: np.ndarray) -> Gap:
    different = a != b
    count = int(np.count_nonzero(different))
    if not count:
        return Gap(0.0, 0.0, shape=b.shape)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(different)), b.shape))
    places = {"where": where, "value": float(a[where]), "reference": float(b[where])}
    return failed(f"{count} of {b.size} exact values differ", b.shape, **places)


def _measure(a: np.ndarray, b: np.ndarray, ulps: bool, scale: float) -> Gap:
    """The gap of two float arrays of one shape, not empty; `scale` keeps squares in range."""
    # Walking in the memory order of `a` reads it once, and whole cache lines of `b` block by block.
    order = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    a_walk, b_walk = a.transpose(order), b.transpose(order)
    squares = reference_squares = peak = 0.0
    largest, place = -1.0, None
    steps = np.zeros(ULP_BINS, np.int64) if ulps else None
    most_steps = alike = 0
    for block in _blocks(a_walk.shape):
        theirs = np.array(b_walk[block], np.float64, order="C")
        ours = np.array(a_walk[block], np.float64, order="C")
        if not math.isfinite(float(ours.sum()) + float(theirs.sum())):
            alike += _zero_where_alike(ours, theirs)
        if steps is not None:
            counts = _ulp_distance(ours, theirs)
            most_steps = max(most_steps, int(counts.max()))
            steps += np.bincount(np.minimum(counts, ULP_BINS - 1), minlength=ULP_BINS)
        if scale != 1.0:
            ours *= scale
            theirs *= scale
        flat = theirs.ravel()
        reference_squares += _squares(flat)
        np.subtract(ours, theirs, out=ours)
        flat_gap = ours.ravel()
        squares += _squares(flat_gap)
        if not math.isfinite(squares + reference_squares):
            problem = _not_finite(a_walk, b_walk, order)
            if problem is not None:
                return problem
            continue
        np.abs(theirs, out=theirs)
        peak = max(peak, float(theirs.max()))
        np.abs(ours, out=ours)
        index = int(ours.argmax())
        if flat_gap[index] > largest:
            largest = float(flat_gap[index])
            inner = np.unravel_index(index, ours.shape)
            place = tuple(int(i) + (part.start or 0) for i, part in zip(inner, block, strict=True))
    if not math.isfinite(squares + reference_squares):
        return _measure(a, b, ulps, 2.0**-600)
    if scale == 1.0 and max(reference_squares, squares) < 1e-290 and max(peak, largest) > 0:
        return _measure(a, b, ulps, 2.0**600)
    if largest < _smallest_normal(a, b) * scale:
        squares = largest = 0.0
    where = [0] * a.ndim
    for axis, index in zip(order, place or (), strict=True):
        where[axis] = index
    spot = tuple(where)
    rms = math.sqrt(reference_squares / max(1, b.size - alike))
    return Gap(
        l2=_ratio(math.sqrt(squares), math.sqrt(reference_squares)),
        max=_ratio(largest, rms),
        where=spot,
        value=float(a[spot]),
        reference=float(b[spot]),
        peak=_ratio(peak, rms),
        rms=rms / scale,
        shape=b.shape,
        ulps=None if steps is None else (*_percentiles(steps), most_steps),
        same_not_finite=alike,
    )


def _smallest_normal(a: np.ndarray, b: np.ndarray) -> float:
    """Of the narrower dtype: what is smaller is flushed to zero, or not, as a framework likes."""
    return max(float(np.finfo(one.dtype).tiny) for one in (a, b))


def _zero_where_alike(a: np.ndarray, b: np.ndarray) -> int:
    """Sets both to 0 where both are NaN or the same infinity; returns at how many places."""
    alike = (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & (a == b))
    a[alike] = b[alike] = 0.0
    return int(np.count_nonzero(alike))


def _squares(values: np.ndarray) -> float:
    # Not BLAS, whose threads would fight those of the model that is being watched.
    return float(np.einsum("i,i->", values, values))


def _ratio(value: float, base: float) -> float:
    if value == 0.0:
        return 0.0
    return value / base if base > 0.0 else math.inf


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices that tile `shape` in order, each of at most about `BLOCK` elements."""
    split, inner = len(shape), 1
    while split and inner * shape[split - 1] <= BLOCK:
        split -= 1
        inner *= shape[split]
    whole = tuple(slice(0, size) for size in shape[split:])
    if not split:
        yield whole
        return
    rows = max(1, BLOCK // inner)
    for outer in np.ndindex(*shape[: split - 1]):
        head = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[split - 1], rows):
            yield (*head, slice(start, min(start + rows, shape[split - 1])), *whole)


def _not_finite(a: np.ndarray, b: np.ndarray, order: list[int]) -> Gap | None:
    """The problem of arrays that differ in NaN or infinite numbers; None where they do not."""
    bad = ~(np.isfinite(a) & np.isfinite(b))
    bad &= ~((np.isnan(a) & np.isnan(b)) | (np.isinf(a) & (a == b)))
    count = int(np.count_nonzero(bad))
    if not count:
        return None
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    where = [0] * len(order)
    for axis, i in zip(order, index, strict=True):
        where[axis] = int(i)
    shape = tuple(size for _, size in sorted(zip(order, b.shape, strict=True)))
    value, reference = float(a[index]), float(b[index])
    sides = [
        name
        for name, number in (("port", value), ("reference", reference))
        if not math.isfinite(number)
    ]
    guilty = " and the ".join(sides)
    return failed(
        f"non-finite numbers at {count} of {bad.size} places, first in the {guilty}",
        shape,
        where=tuple(where),
        value=value,
        reference=reference,
    )


def _ulp_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Steps between float32 neighbours from `a` to `b`, both rounded to float32."""
    return np.abs(_ordered(a) - _ordered(b)).ravel()


def _ordered(values: np.ndarray) -> np.ndarray:
    """Integers in the order of the float32 numbers, neighbours one apart, both zeros 0."""
    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _percentiles(steps: np.ndarray) -> tuple[int, int]:
    total = np.cumsum(steps)
    half, most = (int(np.searchsorted(total, math.ceil(total[-1] * q))) for q in (0.5, 0.99))
    return half, most


def worst(gaps: Iterable[Gap]) -> Gap:
    """The gap with the largest l2 and the largest max found; a problem outweighs numbers.

    Places and values are those of the largest max.
    """
    gaps = list(gaps)
    for one in gaps:
        if one.problem is not None:
            return one
    top = max(gaps, key=lambda one: one.max)
    return replace(top, l2=max(one.l2 for one in gaps))


def widened(gaps: Mapping[str, Gap], more: Mapping[str, Gap]) -> dict[str, Gap]:
    """Each gap, or the one of the same key in `more` where that is worse."""
    return {key: worst([one, more[key]]) if key in more else one for key, one in gaps.items()}


def perturb_ulp(array: np.ndarray, seed: int, units: int = 1) -> np.ndarray:
    """A copy of `array`, every element moved by 0 or `units` units in its last place, up or down at
    random; `units` is 1 to 127.

    Zeros stay zero (their neighbours are denormal numbers, which no rounding produces), as do NaN
    and infinite numbers, and numbers whose move would overflow; integers and booleans are copied
    unchanged. The same seed and shape give the same moves.

    Raises ValueError for other float types than float16, float32 and float64.
    """
    if array.dtype.kind != "f":
        return array.copy()
    integers = {2: np.int16, 4: np.int32, 8: np.int64}.get(array.dtype.itemsize)
    if integers is None:
        raise ValueError(f"{array.dtype} has no unit in the last place that can be moved here")
    rng = np.random.default_rng(seed)
    moved = np.array(array, order="C")
    flat = moved.reshape(-1).view(integers)
    unsigned = np.dtype(integers).str.replace("i", "u")
    largest = int(np.array(np.finfo(array.dtype).max, array.dtype).view(integers))
    for start in range(0, flat.size, BLOCK):
        bits = flat[start : start + BLOCK]
        moves = rng.integers(-1, 2, bits.size, dtype=np.int8)
        # Next to the sign bit, a float's bits count its magnitude in units in the last place.
        # Less the units, as unsigned numbers, zero and its neighbours are beyond the largest too.
        magnitude = bits & np.iinfo(integers).max
        magnitude -= units
        moves *= magnitude.view(unsigned) < largest - 2 * units + 1
        moves *= np.int8(units)
        bits += moves
    return moved

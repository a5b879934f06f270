"""What an array of a port is in terms of the reference's: its multiple, its axes in another order.

A relation is said where it holds for every pair of arrays, and where the numbers could contradict
it: one number is always the multiple of another.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]
"""The port's array and the reference's, of each case."""
Same = Callable[[np.ndarray, np.ndarray], bool]
"""Whether the port's array is the other one up to rounding."""

SHIFTS = (1, -1, 2, -2)
MOST_ROWS = 2000  # of arrays whose order is looked at
CLOSE = 1e-9  # relative, in float64: what `parity.judge` takes for the largest rounding


def close(limit: float = CLOSE) -> Same:
    """Equal, or within `limit` of the reference's largest number; shapes must be the same."""

    def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
        if ours.shape != theirs.shape:
            return False
        if ours.dtype.kind != "f" and theirs.dtype.kind != "f":
            return bool(np.array_equal(ours, theirs))
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        alike = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        finite = np.isfinite(theirs)
        scale = float(np.abs(theirs[finite]).max(initial=0.0))
        with np.errstate(invalid="ignore"):
            return bool((alike | (np.abs(ours - theirs) <= limit * scale)).all())

    return same


def independent(pairs: Pairs) -> int:
    """How many numbers there are that a fitted factor has to explain, each other one once."""
    numbers = [theirs[np.isfinite(theirs) & (theirs != 0)] for _, theirs in pairs]
    return len(np.unique(np.concatenate([np.abs(one).ravel() for one in numbers] or [[]])))


def relation(pairs: Pairs, same: Same) -> str | None:
    """The first relation that holds for all, in words; None where none does, or all are equal."""
    return next(relations(pairs, same), None)


def relations(pairs: Pairs, same: Same) -> Iterator[str]:
    """The relations that hold for all pairs, in words, the plainest first."""
    pairs = [(np.asarray(ours), np.asarray(theirs)) for ours, theirs in pairs]
    pairs = [pair for pair in pairs if pair[1].size]
    if not pairs or all(same(*pair) for pair in pairs):
        return
    for text, change in (*_orders(pairs), *_values(pairs)):
        if all(same(ours, made) for ours, made in _changed(pairs, change)):
            yield text
    if text := _another_order(pairs, same):
        yield text
    if text := _one_place(pairs, same):
        yield text


def _changed(pairs: Pairs, change: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple]:
    for ours, theirs in pairs:
        try:
            yield ours, change(theirs)
        except (ValueError, IndexError, TypeError):  # a change that arrays of this shape have not
            yield ours, np.full((0,), np.nan)


def _orders(pairs: Pairs) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Other orders of axes, and of what lies along one; the numbers stay."""
    rank = pairs[0][1].ndim
    for axes in itertools.permutations(range(rank)) if 1 < rank <= 5 else ():
        if axes != tuple(range(rank)):
            yield (
                f"its axes are in the order {', '.join(map(str, axes))}",
                lambda array, axes=axes: array.transpose(axes),
            )
    for axis in reversed(range(rank)):
        sizes = {theirs.shape[axis] for _, theirs in pairs}
        if max(sizes) > 1:
            coloured = sizes == {3} and rank == 3
            what = "channels" if coloured else f"entries along axis {axis}"
            yield f"its {what} are in reverse order", lambda array, a=axis: np.flip(array, a)
            for shift in SHIFTS:
                yield (
                    f"its entries along axis {axis} are rolled by {shift}",
                    lambda array, a=axis, s=shift: np.roll(array, s, a),
                )


def _values(pairs: Pairs) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """One function of each number."""
    yield "it is all zeros", np.zeros_like
    if any(
        theirs.dtype.kind not in "fiu" or ours.dtype.kind not in "fiu" for ours, theirs in pairs
    ):
        return
    ours, theirs = (
        np.concatenate(
            [np.ravel(pair[side]).astype(np.float64) for pair in pairs if _shaped(pair)] or [[]]
        )
        for side in (0, 1)
    )
    known = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[known], theirs[known]
    if independent(pairs) < 2 or not theirs.size:
        return
    factor = float(ours @ theirs / (theirs @ theirs))
    yield f"it is the reference's times {factor:.10g}", lambda array: factor * array
    shift = float(np.mean(ours - theirs))
    yield f"it is the reference's plus {shift:.10g}", lambda array: array + shift
    with np.errstate(invalid="ignore", divide="ignore"):
        yield "it is the square root of the reference's", lambda array: _quiet(np.sqrt, array)
        yield "it is the square of the reference's", lambda array: array * array
        yield "it is one minus the reference's", lambda array: 1 - array
        yield "it is the exponential of the reference's", lambda array: _quiet(np.exp, array)
        yield "it is the logarithm of the reference's", lambda array: _quiet(np.log, array)
    if len(np.unique(theirs)) > 2:
        slope, start = np.polyfit(theirs, ours, 1)
        text = f"it is the reference's times {slope:.10g} plus {start:.10g}"
        yield text, lambda array: slope * array + start


def _shaped(pair: tuple[np.ndarray, np.ndarray]) -> bool:
    return pair[0].shape == pair[1].shape


def _quiet(function: Callable, array: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return function(array)


def _another_order(pairs: Pairs, same: Same) -> str | None:
    """Whether the rows are the same, in no order that was looked at."""

    def ordered(array: np.ndarray) -> np.ndarray:
        rows = array.reshape(len(array), -1)
        return rows[np.lexsort(rows.T[::-1])]

    if any(
        ours.ndim == 0 or len(ours) > MOST_ROWS or not _shaped((ours, theirs))
        for ours, theirs in pairs
    ):
        return None
    if all(same(ordered(ours), ordered(theirs)) for ours, theirs in pairs):
        return "it has the same entries along axis 0, in another order"
    return None


def _one_place(pairs: Pairs, same: Same) -> str | None:
    """One entry along one axis in which alone the arrays differ, in every case the same."""
    if not all(map(_shaped, pairs)):
        return None
    for axis in range(pairs[0][1].ndim):
        found = set()
        for ours, theirs in pairs:
            for index in range(theirs.shape[axis]):
                if not same(ours.take([index], axis), theirs.take([index], axis)):
                    found.add(index)
        if len(found) == 1 and all(theirs.shape[axis] > 1 for _, theirs in pairs):
            return f"it differs at entry {found.pop()} along axis {axis} alone"
    return None

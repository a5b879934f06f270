"""Fingerprints of arrays that no layout changes, and the parts of one array that others are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Digest = tuple[int, int]
BFLOAT16 = 2.0**-8  # the relative change that rounding to bfloat16 makes, at most
CHUNK = 1 << 14  # numbers at a time, which stay in the processor's cache
_ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def digest(array: np.ndarray) -> Digest:
    """Size and a hash that arrays have in common exactly if they hold the same float32 numbers.

    The order and the shape do not count: the hash is the sum of one hash for each number. Different
    arrays have the same one by chance only, once in 2**64.
    """
    numbers = array.ravel(order="K")
    total = 0
    for start in range(0, array.size, CHUNK):
        total += int(_scrambled(numbers[start : start + CHUNK]).sum(dtype=np.uint64))
    return array.size, total % 2**64


def is_constant(array: np.ndarray) -> bool:
    """Whether all numbers are the same, so that they tell nothing of the layer that holds them."""
    return array.size == 0 or bool(array.min() == array.max())


def ordered(array: np.ndarray) -> np.ndarray:
    """The numbers in ascending order, in float64."""
    return np.sort(array.astype(np.float64), axis=None)


def length(array: np.ndarray) -> float:
    """The l2 norm; on one thread, since those of a library for it wait for each other on a machine
    that others use."""
    flat = array.ravel(order="K")
    return float(np.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64)))


def gap_of_ordered(a: np.ndarray, b: np.ndarray) -> float:
    """The relative l2 gap of two arrays of `ordered` numbers; infinite where sizes differ."""
    if a.size != b.size:
        return np.inf
    scale = length(b)
    difference = length(a - b)
    if not np.isfinite(difference):
        return np.inf
    return difference / scale if scale else float(difference > 0)


@dataclass(frozen=True, eq=False)
class Part:
    """Which indices along which axis of a whole array one part has."""

    axis: int
    indices: np.ndarray

    def of(self, whole: np.ndarray) -> np.ndarray:
        """The part."""
        return np.take(whole, self.indices, self.axis)


def parts_of(whole: np.ndarray, digests: Mapping[str, Digest]) -> dict[str, Part]:
    """The arrays, by their digests, of which `whole` is put together along one axis; else empty.

    Parts lie one after another, of any sizes, or alternate block by block, such as the heads of
    queries, keys and values. An array that could be two parts, or two arrays that could be one,
    leave nothing found.
    """
    scrambled = _scrambled(whole)
    for axis, length in enumerate(whole.shape):
        others = tuple(other for other in range(whole.ndim) if other != axis)
        slices = scrambled.sum(axis=others, dtype=np.uint64)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(slices, dtype=np.uint64)])
        found = _intervals(sums, whole.size // max(length, 1), digests)
        if not _cover(found, length):
            found = _alternating(slices, whole.size // max(length, 1), digests)
        if len(found) > 1 and _cover(found, length):
            return {name: Part(axis, indices) for name, indices in found.items()}
    return {}


def _scrambled(array: np.ndarray) -> np.ndarray:
    """A hash of each number, uint64, in the shape of the array."""
    numbers = array.astype(np.float32) + np.float32(0)  # which makes one zero of both
    mixed = numbers.view(np.uint32).astype(np.uint64)
    mixed += np.uint64(1)
    for odd, bits in zip(_ODD, (29, 32), strict=True):
        mixed *= odd
        mixed ^= mixed >> np.uint64(bits)
    return mixed


def _intervals(sums: np.ndarray, size: int, digests: Mapping[str, Digest]) -> dict[str, np.ndarray]:
    found = {}
    for name, (total, hashed) in digests.items():
        count, rest = divmod(total, size)
        if rest or not 0 < count < len(sums) - 1:
            continue
        starts = np.flatnonzero(sums[count:] - sums[:-count] == np.uint64(hashed))
        if len(starts) == 1:
            found[name] = np.arange(starts[0], starts[0] + count)
    return found


def _alternating(
    slices: np.ndarray, size: int, digests: Mapping[str, Digest]
) -> dict[str, np.ndarray]:
    """Parts of one size that take turns: blocks of the first, the second, ..., the first again."""
    by_total: dict[int, dict[str, int]] = {}
    for name, (total, hashed) in digests.items():
        by_total.setdefault(total, {})[name] = hashed
    length = len(slices)
    for total, hashes in by_total.items():
        count, rest = divmod(total, size)
        if rest or not count or length % count or length == count:
            continue
        turns = length // count
        for block in (one for one in range(1, count) if count % one == 0):
            table = slices.reshape(-1, turns, block).sum(axis=(0, 2), dtype=np.uint64)
            positions = np.arange(length).reshape(-1, turns, block)
            found = {
                name: positions[:, places[0]].ravel()
                for name, hashed in hashes.items()
                if len(places := np.flatnonzero(table == np.uint64(hashed))) == 1
            }
            if _cover(found, length):
                return found
    return {}


def _cover(found: Mapping[str, np.ndarray], length: int) -> bool:
    indices = np.concatenate([np.zeros(0, int), *found.values()])
    return len(indices) == length and len(np.unique(indices)) == length

"""A window of a photograph that Pillow's bilinear filter would enlarge, level by level.

Source of the arithmetic: `Resample.c` of Pillow, 8-bit channels: weights in fixed point with 22
bits, columns first, each pass rounded to 8 bits. Pillow can make a window too, but holds its border
in float32, which moves every pixel a little: some differ by two levels from those of the whole.
"""

import functools
from collections.abc import Sequence

import numpy as np

_BITS = 22
_HALF = 1 << (_BITS - 1)
_BLOCK = 1 << 16
"""Values that are computed together, few enough to stay in a processor's cache."""


def enlarged_window(image: np.ndarray, size: Sequence[int], window: Sequence[int]) -> np.ndarray:
    """Rows and columns of `Image.resize(size, BILINEAR)`, without making the rest.

    Args: image uint8 [H,W,3]; size (height, width), neither smaller than the image's; window (top,
    left, height, width) in the enlarged image. Returns uint8 [height,width,3].
    """
    top, left, height, width = window
    rows, down = _taps(image.shape[0], size[0], top, height)
    columns, across = _taps(image.shape[1], size[1], left, width)
    low, high = int(rows[0, 0]), int(rows[1, -1]) + 1
    levels = np.empty((high - low, 3 * width), np.int32)
    across = np.repeat(across, 3, axis=1)
    for here in _blocks(levels):
        part = image[low:high][here]
        sides = (np.take(part, column, axis=1).reshape(len(part), -1) for column in columns)
        levels[here] = _mix(*(a.astype(np.int32) for a in sides), *across)
    result = np.empty((height, 3 * width), np.uint8)
    for here in _blocks(result):
        sides = (np.take(levels, row[here] - low, axis=0) for row in rows)
        result[here] = _mix(*sides, *down[:, here, None])
    return result.reshape(height, width, 3)


def _blocks(values: np.ndarray) -> list[slice]:
    step = max(1, _BLOCK // values.shape[1])
    return [slice(start, start + step) for start in range(0, len(values), step)]


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The weighted sum of two int32 arrays, which are overwritten, rounded to levels."""
    first *= share
    second *= rest
    first += second
    first += _HALF
    first >>= _BITS
    return first


@functools.lru_cache(maxsize=64)
def _taps(size_in: int, size_out: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sources [2,count] of outputs `start` to `start + count`, and their int32 weights.

    Source: `precompute_coeffs` and `normalize_coeffs_8bpc`. At the edges one weight is 0.
    """
    center = (np.arange(start, start + count) + 0.5) * (size_in / size_out)
    low = np.maximum((center - 0.5).astype(np.int64), 0)
    index = np.stack([low, low + 1])
    weight = np.maximum(1.0 - np.abs(index - center + 0.5), 0.0)
    weight[index >= size_in] = 0.0
    weight /= weight.sum(axis=0)
    return np.minimum(index, size_in - 1), (0.5 + weight * (1 << _BITS)).astype(np.int32)

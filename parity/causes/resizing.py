"""Rules of resizing one axis, as matrices in float64."""

from collections.abc import Callable

import numpy as np


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with the coefficient -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
"""The kernel of each rule and how far it reaches."""


def weights(
    before: int, after: int, method: str, antialias: bool = False, *, repeated: bool = False
) -> np.ndarray:
    """The matrix [after, before] that resizes one axis as `tf.image.resize` does.

    Pixels have their centres at halves; with `antialias` the kernel is as wide as the step of a
    smaller image. Beyond the border bilinear repeats the last pixel, and others have none, unless
    it is `repeated`, as other frameworks do.
    """
    kernel, reach = KERNELS[method]
    step = before / after
    scale = max(step, 1.0) if antialias else 1.0
    centres = (np.arange(after) + 0.5) * step - 0.5
    if not antialias and (repeated or method == "bilinear"):
        low = np.floor(centres)
        matrix = np.zeros((after, before))
        for offset in range(1 - int(reach), 1 + int(reach)):
            places = np.clip(low + offset, 0, before - 1).astype(int)
            np.add.at(matrix, (np.arange(after), places), kernel(centres - low - offset))
        return matrix
    distances = np.arange(before)[None, :] - centres[:, None]
    matrix = kernel(distances / scale)
    matrix[np.abs(distances) > reach * scale] = 0.0
    return matrix / matrix.sum(1, keepdims=True)

"""The same dropout masks for both sides, so that what happens in training mode can be compared.

A mask depends on the seed and on the place where it is drawn alone: the module, the call of it, and
the number of masks drawn before in that call. The recorders feed it to the model in place of the
framework's own random numbers.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from parity.trace import Axes, shown

Keeps = Callable[[tuple[int, ...], float], np.ndarray | None]
"""keeps(shape, probability) says which elements are kept, None for all of them, unscaled."""


@dataclass(frozen=True)
class Drawn:
    """One mask: how many elements it has, the probability with which each is kept, its shape."""

    size: int
    keep: float
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Masks:
    """Masks by place.

    Args:
        seed: another one gives other masks; with None nothing is dropped, nor scaled.
        axes: axes(path, "mask", "", rank) names the axes of a mask drawn in the module at `path`;
            "" where both frameworks lay out its elements in the same order.
    """

    seed: int | None
    axes: Axes

    def kept(self, place: str, path: str, shape: tuple[int, ...], keep: float) -> np.ndarray | None:
        """bool of `shape`: which elements the mask drawn at `place` keeps; None for all."""
        if self.seed is None:
            return None
        rng = np.random.default_rng([self.seed, zlib.crc32(place.encode())])
        axes = self.axes(path, "mask", "", len(shape))
        if not axes:
            return (rng.random(int(np.prod(shape))) < keep).reshape(shape)
        order = sorted(axes)
        sizes = dict(zip(axes, shape, strict=True))
        drawn = rng.random([sizes[axis] for axis in order]) < keep
        return np.ascontiguousarray(drawn.transpose([order.index(axis) for axis in axes]))


@dataclass
class Feed:
    """Draws the masks of one run, and notes them.

    Args:
        masks: what is drawn.
        current: path and number of the module call that is running, None outside any.
        drawn: what was drawn so far, by place.
    """

    masks: Masks
    current: Callable[[], tuple[str, int] | None]
    drawn: dict[str, Drawn] = field(default_factory=dict)
    _counts: Counter = field(default_factory=Counter)

    def __call__(self, shape: tuple[int, ...], keep: float) -> np.ndarray | None:
        """bool of `shape`: which elements are kept, each with probability `keep`; None for all."""
        path, number = self.current() or ("", 0)
        module = f"{shown(path)}@{number}"
        place = f"{module}#{self._counts[module]}"
        self._counts[module] += 1
        self.drawn[place] = Drawn(int(np.prod(shape)), keep, tuple(shape))
        return self.masks.kept(place, path, tuple(shape), keep)


def mask_differences(ours: Mapping[str, Drawn], theirs: Mapping[str, Drawn]) -> list[str]:
    """Where the port draws other masks than the reference, in words; empty where it does not.

    A place is `module@call#mask`.
    """
    found = []
    for place in [*theirs, *(place for place in ours if place not in theirs)]:
        port, reference = ours.get(place), theirs.get(place)
        if port is None:
            found.append(f"{place}: no dropout, but the reference keeps {reference.keep:.6g}")
        elif reference is None:
            found.append(f"{place}: dropout that keeps {port.keep:.6g}, but none in the reference")
        elif port.keep != reference.keep:
            found.append(f"{place}: keeps {port.keep:.9g}, but should keep {reference.keep:.9g}")
        elif port.size != reference.size:
            found.append(f"{place}: {port.size} elements, but should be {reference.size}")
    return found

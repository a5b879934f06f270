"""How one array holds the numbers of another: axes split, turned and joined, and the way back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from parity.matching.fingerprints import length
from parity.names import View
from parity.weights import Layout

AXES = 6  # more have too many orders to try
SAMPLE = 2048
ABOUT = 2.0  # how much further away at the sample a rearrangement is still looked at whole


@dataclass(frozen=True)
class Rearrangement:
    """The reference's array, split into finer axes, which the port has in another order.

    Args:
        reference, port: both shapes.
        fine: the reference's shape with some of its axes split.
        order: the port's finer axes, by their number among `fine`.
    """

    reference: tuple[int, ...]
    fine: tuple[int, ...]
    order: tuple[int, ...]
    port: tuple[int, ...]

    def to_port(self, array: np.ndarray) -> np.ndarray:
        """The reference's array as the port has it."""
        return array.reshape(self.fine).transpose(self.order).reshape(self.port)

    def to_reference(self, array: np.ndarray) -> np.ndarray:
        """The inverse."""
        turned = array.reshape([self.fine[axis] for axis in self.order])
        return turned.transpose(np.argsort(self.order)).reshape(self.reference)

    def places(self, reference: np.ndarray) -> np.ndarray:
        """Where in the port's flat array the elements stand that have these places in the
        reference's."""
        along = np.unravel_index(reference, self.fine)
        sizes = [self.fine[axis] for axis in self.order]
        return np.ravel_multi_index([along[axis] for axis in self.order], sizes)

    def layout(self) -> Layout:
        """It as the layout of a weight."""
        return Layout(self.to_port, self.to_reference)

    def view(self, axes: str) -> View:
        """It as the view of a tensor whose axes are called `axes` in the reference."""
        return View(axes, self.to_reference, self.to_port)


@dataclass(frozen=True)
class Repeated:
    """The reference's array, which the port has several times over, such as once for each image.

    Args:
        counts: how often, along each axis.
    """

    counts: tuple[int, ...]

    def to_port(self, array: np.ndarray) -> np.ndarray:
        """The reference's array as often as the port has it."""
        return np.tile(array, self.counts)

    def to_reference(self, array: np.ndarray) -> np.ndarray:
        """The first copy; where any other is not like it, off by more than either can be."""
        repeated = tuple(axis for axis, count in enumerate(self.counts) if count > 1)
        first = array[tuple(slice(0, 1) if count > 1 else slice(None) for count in self.counts)]
        return first + 2.0 * np.abs(array - first).max(axis=repeated, keepdims=True)

    def view(self, axes: str) -> View:
        """It as the view of a tensor whose axes are called `axes` in the reference."""
        return View(axes, self.to_reference, self.to_port)


def repeated(reference: tuple[int, ...], port: tuple[int, ...]) -> Repeated | None:
    """How often the port has the reference's array along axes where that has it once."""
    if len(reference) != len(port) or reference == port:
        return None
    if any(ours != theirs and theirs != 1 for ours, theirs in zip(port, reference, strict=True)):
        return None
    return Repeated(tuple(ours // theirs for ours, theirs in zip(port, reference, strict=True)))


def possible(reference: tuple[int, ...], port: tuple[int, ...]) -> Iterator[Rearrangement]:
    """Those that turn the axes of one side and split or join them in that order.

    Each pair of finer axes and order comes once. None where the shapes have other sizes.
    """
    if math.prod(reference) != math.prod(port) or max(len(reference), len(port)) > AXES:
        return
    met = set()
    for order in permutations(range(len(reference))):
        if (one := Rearrangement(reference, reference, order, port)) not in met:
            met.add(one)
            yield one
    for order in permutations(range(len(port))):
        fine = tuple(port[axis] for axis in order)
        one = Rearrangement(reference, fine, tuple(map(int, np.argsort(order))), port)
        if one not in met:
            met.add(one)
            yield one


def exact(reference: np.ndarray, port: np.ndarray) -> Rearrangement | None:
    """How the port holds exactly these numbers; None where no splitting and turning leads there."""
    for one in possible(reference.shape, port.shape):
        if np.array_equal(one.to_port(reference), port):
            return one
    if reference.size != port.size or len(np.unique(port)) != port.size:
        return None
    return _by_positions(reference, port)


def nearest(reference: np.ndarray, port: np.ndarray) -> tuple[Rearrangement | None, float]:
    """The rearrangement with the smallest relative l2 gap, and that gap; None where none fits.

    Of large arrays a part decides which are looked at whole.
    """
    best, least = None, math.inf
    scale = length(reference) or 1.0
    for one in _likely(reference, port):
        gap = length(one.to_reference(port) - reference) / scale
        if gap < least:
            best, least = one, gap
    return best, least


def _likely(reference: np.ndarray, port: np.ndarray) -> list[Rearrangement]:
    """The rearrangements that are nearest at `SAMPLE` places, or about as near."""
    every = list(possible(reference.shape, port.shape))
    if reference.size <= 2 * SAMPLE or len(every) < 2:
        return every
    places = np.random.default_rng(0).integers(0, reference.size, SAMPLE)
    wanted, flat = reference.ravel()[places], port.ravel()
    gaps = [length(flat[one.places(places)] - wanted) for one in every]
    if not np.isfinite(gaps).all():
        return every
    return [one for one, gap in zip(every, gaps, strict=True) if gap <= ABOUT * min(gaps)]


def _by_positions(reference: np.ndarray, port: np.ndarray) -> Rearrangement | None:
    """From where each number of the port stands in the reference, all of them being different.

    Along each axis of the port, the positions must grow by constant strides, in one or more nested
    loops; the strides of all loops are then the reference's finer axes.
    """
    positions = np.empty(port.size, np.int64)
    positions[np.argsort(port, axis=None)] = np.argsort(reference, axis=None)
    positions = positions.reshape(port.shape)
    if positions.flat[0] != 0:
        return None
    loops: list[tuple[int, int]] = []  # (stride, count), the port's finer axes in order
    for axis in range(port.ndim):
        line = positions[(0,) * axis + (slice(None),) + (0,) * (port.ndim - axis - 1)]
        found = _loops(line)
        if found is None:
            return None
        loops += found
    by_stride = sorted(range(len(loops)), key=lambda index: -loops[index][0])
    fine = tuple(loops[index][1] for index in by_stride)
    order = tuple(by_stride.index(index) for index in range(len(loops)))
    one = Rearrangement(reference.shape, fine, order, port.shape)
    return one if np.array_equal(one.to_port(reference), port) else None


def _loops(line: np.ndarray) -> list[tuple[int, int]] | None:
    """Nested loops (stride, count), outermost first, that give these positions, from 0."""
    if len(line) == 1:
        return []
    stride = int(line[1])
    count = 1
    while count < len(line) and line[count] == count * stride:
        count += 1
    if stride <= 0 or len(line) % count:
        return None
    table = line.reshape(-1, count)
    if not np.array_equal(table, table[:, :1] + np.arange(count) * stride):
        return None
    outer = _loops(table[:, 0])
    return None if outer is None else [*outer, (stride, count)]

"""Tensors that the port arranges otherwise than the reference: stacked, merged, in a record."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.calls import joined, part
from parity.names import Naming, View
from parity.trace import Axes, Trace

Shape = tuple[int, ...]
Place = tuple[str, str]  # path and kind
MOST_AXES = 5


@dataclass(frozen=True)
class Known:
    """What the reference has at one place: axes and shape of each tensor, by name, in the first
    call of the module, and the numbers of axes that it has in any."""

    tensors: dict[str, tuple[str, Shape]]
    ranks: dict[str, set[int]]


def same(array: np.ndarray) -> np.ndarray:
    """The array itself."""
    return array


def known(trace: Trace) -> dict[Place, Known]:
    """What the reference has at each place of a trace."""
    found: dict[Place, Known] = {}
    for tap in trace.values():
        one = found.setdefault((tap.path, tap.kind), Known({}, {}))
        one.tensors.setdefault(tap.name, (tap.axes, tuple(tap.array.shape)))
        one.ranks.setdefault(tap.name, set()).add(tap.array.ndim)
    return found


@dataclass
class Arranged:
    """A `Naming` that also pairs what is arranged otherwise on the port's side, by shapes.

    Declared names and views come first. `assumed` says what was paired so, for people.
    """

    naming: Naming
    places: Mapping[Place, Known]
    axes: Axes
    their_axes: Axes
    assumed: dict[str, str] = field(default_factory=dict)
    _views: dict[tuple[str, str, str], View] = field(default_factory=dict)

    def modules(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return self.naming.modules(found)

    def tensors(self, path: str, kind: str, names: Sequence[str]) -> Sequence[str | None]:
        return self.naming.tensors(path, kind, names)

    def call(self, path: str, count: int) -> int | None:
        return self.naming.call(path, count)

    def view(self, path: str, kind: str, name: str) -> View | None:
        return self.naming.view(path, kind, name) or self._views.get((path, kind, name))

    def arrange(
        self, path: str, kind: str, names: Mapping[str, str | None], shapes: Mapping[str, Shape]
    ) -> dict[str, str | None]:
        """The names under which the port's tensors are recorded, given those of `tensors`.

        Args:
            names: the port's name of each tensor to the reference's, None for one left out.
            shapes: of the port's tensors, by the port's names.
        """
        theirs = self.places.get((path, kind))
        if theirs is None or any(size is None for one in shapes.values() for size in one):
            return dict(names)
        found = dict(names)
        left = [one for one in names if names[one] is not None and names[one] not in theirs.tensors]
        free = [name for name in theirs.tensors if name not in names.values()]
        if left and free:
            found.update(self._paired(path, kind, left, free, shapes))
        for ours, name in found.items():
            if name in theirs.tensors and self.naming.view(path, kind, name) is None:
                self._see(path, kind, name, shapes[ours])
        return found

    def _paired(
        self,
        path: str,
        kind: str,
        left: Sequence[str],
        free: Sequence[str],
        shapes: Mapping[str, Shape],
    ) -> dict[str, str]:
        """Names for tensors that have none: by order, or as parts of a stack."""
        theirs = self.places[path, kind].tensors
        sizes = [math.prod(shapes[one]) for one in left]
        wanted = [math.prod(theirs[one][1]) for one in free]
        if sizes != wanted and sorted(sizes) == sorted(wanted) and len(set(sizes)) == len(sizes):
            free = [free[wanted.index(size)] for size in sizes]
            wanted = sizes
        if sizes == wanted:
            self._assume(path, kind, f"{', '.join(left)} in the order of {', '.join(free)}")
            return dict(zip(left, free, strict=True))
        whole = sum(sizes) == sum(wanted)  # a batch of two is no stack of two results
        if whole and len(left) == 1 and shapes[left[0]][:1] == (len(free),):
            self._assume(path, kind, f"{left[0] or 'its tensor'} is a stack of {', '.join(free)}")
            return {left[0]: joined(free)}
        if whole and len(free) == 1 and theirs[free[0]][1][:1] == (len(left),):
            self._assume(path, kind, f"{', '.join(left)} are the parts of {free[0] or 'the stack'}")
            names = {one: part(free[0], index, len(left)) for index, one in enumerate(left)}
            letters, _ = theirs[free[0]]
            self._views[path, kind, free[0]] = View(letters, same, same)
            for ours, name in names.items():
                self._views[path, kind, name] = self._part(path, kind, free[0], shapes[ours])
            return names
        return {}

    def _part(self, path: str, kind: str, name: str, shape: Shape) -> View:
        """How one part of the reference's stack `name` is held."""
        ours, theirs = (axes(path, kind, name, len(shape)) for axes in (self.axes, self.their_axes))
        if sorted(ours) != sorted(theirs):
            return View(theirs, same, same)
        there = tuple(ours.index(letter) for letter in theirs)
        back = tuple(theirs.index(letter) for letter in ours)
        return View(theirs, lambda a: a.transpose(there), lambda a: a.transpose(back))

    def _see(self, path: str, kind: str, name: str, shape: Shape) -> None:
        letters, theirs = self.places[path, kind].tensors[name]
        ours = self.axes(path, kind, name, len(shape))
        if len(shape) in self.places[path, kind].ranks[name]:
            return  # another order of axes is declared by their letters, and never guessed
        found = arrangement(letters, theirs, ours, shape)
        if found is not None:
            text, view = found
            self._views[path, kind, name] = view
            self._assume(path, kind, f"{name or 'its tensor'} is {text}")

    def _assume(self, path: str, kind: str, text: str) -> None:
        self.assumed.setdefault(f"{path or 'model'}:{kind}", text)


def arrangement(letters: str, theirs: Shape, ours: str, shape: Shape) -> tuple[str, View] | None:
    """How a port's tensor of `shape` is the reference's of shape `theirs`, seen from the shapes.

    Axes that are merged on one side; in words, and as a view. None where no order of axes leads
    from one shape to the other. Of several orders the one that keeps most of the axes'
    letters and places is taken.
    """
    if math.prod(theirs) != math.prod(shape) or max(len(theirs), len(shape)) > MOST_AXES:
        return None
    merged = len(shape) >= len(theirs)
    more, fewer = (shape, theirs) if merged else (theirs, shape)
    more_letters, fewer_letters = (ours, letters) if merged else (letters, ours)
    best: tuple[int, int, tuple[int, ...], tuple[int, ...]] | None = None
    for order in itertools.permutations(range(len(more))):
        turned = [more[axis] for axis in order]
        groups = _groups(turned, fewer)
        if groups is None:
            continue
        starts = np.cumsum([0, *groups[:-1]])
        kept = sum(
            size == 1 and more_letters[order[start]] == letter
            for start, size, letter in zip(starts, groups, fewer_letters, strict=True)
        )
        turns = sum(a > b for a, b in itertools.combinations(order, 2))
        if best is None or (kept, -turns) > best[:2]:
            best = (kept, -turns, order, tuple(groups))
    if best is None:
        return None
    order = best[2]
    back = tuple(int(axis) for axis in np.argsort(order))
    turned = tuple(more[axis] for axis in order)

    def merge(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.transpose(order)).reshape(fewer)

    def split(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.reshape(turned).transpose(back))

    text = f"{list(shape)} for {list(theirs)}, its axes in the order {list(order)}"
    if merged:
        return text, View(letters, merge, split)
    return text, View(letters, split, merge)


def _groups(sizes: Sequence[int], merged: Sequence[int]) -> list[int] | None:
    """How many neighbours of `sizes` make each of `merged`, or None where they do not."""
    groups, index = [], 0
    for position, wanted in enumerate(merged):
        count, product = 0, 1
        while index < len(sizes) and (count == 0 or product < wanted):
            product *= sizes[index]
            index += 1
            count += 1
        if product != wanted or count == 0:
            return None
        if position == len(merged) - 1 and any(size != 1 for size in sizes[index:]):
            return None
        groups.append(count)
    return groups

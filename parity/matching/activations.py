"""Which tensors around paired modules belong together, and in which layout."""

import glob
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from parity.matching.fingerprints import length
from parity.matching.modules import ALIKE, CLEARLY, Values
from parity.matching.rearrangement import Rearrangement, Repeated, nearest, repeated
from parity.matching.seen import Side
from parity.pairing import align
from parity.trace import Tap, tap_key

FORMED = "no tensor of the other side has its numbers in any layout"


@dataclass
class Tensors:
    """The parts of a `Names` that say how tensors of paired modules belong together.

    `compared` are the keys of the port's tensors, in first calls, that have a counterpart; `views`
    are by place.
    """

    tensors: dict[str, str] = field(default_factory=dict)
    calls: dict[str, dict[int, int]] = field(default_factory=dict)
    views: dict[str, tuple[str, Rearrangement | Repeated]] = field(default_factory=dict)
    reference_only: dict[str, str] = field(default_factory=dict)
    port_only: dict[str, str] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)


def pair_tensors(theirs: Side, ours: Side, modules: Mapping[str, str], values: Values) -> Tensors:
    """How the tensors of modules belong together; `modules` leads from the port's to theirs.

    They are paired by name, by being the only one, and by their numbers. Where a module of one side
    returns what another one of the other side does, such as a layer with its activation inside,
    both outputs are left to the module around them.
    """
    found = Tensors()
    search = _Search(theirs, ours, values, found)
    for path, other in {"": "", **modules}.items():
        search.module(path, other)
    return found


@dataclass(frozen=True)
class _Search:
    theirs: Side
    ours: Side
    values: Values
    found: Tensors

    def module(self, ours: str, theirs: str) -> None:
        counts = self.theirs.count(theirs), self.ours.count(ours)
        calls = {index: index for index in range(counts[1])}
        if counts[0] != counts[1]:
            calls = self._calls(ours, theirs, counts)
            self.found.calls[theirs] = calls
        for kind in ("input", "output"):
            for call, other in list(calls.items())[:1]:
                self._call(
                    (theirs, kind),
                    self.theirs.tensors(theirs, kind, other),
                    self.ours.tensors(ours, kind, call),
                )

    def _calls(self, ours: str, theirs: str, counts: tuple[int, int]) -> dict[int, int]:
        """The reference's call of each of the port's, in one order, by what comes out."""
        found: dict[int, int] = {}
        start = 0
        for call in range(counts[1]):
            outputs = [*self.ours.tensors(ours, "output", call).values()]
            gaps = [
                self.values.nearest(outputs, [*self.theirs.tensors(theirs, "output", n).values()])
                for n in range(start, counts[0])
            ]
            if gaps and min(gaps) <= ALIKE:
                found[call] = start + int(np.argmin(gaps))
                start = found[call] + 1
        return found or {0: 0}

    def _call(
        self, place: tuple[str, str], theirs: Mapping[str, Tap], ours: Mapping[str, Tap]
    ) -> None:
        named = {name: name for name in ours if name in theirs}
        left = [name for name in ours if name not in named]
        free = [name for name in theirs if name not in named]
        if len(left) == len(free) == 1 and self._possible(theirs[free[0]], ours[left[0]]):
            named[left[0]] = free[0]
        else:
            gaps = {(a, b): self.values.gap(ours[a], theirs[b]) for a in left for b in free}
            for a, b in sorted(gaps, key=gaps.__getitem__):
                if gaps[a, b] <= ALIKE and a not in named and b not in named.values():
                    named[a] = b
                    self.found.tensors[self._place(place, a)] = b
        for name, other in list(named.items()):
            if not self._seen(place, theirs[other], ours[name]):
                del named[name]
                self.found.tensors.pop(self._place(place, name), None)
        for name in ours:
            if name not in named:
                self.found.port_only[self._place(place, name)] = self._why(ours[name], self.theirs)
        for name in theirs:
            if name not in named.values():
                why = self._why(theirs[name], self.ours)
                self.found.reference_only[self._place(place, name)] = why
        self.found.compared |= {ours[name].key for name in named}

    @staticmethod
    def _place(place: tuple[str, str], name: str) -> str:
        return glob.escape(tap_key(*place, name))

    def _possible(self, theirs: Tap, ours: Tap) -> bool:
        one, other = theirs.array, ours.array
        return one.size == other.size or repeated(one.shape, other.shape) is not None

    def _seen(self, place: tuple[str, str], theirs: Tap, ours: Tap) -> bool:
        """Whether both can be compared; notes the view where the port has another layout."""
        as_named = align(ours, theirs.axes)
        by_axes = math.inf
        if as_named is not None and as_named.shape == theirs.array.shape:
            by_axes = _gap(as_named, theirs.array)
        if by_axes <= ALIKE:
            return True
        copies = repeated(theirs.array.shape, ours.array.shape)
        if copies is not None and ours.axes == theirs.axes and self._copied(copies, theirs, ours):
            self.found.views[self._place(place, theirs.name)] = (theirs.axes, copies)
            return True
        one, gap = nearest(
            theirs.array.astype(np.float64, copy=False), ours.array.astype(np.float64, copy=False)
        )
        if one is not None and gap <= ALIKE and CLEARLY * gap < by_axes:
            self.found.views[self._place(place, theirs.name)] = (theirs.axes, one)
            return True
        if math.isinf(by_axes):
            return False
        elsewhere = place[1] == "output" and self._elsewhere(ours, self.theirs, by_axes)
        return not elsewhere

    @staticmethod
    def _copied(copies: Repeated, theirs: Tap, ours: Tap) -> bool:
        return _gap(copies.to_reference(ours.array), theirs.array) <= ALIKE

    def _elsewhere(self, tap: Tap, side: Side, gap: float) -> str:
        """The place of the other side that has this tensor's numbers; empty for none."""
        best, place = math.inf, ""
        for other in side.taps.values():
            if other.path != "" and other.same_as is None:
                found = self.values.gap(tap, other)
                if found < best:
                    best, place = found, other.key
        return place if best <= ALIKE and CLEARLY * best < gap else ""

    def _why(self, tap: Tap, side: Side) -> str:
        place = self._elsewhere(tap, side, math.inf) if tap.kind == "output" else ""
        return f"the other side has it at {place}" if place else FORMED


def _gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    difference = length(ours.astype(np.float64) - theirs)
    scale = length(theirs.astype(np.float64))
    return difference / scale if scale else float(difference > 0)

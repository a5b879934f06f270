"""Which modules of two models belong together, by their weights and by what goes through them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parity.matching.fingerprints import gap_of_ordered, ordered
from parity.matching.rearrangement import nearest
from parity.matching.seen import Side
from parity.matching.together import DECLARED, SURE, Line, Together
from parity.trace import Tap

THROUGH = "what goes in and comes out"
ALIKE = 0.1  # relative gap of tensors that are one, with a fault between them perhaps
CLEARLY = 4.0  # how much nearer the counterpart must be than any other


class Values:
    """How near tensors are to each other, whatever their layout; each is ordered once."""

    def __init__(self) -> None:
        self._ordered: dict[int, tuple[Tap, np.ndarray]] = {}
        self._gaps: dict[tuple[int, int], float] = {}

    def gap(self, ours: Tap, theirs: Tap) -> float:
        """The relative l2 gap of their numbers in the layout in which it is smallest.

        Where they are far from each other even in ascending order, it is that gap; infinite for
        other sizes.
        """
        if ours.array.size != theirs.array.size or not ours.array.size:
            return np.inf
        both = id(ours), id(theirs)
        if both not in self._gaps:
            found = gap_of_ordered(self._of(ours), self._of(theirs))
            # Tensors after a norm are alike in ascending order, whichever they are.
            self._gaps[both] = found if found > ALIKE else self._by_place(ours, theirs)
        return self._gaps[both]

    @staticmethod
    def _by_place(ours: Tap, theirs: Tap) -> float:
        one, other = (tap.array.astype(np.float64) for tap in (theirs, ours))
        return nearest(one, other)[1]

    def nearest(self, ours: Sequence[Tap], theirs: Sequence[Tap]) -> float:
        """The smallest gap of any two of them."""
        return min((self.gap(a, b) for a in ours for b in theirs), default=np.inf)

    def _of(self, tap: Tap) -> np.ndarray:
        found = self._ordered.get(id(tap))
        if found is None:
            found = self._ordered[id(tap)] = tap, ordered(tap.array)
        return found[1]


def pair_modules(
    theirs: Side,
    ours: Side,
    together: Sequence[Together],
    values: Values,
    declared: Mapping[str, str],
) -> list[Line]:
    """The modules of both sides that belong together and are called on both; not the roots.

    A module with weights at or below it belongs to the module with the same weights at or below.
    Where several have, one inside the other, what comes out of them decides: so a layer with its
    activation inside belongs to the module around the layer and its activation. Modules without
    weights are paired by what goes through them, inside modules that are paired.
    """
    lines = [Line(one, other, DECLARED, True) for one, other in declared.items() if one]
    search = _Search(theirs, ours, together, values)
    taken = {line.theirs for line in lines}, {line.ours for line in lines}
    for line in [*search.weighted()]:
        if line.theirs not in taken[0] and line.ours not in taken[1]:
            lines.append(line)
    lines += search.plain(lines)
    lines.sort(key=lambda line: theirs.order(line.theirs))
    return lines


@dataclass(frozen=True)
class _Search:
    theirs: Side
    ours: Side
    together: Sequence[Together]
    values: Values

    @cached_property
    def below(self) -> tuple[dict[str, frozenset[int]], dict[str, frozenset[int]]]:
        """The numbers of the pairs of weights at and below each module, where all are whole."""
        names = [one.theirs for one in self.together], [one.ours for one in self.together]
        return tuple(
            _below(side, one) for side, one in zip((self.theirs, self.ours), names, strict=True)
        )

    def weighted(self) -> Iterator[Line]:
        """Modules with weights."""
        chains = [_chains(side, below) for side, below in zip(self._sides, self.below, strict=True)]
        for numbers, theirs in chains[0].items():
            ours = chains[1].get(numbers)
            if ours is None:
                continue
            weakest = [self.together[n].evidence for n in numbers]
            guessed = [one for one in weakest if one not in SURE]
            evidence = guessed[0] if guessed else weakest[0]
            for a, b in self._beside(theirs, ours):
                yield Line(b, a, evidence, not guessed)

    def plain(self, lines: Sequence[Line]) -> Iterator[Line]:
        """Modules without weights."""
        mapped = {line.ours: line.theirs for line in lines} | {"": ""}
        groups: list[dict[str, list[str]]] = []
        for side, renamed in ((self.theirs, {a: a for a in mapped.values()}), (self.ours, mapped)):
            owners = {one.owner for one in side.weights.values()}
            inside: dict[str, list[str]] = {}
            for path, around in _around(side, renamed).items():
                if path not in renamed and not _holds(path, owners) and self._changes(side, path):
                    inside.setdefault(around, []).append(path)
            groups.append(inside)
        for around, theirs in groups[0].items():
            ours = groups[1].get(around, [])
            gaps = np.array([[self._through(a, b) for b in ours] for a in theirs])
            for i, j in _mutual(gaps):
                yield Line(ours[j], theirs[i], THROUGH, False)

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.theirs, self.ours

    def _beside(self, theirs: list[str], ours: list[str]) -> list[tuple[str, str]]:
        """Pairs of modules with the same weights, from the innermost outwards."""
        if len(theirs) == len(ours) == 1:
            return [(theirs[0], ours[0])]
        found = []
        start = 0
        for path in ours:
            gaps = [self._output_gap(theirs[index], path) for index in range(start, len(theirs))]
            best = min(gaps, default=np.inf)
            if best <= ALIKE:
                index = start + next(i for i, gap in enumerate(gaps) if gap <= 1.01 * best)
                found.append((theirs[index], path))
                start = index + 1
        return found or [(theirs[0], ours[0])]

    def _output_gap(self, theirs: str, ours: str) -> float:
        return self.values.nearest(
            [*self.ours.tensors(ours, "output").values()],
            [*self.theirs.tensors(theirs, "output").values()],
        )

    def _through(self, theirs: str, ours: str) -> float:
        """The larger of the gaps of what goes in and what comes out."""
        gaps = [
            self.values.nearest(
                [*self.ours.tensors(ours, kind).values()],
                [*self.theirs.tensors(theirs, kind).values()],
            )
            for kind in ("input", "output")
        ]
        return max(gaps)

    def _changes(self, side: Side, path: str) -> bool:
        """Whether something comes out that has not gone in."""
        given = [*side.tensors(path, "input").values()]
        made = [*side.tensors(path, "output").values()]
        return bool(given) and bool(made) and self.values.nearest(made, given) > 0.0


def _mutual(gaps: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows and columns that are clearly nearest to each other."""
    if not gaps.size:
        return
    for i, row in enumerate(gaps):
        j = int(row.argmin())
        others = [*np.delete(row, j), *np.delete(gaps[:, j], i)]
        if row[j] <= ALIKE and all(other > CLEARLY * row[j] and other > 1e-6 for other in others):
            yield i, j


def _below(side: Side, weights: Sequence[tuple[str, ...]]) -> dict[str, frozenset[int]]:
    counts: dict[str, dict[int, int]] = {}
    for number, paths in enumerate(weights):
        for path in paths:
            for module in _ancestors(side.weights[path].owner):
                of = counts.setdefault(module, {})
                of[number] = of.get(number, 0) + 1
    return {
        module: frozenset(of)
        for module, of in counts.items()
        if all(count == len(weights[number]) for number, count in of.items())
    }


def _chains(side: Side, below: Mapping[str, frozenset[int]]) -> dict[frozenset[int], list[str]]:
    """Called modules by the weights at and below them, the innermost first; not the root."""
    found: dict[frozenset[int], list[str]] = {}
    called = [path for path in below if path and path in side.first_calls]
    for path in sorted(called, key=lambda path: -path.count(".")):
        found.setdefault(below[path], []).append(path)
    return found


def _ancestors(path: str | None) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    if path is not None:
        yield ""


def _holds(path: str, owners: set[str | None]) -> bool:
    """Whether a module has weights at or below it."""
    return any(
        owner is not None and (owner == path or owner.startswith(f"{path}.")) for owner in owners
    )


def _around(side: Side, renamed: Mapping[str, str]) -> dict[str, str]:
    """The nearest paired module that calls each called module, by the reference's path."""
    callers: dict[str, str | None] = {}
    for one in side.calls:
        callers.setdefault(one.path, one.parent)
    found = {}
    for path in callers:
        around = callers[path]
        while around is not None and around not in renamed:
            around = callers.get(around)
        if around is not None:
            found[path] = renamed[around]
    return found

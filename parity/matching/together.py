"""Which weights of two models belong together, and on which evidence."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.matching.fingerprints import (
    BFLOAT16,
    Digest,
    Part,
    digest,
    gap_of_ordered,
    is_constant,
    length,
    ordered,
    parts_of,
)
from parity.matching.rearrangement import nearest
from parity.matching.seen import Side, Weight
from parity.matching.sequences import aligned, misnamed
from parity.trace import shown

DECLARED = "declared"
WEIGHTS = "equal weights"
PARTS = "equal weights, in parts"
NEAREST = "nearest weights, as if rounded"
MODULE = "weights of paired modules"
PATHS = "the same paths"
VALUES = "equal weights, told apart by what goes in and comes out"
ORDER = "order of calls"
SURE = {DECLARED, WEIGHTS, PARTS, VALUES}
EQUAL_VALUES = 1e-3  # of activations of one layer, far below those of layers with other inputs


@dataclass(frozen=True, eq=False)
class Together:
    """Weights of both sides that belong together: one of each, or one whole and its parts.

    `parts` says which part of the whole each of the others is.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    evidence: str
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One module or weight of the port, its counterpart, and the evidence; `sure` by weights."""

    ours: str
    theirs: str
    evidence: str
    sure: bool


@dataclass(frozen=True)
class Question:
    """What cannot be decided, and the candidates."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        theirs, ours = (", ".join(map(shown, one)) or "nothing" for one in (self.theirs, self.ours))
        return f"{theirs} of the reference and {ours} of the port: {self.why}"


@dataclass(frozen=True)
class Weighed:
    """What was found of all weights.

    Args:
        shared: whether the port has the reference's weights already.
        tied: keys of the reference that are another's memory, with that other key.
    """

    together: Sequence[Together]
    questions: Sequence[Question]
    shared: bool
    tied: Mapping[str, str] = field(default_factory=dict)


def weigh(
    theirs: Side,
    ours: Side,
    variables: Mapping[str, str] | None = None,
    owners: Mapping[str, str] | None = None,
    left_out: tuple[Iterable[str], Iterable[str]] = ((), ()),
) -> Weighed:
    """Pairs the weights of two models, strongest evidence first.

    Args:
        variables: declared, the port's path to the reference's key.
        owners: declared modules, the port's path to the reference's.
        left_out: keys and paths that are declared to be on one side only.
    """
    search = _Search(theirs, ours, left_out)
    search.declare(variables or {}, owners or {})
    search.by_digest()
    search.by_parts()
    search.by_rounding()
    search.by_owner()
    shared = search.shared()
    search.repeated(shared)
    search.by_owner()
    if not shared and not owners:
        search.by_paths()
    search.by_order()
    search.by_owner()
    return Weighed(search.together, search.questions, shared, search.tied)


class _Search:
    """The weights that are still free on both sides, and what has been found so far."""

    def __init__(
        self, theirs: Side, ours: Side, left_out: tuple[Iterable[str], Iterable[str]]
    ) -> None:
        self.sides = theirs, ours
        self.tied = _tied(theirs.weights)
        unused = {*left_out[0], *self.tied}, set(left_out[1])
        self.free: tuple[dict[str, Weight], dict[str, Weight]] = tuple(
            {path: one for path, one in side.weights.items() if path not in out}
            for side, out in zip(self.sides, unused, strict=True)
        )
        self.digests = tuple({p: digest(one.held) for p, one in free.items()} for free in self.free)
        self.plain = tuple(
            {p for p, one in free.items() if is_constant(one.held)} for free in self.free
        )
        self.telling = tuple(
            len(free) - len(plain) for free, plain in zip(self.free, self.plain, strict=True)
        )
        self.together: list[Together] = []
        self.questions: list[Question] = []
        self.owners: dict[str | None, set[str | None]] = defaultdict(set)  # ours to theirs

    def declare(self, variables: Mapping[str, str], owners: Mapping[str, str]) -> None:
        """What is declared goes first."""
        for ours, theirs in owners.items():
            self.owners[ours].add(theirs)
        for ours, theirs in variables.items():
            if theirs in self.free[0] and ours in self.free[1]:
                self._pair(theirs, ours, DECLARED)

    def by_digest(self) -> None:
        """Pairs weights whose numbers no other weight has."""
        for theirs, ours in self._buckets():
            if len(theirs) == len(ours) == 1:
                self._pair(theirs[0], ours[0], WEIGHTS)

    def by_parts(self) -> None:
        """Pairs a weight with those of the other side that it is put together of."""
        for whole, part in ((0, 1), (1, 0)):
            digests = self._distinct(part)
            by_size = sorted(self._telling(whole), key=lambda p: -self.free[whole][p].held.size)
            for path in by_size:
                held = self.free[whole][path].held
                smaller = {p: d for p, d in digests.items() if d[0] < held.size}
                found = parts_of(held, smaller)
                if found:
                    self._join(whole, path, found, PARTS)
                    digests = {p: d for p, d in digests.items() if p not in found}

    def by_rounding(self) -> None:
        """Pairs weights that are nearest to each other, as near as rounded numbers are."""
        by_size: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for index in (0, 1):
            for path in self._telling(index):
                by_size[self.free[index][path].held.size][index].append(path)
        for theirs, ours in by_size.values():
            if not theirs or not ours:
                continue
            a, b = (
                [ordered(self.free[i][p].held) for p in paths]
                for i, paths in enumerate((theirs, ours))
            )
            near = np.array([[gap_of_ordered(y, x) <= BFLOAT16 for y in b] for x in a])
            for i, j in np.argwhere(near):
                # Numbers drawn alike are near each other in order as well, where they are many.
                if near[i].sum() == near[:, j].sum() == 1 and self._closer(theirs[i], ours[j]):
                    self._pair(theirs[i], ours[j], NEAREST)

    def by_owner(self) -> None:
        """Pairs what is left of modules that other weights have paired, by name or as the last."""
        for ours, theirs in self._linked():
            left = (
                [p for p, one in self.free[0].items() if one.owner == theirs],
                [p for p, one in self.free[1].items() if one.owner == ours],
            )
            for path in left[1]:
                name = self.free[1][path].name
                same = [p for p in left[0] if p in self.free[0] and self.free[0][p].name == name]
                if len(same) == 1 and self._fits(same[0], path):
                    self._pair(same[0], path, self._strength(same[0], path, MODULE))
            left = tuple([p for p in one if p in self.free[i]] for i, one in enumerate(left))
            fitting = [(a, b) for a in left[0] for b in left[1] if self._fits(a, b)]
            if len(left[0]) == len(left[1]) == len(fitting) == 1:
                self._pair(*fitting[0], self._strength(*fitting[0], MODULE))
        self._rest_of_parts()

    def repeated(self, shared: bool) -> None:
        """Pairs layers that hold equal weights by what goes through them, then by their calls.

        Where other weights are not shared, what goes through them tells nothing.
        """
        for theirs, ours in self._buckets():
            # Weights of paired modules first: the bucket shrinks as its layers are paired.
            pairs = {
                (self.free[0][a].owner, self.free[1][b].owner): (a, b) for a in theirs for b in ours
            }
            for owned_by, owner in self._linked():
                if (owner, owned_by) in pairs:
                    a, b = pairs[owner, owned_by]
                    if a in self.free[0] and b in self.free[1]:
                        self._pair(a, b, WEIGHTS)
            self._told_apart(
                [p for p in theirs if p in self.free[0]],
                [p for p in ours if p in self.free[1]],
                shared,
            )

    def shared(self) -> bool:
        """Whether most weights that tell anything are equal on both sides."""
        equal = [one for one in self.together if one.evidence in (WEIGHTS, PARTS, NEAREST)]
        telling = [
            [path for paths in each for path in paths if path not in self.plain[index]]
            for index, each in enumerate(
                ([one.theirs for one in equal], [one.ours for one in equal])
            )
        ]
        for both in self._buckets():
            for paths, more in zip(telling, both, strict=True):
                paths += more
        return any(
            paths and 2 * len(paths) >= total
            for paths, total in zip(telling, self.telling, strict=True)
        )

    def by_paths(self) -> None:
        """Where all modules with weights have the same paths on both sides, these pair them."""
        owners = [{one.owner for one in side.weights.values()} for side in self.sides]
        if owners[0] != owners[1]:
            return
        for path, one in list(self.free[1].items()):
            same = [
                p
                for p, other in self.free[0].items()
                if (other.owner, other.name) == (one.owner, one.name)
            ]
            if len(same) == 1 and self._fits(same[0], path):
                self._pair(same[0], path, PATHS)

    def by_order(self) -> None:
        """Pairs the layers that are left by their shapes, in the order of their calls.

        Layers that are paired already are fixed points between them.
        """
        linked = dict(self._linked())
        free = tuple({one.owner for one in each.values()} - {None} for each in self.free)
        free = (free[0] - set(linked.values()), free[1] - set(linked))
        sequences = [
            sorted(free[0] | set(linked.values()) - {None}, key=self.sides[0].order),
            sorted(free[1] | set(linked) - {None}, key=self.sides[1].order),
        ]
        sizes = [self._sizes(index) for index in (0, 1)]
        tokens = (
            [sizes[0].get(p) if p in free[0] else p for p in sequences[0]],
            [sizes[1].get(p) if p in free[1] else linked[p] for p in sequences[1]],
        )
        if not free[0] or not free[1]:
            return
        guessed: list[tuple[str, str]] = []
        for theirs, ours in self._between(sequences, tokens, free):
            kinds = [sizes[0][p] for p in theirs], [sizes[1][p] for p in ours]
            pairs, unsure = aligned(*kinds)
            if len(pairs) == min(len(theirs), len(ours)) and not unsure:
                guessed += [(theirs[i], ours[j]) for i, j in pairs]
            elif set(kinds[0]) & set(kinds[1]):
                why = "alike in shape, and other layers are called between them on each side"
                self.questions.append(Question(tuple(theirs), tuple(ours), why))
        crossed = {
            index
            for both in misnamed(
                guessed, lambda i, j: sizes[0][guessed[i][0]] == sizes[0][guessed[j][0]]
            )
            for index in both
        }
        if crossed:
            self.questions.append(
                Question(
                    tuple(guessed[i][0] for i in sorted(crossed)),
                    tuple(guessed[i][1] for i in sorted(crossed)),
                    "alike in shape, and the order of calls says something else than the names",
                )
            )
        for index, (theirs, ours) in enumerate(guessed):
            if index not in crossed:
                self._pair_owners(theirs, ours, ORDER)

    @staticmethod
    def _between(
        sequences: Sequence[Sequence[str]],
        tokens: Sequence[Sequence[object]],
        free: Sequence[set[str]],
    ) -> Iterable[tuple[list[str], list[str]]]:
        """The free layers of both sides between the same layers that are paired."""
        fixed = [(i, j) for i, j in aligned(*tokens)[0] if sequences[0][i] not in free[0]]
        start = (0, 0)
        for end in [*fixed, (len(sequences[0]), len(sequences[1]))]:
            yield tuple(
                [p for p in sequence[start[n] : end[n]] if p in free[n]]
                for n, sequence in enumerate(sequences)
            )
            start = end

    def _told_apart(self, theirs: list[str], ours: list[str], shared: bool) -> None:
        if not theirs or not ours:
            return
        owners = [
            sorted({self.free[i][p].owner for p in paths}, key=self.sides[i].order)
            for i, paths in enumerate((theirs, ours))
        ]
        if not (len(owners[0]) == len(owners[1]) == len(theirs) == len(ours)):
            self._ask(theirs, ours, "equal weights, in another number of layers")
            return
        near = self._near(*owners) if shared else None
        order, evidence = None, ORDER
        if near is not None:
            by_values = [np.flatnonzero(row) for row in near]
            if all(len(row) == 1 for row in by_values) and near.sum(0).max() == 1:
                order, evidence = [int(row[0]) for row in by_values], VALUES
            elif near.any() and not near.diagonal().all():
                why = "equal weights, and their calls come in another order than their values"
                self._ask(theirs, ours, why)
                return
        if order is None:
            order = list(range(len(owners[1])))
        for i, j in enumerate(order):
            self.owners[owners[1][j]].add(owners[0][i])
            (a,) = [
                p for p in theirs if self.free[0].get(p) and self.free[0][p].owner == owners[0][i]
            ]
            (b,) = [
                p for p in ours if self.free[1].get(p) and self.free[1][p].owner == owners[1][j]
            ]
            self._pair(a, b, evidence)

    def _near(self, theirs: Sequence[str | None], ours: Sequence[str | None]) -> np.ndarray | None:
        """Which layers have equal tensors going in and coming out; None where nothing is known."""
        seen = []
        for side, owners in zip(self.sides, (theirs, ours), strict=True):
            seen.append(
                [
                    [
                        ordered(tap.array)
                        for kind in ("input", "output")
                        for tap in side.tensors(owner or "", kind).values()
                    ]
                    for owner in owners
                ]
            )
        if not all(seen[0]) or not all(seen[1]):
            return None
        return np.array(
            [
                [
                    len(a) == len(b)
                    and all(gap_of_ordered(y, x) <= EQUAL_VALUES for x, y in zip(a, b, strict=True))
                    for b in seen[1]
                ]
                for a in seen[0]
            ]
        )

    def _ask(self, theirs: Sequence[str], ours: Sequence[str], why: str) -> None:
        self.questions.append(Question(tuple(theirs), tuple(ours), why))
        for index, paths in enumerate((theirs, ours)):
            for path in paths:
                del self.free[index][path]

    def _rest_of_parts(self) -> None:
        """Biases beside a whole weight and its parts: put together in the same order."""
        for one in [one for one in self.together if one.parts]:
            whole = 0 if len(one.theirs) == 1 else 1
            names = (one.theirs, one.ours)
            owner = self.sides[whole].weights[names[whole][0]].owner
            wholes = [p for p, w in self.free[whole].items() if w.owner == owner]
            parts = {}
            for path, part in one.parts.items():
                of = self.sides[1 - whole].weights[path].owner
                left = [p for p, w in self.free[1 - whole].items() if w.owner == of]
                if len(left) == 1:
                    parts[left[0]] = Part(0, part.indices)
            if len(wholes) != 1 or len(parts) != len(one.parts):
                continue
            held = self.free[whole][wholes[0]].held
            fits = held.ndim == 1 and all(
                len(part.indices) == self.free[1 - whole][p].held.size for p, part in parts.items()
            )
            if fits and len(held) == sum(len(part.indices) for part in parts.values()):
                equal = all(
                    digest(part.of(held)) == self.digests[1 - whole][p] for p, part in parts.items()
                )
                self._join(whole, wholes[0], parts, PARTS if equal else MODULE)

    def _linked(self) -> list[tuple[str, str]]:
        """Modules that are paired one to one, the port's and the reference's."""
        times: dict[str | None, int] = defaultdict(int)
        for found in self.owners.values():
            for one in found:
                times[one] += 1
        return [
            (ours, next(iter(found)))
            for ours, found in self.owners.items()
            if len(found) == 1 and times[next(iter(found))] == 1
        ]

    def _pair_owners(self, theirs: str, ours: str, evidence: str) -> None:
        """Pairs the free weights of two modules of one shape: by name, else by size."""
        left = [
            [p for p, one in self.free[i].items() if one.owner == owner]
            for i, owner in enumerate((theirs, ours))
        ]
        self.owners[ours].add(theirs)
        for path in left[1]:
            fitting = [p for p in left[0] if p in self.free[0] and self._fits(p, path)]
            name = self.free[1][path].name
            named = [p for p in fitting if self.free[0][p].name == name]
            if len(named) == 1 or len(fitting) == 1:
                self._pair((named if len(named) == 1 else fitting)[0], path, evidence)
            elif fitting:
                why = "weights of one size, with other names, of modules that are paired"
                self._ask(fitting, [path], why)

    def _pair(self, theirs: str, ours: str, evidence: str) -> None:
        self.together.append(Together((theirs,), (ours,), evidence))
        self.owners[self.free[1].pop(ours).owner].add(self.free[0].pop(theirs).owner)

    def _join(self, whole: int, path: str, parts: Mapping[str, Part], evidence: str) -> None:
        names = ((path,), tuple(parts)) if whole == 0 else (tuple(parts), (path,))
        self.together.append(Together(*names, evidence, parts))
        gone = [[self.free[i].pop(p).owner for p in paths] for i, paths in enumerate(names)]
        for ours in gone[1]:
            self.owners[ours].update(gone[0])

    def _buckets(self) -> list[tuple[list[str], list[str]]]:
        """Free weights that tell something and have the same numbers, of both sides."""
        found: dict[Digest, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for index in (0, 1):
            for path in self._telling(index):
                found[self.digests[index][path]][index].append(path)
        return [both for both in found.values() if both[0] and both[1]]

    def _telling(self, index: int) -> list[str]:
        return [path for path in self.free[index] if path not in self.plain[index]]

    def _distinct(self, index: int) -> dict[str, Digest]:
        """Digests of free weights that tell something and that no other has."""
        found = {path: self.digests[index][path] for path in self._telling(index)}
        times: dict[Digest, int] = defaultdict(int)
        for one in found.values():
            times[one] += 1
        return {path: one for path, one in found.items() if times[one] == 1}

    def _sizes(self, index: int) -> dict[str | None, tuple[int, ...]]:
        found: dict[str | None, list[int]] = defaultdict(list)
        for one in self.free[index].values():
            found[one.owner].append(one.held.size)
        return {owner: tuple(sorted(sizes)) for owner, sizes in found.items()}

    def _fits(self, theirs: str, ours: str) -> bool:
        return self.free[0][theirs].held.size == self.free[1][ours].held.size

    def _strength(self, theirs: str, ours: str, otherwise: str) -> str:
        same = self.digests[0][theirs] == self.digests[1][ours]
        return WEIGHTS if same else otherwise

    def _closer(self, theirs: str, ours: str) -> bool:
        """Whether two weights are near each other place by place, in some layout."""
        one, other = self.free[0][theirs], self.free[1][ours]
        if one.held.shape == other.array.shape:
            scale = length(one.held) or 1.0
            if length(one.held - other.array) <= BFLOAT16 * scale:
                return True
        return nearest(one.held, other.held)[1] <= BFLOAT16


def _tied(weights: Mapping[str, Weight]) -> dict[str, str]:
    """Keys whose numbers lie in the same memory as those of an earlier key."""
    met: dict[tuple, str] = {}
    found = {}
    for key, one in weights.items():
        place = one.held.__array_interface__["data"][0], one.held.shape, one.held.strides
        if one.held.size and met.setdefault(place, key) != key:
            found[key] = met[place]
    return found

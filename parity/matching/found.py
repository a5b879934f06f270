"""What was found to belong together: told for people, printed as Python, and used by an audit."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.matching.coverage import Coverage
from parity.matching.holding import Piece
from parity.matching.rearrangement import Rearrangement, Repeated
from parity.matching.together import Line, Question
from parity.names import Declared, Names, Naming, Places, filled, matched
from parity.weights import Joint, Variable, Weights

SHOWN = 4  # names in one sentence
COLUMNS = 96


@dataclass(frozen=True)
class Match:
    """What of two models belongs together; its text is Python that declares it.

    Args:
        names: the map of modules and tensors, to be kept and edited.
        weights: the map of weights that does not follow from it.
        modules, tensors: the evidence of each pair of modules, and of weights.
        questions: what could not be decided; an audit refuses to guess it.
        shared: whether the port has the reference's weights already, so that an audit compares
            them; otherwise it moves them.
        pieces: by key of the reference, what holds the tensor.
        views: by place, how the port holds a tensor, as `names` has it.
        layouts: the same of weights.
        paths: of all modules, of the reference and of the port.
        coverage: how much of the port was found; None where all names were declared.

    Example:
        >>> import numpy, torch
        >>> reference = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
        >>> port = torch.nn.Sequential(torch.nn.Identity(), reference[0], torch.nn.ReLU()).eval()
        >>> pair = parity.Pair(reference, port, (numpy.ones((2, 4), "float32"),))
        >>> parity.match(pair).names.modules["1"]
        '0'
    """

    names: Declared
    weights: Weights
    modules: tuple[Line, ...]
    tensors: tuple[Line, ...]
    questions: tuple[Question, ...]
    shared: bool
    pieces: Mapping[str, tuple[Piece, ...]] = field(repr=False)
    views: Mapping[str, tuple[str, Rearrangement | Repeated]] = field(repr=False)
    layouts: Mapping[str, Rearrangement] = field(repr=False)
    paths: tuple[Collection[str], Collection[str]] = field(repr=False)
    coverage: Coverage | None = None

    def __str__(self) -> str:
        return "\n".join([*self._head(), *self._names(), *self._weights()])

    def read(self, variables: Mapping[str, Variable], state: Mapping[str, np.ndarray]) -> dict:
        """The port's numbers under the keys of `state`, in its layout."""
        arrays: dict[str, np.ndarray] = {}
        found = {}
        for key, array in state.items():
            whole = None
            for piece in self.pieces[key]:
                if piece.path not in arrays:
                    arrays[piece.path] = np.asarray(variables[piece.path].read())
                ours = arrays[piece.path]
                ours = piece.to_reference(piece.of_ours.of(ours) if piece.of_ours else ours)
                if piece.of_theirs is None:
                    whole = ours
                else:
                    whole = np.empty(array.shape, ours.dtype) if whole is None else whole
                    place = [slice(None)] * array.ndim
                    place[piece.of_theirs.axis] = piece.of_theirs.indices
                    whole[tuple(place)] = ours
            found[key] = whole
        return found

    def _head(self) -> list[str]:
        lines = [f"# asks: {question}" for question in self.questions]
        if self.coverage is not None:
            lines.append(f"# {self.coverage}.")
        if self.shared:
            lines.append("# The port has the reference's weights: without `weights` they stay, and")
            lines.append("# are compared; with it the reference's are moved into the port.")
        lines.append("import parity")
        used = sorted(
            {type(one).__name__ for _, one in self.views.values()}
            | ({Rearrangement.__name__} if self.layouts else set())
        )
        if used:
            lines.append(f"from parity.matching.rearrangement import {', '.join(used)}")
        return [*lines, ""]

    def _names(self) -> list[str]:
        names = self.names
        if not isinstance(names, Names):
            return []
        lines = ["names = parity.Names(", "    modules={"]
        for ours, theirs, note in condensed(self.modules, *self.paths):
            lines.append(f"        {_quoted(ours)}: {_quoted(theirs)},  # {note}")
        lines.append("    },")
        lines += _table("tensors", {k: _quoted(v) for k, v in names.tensors.items()})
        lines += _table("calls", {path: repr(dict(one)) for path, one in names.calls.items()})
        views = {place: f"{one!r}.view({axes!r})" for place, (axes, one) in self.views.items()}
        lines += _table("views", views)
        for side in ("reference_only", "port_only"):
            only = {place: _quoted(why) for place, why in getattr(names, side).items()}
            lines += _table(side, only)
        return [*lines, ")"]

    def _weights(self) -> list[str]:
        lines = ["weights = parity.Weights("]
        notes = {line.ours: line.evidence for line in self.tensors}
        variables = {
            ours: f"{_quoted(theirs)},  # {notes.get(ours, 'declared')}"
            for ours, theirs in self.weights.variables.items()
        }
        lines += _table("variables", variables, end="")
        lines += _table("layouts", {key: f"{one!r}.layout()" for key, one in self.layouts.items()})
        lines += _joints(self.weights.joints)
        for side in ("reference_only", "port_only"):
            only = {path: _quoted(why) for path, why in getattr(self.weights, side).items()}
            lines += _table(side, only)
        return [*lines, ")"]


@dataclass(frozen=True)
class FoundNames:
    """The names of a match, for an audit; what rests on less than weights is told."""

    match: Match

    @property
    def reasons(self) -> list[str]:
        """What is guessed, and what is on one side only, for people."""
        match = self.match
        told = []
        for what, lines in (("modules", match.modules), ("weights", match.tensors)):
            guessed = [line for line in lines if not line.sure]
            for evidence in dict.fromkeys(line.evidence for line in guessed):
                pairs = [
                    f"{one.ours} = {one.theirs}" for one in guessed if one.evidence == evidence
                ]
                told.append(f"{len(pairs)} {what} paired by {evidence}: {_few(pairs)}")
        told += exchanged(match.modules)
        for what, one in (("tensors", match.names), ("weights", match.weights)):
            for side in ("reference", "port"):
                only = getattr(one, f"{side}_only", {})
                if only:
                    told.append(f"{len(only)} {what} of the {side} only: {_few(list(only))}")
        return told

    @property
    def pairing(self) -> str:
        """How modules and tensors are paired, for people."""
        counts = Counter(line.evidence for line in self.match.modules)
        told = ", ".join(f"{count} by {evidence}" for evidence, count in counts.most_common())
        return f"no map was declared whole; modules are paired: {told or 'none'}"

    def reference_side(self) -> Naming | None:
        """As the names that were found."""
        return self.match.names.reference_side()

    def port_side(self, places: Places) -> Naming | None:
        """As the names that were found."""
        return self.match.names.port_side(places)


def exchanged(modules: Sequence[Line]) -> list[str]:
    """Layers that hold the weights of each other's counterparts.

    Most layers inside one module of the port belong into one of the reference; two that belong into
    each other's are out of place.
    """
    inside: dict[str, Counter[str]] = {}
    for line in modules:
        around, other = (path.rpartition(".")[0] for path in (line.ours, line.theirs))
        inside.setdefault(around, Counter())[other] += 1
    usual = {around: counts.most_common(1)[0][0] for around, counts in inside.items()}
    astray: dict[tuple[str, str], list[Line]] = {}
    for line in modules:
        around, other = (path.rpartition(".")[0] for path in (line.ours, line.theirs))
        if line.sure and usual[around] != other:
            astray.setdefault((usual[around], other), []).append(line)
    return [
        f"{line.ours} has the weights of {line.theirs}, as if the two were exchanged"
        for (own, other), lines in astray.items()
        if (other, own) in astray
        for line in lines
    ]


def condensed(
    lines: Sequence[Line], theirs: Collection[str], ours: Collection[str]
) -> list[tuple[str, str, str]]:
    """The pairs as patterns where numbers in both paths are the same, each with its evidence."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault(_starred(line.ours, line.theirs), []).append(line)
    found = []
    for (pattern, other), group in groups.items():
        evidence = Counter(line.evidence for line in group)
        if len(group) > 1 and _leads(pattern, other, group, ours):
            note = ", ".join(f"{one} ({count})" for one, count in evidence.items())
            found.append((pattern, other, note))
        else:
            found += [(line.ours, line.theirs, line.evidence) for line in group]
    return found


def _starred(ours: str, theirs: str) -> tuple[str, str]:
    """Both paths with a star for each of the first numbers that they have in common."""
    numbers = [re.findall(r"\d+", path) for path in (ours, theirs)]
    unequal = [a != b for a, b in zip(*numbers, strict=False)]
    same = unequal.index(True) if any(unequal) else len(unequal)
    if not same:
        return ours, theirs
    return tuple(re.sub(r"\d+", "*", path, count=same) for path in (ours, theirs))


def _leads(pattern: str, other: str, group: Sequence[Line], ours: Collection[str]) -> bool:
    """Whether a pattern stands for exactly the pairs of the group."""
    pairs = {line.ours: line.theirs for line in group}
    return {
        path: filled(other, parts) for path, parts in matched([pattern], ours, "port").items()
    } == pairs


def _table(name: str, entries: Mapping[str, str], end: str = ",") -> list[str]:
    if not entries:
        return []
    rows = [f"        {_quoted(key)}: {value}{end}" for key, value in entries.items()]
    return [f"    {name}={{", *rows, "    },"]


def _joints(joints: Sequence[Joint]) -> list[str]:
    """The joints that can be declared again; others follow from the kinds of their layers."""
    told = [f"        {one.how}," for one in joints if one.how]
    others = [
        f"    # {', '.join(one.reference)} with {', '.join(one.port)}: by the kinds of their layers"
        for one in joints
        if not one.how
    ]
    return [*(["    joints=[", *told, "    ],"] if told else []), *others]


def _quoted(text: Any) -> str:
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

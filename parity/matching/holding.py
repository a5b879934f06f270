"""In which layout the port holds each weight, and what a `Weights` must say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from parity.matching.fingerprints import Part
from parity.matching.rearrangement import Rearrangement, exact, possible
from parity.matching.seen import Side, Weight
from parity.matching.together import SURE, Line, Question, Together, Weighed
from parity.names import matched
from parity.weights import SAME, Joint, Layout, Weights

NOWHERE = "nothing of the other side has its numbers, nor its place"


@dataclass(frozen=True, eq=False)
class Piece:
    """What of one of the port's variables belongs to what of a tensor of the reference.

    Args:
        path: of the variable.
        to_reference: turns the port's numbers into the reference's layout.
        of_ours, of_theirs: the part of either, None for all of it.
    """

    path: str
    to_reference: Callable[[np.ndarray], np.ndarray]
    of_ours: Part | None = None
    of_theirs: Part | None = None


@dataclass
class Held:
    """How the port holds the weights of the reference.

    Args:
        pieces: by key of the reference, what holds the tensor.
        found: by key, the layout, where it does not follow from the kind of layer.
        moved: by path of the port, the reference's numbers as the port holds them.
        single: the port's path to the reference's key, where one holds the other.
        lines: the evidence of each pair.
        questions: what could not be decided.
        joints: those of which one holds several.
    """

    pieces: dict[str, tuple[Piece, ...]] = field(default_factory=dict)
    found: dict[str, Rearrangement] = field(default_factory=dict)
    moved: dict[str, np.ndarray] = field(default_factory=dict)
    single: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    joints: list[Joint] = field(default_factory=list)
    only: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}))

    def weights(
        self, theirs: Side, ours: Side, owners: Mapping[str | None, str], declared: Weights
    ) -> Weights:
        """The map of what does not follow from the pairs of modules, `owners`."""
        variables = dict(declared.variables)
        for path, key in self.single.items():
            one = ours.weights[path]
            owner = owners.get(one.owner)
            if owner is None or key != (f"{owner}.{one.name}" if owner else one.name):
                variables.setdefault(path, key)
        layouts = {key: one.layout() for key, one in self.found.items()}
        joints = (*declared.joints, *self.joints)
        return Weights(variables, {**layouts, **declared.layouts}, *self.only, joints=joints)


def hold(theirs: Side, ours: Side, weighed: Weighed, declared: Weights) -> Held:
    """How the port holds what belongs together, and what is on one side only."""
    held = Held(questions=list(weighed.questions))
    layouts = {
        key: layout
        for pattern, layout in declared.layouts.items()
        for key in matched([pattern], theirs.weights, "reference", "tensor", "layouts")
    }
    for one in weighed.together:
        if one.parts:
            note = _parts(held, one, theirs, ours)
            joint = packed(one, theirs, ours)
            if joint is not None:
                held.joints.append(joint)
            elif not weighed.shared:
                held.questions.append(Question(one.theirs, one.ours, _unpacked(one, theirs, ours)))
        else:
            note = _single(held, one, theirs, ours, layouts.get(one.theirs[0]))
        if note is None:
            why = "no layout leads from one to the other for certain"
            held.questions.append(Question(one.theirs, one.ours, why))
            continue
        for key in one.theirs:
            for path in one.ours:
                held.lines.append(Line(path, key, one.evidence + note, one.evidence in SURE))
    _one_sided(held, theirs, ours, weighed, declared)
    return held


def _one_sided(held: Held, theirs: Side, ours: Side, weighed: Weighed, declared: Weights) -> None:
    tied = {key: f"tied to {other}" for key, other in weighed.tied.items()}
    only = dict(declared.reference_only) | tied, dict(declared.port_only)
    tables = (
        (theirs, "reference", "tensor", "reference_only"),
        (ours, "port", "variable", "port_only"),
    )
    lost: list[tuple[str, ...]] = []
    for index, (side, *words) in enumerate(tables):
        names = [(one.theirs, one.ours)[index] for one in (*weighed.together, *weighed.questions)]
        known = {path for some in names for path in some}
        listed = matched(only[index], side.weights, *words)
        left = [
            path
            for path, one in side.weights.items()
            if path not in listed and not {path, one.owner} & known - {None, ""}
        ]
        lost.append(tuple(left))
        only[index].update(dict.fromkeys(left, NOWHERE))
    held.only = only
    if any(lost) and not weighed.shared:
        shapes = [
            f"{path} {list(side.weights[path].shape)}"
            for side, paths in zip((theirs, ours), lost, strict=True)
            for path in paths
        ]
        why = (
            f"nothing of the other side has their size at their place ({', '.join(shapes)}); what "
            "several hold together is declared: `Weights(joints=[parity.Joint.packed(...)])`"
        )
        held.questions.append(Question(*lost, why))


def _single(
    held: Held, one: Together, theirs: Side, ours: Side, declared: Layout | None
) -> str | None:
    """Notes how one variable holds one tensor; returns what is to be said, None where unknown."""
    (key,), (path,) = one.theirs, one.ours
    reference, variable = theirs.weights[key], ours.weights[path]
    chosen, note = declared, ""
    if declared is None:
        found, note = _layout(reference, variable)
        if found is None:
            return None
        if isinstance(found, Rearrangement):
            held.found[key] = found
        chosen = found.layout() if isinstance(found, Rearrangement) else variable.layout
    held.pieces[key] = (Piece(path, chosen.to_reference),)
    held.moved[path] = chosen.to_port(reference.held)
    held.single[path] = key
    return note


def _parts(held: Held, one: Together, theirs: Side, ours: Side) -> str | None:
    """The same where one side holds in one array what the other holds in several."""
    found: dict[str, list[Piece]] = {key: [] for key in one.theirs}
    whole = len(one.theirs) == 1
    for name, part in one.parts.items():
        key, path = (one.theirs[0], name) if whole else (name, one.ours[0])
        a, b = theirs.weights[key].held, ours.weights[path].held
        a, b = (part.of(a), b) if whole else (a, part.of(b))
        layout = exact(a, b) or next(possible(a.shape, b.shape), None)
        if layout is None:
            return None
        sides = (None, part) if whole else (part, None)
        found[key].append(Piece(path, layout.to_reference, *sides))
    held.pieces |= {key: tuple(pieces) for key, pieces in found.items()}
    return ""


def packed(one: Together, theirs: Side, ours: Side) -> Joint | None:
    """The joint of one array and its parts, None where none has exactly their numbers."""
    arrays = (
        {key: theirs.weights[key].held for key in one.theirs},
        {path: ours.weights[path].array for path in one.ours},
    )
    index = 0 if len(one.theirs) == 1 else 1
    ((name, whole),) = arrays[index].items()
    # In the order in which they begin in the whole.
    names = sorted(one.parts, key=lambda part: int(one.parts[part].indices[0]))
    parts = [arrays[1 - index][part] for part in names]
    sides = ([name], names) if index == 0 else (names, [name])
    for turned in (False, True):
        turn = [part.T if turned else part for part in parts]
        for axis in range(whole.ndim):
            if any(part.ndim != whole.ndim for part in turn):
                continue
            sizes = [part.shape[axis] for part in turn]
            equal = len(set(sizes)) == 1
            for block in (None, *(n for n in range(1, sizes[0]) if equal and sizes[0] % n == 0)):
                joint = Joint.packed(
                    *sides,
                    axis=axis,
                    sizes=None if equal else sizes,
                    block=block,
                    turned=turned,
                )
                if _makes(joint, index, whole, parts):
                    return joint
    return None


def _makes(joint: Joint, index: int, whole: np.ndarray, parts: list[np.ndarray]) -> bool:
    """Whether a joint splits the whole into exactly these parts."""
    try:
        made = (joint.to_port, joint.to_reference)[index](whole)
    except (ValueError, IndexError):  # the whole cannot be cut so
        return False
    return all(map(np.array_equal, made, parts))


def _unpacked(one: Together, theirs: Side, ours: Side) -> str:
    """Why one array and its parts cannot be moved, and what would say how."""
    shapes = [
        f"{name} {list(side.weights[name].shape)}"
        for side, names in ((theirs, one.theirs), (ours, one.ours))
        for name in names
    ]
    how = Joint.packed(one.theirs, one.ours).how
    return (
        "one holds the others in one array, and the numbers do not tell in which order "
        f"({', '.join(shapes)}): declare it, such as `Weights(joints=[{how}])`"
    )


def _layout(theirs: Weight, variable: Weight) -> tuple[Rearrangement | Layout | None, str]:
    """How the port holds it; a `Layout` where that is the one of its kind of layer.

    Layers of known kinds on both sides whose kernel fits are believed, even where another layout
    would give equal numbers: a transposed kernel is a mistake, and is to be found. A class of
    somebody else, such as the Conv1D of transformers, may hold its kernel in any layout.
    """
    reference, kind = theirs.held, variable.array
    fits = kind.shape == reference.shape
    if fits and np.array_equal(kind, reference):
        return variable.layout, ""
    other = exact(reference, variable.held)
    known = theirs.of_known_kind and variable.layout is not SAME
    if fits and (known or other is None):
        return variable.layout, ", in another layout than its kind of layer has" if other else ""
    if other is not None:
        return other, ", rearranged" if variable.held.ndim > 1 else ""
    return _by_shape(reference.shape, variable.held.shape), ", the layout by its shape"


def _by_shape(reference: tuple[int, ...], port: tuple[int, ...]) -> Rearrangement | None:
    """The layout that shapes alone say, None where they say more than one or none."""
    if len(reference) == 2 and port == reference[::-1] and port != reference:
        return Rearrangement(reference, reference, (1, 0), port)
    if len(reference) <= 1 or len(port) <= 1:
        return next(possible(reference, port), None)
    if len(reference) == 2 and len(port) == 3:
        # The heads of attention, split off after the weight was turned.
        fits = port[0] == reference[1] or port[-1] == reference[0]
        return Rearrangement(reference, reference, (1, 0), port) if fits else None
    fitting = [one for one in possible(reference, port) if one.fine == reference]
    return fitting[0] if len(fitting) == 1 else None

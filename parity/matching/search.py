"""Finds what of a pair belongs together, where that is not declared."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from parity.auditing.pair import Built, Pair, axes_of, build, inputs_of_port
from parity.auditing.port import own_errors, usable
from parity.auditing.reference import evaluating, given_reference
from parity.errors import InputError
from parity.frameworks import registry
from parity.matching.activations import Tensors, pair_tensors
from parity.matching.coverage import coverage
from parity.matching.found import FoundNames, Match
from parity.matching.holding import Held, hold
from parity.matching.jointly import joints_between, left_to, without
from parity.matching.modules import Values, pair_modules
from parity.matching.seen import Side, see
from parity.matching.together import Line, weigh
from parity.names import Declared, Names, filled, matched
from parity.steps import Steps
from parity.weights import Loaded, Weights
from parity.weights.standing import by_pattern, kinds_of

SHOWN = 6  # questions in one message


def match(pair: Pair) -> Match:
    """What of the two models belongs together, on which evidence, and what is not certain.

    Both models are run once, in float32. What `pair` declares of names and weights is taken as it
    is, the rest is found: equal weights in whatever layout come first, then the modules that own
    them, then the order of calls, then names.

    Raises: InputError for a reference in training mode and a port that cannot run.

    Example:
        >>> import numpy, tf_keras, torch
        >>> reference, images = torch.nn.Linear(4, 2).eval(), numpy.ones((3, 4), "float32")
        >>> pair = parity.Pair(reference, lambda: tf_keras.layers.Dense(2), (images,))
        >>> [(one.ours, one.theirs) for one in parity.match(pair).tensors]
        [('kernel', 'weight'), ('bias', 'bias')]
    """
    return _matched(*given_reference(pair))[0]


def completed(
    pair: Pair, steps: Steps, *, trained: bool = False
) -> tuple[Pair, Built | None, list[str]]:
    """The pair with everything declared; what is not, is found and said to be.

    Where both are `trained`, a port that holds the reference's weights bit for bit is given them as
    one that has them not: what is trained with what must be known variable by variable.

    Returns: it, what `given_reference` has built for it, and what is to be told of weights that the
        port has itself: which are not the reference's, by kind and pattern.

    Raises InputError where `match` does, and, unless the pair goes on `undeclared`, where anything
    would have to be guessed without evidence.
    """
    names = pair.names
    partial = names is None or (isinstance(names, Names) and not names.complete)
    if not partial and pair.weights is not None:
        return pair, None, []
    pair, first = given_reference(pair)
    with steps("match"):
        found, theirs, ours = _matched(pair, first)
    if found.questions and not pair.undeclared:
        more = len(found.questions) - SHOWN
        raise InputError(
            f"{len(found.questions)} places of the two models cannot be paired for certain",
            *[str(one) for one in found.questions[:SHOWN]],
            *([f"and {more} more"] if more > 0 else []),
            "declare them, `Names(modules=..., complete=False)` or `Weights(...)`; "
            "`parity.match` finds the rest",
        )
    chosen = FoundNames(found) if partial else names
    weights = _weights(pair, found, theirs)
    told: list[str] = []
    if isinstance(weights, Loaded) and pair.weights is None:
        own = found.read(lambda path: ours.weights[path].held, weights.state)
        kinds = {**weights.lacking, **found.packed, **kinds_of(weights.state, own)}
        told = [f"weights: {text}" for text in by_pattern(kinds)]
        if trained and not kinds:
            weights = found.weights
    return dataclasses.replace(pair, names=chosen, weights=weights), first, told


def matched_sides(
    theirs: Side,
    ours: Side,
    names: Declared | None = None,
    weights: Weights | None = None,
    move: Callable[[Held], Side] | None = None,
) -> Match:
    """What belongs together of two models that were seen; see `match`.

    `move` gives the port the reference's weights and sees it again, where it has them not.
    """
    declared = weights or Weights()
    partial = names is None or (isinstance(names, Names) and not names.complete)
    owners = _owners(names, theirs, ours)
    variables = _variables(declared, ours)
    weighed = weigh(theirs, ours, variables, owners, _left_out(theirs, ours, declared))
    held = hold(theirs, ours, weighed, declared)
    if held.questions and not weighed.shared:
        joints = joints_between(theirs, ours, owners)
        rest = left_to(joints, declared)
        weighed = weigh(theirs, ours, variables, owners, _left_out(theirs, ours, rest))
        held = hold(theirs, ours, weighed, rest)
        without(held, joints, declared)
        declared = dataclasses.replace(declared, joints=(*declared.joints, *joints))
    if move is not None and not weighed.shared and not held.questions:
        ours = move(held)
    modules, found, covered = (), Tensors(), None
    if partial:
        values = Values()
        modules = tuple(pair_modules(theirs, ours, weighed.together, values, owners))
        found = pair_tensors(theirs, ours, {one.ours: one.theirs for one in modules}, values)
        names = _names(names, modules, found)
        owners = {one.ours: one.theirs for one in modules}
        paired = {line.ours for line in held.lines}
        paired |= {path for one in declared.joints for path in one.port}
        covered = coverage(ours, paired, found.compared)
    return Match(
        names,
        held.weights(theirs, ours, {**owners, "": ""}, declared),
        modules,
        tuple(held.lines),
        tuple(held.questions),
        weighed.shared,
        held.pieces,
        found.views,
        held.found,
        (theirs.modules, ours.modules),
        covered,
    )


def _left_out(theirs: Side, ours: Side, declared: Weights) -> tuple[dict, dict]:
    """The weights that are declared to be on one side only, of each side."""
    return (
        matched(declared.reference_only, theirs.weights, "reference", "tensor", "reference_only"),
        matched(declared.port_only, ours.weights, "port", "variable", "port_only"),
    )


def _matched(pair: Pair, first: Built | None) -> tuple[Match, Side, Side]:
    """What was found, and the reference and the port as they were first seen."""
    reference = first or build(pair.reference, "float32")
    with own_errors("float32, eager"):
        port = build(pair.port, "float32")
    evaluating(reference)
    theirs = see(reference, axes_of(pair.axes, reference.framework), pair.inputs, reference=True)
    inputs = inputs_of_port(pair, reference.framework, port.framework)

    def seen() -> Side:
        with usable(port, port.framework.EXECUTIONS[0]):
            return see(port, axes_of(pair.port_axes, port.framework), inputs, reference=False)

    def move(held: Held) -> Side:
        variables = port.framework.variables(port.model)
        for path, array in held.moved.items():
            variables[path].assign(array)
        return seen()

    weights = pair.weights if isinstance(pair.weights, Weights) else None
    ours = seen()
    return matched_sides(theirs, ours, pair.names, weights, move), theirs, ours


def _weights(pair: Pair, found: Match, theirs: Side) -> Weights | Loaded:
    """Those of the pair, or what was found: the port's own, to be compared, or a map to move."""
    if isinstance(pair.weights, Loaded):
        return pair.weights
    if pair.weights is not None or not found.shared:
        return found.weights
    state = {key: one.held for key, one in theirs.weights.items() if key in found.pieces}

    def read(model: object) -> dict[str, np.ndarray]:
        variables = registry.of(model).variables(model)
        return found.read(lambda path: variables[path].read(), state)

    return Loaded(state, read, "the port's own weights", found.lacking)


def _owners(names: Declared | None, theirs: Side, ours: Side) -> dict[str, str]:
    """The declared pairs of modules, the port's path to the reference's."""
    if names is None or (isinstance(names, Names) and not names.complete and not names.modules):
        return {}
    own = {path: path for path in ours.modules}
    naming = names.port_side({})
    renamed = own if naming is None else naming.modules(own)
    return {path: other for other, path in renamed.items() if other in theirs.modules}


def _variables(weights: Weights, ours: Side) -> dict[str, str]:
    found = {}
    for pattern, key in weights.variables.items():
        for path, parts in matched(
            [pattern], ours.weights, "port", "variable", "variables"
        ).items():
            found[path] = filled(key, parts)
    return found


def _names(declared: Declared | None, modules: Sequence[Line], found: Tensors) -> Names:
    """The declared names, where there are some, with what was found behind them."""
    given = declared if isinstance(declared, Names) else Names(complete=False)
    views = {place: one.view(axes) for place, (axes, one) in found.views.items()}
    return Names(
        {one.ours: one.theirs for one in modules if one.ours or one.theirs},
        {**given.tensors, **found.tensors},
        {**found.calls, **given.calls},
        {**given.views, **views},
        {**given.reference_only, **found.reference_only},
        {**given.port_only, **found.port_only},
    )

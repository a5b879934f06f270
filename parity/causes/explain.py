"""Why a module differs: candidate explanations, ranked by how much of the difference each removes.

Mistakes are planted in the reference, which then either computes what the port does or not
(`torch_mistakes`). Besides, the tensor is looked at by itself (chance, fewer digits, dropout)
and related to those of the reference: a multiple, other axes, another module's tensor.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from parity.causes.arguments import made_otherwise
from parity.causes.case import FACTORS, Case, Explanation, Judge, ran
from parity.causes.source import Mistake
from parity.causes.tensors import called_otherwise, conditions, relations, taken_elsewhere
from parity.pairing import align

PARALLEL = 0.999  # least cosine between the effect of a scaled operation and the difference
SCALE_STEP = 1e-3
KEPT = 3
BASES, MOST_PAIRS = 3, 1000
NO_WEIGHTS: Mapping[str, np.ndarray] = {}


def explain(
    reference: Any, case: Case, weights: Mapping[str, np.ndarray] = NO_WEIGHTS
) -> list[Explanation]:
    """The best explanations of `case`, those that remove the whole difference first.

    Args:
        reference: the recorder of the float64 reference (`parity.frameworks.torch`).
        weights: the port's tensors that are not the reference's, in the reference's names and
            layout; what they explain is given after every mistake that says more.
    Returns: at most `KEPT`; where none removes the whole difference, those that remove most of it.
    """
    judge = Judge(case)
    tried: list[Explanation] = []
    made: list[tuple[Explanation, Any]] = []
    facts = list(conditions(case, judge))
    if not facts:
        known = _known(reference, case, judge)
        if known is not None:
            return [known]
    called = list(called_otherwise(case, judge))
    for candidate in itertools.chain(
        facts,
        _mistakes(reference, case, judge, made),
        called,
        relations(reference, case, judge),
        _loaded_otherwise(reference, case, judge, weights),
    ):
        tried.append(candidate)
        if case.over() or sum(one.exact and one.complete for one in tried) == KEPT + len(called):
            break
    done = facts or any(one.exact and one.complete for one in tried)
    if not done and not case.over():
        further = itertools.chain(
            taken_elsewhere(case, judge), made_otherwise(reference, case, judge)
        )
        found = list(itertools.islice(further, KEPT))
        tried += found or itertools.islice(_pairs(reference, case, judge, made), KEPT)
    exact = sorted((one for one in tried if one.exact), key=lambda one: not one.complete)
    if exact and all(one in facts for one in exact):
        exact = [replace(one, complete=True) for one in exact]
    return (exact or sorted(tried, key=lambda one: one.after))[: KEPT + len(called)]


def mend(
    port: Any, case: Case, weights: Mapping[str, np.ndarray] = NO_WEIGHTS
) -> list[Explanation]:
    """What, changed in the port, makes it compute what the reference does, the best first.

    Args:
        port: the recorder of the float64 port, which is of PyTorch.
        case: the same with the sides exchanged: `port` are the reference's taps, `expected` the
            port's, and `run` runs the port's module.
        weights: not looked at; a port's weights are compared before.
    Returns: at most `KEPT`; where nothing removes the whole difference, what removes most of it.
    """
    judge = Judge(case)
    tried: list[Explanation] = []
    for candidate in _mistakes(port, case, judge, []):
        tried.append(replace(candidate, text=f"mended in the port by {candidate.text}"))
        if sum(one.exact and one.complete for one in tried) == KEPT:
            break
    exact = sorted((one for one in tried if one.exact), key=lambda one: not one.complete)
    return (exact or sorted(tried, key=lambda one: one.after))[:KEPT]


def explain_values(
    run: Callable[[], Mapping[str, Any]],
    ours: Mapping[str, Any],
    limit: float,
    known: Iterable[Mistake] = (),
    variants: Mapping[Any, Any] | None = None,
) -> list[Explanation]:
    """The mistakes with which a function of the reference gives the port's values.

    Args:
        run: computes with PyTorch and returns numbers or arrays by name.
        ours: the port's, for some of the names.
        limit: largest relative difference (l2) that rounding leaves.
        known: mistakes that are well known of this function, which are tried first.
        variants: other forms of operations, by default all that are known.
    Returns: at most `KEPT`, all exact; none where the values are the reference's within `limit`,
        which any mistake that hardly matters would explain.
    """
    from parity.causes import torch_mistakes as mistakes_torch

    exact = run()
    before = _relative(ours, exact)
    if before <= limit:
        return []
    found = []
    for mistake in known:
        with mistake.planted():
            after = _relative(ours, ran(run))
        if after <= limit:
            return [Explanation(mistake.text, before, after, True, True)]
    every = mistakes_torch.VARIANTS if variants is None else variants
    _, mistakes = mistakes_torch.operations(run, every)
    for mistake in mistakes:
        with mistake.planted():
            after = _relative(ours, ran(run))
        if after <= limit:
            found.append(Explanation(mistake.text, before, after, True, True))
            if len(found) == KEPT:
                return found
    factors = {name: np.sum(value) / np.sum(exact[name]) for name, value in ours.items()}
    factor = next(iter(factors.values()))
    after = _relative(ours, {name: factor * exact[name] for name in ours})
    if after <= limit:
        text = f"the reference's value times {factor:.10g}"
        found.append(Explanation(text, before, after, True, True))
    return found


def _relative(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest relative gap (l2) of any name, infinite where one is missing or not finite."""
    worst = 0.0
    for name, value in ours.items():
        if name not in theirs or np.shape(theirs[name]) != np.shape(value):
            return np.inf
        size = float(np.linalg.norm(theirs[name])) or 1.0
        gap = float(np.linalg.norm(np.asarray(value) - theirs[name])) / size
        worst = max(worst, gap if np.isfinite(gap) else np.inf)
    return worst


def _known(reference: Any, case: Case, judge: Judge) -> Explanation | None:
    """What explains a place of the same kind, where it explains all of this one too."""
    from parity.causes import torch_mistakes as mistakes_torch
    from parity.causes.torch_weights import parameter_mistakes

    if not case.hints:
        return None
    module = reference.modules[case.call.path]
    _, mistakes = mistakes_torch.operations(case.run)
    every = [
        *mistakes,
        *mistakes_torch.attribute_mistakes(module),
        *parameter_mistakes(module, {}, _called_within(case)),
    ]
    by_text: dict[str, list[Any]] = {}
    for mistake in every:
        by_text.setdefault(mistake.text.rpartition(": ")[2], []).append(mistake)
    for hint in case.hints:
        for parts in itertools.product(*(by_text.get(one, []) for one in hint.split("; and "))):
            together = reduce(lambda one, other: one and mistakes_torch.both(one, other), parts)
            found = None if together is None else _made(case, judge, together)
            if found is not None and found.exact and found.complete:
                return found
    return None


def _mistakes(
    reference: Any, case: Case, judge: Judge, made: list[tuple[Explanation, Any]]
) -> Iterator[Explanation]:
    """The mistakes that, made by the reference, bring it nearer to the port; kept in `made`."""
    from parity.causes import torch_mistakes as mistakes_torch
    from parity.causes.torch_weights import parameter_mistakes

    module = reference.modules[case.call.path]
    others = dict(reference.model.named_parameters())
    operations, mistakes = mistakes_torch.operations(case.run)
    loaded = parameter_mistakes(module, others, _called_within(case))
    switched = mistakes_torch.attribute_mistakes(module)
    for mistake in itertools.chain(mistakes, switched, loaded):
        found = _made(case, judge, mistake)
        if found is not None:
            made.append((found, mistake))
            yield found
    for text, feeds in mistakes_torch.argument_mistakes(case.feeds):
        if case.over():
            return
        found = judge.explanation(text, ran(lambda feeds=feeds: case.run(feeds)))
        if found is not None:
            yield found
    for operation in operations:
        for factor in FACTORS if operation.scalable else ():
            found = _made(case, judge, operation.scaled(factor))
            if found is not None and found.exact:
                yield found
    for operation in operations:
        if operation.scalable and not case.over():
            found = _fitted_scale(case, judge, operation)
            if found is not None:
                yield found


def _loaded_otherwise(
    reference: Any, case: Case, judge: Judge, weights: Mapping[str, np.ndarray]
) -> Iterator[Explanation]:
    """What the reference computes with the port's values of the weights that differ."""
    from parity.causes.torch_weights import loaded_otherwise

    module = reference.modules[case.call.path]
    for mistake in loaded_otherwise(module, case.call.path, weights, _called_within(case)):
        found = _made(case, judge, mistake)
        if found is not None:
            yield found


def _called_within(case: Case) -> list[str]:
    """The modules that the call calls, by their paths within it."""
    start = len(case.call.path) + 1 if case.call.path else 0
    return [child.path[start:] for child in case.children]


def _pairs(
    reference: Any, case: Case, judge: Judge, made: list[tuple[Explanation, Any]]
) -> Iterator[Explanation]:
    """Two mistakes at once that explain all: one that removes most of the difference, and another.

    Mistakes that leave little are tried first, with at most `MOST_PAIRS` others in all.
    """
    from parity.causes import torch_mistakes as mistakes_torch
    from parity.causes.torch_weights import parameter_mistakes

    module = reference.modules[case.call.path]
    _, mistakes = mistakes_torch.operations(case.run)
    every = [*mistakes, *parameter_mistakes(module, {}, _called_within(case))]
    first = [one for _, one in sorted(made, key=lambda pair: pair[0].after)]
    pairs = ((one, other) for one in first[:BASES] for other in every)
    for one, other in itertools.islice(pairs, MOST_PAIRS):
        together = mistakes_torch.both(one, other)
        found = None if together is None else _made(case, judge, together)
        if found is not None and found.exact and found.complete:
            yield found


def _made(case: Case, judge: Judge, mistake: Any) -> Explanation | None:
    if case.over():
        return None
    with mistake.planted():
        return judge.explanation(mistake.text, ran(case.run))


def _fitted_scale(case: Case, judge: Judge, operation: Any) -> Explanation | None:
    """The factor on one operation's result that comes nearest to the port, if it explains it."""
    expected = case.expected[case.key].array
    port = align(case.port[case.key], case.expected[case.key].axes)
    if port is None or port.shape != expected.shape or port.dtype.kind != "f":
        return None
    if not np.isfinite(port).all():
        return None
    wanted = (port - expected).ravel()
    factor, taps = 1.0 + SCALE_STEP, None
    reached, step = np.zeros_like(wanted), SCALE_STEP
    for attempt in range(4):
        with operation.scaled(factor).planted():
            taps = ran(case.run)
        if case.key not in taps:
            return None
        moved = (taps[case.key].array - expected).ravel()
        response = (moved - reached) / step
        missing = wanted - moved
        size = float(response @ response)
        if size == 0.0 or not np.isfinite(size):
            break
        if attempt == 0:
            cosine = float(wanted @ moved) / (np.linalg.norm(wanted) * np.linalg.norm(moved) or 1.0)
            if abs(cosine) < PARALLEL:
                return None
        reached, step = moved, float(response @ missing) / size
        if step == 0.0:
            break
        factor += step
    final = operation.scaled(factor)
    found = _made(case, judge, final)
    return found if found is not None and found.exact else None

"""Which mistakes explain that the port's loss differs on the reference's outputs.

A cause has to give every term of the loss and every gradient that it passes to the outputs: a
number that is fitted is never accepted on one number alone.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from parity.causes.source import Mistake, explained
from parity.gradients import terms_of
from parity.pairing import align
from parity.trace import Tap, tap_key
from parity.training.measured import ReferenceStep
from parity.training.sides import Side

Arrays = Mapping[str, np.ndarray]
EXPLAINED = 1e-9  # relative; what is left of a difference when the mistake is made on purpose
DIRECTIONS, STEP, SLOPE = 2, 1e-4, 1e-6  # in which, and how far, outputs are moved; relative
NEAR = 1e-6  # relative; within which a fitted number is taken for a round one


@dataclass(frozen=True)
class Alone:
    """The loss of one side on the reference's outputs, in which mistakes are made.

    Args:
        step: the reference's step.
        side, recorder: the side, and the recorder of its forward pass.
        wanted, passed: the other side's terms and gradients by name, and its gradients' taps.
    """

    step: ReferenceStep
    side: Side
    recorder: Any
    wanted: Mapping[str, np.ndarray]
    passed: Mapping[str, Tap]

    def run(self) -> dict[str, np.ndarray]:
        """Its terms and gradients by name."""
        found, passed = self.side.alone(self.recorder, self.step.outputs, "eager")
        return _values(found, passed, self.step) or {}

    def terms(self, outputs: Mapping[str, Tap] | None = None) -> dict[str, np.ndarray]:
        """Its terms by name, on other outputs of the reference."""
        given = self.step.outputs if outputs is None else outputs
        terms, _ = self.side.alone(self.recorder, given, "eager")
        return _values(terms, {}, self.step) or {}

    def agrees(self, mistake: Mistake) -> bool:
        """Whether it gives what the other side gives, having made a mistake."""
        try:
            with mistake.planted():
                return far(self.wanted, self.run()) <= EXPLAINED
        except Exception:  # a mistake that breaks the loss is none that the port has made
            return False


def causes(
    step: ReferenceStep,
    port: Side,
    recorder: Any,
    terms: Mapping[str, Any],
    gradients: Mapping[str, Tap],
) -> tuple[str, ...]:
    """The likeliest mistake, where one is found: in the reference, or mended in the port.

    `recorder`, `terms` and `gradients` are the port's.
    """
    ours = _values(terms, gradients, step)
    if ours is None:
        return ()
    theirs = Alone(step, step.side, step.forward, ours, gradients)
    exact = theirs.run()
    said, planted = _where(theirs, Alone(step, port, recorder, exact, step.by_output.values))
    for text in itertools.chain.from_iterable(map(_by_arguments, planted)):
        return (said.format(text),)
    text = scaled(exact, ours) or in_float32(ours, exact)
    if text is not None:
        return (text,)
    loss = step.side.loss
    edited = [loss] if hasattr(loss, "__code__") else []

    def same(found: Mapping[str, np.ndarray]) -> bool:
        return far(ours, found) <= EXPLAINED

    text = _by_terms(step, exact, ours)
    if text is not None:
        found = explained(theirs.run, same, edited)
        return (f"{found[0]}; {text}" if found else text,)
    text = _counted(step, ours)  # where no factor on the terms themselves says it
    if text is not None:
        return (text,)
    for text in itertools.chain.from_iterable(
        tried(one) for one in planted for tried in (_in_stops, _in_operations)
    ):
        return (said.format(text),)
    return tuple(explained(theirs.run, same, edited)[:1])


def _where(theirs: Alone, ours: Alone) -> tuple[str, list[Alone]]:
    """The side in which mistakes can be made, if any, and what is said of one that is found."""
    if theirs.side.built.framework.explain is not None:
        return "{}", [theirs]
    if ours.side.built.framework.mend is not None:
        return "mended in the port by {}", [ours]
    return "", []


def _values(
    terms: Mapping[str, Any], gradients: Mapping[str, Tap], step: ReferenceStep
) -> dict[str, np.ndarray] | None:
    """Terms and gradients by name, axes as the reference has them."""
    found = {f"term {name}": np.asarray(value, np.float64) for name, value in terms.items()}
    for key, tap in gradients.items():
        theirs = step.by_output.values.get(key)
        array = tap.array if theirs is None else align(tap, theirs.axes)
        if array is None:
            return None
        found[key] = array
    return found


def far(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """The largest relative gap (l2) of any name; what one side lacks counts as zeros."""
    worst = 0.0
    for name in {**ours, **theirs}:
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None:
            if np.any(one if other is None else other):
                return math.inf
            continue
        if one.shape != other.shape:
            return math.inf
        size = float(np.linalg.norm(other)) or 1.0
        distance = float(np.linalg.norm(one - other)) / size
        worst = max(worst, distance if math.isfinite(distance) else math.inf)
    return worst


def scaled(exact: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> str | None:
    """The factor on a term of the loss, on some or on all; it must have shown in two numbers."""
    one_sided = {*exact} ^ {*ours}
    if any(np.any({**exact, **ours}[name]) for name in one_sided):
        return None  # a factor on the others does not say why
    factors = {}
    for name in [name for name in exact if name in ours]:
        theirs, own = exact[name], ours[name]
        if theirs.shape != own.shape or not np.any(theirs):
            continue
        factor = float(np.vdot(theirs, own) / np.vdot(theirs, theirs))
        if np.linalg.norm(own - factor * theirs) > EXPLAINED * np.linalg.norm(own):
            return None
        factors[name] = factor
    counted = sum(np.count_nonzero(exact[name]) for name in factors)
    texts = {name: f"{factor:.9g}" for name, factor in factors.items()}
    if counted < 2 or not texts:
        return None
    terms = {name: text for name, text in texts.items() if name.startswith("term ")}
    passed = {name: text for name, text in texts.items() if name not in terms}
    if len(set(texts.values())) == 1:
        return f"the loss is multiplied by {_named_factor(exact, next(iter(factors.values())))}"
    if set(terms.values()) == {"1"} and len(set(passed.values())) == 1:
        factor = next(iter(passed.values()))
        if factor == "2":
            return "the gradient is doubled"
        return f"the gradient is multiplied by {factor}, the loss is not"
    return None


def _by_terms(
    step: ReferenceStep, exact: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]
) -> str | None:
    """The factor on each of several terms, which the gradients have to show as well."""
    names = [name for name in exact if name.startswith("term ")]
    factors = {
        name: float(ours.get(name, 0.0) / exact[name]) if exact[name] else 1.0 for name in names
    }
    factors = {name: one for name, one in factors.items() if abs(one - 1) > EXPLAINED}
    if len(names) < 2 or not factors:
        return None

    def loss(*given: Any) -> dict[str, Any]:
        found = terms_of(step.side.loss(*given))
        return {name: factors.get(f"term {name}", 1.0) * term for name, term in found.items()}

    side = replace(step.side, loss=loss)
    found = _values(*side.alone(step.forward, step.outputs, "eager"), step) or {}
    gradients = {name: one for name, one in exact.items() if name not in names}
    moved = {name: one for name, one in found.items() if name not in names}
    if far(ours, found) > EXPLAINED or far(moved, gradients) <= EXPLAINED:
        return None
    alike: dict[str, list[str]] = {}
    for name, one in factors.items():
        text = "left out" if one == 0 else f"multiplied by {_named_factor(exact, one)}"
        alike.setdefault(text, []).append(name.removeprefix("term "))
    return "; ".join(
        f"{', '.join(some)} {'is' if len(some) == 1 else 'are'} {text}"
        for text, some in alike.items()
    )


def _named_factor(exact: Mapping[str, np.ndarray], factor: float) -> str:
    """A factor with what it may be: a sum in place of a mean, or the other way round."""
    for name, array in exact.items():
        if name.startswith("term ") or array.ndim == 0:
            continue
        sizes = {array.size: "elements", math.prod(array.shape[:-1]): "rows"}
        sizes |= {array.shape[0]: "examples", array.shape[-1]: "of the last axis"}
        for count, what in sizes.items():
            if count > 1 and abs(factor - count) <= EXPLAINED * count:
                return f"{count}, as by a sum instead of a mean over {count} {what}"
            if count > 1 and abs(factor * count - 1) <= EXPLAINED:
                return f"{factor:.9g}, as by a mean instead of a sum over {count} {what}"
    return f"{factor:.9g}"


def in_float32(ours: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> str | None:
    """That all of the port's values are numbers of float32, as the reference's are not."""

    def single(values: Mapping[str, np.ndarray]) -> bool:
        return all(np.array_equal(one, one.astype(np.float32)) for one in values.values())

    if far(ours, exact) <= 1e-5 and single(ours) and not single(exact):
        return "the loss is rounded to float32"
    return None


def shares(terms: Mapping[str, Mapping[str, np.ndarray]], ours: Arrays) -> dict[str, float] | None:
    """How often each term of a loss counts in gradients; None where no sum of them gives these.

    Args:
        terms: the gradients of each term alone, by name and key; what lacks one counts as zeros.
        ours: the gradients, by key.
    """
    columns = np.stack([_flat(one, ours) for one in terms.values()], 1)
    wanted = _flat(ours, ours)
    found, _, rank, _ = np.linalg.lstsq(columns, wanted, rcond=None)
    left = float(np.linalg.norm(columns @ found - wanted))
    if rank < len(terms) or not left <= EXPLAINED * float(np.linalg.norm(wanted)):
        return None
    return dict(zip(terms, map(float, found), strict=True))


def _flat(arrays: Arrays, keys: Arrays) -> np.ndarray:
    return np.concatenate(
        [arrays.get(key, np.zeros_like(one)).ravel() for key, one in keys.items()]
    )


def _counted(step: ReferenceStep, ours: Arrays) -> str | None:
    """Which terms are differentiated otherwise than once, where there are several."""
    ours = {key: one for key, one in ours.items() if key in step.by_output.values}
    if len(step.alone.values) < 2 or not ours:
        return None
    terms = {}
    for name in step.alone.values:
        side = replace(step.side, loss=partial(_only, step.side.loss, name))
        passed = side.alone(step.forward, step.outputs, "eager")[1]
        terms[name] = {key: tap.array for key, tap in passed.items()}
    found = shares(terms, ours)
    wrong = {name: one for name, one in (found or {}).items() if abs(one - 1) > NEAR}
    texts = [f"{_round(one) if abs(one) > NEAR else 0} times" for one in wrong.values()]
    told = ", ".join(f"{name} {text}" for name, text in zip(wrong, texts, strict=True))
    return f"the gradient has {told}" if told else None


def _only(loss: Callable[..., Any], name: str, *given: Any) -> dict[str, Any]:
    """One term of a loss."""
    return {name: loss(*given)[name]}


def bounds(
    step: ReferenceStep,
    port: Side,
    recorder: Any,
    terms: Mapping[str, Any],
    gradients: Mapping[str, Tap],
) -> tuple[str, ...]:
    """The bound on a probability, a logit or an activation that explains the port's loss, where one
    does; arguments as of `causes`."""
    ours = _values(terms, gradients, step)
    if ours is None:
        return ()
    from parity.causes.torch_clipping import BOUNDED

    theirs = Alone(step, step.side, step.forward, ours, gradients)
    own = Alone(step, port, recorder, theirs.run(), step.by_output.values)
    said, planted = _where(theirs, own)
    found = (text for one in planted for text in _in_operations(one, BOUNDED))
    return tuple(said.format(text) for text in itertools.islice(found, 1))


def _in_operations(alone: Alone, variants: Mapping[Any, Any] | None = None) -> Iterator[str]:
    """Mistakes of single operations of a PyTorch loss.

    They are made below what PyTorch differentiates, so that only the terms show them. That the
    gradients are the other side's too is seen from how the sum of the terms moves with the outputs.
    """
    from parity.causes.torch_mistakes import VARIANTS, operations

    terms = {name: value for name, value in alone.wanted.items() if name.startswith("term ")}
    _, mistakes = operations(alone.terms, VARIANTS if variants is None else variants)
    if variants is not None:  # a bound is in a line of code, and so in every layer
        mistakes = mistakes[::-1]
    for mistake in mistakes:
        try:
            with mistake.planted():
                found = alone.terms()
            same = far(terms, found) <= EXPLAINED and _moves_so(alone, mistake)
        except Exception:  # a mistake that breaks the loss is none that the port has made
            continue
        if same:
            yield mistake.text


def _moves_so(alone: Alone, mistake: Mistake) -> bool:
    """Whether the loss with a mistake moves with the outputs as the other's gradients say."""
    step = alone.step
    for seed in range(DIRECTIONS):
        rng = np.random.default_rng(seed)
        expected, sums = 0.0, []
        directions = {
            key: rng.normal(size=tap.array.shape)
            for key, tap in step.outputs.items()
            if tap.array.dtype.kind == "f"
        }
        for key, tap in step.by_output.values.items():
            gradient = alone.passed.get(key)
            array = None if gradient is None else align(gradient, tap.axes)
            if array is not None:
                expected += float(np.vdot(array, directions[tap_key("", "output", tap.name)]))
        for sign in (1, -1):
            moved = {
                key: replace(tap, array=tap.array + sign * STEP * directions[key])
                if key in directions
                else tap
                for key, tap in step.outputs.items()
            }
            with mistake.planted():
                sums.append(math.fsum(map(float, alone.terms(moved).values())))
        slope = (sums[0] - sums[1]) / (2 * STEP)
        if not abs(slope - expected) <= SLOPE * max(abs(slope), abs(expected)):
            return False
    return True


def _in_stops(alone: Alone) -> Iterator[str]:
    """Gradients that are stopped within the loss."""
    from parity.causes.torch_gradients import stopped

    for mistake in stopped(alone.run):
        if alone.agrees(mistake):
            yield mistake.text


def _by_arguments(alone: Alone) -> Iterator[str]:
    """Other arguments of the loss functions that a PyTorch loss calls, and other targets."""
    from parity.causes.torch_losses import argument_mistakes, fitted_arguments, target_mistakes

    for mistake in (*argument_mistakes(alone.run), *target_mistakes(alone.run)):
        if alone.agrees(mistake):
            yield mistake.text
    for text, plant, start in fitted_arguments(alone.run):

        def planted(value: float, plant: Callable = plant) -> Mapping[str, np.ndarray]:
            with plant(value):
                return alone.run()

        number = fitted(planted, alone.wanted, start)
        if number is not None:
            yield text.format(_round(number))


def fitted(
    run: Callable[[float], Mapping[str, np.ndarray]],
    ours: Mapping[str, np.ndarray],
    start: float,
) -> float | None:
    """The number with which `run` gives the port's values, by Gauss and Newton's method.

    None where none is found, and where fewer than two of the values move with it.
    """
    value, step = start, 1e-4
    for _ in range(12):
        try:
            here, there = _vector(run(value), ours), _vector(run(value + step), ours)
        except Exception:  # a number that breaks the loss is none that the port has
            return None
        if here is None or there is None:
            return None
        slope = (there - here) / step
        if np.count_nonzero(slope) < 2:
            return None
        wanted = _vector(ours, ours) - here
        move = float(np.vdot(slope, wanted) / np.vdot(slope, slope))
        if not math.isfinite(move):
            return None
        value += move
        if abs(move) <= 1e-13 * max(1.0, abs(value)):
            break
    try:
        return value if far(ours, run(value)) <= EXPLAINED else None
    except Exception:  # as above
        return None


def _vector(values: Mapping[str, np.ndarray], names: Mapping[str, Any]) -> np.ndarray | None:
    """All values in one vector, each name in units of the port's own size."""
    if any(name not in values or values[name].shape != names[name].shape for name in names):
        return None
    parts: Sequence[np.ndarray] = [
        values[name].ravel() / (float(np.linalg.norm(names[name])) or 1.0) for name in names
    ]
    return np.concatenate(parts) if parts else None


def _round(value: float) -> str:
    short = f"{value:.3g}"
    return short if abs(float(short) - value) <= NEAR * max(abs(value), 1e-3) else f"{value:.9g}"

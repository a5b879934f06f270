"""Gradients of every tensor between modules and of every parameter: recorded, judged, localised.

The total derivative of one scalar is taken with respect to what each module returns (`grad_output`)
and, argument by argument, to what it is given (`grad_input`). A module's `grad_input` and
`param_grad` are then the product of its own Jacobian with its `grad_output`, so that a module can
be judged alone: given the reference's inputs and the reference's output gradients.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from parity.calls import (
    Call,
    Replaced,
    Slot,
    Watch,
    fill,
    flatten,
    flatten_result,
    named_arguments,
    named_as_reference,
    needed,
    slots,
    whole,
)
from parity.judge import Verdict, gradient_verdict
from parity.judging.calls import NO_FLOOR, Observe
from parity.localise import Localisation
from parity.metrics import Gap, failed, perturb_ulp, worst
from parity.on_disk import Renamed, TraceOnDisk
from parity.pairing import Comparison, align, tap_gap
from parity.trace import Tap, module_of, shown, tap_key

Arrays = Mapping[str, Tap]
Parameters = Mapping[str, tuple[Sequence[Any], Callable[..., np.ndarray]]]
"""What holds each tensor of the reference, by key, and what makes of their gradients its own."""
Received = dict[tuple[str, str, int], Any]
"""Gradients that stand-ins receive, by path, name of the result, and ordinal of the call."""
LETTERS = "ABCDEFGH"  # axes of parameters, in the reference's order
MOST_STOPS = 400  # gradients that are stopped by way of trial in one module
SCALED = 1e-11  # what a factor common to all elements leaves, relative


@dataclass
class GradientWatch(Watch):
    """A `Watch` under which what every module is given and returns are tensors of their own.

    `own` copies a tensor on the tape, so that a tensor given to two modules has a gradient for
    each, and one that a module returns and uses itself has that of its use outside.
    `returned(tensor, own)` gets what a module was given, and what it had of its own in its place.
    `stand_in(call, tensors, result)` may replace the result of a module that was not run.
    """

    own: Callable[[Any], Any] = lambda tensor: tensor
    returned: Callable[[Any, Any], None] = lambda tensor, own: None
    stand_in: Callable[[Call, dict[str, Any], Any], Any] | None = None

    def __call__(self, original: Callable, module: Any, args: tuple, kwargs: dict) -> Any:
        if id(module) not in self.paths or (self._stack and self._stack[-1][0] == id(module)):
            return super().__call__(original, module, args, kwargs)
        template, tensors = flatten((args, kwargs), self.is_tensor, records=True)
        owned = {name: self.own(tensor) for name, tensor in tensors}
        args, kwargs = fill(template, lambda slot: owned[slot.name])
        before = len(self.calls)

        def owning(*given: Any, **named: Any) -> Any:
            parts, found = flatten(original(*given, **named), self.is_tensor, records=True)
            copies = {name: self.own(tensor) for name, tensor in found}
            return fill(parts, lambda slot: copies[slot.name])

        result = super().__call__(owning, module, args, kwargs)
        for name, tensor in tensors:
            self.returned(tensor, owned[name])
        if self.stand_in is None or len(self.calls) == before:
            return result
        call = self.calls[before]
        arguments, named = named_arguments(
            self._signatures[id(module)], args, kwargs, self.is_tensor
        )
        if self.naming is not None:
            _, named = named_as_reference(self.naming, call.path, "input", arguments.values, named)
        return self.stand_in(call, dict(named), result)


@dataclass(frozen=True)
class Surroundings:
    """The reference's tensors around one call of one module, by name: values and gradients."""

    inputs: Arrays
    outputs: Arrays
    input_gradients: Arrays
    output_gradients: Arrays

    def moved(self, seed: int) -> "Surroundings":
        """All of them moved by up to one unit in the last place."""

        def move(taps: Arrays) -> Arrays:
            return {
                name: replace(tap, array=perturb_ulp(tap.array, seed + index))
                for index, (name, tap) in enumerate(taps.items())
            }

        return Surroundings(*map(move, vars(self).values()))


@dataclass(frozen=True)
class Isolated:
    """What running one call alone needs: its own surroundings and those of the calls it makes."""

    call: Call
    around: Surroundings
    children: Mapping[tuple[str, int], Surroundings]
    parameters: tuple[str, ...]


class GradientRecorder(Protocol):
    """What `backward_places` needs of a side; see `gradients.py` of each framework."""

    calls: list[Call]

    def __call__(self, inputs: Any, sink: Callable[[Tap], None] | None = None) -> Any: ...

    def isolate_gradients(self, alone: Isolated, call: Call) -> dict[str, Tap]: ...


class ReferenceGradientRecorder(GradientRecorder, Protocol):
    """What it needs of the reference besides."""

    def perturbed(self, seed: int) -> Any: ...

    def stopped_gradients(self, alone: Isolated) -> Iterable[Any]: ...


def terms_of(found: Any) -> dict[str, Any]:
    """The terms of a loss by name; of a loss that is one tensor, its only one."""
    return dict(found) if isinstance(found, Mapping) else {"loss": found}


def gradient_verdicts(gaps: Mapping[str, Gap], floors: Mapping[str, Gap]) -> list[Verdict]:
    """`gradient_verdict` of every key of `gaps`."""
    return [gradient_verdict(key, found, floors[key]) for key, found in gaps.items()]


def unpaired_parameters(comparison: Comparison) -> list[str]:
    """Parameters that have a gradient in the port only.

    Other tensors may have one there and none in the reference: a constant has no gradient in
    PyTorch, and one that nobody uses in TensorFlow.
    """
    return [key for key in comparison.unpaired if ":param_grad" in key]


def backward_places(
    reference: ReferenceGradientRecorder,
    port: GradientRecorder,
    values: Mapping[str, Tap],
    gradients: Mapping[str, Tap],
    comparison: Comparison,
    floors: Mapping[str, Gap],
    *,
    everywhere: bool = False,
    observe: Observe | None = None,
) -> list[Localisation]:
    """Every module whose backward pass is at fault, in the order of the backward pass.

    Each module is given the reference's inputs and output gradients; the modules it calls are
    replaced by stand-ins that return the reference's results and pass the reference's gradients
    back. What it passes back, to its parameters, and to its stand-ins is compared.

    Args:
        reference: recorder of the float64 reference, whose last run made `gradients`.
        port: recorder of the float64 port, in eager execution, whose last run made `comparison`.
        values: the reference's forward trace, with the same calls.
        gradients: its gradient trace.
        comparison: the port's gradients in place, compared with these.
        floors: the reference's floors in place, by key.
        everywhere: judge every module, not only those around gradients that differ.
        observe: receives the verdicts on each module that was run alone.
    """
    verdicts = {key: gradient_verdict(key, g, floors[key]) for key, g in comparison.gaps.items()}
    wrong = {key for key, verdict in verdicts.items() if verdict.fails}
    wrong |= {*comparison.missing(), *unpaired_parameters(comparison)}
    ours = {(call.path, call.call): call for call in port.calls}
    names = [f"{tap.path}.{tap.name}" for tap in gradients.values() if tap.kind == "param_grad"]
    judged: dict[str, _Judged] = defaultdict(_Judged)
    for theirs in reversed(reference.calls):
        call = ours.get((theirs.path, theirs.call))
        parameters = _own_parameters(theirs, names)
        if call is not None and (everywhere or _touched(theirs, parameters, wrong)):
            alone = _isolated(theirs, parameters, values, gradients)
            judged[theirs.path].add(reference, port, alone, call)
    if observe is not None:
        for path, one in judged.items():
            observe([one.verdict(path, key) for key in one.gaps])
    found = [_report(path, one) for path, one in judged.items()]
    return [_within(one, reference.calls, wrong) for one in found if one is not None]


def _within(place: Localisation, calls: Sequence[Call], wrong: set[str]) -> Localisation:
    """The place, at the first module that runs within it and passes another gradient back.

    What has no result that both sides have runs as a part of its caller, and cannot be judged by
    itself.
    """
    inner = [
        _key(child, "grad_input", slot.name)
        for call in calls
        if shown(call.path) == place.path
        for child in call.children
        if not _results(child)
        for slot in _argument_slots(child)
    ]
    edge = next((key for key in reversed(inner) if key in wrong), None)
    return place if edge is None else replace(place, edge=edge)


@dataclass
class _Judged:
    """The isolated gradients of all calls of one module."""

    gaps: dict[str, Gap] = field(default_factory=dict)
    floors: dict[str, Gap] = field(default_factory=dict)
    causes: dict[str, str | None] = field(default_factory=dict)
    leaf: bool = True

    def verdict(self, path: str, key: str) -> Verdict:
        """The verdict on one gradient, named after the module at `path`, which was run."""
        own = module_of(key) == shown(path)
        name = key if own else f"{shown(path)}:passed to {key}"
        return gradient_verdict(name, self.gaps[key], self.floors[key])

    def add(
        self,
        reference: ReferenceGradientRecorder,
        port: GradientRecorder,
        alone: Isolated,
        call: Call,
    ) -> None:
        theirs = alone.call
        self.leaf = self.leaf and not theirs.children
        exact = TraceOnDisk()
        for tap in reference.isolate_gradients(alone, theirs).values():
            exact.add(tap)
        try:
            ours = port.isolate_gradients(alone, call)
        except Exception as error:  # whatever the module raises on these tensors is evidence
            key = tap_key(theirs.path, "grad_output", "", theirs.call)
            text = (str(error).strip().splitlines() or [""])[0]
            self.gaps[key] = failed(f"cannot be differentiated: {type(error).__name__}: {text}")
            self.floors[key] = NO_FLOOR
            return
        gaps = {
            key: tap_gap(ours[key], tap) if key in ours else failed("has no gradient")
            for key, tap in exact.items()
        }
        gaps |= {
            key: failed("has a gradient, though not in the reference")
            for key, tap in ours.items()
            # TensorFlow passes zeros back for a result that nobody uses, PyTorch nothing.
            if key not in exact and np.any(tap.array)
        }
        floors = dict.fromkeys(gaps, NO_FLOOR)
        if not all(gradient_verdict(key, gaps[key], NO_FLOOR).passed for key in gaps):
            floors |= _isolated_floors(reference, alone, exact)
        wrong = []
        for key, found in gaps.items():
            first = ":param_grad" in key and key not in self.gaps
            place = key if first else f"{key}#{theirs.call}"
            self.gaps[place], self.floors[place] = found, floors[key]
            if key in exact and gradient_verdict(key, found, floors[key]).fails:
                self.causes[place] = _cause(ours.get(key), exact[key])
                wrong.append(place)
        if wrong and all(self.causes[place] is None for place in wrong):
            self.causes[wrong[0]] = _stopped(reference, alone, ours, floors)


def _stopped(
    reference: ReferenceGradientRecorder,
    alone: Isolated,
    ours: Mapping[str, Tap],
    floors: Mapping[str, Gap],
) -> str | None:
    """The first gradient that, stopped in the reference, makes it pass back what the port does."""
    for mistake in itertools.islice(reference.stopped_gradients(alone), MOST_STOPS):
        try:
            with mistake.planted():
                theirs = reference.isolate_gradients(alone, alone.call)
        except RuntimeError:  # nothing is left that could be differentiated
            continue
        if all(
            key in theirs
            and gradient_verdict(key, tap_gap(tap, theirs[key]), floors.get(key, NO_FLOOR)).passed
            for key, tap in ours.items()
            if np.any(tap.array)
        ) and all(key in ours or not np.any(tap.array) for key, tap in theirs.items()):
            return mistake.text
    return None


def _cause(ours: Tap | None, exact: Tap) -> str | None:
    """Why one gradient differs: it is stopped, or scaled by one factor; None where neither."""
    array = None if ours is None else align(ours, exact.axes)
    if array is None or not np.any(array):
        return "the gradient is stopped"
    size = float((exact.array * exact.array).sum())
    if array.shape != exact.array.shape or not size > 0.0:
        return None
    factor = float((array * exact.array).sum()) / size
    left = float(np.linalg.norm(array - factor * exact.array))
    if left <= SCALED * float(np.linalg.norm(array)):
        return f"the gradient is multiplied by {factor:.10g}"
    return None


def _isolated_floors(
    reference: ReferenceGradientRecorder, alone: Isolated, exact: Mapping[str, Tap]
) -> dict[str, Gap]:
    """How far rounding alone moves the isolated gradients of a call from `exact`."""
    runs = []
    for seed in (0, 1):
        moved = replace(
            alone,
            around=alone.around.moved(1000 * seed + 1),
            children={
                place: one.moved(1000 * seed + 101 * (index + 1))
                for index, (place, one) in enumerate(alone.children.items())
            },
        )
        with reference.perturbed(seed):
            runs.append(reference.isolate_gradients(moved, alone.call))
    return {key: worst(tap_gap(run[key], tap) for run in runs) for key, tap in exact.items()}


def _touched(call: Call, parameters: Sequence[str], wrong: set[str]) -> bool:
    """Whether a gradient that this call passes back, or that its results get, differs in place."""
    keys = {f"{_key(call, 'grad_input', slot.name)}" for slot in _argument_slots(call)}
    keys |= {_key(child, "grad_output", s.name) for child in call.children for s in _results(child)}
    keys |= {parameter_key(name) for name in parameters}
    return bool(keys & wrong)


def _own_parameters(call: Call, names: Sequence[str]) -> tuple[str, ...]:
    """The names of parameters of a call's module, less those of modules that others stand in for
    when it runs alone."""
    below = f"{call.path}." if call.path else ""
    inner = tuple(f"{child.path}." for child in call.children if _results(child))
    return tuple(name for name in names if name.startswith(below) and not name.startswith(inner))


def _isolated(
    call: Call,
    parameters: tuple[str, ...],
    values: Mapping[str, Tap],
    gradients: Mapping[str, Tap],
) -> Isolated:
    def around(one: Call) -> Surroundings:
        def taken(source: Mapping[str, Tap], kind: str, found: Iterable[Slot]) -> Arrays:
            return Renamed(source, {slot.name: _key(one, kind, slot.name) for slot in found})

        return Surroundings(
            taken(values, "input", _argument_slots(one)),
            taken(values, "output", _results(one)),
            taken(gradients, "grad_input", _argument_slots(one)),
            taken(gradients, "grad_output", _results(one)),
        )

    children = {(child.path, ordinal(child)): around(child) for child in call.children}
    return Isolated(call, around(call), children, parameters)


def parameter_key(name: str) -> str:
    """The key of a parameter's gradient from its state-dict key."""
    path, _, own = name.rpartition(".")
    return tap_key(path, "param_grad", own)


def parameter_tap(name: str, gradient: np.ndarray) -> Tap:
    """The tap of a parameter's gradient, held as the reference holds it, by its state-dict key."""
    path, _, own = name.rpartition(".")
    return Tap(path, "param_grad", own, 0, LETTERS[: gradient.ndim], gradient)


def holders(parameters: Parameters) -> dict[str, Any]:
    """What holds tensors of the reference, each under the tensor's key and its own number."""
    return {
        f"{key} {index}": one
        for key, (several, _) in parameters.items()
        for index, one in enumerate(several)
    }


def by_key(
    parameters: Parameters,
    found: Mapping[str, np.ndarray | None],
    shape: Callable[[Any], Any] = lambda holder: holder.shape,
) -> dict[str, np.ndarray | None]:
    """The gradients of tensors of the reference from those of their `holders`; None for none."""
    gradients: dict[str, np.ndarray | None] = {}
    for key, (several, turned) in parameters.items():
        own = [found.get(f"{key} {index}") for index in range(len(several))]
        gradients[key] = None
        if any(one is not None for one in own):
            gradients[key] = turned(
                *(
                    np.zeros(tuple(shape(holder))) if one is None else one
                    for one, holder in zip(own, several, strict=True)
                )
            )
    return gradients


def ordinal(call: Call) -> int:
    """How many calls of the same module its caller made before this one."""
    siblings = [] if call.parent is None else call.parent.siblings(call.path)
    return next((index for index, one in enumerate(siblings) if one is call), len(siblings) - 1)


class IsolatedRun:
    """What both gradient recorders share: one call run with stand-ins for the modules it calls.

    Subclasses provide `model`, `modules`, `axes`, `_run`, and the three methods below.
    """

    def _gradient_watch(
        self, emit: Callable = lambda *tap: None, replace: Callable = lambda call: None
    ) -> GradientWatch:
        raise NotImplementedError

    def _leaf(self, array: np.ndarray, dtype: Any, needed: bool) -> Any:
        """A tensor of `dtype`; `needed` says whether its gradient is taken."""
        raise NotImplementedError

    def _linked(
        self,
        inputs: list[Any],
        outputs: list[Any],
        gradients: list[Any],
        receive: Callable[[int, Any], None],
    ) -> list[Any]:
        """Copies of `outputs`; their gradients go to `receive`, `gradients` to `inputs`."""
        raise NotImplementedError

    def _run_alone(
        self, alone: Isolated, call: Call
    ) -> tuple[dict[str, Any], list[tuple[Any, Any]], Received]:
        """Runs `call` on the reference's tensors.

        Returns: its leaf tensors by name; its results with their gradients, both tensors; and,
        filled when these are propagated, what each stand-in receives.
        """
        received: Received = {}
        leaves: dict[str, Any] = {}

        def made(path: str, kind: str, slot: Slot, taps: Arrays, wanted: bool = False) -> Any:
            array = self.fed_array(path, kind, slot, _whole(slot.name, taps))
            if array is None:
                tap = taps[needed(slot.name)[0]]
                axes = self.axes(path, kind, slot.name, tap.array.ndim)
                raise ValueError(f"{tap.key} has axes {tap.axes}, not {axes}")
            return self._leaf(np.ascontiguousarray(array), slot.dtype, wanted)

        def results(path: str, value: Any) -> tuple[Any, list[tuple[str, Any]]]:
            template, tensors = flatten_result(value, watch.is_tensor)
            if self.naming is None:
                return template, tensors
            return named_as_reference(self.naming, path, "output", template, tensors)

        def around(inner: Call) -> Surroundings | None:
            if inner.parent is None or inner.parent.parent is not None:
                return None
            place, calls = (inner.path, ordinal(inner)), call.siblings(inner.path)
            known = alone.children.get(place) if place[1] < len(calls) else None
            if known is None:
                return None
            # What has results without a counterpart is run.
            named = {one for slot in slots(calls[place[1]].results) for one in needed(slot.name)}
            return known if named and named <= set(known.outputs) else None

        def result(inner: Call) -> Replaced | None:
            known = around(inner)
            if known is None:
                return None
            template = call.siblings(inner.path)[ordinal(inner)].results
            return Replaced(
                fill(template, lambda slot: made(inner.path, "output", slot, known.outputs))
            )

        def stand_in(inner: Call, tensors: dict[str, Any], value: Any) -> Any:
            known = around(inner)
            if known is None:
                return value
            template, outputs = results(inner.path, value)

            def receive(index: int, gradient: Any) -> None:
                name = outputs[index][0]
                if any(one in known.output_gradients for one in needed(name)):
                    received[inner.path, name, ordinal(inner)] = gradient

            gradients = [
                made(inner.path, "input", Slot(name, tensor.dtype), known.input_gradients)
                if any(one in known.input_gradients for one in needed(name))
                else None
                for name, tensor in tensors.items()
            ]
            values = [tensor for _, tensor in outputs]
            for name, tensor in outputs:  # a part of a stack that is not used has zeros
                if whole(name) is not None:
                    received[inner.path, name, ordinal(inner)] = 0 * tensor
            copies = self._linked(list(tensors.values()), values, gradients, receive)
            named = {name: copy for (name, _), copy in zip(outputs, copies, strict=True)}
            return fill(template, lambda slot: named[slot.name])

        def leaf(slot: Slot) -> Any:
            wanted = any(one in alone.around.input_gradients for one in needed(slot.name))
            leaf = made(call.path, "input", slot, alone.around.inputs, wanted)
            if wanted:
                leaves[slot.name] = leaf
            return leaf

        watch = self._gradient_watch(replace=result)
        watch.stand_in = stand_in
        watch.resume(call)
        lacking = {
            name: None
            for name, part in call.arguments.values.items()
            if isinstance(part, Slot)
            and part.name
            and not set(needed(part.name)) <= set(alone.around.inputs)
        }
        args, kwargs = call.arguments.build(leaf, **lacking)
        value = self._run(watch, self.modules[call.path], args, kwargs)
        _, outputs = results(call.path, value)
        passed = alone.around.output_gradients
        pairs = [
            (tensor, made(call.path, "output", Slot(name, tensor.dtype), passed))
            for name, tensor in outputs
            if any(one in passed for one in needed(name))
        ]
        return leaves, pairs, received

    def _taps(
        self,
        call: Call,
        leaves: Mapping[str, np.ndarray | None],
        parameters: Mapping[str, np.ndarray | None],
        received: Received,
    ) -> dict[str, Tap]:
        """Taps of an isolated run by key; gradients that are None are left out."""
        found: dict[str, Tap] = {}
        put = self.viewed(lambda seen: found.update({seen.key: seen}))
        for name, array in leaves.items():
            if array is not None:
                axes = self.axes(call.path, "input", name, array.ndim)
                put(Tap(call.path, "grad_input", name, 0, axes, array))
        for name, array in parameters.items():
            if array is not None:
                tap = parameter_tap(name, array)
                found[tap.key] = tap
        for (path, name, number), array in received.items():
            axes = self.axes(path, "output", name, array.ndim)
            put(Tap(path, "grad_output", name, number, axes, array))
        return found


def _whole(name: str, taps: Arrays) -> Arrays:
    """The reference's taps that a tensor called `name` is made of; a gradient that one of several
    has not is zero."""
    known = {one: taps[one] for one in needed(name) if one in taps}
    like = next(iter(known.values()))
    return {
        one: known[one] if one in known else replace(like, name=one, array=0 * like.array)
        for one in needed(name)
    }


def _argument_slots(call: Call) -> list[Slot]:
    return [slot for part in call.arguments.values.values() for slot in slots(part)]


def _results(call: Call) -> list[Slot]:
    return slots(call.results)


def _key(call: Call, kind: str, name: str) -> str:
    return tap_key(call.path, kind, name, call.call)


def _report(path: str, judged: _Judged) -> Localisation | None:
    """The localisation of one module whose isolated gradients differ, or None."""
    verdicts = {
        key: gradient_verdict(key.partition("#")[0], gap, judged.floors[key])
        for key, gap in judged.gaps.items()
    }
    wrong = [verdict for verdict in verdicts.values() if verdict.fails]
    if not wrong:
        return None
    first = wrong[0]
    own = judged.leaf or any(":param_grad" in verdict.key for verdict in wrong)
    if first.problem is not None:
        head = f"{first.key} {first.problem}"
    else:
        limit = first.threshold.value / first.threshold.floor
        head = (
            f"backward pass: {first.key} is off by {first.value:.2g} ({first.metric}), "
            f"{first.ratio:.2g}x the reference's rounding error, limit {limit:.3g}x"
        )
    facts = "it was given the reference's inputs and output gradients"
    detail = f"{first.detail}; {facts}" if first.detail else facts
    text = f"{shown(path)}: {head} [float64]\n  {detail}"
    kind = "own" if own else "wiring"
    causes = (judged.causes.get(place) for place in judged.gaps if verdicts[place].fails)
    cause = next((one for one in causes if one is not None), None)
    return Localisation(shown(path), kind, first.key, text, cause, tuple(verdicts.values()))

"""Gradients of a model that computes with JAX, between its modules and of its variables.

Every tensor of which the gradient is asked for has a zero added; the function is differentiated by
these zeros and by the variables at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity import calls
from parity.calls import Call, Sink, fill, flatten
from parity.frameworks.jax.capture import is_tensor, to_array, to_tensors
from parity.frameworks.jax.precision import is_float
from parity.gradients import (
    GradientWatch,
    Isolated,
    IsolatedRun,
    Parameters,
    Received,
    by_key,
    holders,
    parameter_tap,
    terms_of,
)
from parity.masks import Masks
from parity.names import Naming
from parity.provenance import provenance
from parity.trace import Axes, Tap, Trace

_Place = tuple[Call, str, str, str, int]


class _Zeros:
    """The zeros that are added to tensors, in order; in a first run it is seen how many there are.

    A tensor that has one keeps it wherever it is met again.
    """

    def __init__(self, values: list[Any] | None = None) -> None:
        self.shapes: list[Any] = []
        self._values = values
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []

    def number(self, tensor: Any) -> int | None:
        """Which zero a tensor has."""
        return self._met.get(id(tensor))

    def add(self, tensor: Any) -> Any:
        """The tensor with a zero of its own."""
        number = len(self.shapes)
        self.shapes.append(jax.ShapeDtypeStruct(tensor.shape, tensor.dtype))
        zero = jnp.zeros((), tensor.dtype) if self._values is None else self._values[number]
        return self._known(tensor + zero, number)

    def of(self, tensor: Any) -> int:
        """The zero of a tensor; one that has none gets one without influence."""
        if self.number(tensor) is None:
            self._known(tensor, len(self.shapes))
            self.shapes.append(jax.ShapeDtypeStruct(tensor.shape, tensor.dtype))
        return self._met[id(tensor)]

    def _known(self, tensor: Any, number: int) -> Any:
        self._alive.append(tensor)
        self._met[id(tensor)] = number
        return tensor


class Gradients(IsolatedRun):
    """What makes a recorder of `parity.frameworks.jax` one of gradients; comes before it.

    Args:
        model, axes, execution, masks, naming: as of the recorder.
        loss: loss(outputs) is the scalar that is differentiated, or the terms by name whose sum is.
        parameters: what gives the arrays of the variables that hold a tensor of the reference, by
            its key, with what makes of their gradients that of the tensor.
    """

    def __init__(
        self,
        model: Any,
        axes: Axes,
        loss: Callable[[Any], Any],
        parameters: Parameters,
        execution: str = "eager",
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        super().__init__(model, axes, execution, masks=masks, naming=naming)
        self.loss = loss
        self.parameters = parameters
        self.terms: dict[str, float] = {}
        self._zeros = _Zeros()
        self._held: Any = None
        self._passed: list[Any] = []
        self._receivers: list[tuple[Callable, int, int]] = []

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[float, Trace]:
        """The loss, whose `terms` are kept, and the trace of gradients, last module first.

        Variables that have no influence on the loss have no gradient. `sink` receives the taps in
        place of the trace.
        """
        self.modules_of(inputs)
        template, tensors = flatten(to_tensors(inputs), is_tensor)
        places: list[_Place] = []

        def run(state: Any, zeros: list[Any] | None, given: list[Any]) -> Any:
            named = dict(zip((name for name, _ in tensors), given, strict=True))
            args, kwargs = calls.split_inputs(fill(template, lambda slot: named[slot.name]))
            places.clear()
            self._zeros, self._held = _Zeros(zeros), state

            def emit(call: Call, kind: str, name: str, tensor: Any) -> None:
                if is_float(tensor.dtype):
                    axes = self.axes(call.path, kind, name, tensor.ndim)
                    places.append((call, kind, name, axes, self._zeros.of(tensor)))

            watch = self._gradient_watch(emit)
            watch.own = lambda tensor: self._zeros.add(tensor) if is_float(tensor.dtype) else tensor
            outputs = self._run(watch, self.model, args, kwargs)
            self.calls, self.drawn = watch.calls, watch.drawn
            terms = terms_of(self.loss(outputs))
            return sum(terms.values()), {name: jnp.asarray(term) for name, term in terms.items()}

        arguments = [tensor for _, tensor in tensors]
        terms, found, own = self._differentiated(run, self.parameters, arguments)
        self.terms = {name: float(term) for name, term in terms.items()}
        trace = Trace(provenance=provenance(framework="jax", execution=self.execution))
        viewed = self.viewed(sink or trace.add)
        for call, kind, name, axes, number in reversed(places):
            array = to_array(found[number])
            viewed(Tap(call.path, f"grad_{kind}", name, call.call, axes, array))
        for key, gradient in own.items():
            if gradient is not None:
                (sink or trace.add)(parameter_tap(key, gradient))
        return sum(self.terms.values()), trace

    def isolate_gradients(self, alone: Isolated, call: Call) -> dict[str, Tap]:
        """What one call passes back, alone, by key; see `parity.gradients.backward_places`."""
        held = {key: self.parameters[key] for key in alone.parameters if key in self.parameters}
        leaves: dict[str, int] = {}
        heard: Received = {}

        def run(state: Any, zeros: list[Any] | None, given: list[Any]) -> Any:
            self._zeros, self._held, self._passed, self._receivers = _Zeros(zeros), state, [], []
            nonlocal heard
            needed, pairs, heard = self._run_alone(alone, call)
            leaves.update({name: self._zeros.number(leaf) for name, leaf in needed.items()})
            total = [jnp.vdot(tensor, gradient) for tensor, gradient in pairs]
            return sum([*total, *self._passed], start=jnp.zeros(())), {}

        _, found, own = self._differentiated(run, held, [])
        for receive, index, number in self._receivers:
            receive(index, found[number])
        return self._taps(
            call,
            {name: to_array(found[number]) for name, number in leaves.items()},
            own,
            {place: to_array(gradient) for place, gradient in heard.items()},
        )

    def _differentiated(
        self, run: Callable, parameters: Parameters, arguments: list[Any]
    ) -> tuple[dict[str, Any], list[Any], dict[str, np.ndarray | None]]:
        """The terms of what `run` computes, and its gradients: by each zero, and by key those of
        the tensors of the reference, None where what holds one has no influence on it."""
        self._held = None
        leaves, tree = jax.tree.flatten(self._state())
        places = {
            name: next(i for i, leaf in enumerate(leaves) if leaf is read())
            for name, read in holders(parameters).items()
        }
        index = list(dict.fromkeys(places.values()))  # one may hold several tensors
        jax.eval_shape(lambda given: run(jax.tree.unflatten(tree, leaves), None, given), arguments)
        shapes = list(self._zeros.shapes)

        def all_of(leaves: list[Any], given: list[Any], one: Any) -> Any:
            def of(chosen: list[Any], zeros: list[Any]) -> Any:
                held = list(leaves)
                for at, value in zip(index, chosen, strict=True):
                    held[at] = value
                return run(jax.tree.unflatten(tree, held), zeros, given)

            chosen = [leaves[at] for at in index]
            zeros = [jnp.zeros(one.shape, one.dtype) for one in shapes]
            total, back, terms = jax.vjp(of, chosen, zeros, has_aux=True)
            return terms, *back(one.astype(total.dtype))

        try:
            everything = (leaves, arguments, jnp.ones(()))
            closed, shape = jax.make_jaxpr(all_of, return_shape=True)(*everything)
        finally:
            self._held = None
        evaluate = partial(jax.core.eval_jaxpr, closed.jaxpr, closed.consts)
        if self.execution == "jit":
            evaluate = jax.jit(evaluate)
        found = evaluate(*jax.tree.leaves(everything))
        terms, own, zeros = jax.tree.unflatten(jax.tree.structure(shape), found)
        moved = jax.tree.unflatten(jax.tree.structure(shape), _dependent(closed.jaxpr))[1]
        known = {at: to_array(one) for at, one, used in zip(index, own, moved, strict=True) if used}
        by_name = {name: known.get(at) for name, at in places.items()}
        return terms, zeros, by_key(parameters, by_name, lambda read: read().shape)

    def _run(self, watch: Any, module: Any, args: tuple, kwargs: dict) -> Any:
        with self._masked(watch):
            state = self._state() if self._held is None else self._held
            return self._applied(watch, state, module, args, kwargs)

    def _gradient_watch(
        self, emit: Callable = lambda *tap: None, replace: Callable = lambda call: None
    ) -> GradientWatch:
        return GradientWatch(
            self._paths,
            is_tensor,
            self.call_signature,
            emit,
            replace,
            self.is_symbolic,
            naming=self.naming,
        )

    def _leaf(self, array: np.ndarray, dtype: Any, needed: bool) -> jax.Array:
        tensor = jnp.asarray(array, dtype)
        return self._zeros.add(tensor) if needed else tensor

    def _linked(self, inputs: list, outputs: list, gradients: list, receive: Callable) -> list:
        self._passed += [
            jnp.vdot(tensor, gradient)
            for tensor, gradient in zip(inputs, gradients, strict=True)
            if gradient is not None
        ]
        linked = []
        for index, output in enumerate(outputs):
            if is_float(output.dtype):
                output = self._zeros.add(output)
                self._receivers.append((receive, index, self._zeros.number(output)))
            linked.append(output)
        return linked


def _dependent(jaxpr: Any) -> list[bool]:
    """Which results of a program depend on the last of what it is given."""
    met = {id(jaxpr.invars[-1])}
    for equation in jaxpr.eqns:
        if any(id(one) in met for one in equation.invars):
            met |= set(map(id, equation.outvars))
    return [id(one) in met for one in jaxpr.outvars]

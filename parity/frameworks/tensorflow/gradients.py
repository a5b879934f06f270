"""Gradients of a TensorFlow model between its layers and of its variables."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from parity import calls
from parity.calls import Call, Sink, fill, flatten, whole
from parity.frameworks.tensorflow import capture as capture_tf
from parity.gradients import (
    GradientWatch,
    Isolated,
    IsolatedRun,
    Parameters,
    by_key,
    holders,
    parameter_tap,
    terms_of,
)
from parity.masks import Masks
from parity.names import Naming
from parity.provenance import provenance
from parity.trace import Axes, Tap, Trace

_Place = tuple[str, str, str, int, str]


class GradientRecorder(IsolatedRun, capture_tf.Recorder):
    """Runs a TensorFlow model forward and backward, and records its gradients as taps.

    The gradients are results of the same function as the loss, eager, as a graph or under XLA.

    Args:
        model: a tf_keras layer or model that is built.
        axes: axes(path, kind, name, rank) gives the axis names of an activation's gradient.
        loss: loss(outputs) is the scalar that is differentiated, or the terms by name whose sum is.
        parameters: the trainable variables that hold a tensor of the reference, by its key, with
            what makes of their gradients that of the tensor.
        execution: `eager`, `graph` or `xla`.
        masks: the dropout masks; by default the framework draws its own.
        naming: which modules and tensors are recorded, and under which names; by default all but
            those in private attributes, under their own.
    """

    def __init__(
        self,
        model: tf.Module,
        axes: Axes,
        loss: Callable[[Any], tf.Tensor],
        parameters: Parameters,
        execution: str = "eager",
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        super().__init__(model, axes, execution, masks=masks, naming=naming)
        self.loss = loss
        self.parameters = parameters
        self.terms: dict[str, float] = {}
        self._tape: tf.GradientTape | None = None
        self._seeds: list[tf.Tensor] = []
        self._functions: dict[Any, tuple[Any, list]] = {}

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[float, Trace]:
        """The loss, whose `terms` are kept, and the trace of gradients, last module first.

        Tensors on which no variable has an influence, or which have none on the loss, have no
        gradient. `sink` receives the taps in place of the trace, in eager execution each when it is
        computed.
        """
        self.modules_of(inputs)
        template, tensors = flatten(capture_tf.to_tensors(inputs), tf.is_tensor)
        names = [name for name, _ in tensors]
        arguments = [tensor for _, tensor in tensors]
        key = (repr(template), *((tuple(t.shape), t.dtype) for t in arguments))
        trace = Trace(provenance=provenance(framework="tensorflow", execution=self.execution))
        viewed = self.viewed(sink or trace.add)
        if self.execution == "eager":
            places: list[_Place | str] = []
            terms, found = self._differentiate(template, names, arguments, places, viewed)
        else:
            if key not in self._functions:
                places = []
                function = tf.function(
                    lambda *given: self._differentiate(template, names, given, places),
                    autograph=False,
                    jit_compile=self.execution == "xla",
                )
                self._functions[key] = (function, places)
            function, places = self._functions[key]
            terms, found = function(*arguments)
        self.terms = {name: float(term) for name, term in terms.items()}
        held: dict[str, np.ndarray] = {}
        for place, gradient in zip(places, found, strict=True):
            array = capture_tf.to_array(gradient)
            if isinstance(place, str):
                held[place] = array
            else:
                viewed(Tap(*place, array))
        for key, gradient in by_key(self.parameters, held).items():
            if gradient is not None:
                (sink or trace.add)(parameter_tap(key, gradient))
        return sum(self.terms.values()), trace

    def _differentiate(
        self,
        template: Any,
        names: list[str],
        arguments: Any,
        places: list,
        hand: Callable[[Tap], None] | None = None,
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """The terms of the loss and all gradients; `places` receives where each belongs.

        With `hand`, which an eager run alone can have, it is given those of tensors between modules
        one by one, so that no more than one is in memory; returned are those of variables.
        """
        given = dict(zip(names, arguments, strict=True))
        args, kwargs = calls.split_inputs(fill(template, lambda slot: given[slot.name]))
        met: list[tuple[_Place, tf.Tensor]] = []
        heard = None if hand is None else _Heard(hand)

        def emit(call: Call, kind: str, name: str, tensor: Any) -> None:
            if tensor.dtype.is_floating:
                axes = self.axes(call.path, kind, name, tensor.shape.rank)
                place = (call.path, f"grad_{kind}", name, call.call, axes)
                if heard is None or not heard.expects(place, tensor):
                    met.append((place, tensor))

        watch = self._gradient_watch(emit)
        if heard is not None:
            watch.own = heard.own
        with tf.GradientTape() as tape:
            terms = terms_of(self.loss(self._run(watch, self.model, args, kwargs)))
            total = tf.add_n(list(terms.values()))
        self.calls, self.drawn = watch.calls, watch.drawn
        met.reverse()
        variables = holders(self.parameters)
        found = tape.gradient(total, [*(tensor for _, tensor in met), *variables.values()])
        places.clear()
        kept = []
        for (place, tensor), gradient in zip(met, found, strict=False):
            if gradient is None and whole(place[2]) is not None:  # the stack has zeros there
                gradient = tf.zeros_like(tensor)
            if gradient is not None:
                places.append(place)
                kept.append(tf.convert_to_tensor(gradient))
        if heard is not None:
            heard.end()
        for key, gradient in zip(variables, found[len(met) :], strict=True):
            if gradient is not None:
                places.append(key)
                kept.append(tf.convert_to_tensor(gradient))
        return terms, kept

    def isolate_gradients(self, alone: Isolated, call: Call) -> dict[str, Tap]:
        """What one call passes back, alone, by key; see `parity.gradients.backward_places`."""
        self._seeds = []
        own = {name: self.parameters[name] for name in alone.parameters if name in self.parameters}
        with tf.GradientTape() as self._tape:
            leaves, pairs, received = self._run_alone(alone, call)
        variables = holders(own)
        found = self._tape.gradient(
            [tensor for tensor, _ in pairs],
            [*leaves.values(), *variables.values(), *self._seeds],
            output_gradients=[gradient for _, gradient in pairs],
        )
        self._tape = None
        arrays = [None if gradient is None else capture_tf.to_array(gradient) for gradient in found]
        return self._taps(
            call,
            dict(zip(leaves, arrays, strict=False)),
            by_key(own, dict(zip(variables, arrays[len(leaves) :], strict=False))),
            {place: capture_tf.to_array(gradient) for place, gradient in received.items()},
        )

    def _gradient_watch(
        self, emit: Callable = lambda *tap: None, replace: Callable = lambda call: None
    ) -> GradientWatch:
        return GradientWatch(
            self._paths,
            capture_tf.is_tensor,
            self.call_signature,
            emit,
            replace,
            self.is_symbolic,
            naming=self.naming,
            own=_own,
        )

    def _leaf(self, array: np.ndarray, dtype: Any, needed: bool) -> tf.Tensor:
        tensor = tf.constant(array)
        tensor = tensor if dtype in (None, tensor.dtype) else tf.cast(tensor, dtype)
        if needed:
            self._tape.watch(tensor)
        return tensor

    def _linked(self, inputs: list, outputs: list, gradients: list, receive: Callable) -> list:
        # A tensor of its own makes the stand-in part of the tape whatever it is given.
        seed = tf.zeros((), tf.float64)
        self._tape.watch(seed)
        self._seeds.append(seed)

        @tf.custom_gradient
        def stand_in(seed: tf.Tensor, *tensors: tf.Tensor) -> tuple[list[tf.Tensor], Callable]:
            def backward(*received: tf.Tensor) -> tuple:
                for index, gradient in enumerate(received):
                    receive(index, gradient)
                return (tf.zeros_like(seed), *gradients)

            return [tf.identity(output) for output in outputs], backward

        return stand_in(seed, *inputs)


class _Heard:
    """Tensors of an eager run that hand their gradients on as soon as these are computed."""

    def __init__(self, hand: Callable[[Tap], None]) -> None:
        self._hand = hand
        self._owned: dict[int, tuple[weakref.ref, list[_Place]]] = {}
        self._parts: dict[_Place, tuple[Any, Any]] = {}

    def own(self, tensor: Any) -> Any:
        """The tensor as one of its own, which hands its gradient on."""
        if not tensor.dtype.is_floating:
            return tensor
        places: list[_Place] = []

        @tf.custom_gradient
        def owned(tensor: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            def backward(gradient: tf.Tensor) -> tf.Tensor:
                for place in places:
                    self._parts.pop(place, None)
                    self._hand(Tap(*place, capture_tf.to_array(gradient)))
                return gradient

            return tf.identity(tensor), backward

        found = owned(tf.convert_to_tensor(tensor))
        self._owned[id(found)] = weakref.ref(found), places
        return found

    def expects(self, place: _Place, tensor: Any) -> bool:
        """Whether the tensor is one that hands its gradient on, which it then does for `place`."""
        known, places = self._owned.get(id(tensor), (None, []))
        if known is None or known() is not tensor:
            return False
        places.append(place)
        if whole(place[2]) is not None:
            self._parts[place] = tensor.shape, tensor.dtype
        return True

    def end(self) -> None:
        """Hands zeros on for parts of stacks that have no gradient, since the others have one."""
        for place, (shape, dtype) in self._parts.items():
            self._hand(Tap(*place, np.zeros(shape, dtype.as_numpy_dtype)))


def _own(tensor: Any) -> Any:
    return tf.identity(tensor) if tensor.dtype.is_floating else tensor

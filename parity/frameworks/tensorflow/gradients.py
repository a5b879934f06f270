"""Gradients of a TensorFlow model between its layers and of its variables."""

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
        gradient. `sink` receives the taps in place of the trace.
        """
        self.modules_of(inputs)
        template, tensors = flatten(capture_tf.to_tensors(inputs), tf.is_tensor)
        names = [name for name, _ in tensors]
        arguments = [tensor for _, tensor in tensors]
        key = (repr(template), *((tuple(t.shape), t.dtype) for t in arguments))
        if self.execution == "eager":
            places: list[_Place | str] = []
            terms, found = self._differentiate(template, names, arguments, places)
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
        trace = Trace(provenance=provenance(framework="tensorflow", execution=self.execution))
        viewed = self.viewed(sink or trace.add)
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
        self, template: Any, names: list[str], arguments: Any, places: list
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """The terms of the loss and all gradients; `places` receives where each belongs."""
        given = dict(zip(names, arguments, strict=True))
        args, kwargs = calls.split_inputs(fill(template, lambda slot: given[slot.name]))
        met: list[tuple[Call, str, str, tf.Tensor]] = []

        def emit(call: Call, kind: str, name: str, tensor: Any) -> None:
            if tensor.dtype.is_floating:
                met.append((call, kind, name, tensor))

        watch = self._gradient_watch(emit)
        with tf.GradientTape() as tape:
            terms = terms_of(self.loss(self._run(watch, self.model, args, kwargs)))
            total = tf.add_n(list(terms.values()))
        self.calls, self.drawn = watch.calls, watch.drawn
        met.reverse()
        variables = holders(self.parameters)
        found = tape.gradient(total, [*(tensor for *_, tensor in met), *variables.values()])
        places.clear()
        kept = []
        for (call, kind, name, tensor), gradient in zip(met, found, strict=False):
            if gradient is None and whole(name) is not None:  # the stack has zeros there
                gradient = tf.zeros_like(tensor)
            if gradient is not None:
                axes = self.axes(call.path, kind, name, tensor.shape.rank)
                places.append((call.path, f"grad_{kind}", name, call.call, axes))
                kept.append(tf.convert_to_tensor(gradient))
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


def _own(tensor: Any) -> Any:
    return tf.identity(tensor) if tensor.dtype.is_floating else tensor

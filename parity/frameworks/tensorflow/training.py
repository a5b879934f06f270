"""One training step of a TensorFlow model; see `parity.frameworks.framework.Trainer`."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from parity.calls import each_array, fill, flatten, is_array
from parity.frameworks.tensorflow.capture import to_array
from parity.frameworks.tensorflow.gradients import GradientRecorder as GradientRecorder
from parity.frameworks.tensorflow.modules import call_signature
from parity.frameworks.tensorflow.weights import variables
from parity.gradients import terms_of


def trained(model: tf.Module) -> dict[str, tf.Variable]:
    """Every trainable float variable by the path of attributes that leads to it."""
    wanted = {id(variable) for variable in model.trainable_variables}
    return {path: one.tensor for path, one in variables(model).items() if id(one.tensor) in wanted}


@contextmanager
def training(model: tf.Module, inputs: tuple | dict) -> Iterator[tuple | dict]:
    """Inside it layers that are called without saying so train; and the inputs say so."""
    keras = sys.modules.get("tf_keras")
    scope: Any = nullcontext()
    if keras is not None:
        from tf_keras.src import backend

        scope = backend.deprecated_internal_learning_phase_scope(1)
    signature = call_signature(model)
    if "training" in signature.parameters:
        bound = inspect.BoundArguments(signature, {})
        bound = signature.bind_partial(*inputs) if isinstance(inputs, tuple) else bound
        given = inputs if isinstance(inputs, dict) else dict(bound.arguments)
        inputs = {**given, "training": True}
    with scope:
        yield inputs


def differentiated(
    loss: Callable[..., Any], outputs: Any, targets: tuple, execution: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The terms of the loss, and the gradient of their sum by each float output."""
    template, arrays = flatten(outputs, is_array, records=True)
    names = [name for name, _ in arrays]

    def run(*given: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        leaves = dict(zip(names, given, strict=False))
        wanted = {name: leaf for name, leaf in leaves.items() if leaf.dtype.is_floating}
        with tf.GradientTape() as tape:
            tape.watch(list(wanted.values()))
            filled = fill(template, lambda slot: leaves[slot.name])
            terms = terms_of(loss(filled, *given[len(names) :]))
            total = tf.add_n(list(terms.values()))
        found = tape.gradient(total, wanted)
        return terms, {
            name: tf.convert_to_tensor(gradient)
            for name, gradient in found.items()
            if gradient is not None
        }

    function: Any = run
    if execution != "eager":
        function = tf.function(run, autograph=False, jit_compile=execution == "xla")
    terms, gradients = function(*(tf.constant(array) for _, array in arrays), *map(tensor, targets))
    return (
        {name: np.asarray(float(term)) for name, term in terms.items()},
        {name: to_array(gradient) for name, gradient in gradients.items()},
    )


def tensor(value: Any) -> Any:
    """A structure with tensors in place of its arrays."""
    return each_array(value, tf.constant)


def optimizer(make: Callable[[Any], Any], model: tf.Module) -> Any:
    """What `make` makes of the model, built for its trainable variables."""
    made = make(model)
    if hasattr(made, "build"):
        made.build(list(trained(model).values()))
    return made


def update(
    optimizer: Any,
    model: tf.Module,
    gradients: Mapping[str, np.ndarray | None],
    execution: str = "eager",
) -> dict[str, np.ndarray]:
    """One update by gradients by path, None for a variable that has none; what clipping leaves
    cannot be seen."""
    variables = {
        path: one for path, one in trained(model).items() if gradients.get(path) is not None
    }

    def apply(*given: tf.Tensor) -> None:
        optimizer.apply_gradients(list(zip(given, variables.values(), strict=True)))

    if execution != "eager":
        apply = tf.function(apply, autograph=False, jit_compile=execution == "xla")
    apply(*(tf.constant(gradients[path], one.dtype) for path, one in variables.items()))
    return {}


def arrive(optimizer: Any, step: int) -> None:
    """As after `step` updates, whose moments are those that it holds."""
    optimizer.iterations.assign(step)


def rates(optimizer: Any, step: int) -> list[float] | None:
    """The learning rate at `step`: of a schedule, which Keras asks for it, or of the optimizer."""
    rate = getattr(optimizer, "_learning_rate", None)
    if rate is None:  # what Keras had before has it among its hyperparameters
        rate = getattr(optimizer, "_hyper", {}).get("learning_rate")
    if rate is None:
        return None
    if callable(rate):
        return [float(rate(tf.constant(step, tf.int64)))]
    return [float(optimizer.learning_rate)]


def recipe(optimizer: Any, model: tf.Module) -> None:
    """Not told: mistakes are made in the rule of a PyTorch optimizer."""

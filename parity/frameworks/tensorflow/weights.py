"""The float variables of a TensorFlow model: whose they are, what they are called, how laid out."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from parity.frameworks.tensorflow.modules import named_modules
from parity.weights import CONVOLUTIONS, LINEAR, SAME, Layout, Variable, depthwise

NAMES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "embeddings": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def variables(model: tf.Module) -> dict[str, Variable]:
    """Every float variable by the path of attributes that leads to it; the model must be built.

    One that no attribute leads to has its own name and no owner.
    """
    met: set[int] = set()
    found = {}
    for path, module in named_modules(model, private=True).items():
        for name, value in vars(module).items():
            for last, variable in _of_attribute(name, value):
                if id(variable) not in met and variable.dtype.is_floating:
                    met.add(id(variable))
                    called = last.rpartition(".")[2]
                    found[f"{path}.{last}" if path else last] = _variable(
                        variable, path, NAMES.get(called, called), _layout(module, variable)
                    )
    for variable in model.variables:
        if id(variable) not in met and variable.dtype.is_floating:
            met.add(id(variable))
            found[variable.name] = _variable(variable, None, variable.name, SAME)
    return found


def _variable(variable: tf.Variable, owner: str | None, name: str, layout: Layout) -> Variable:
    def assign(array: np.ndarray) -> None:
        variable.assign(array.astype(variable.dtype.name))

    return Variable(owner, name, layout, tuple(variable.shape), variable.numpy, assign, variable)


def _of_attribute(name: str, value: Any) -> Iterator[tuple[str, tf.Variable]]:
    if isinstance(value, tf.Variable):
        yield name, value
    elif isinstance(value, list | tuple) and not name.startswith("_"):
        for index, one in enumerate(value):
            if isinstance(one, tf.Variable):
                yield f"{name}.{index}", one


def _layout(owner: tf.Module, variable: tf.Variable) -> Layout:
    """The layout that the kind of layer gives a variable; other layers hold it as it is."""
    keras = sys.modules.get("tf_keras")
    rank = len(variable.shape)
    if keras is None:
        return SAME
    if variable is getattr(owner, "depthwise_kernel", None):
        return depthwise(variable.shape[-1])
    if variable is not getattr(owner, "kernel", None):
        return SAME
    layers = keras.layers
    if isinstance(owner, layers.Dense) or (isinstance(owner, layers.EinsumDense) and rank == 2):
        return LINEAR
    # Those that run the other way round are among them: [in, out, ...] becomes [..., out, in].
    if isinstance(owner, layers.Conv1D | layers.Conv2D | layers.Conv3D):
        return CONVOLUTIONS[rank]
    return SAME

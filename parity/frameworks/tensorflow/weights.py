"""The float variables of a TensorFlow model: whose they are, what they are called, how laid out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from parity.frameworks.tensorflow.modules import named_modules
from parity.weights import SAME, Layout, Variable, layout_of

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
                        variable, path, NAMES.get(called, called), _layout(module, called, variable)
                    )
    for variable in model.variables:
        if id(variable) not in met and variable.dtype.is_floating:
            met.add(id(variable))
            found[variable.name] = _variable(variable, None, variable.name, SAME)
    return found


def _variable(variable: tf.Variable, owner: str | None, name: str, layout: Layout) -> Variable:
    def assign(array: np.ndarray) -> None:
        variable.assign(array.astype(variable.dtype.name))

    return Variable(owner, name, layout, tuple(variable.shape), variable.numpy, assign)


def _of_attribute(name: str, value: Any) -> Iterator[tuple[str, tf.Variable]]:
    if isinstance(value, tf.Variable):
        yield name, value
    elif isinstance(value, list | tuple) and not name.startswith("_"):
        for index, one in enumerate(value):
            if isinstance(one, tf.Variable):
                yield f"{name}.{index}", one


def _layout(owner: tf.Module, name: str, variable: tf.Variable) -> Layout:
    """The layout that the kind of layer gives a variable; other layers hold it as it is."""
    kinds = {one.__name__ for one in type(owner).__mro__}
    return layout_of(kinds, name, variable.shape, _summed(getattr(owner, "equation", None)))


def _summed(equation: str | None) -> int:
    """How many axes of its kernel an `EinsumDense` sums over."""
    if not equation:
        return 1
    given, result = equation.split("->")
    return sum(axis not in result for axis in given.split(",")[1])

"""The float variables of a TensorFlow model: whose they are, what they are called, how laid out."""

from typing import Any

import numpy as np
import tensorflow as tf

from parity.frameworks.shared.layers import NAMES, layout_of, variables_in
from parity.frameworks.tensorflow.modules import named_modules
from parity.weights import SAME, Layout, Variable


def variables(model: tf.Module) -> dict[str, Variable]:
    """Every float variable by the path of attributes that leads to it; the model must be built.

    One that no attribute leads to has its own name and no owner.
    """
    met: set[int] = set()
    found = {}
    for path, module in named_modules(model, private=True).items():
        for name, value in vars(module).items():
            for last, variable in variables_in(name, value, _is_variable):
                if id(variable) not in met and variable.dtype.is_floating:
                    met.add(id(variable))
                    called = last.rpartition(".")[2]
                    found[f"{path}.{last}" if path else last] = _variable(
                        variable,
                        path,
                        NAMES.get(called, called),
                        layout_of(module, called, tuple(variable.shape)),
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


def _is_variable(value: Any) -> bool:
    return isinstance(value, tf.Variable)

"""The float variables of a Keras 3 model: whose they are, what they are called, how laid out."""

from typing import Any

import keras
import numpy as np

from parity.frameworks.keras.modules import attributes, named_modules
from parity.frameworks.keras.precision import computing_in
from parity.frameworks.shared.layers import NAMES, layout_of, variables_in
from parity.weights import SAME, Layout, Variable


def variables(model: keras.Layer) -> dict[str, Variable]:
    """Every float variable by the path of attributes that leads to it; the model must be built.

    What Keras keeps in `_kernel` and shows as `kernel` is called so. One that no attribute leads to
    has its own path and no owner.
    """
    met: set[int] = set()
    found = {}
    for path, layer in named_modules(model, private=True).items():
        for name, value in attributes(layer).items():
            for inner, variable in variables_in(name, value, _is_variable):
                if id(variable) not in met and is_float(variable):
                    met.add(id(variable))
                    last = _shown(layer, inner)
                    key = f"{path}.{last}" if path else last
                    called = last.rpartition(".")[2]
                    layout = layout_of(layer, called, tuple(variable.shape))
                    found[key] = _variable(variable, path, NAMES.get(called, called), layout)
    for variable in model.variables:
        if id(variable) not in met and is_float(variable):
            met.add(id(variable))
            found[variable.path] = _variable(variable, None, variable.name, SAME)
    return found


def is_float(variable: keras.Variable) -> bool:
    """Whether a variable holds floats; its dtype is a string."""
    return "float" in variable.dtype


def _is_variable(value: Any) -> bool:
    return isinstance(value, keras.Variable)


def _shown(layer: keras.Layer, name: str) -> str:
    public = name.removeprefix("_")
    return public if isinstance(getattr(type(layer), public, None), property) else name


def _variable(variable: keras.Variable, owner: str | None, name: str, layout: Layout) -> Variable:
    def read() -> np.ndarray:
        array = keras.ops.convert_to_numpy(variable.value)
        return array.astype(np.float32) if variable.dtype == "bfloat16" else array

    def assign(array: np.ndarray) -> None:
        with computing_in(variable.dtype):
            variable.assign(array.astype(np.float64))

    return Variable(owner, name, layout, tuple(variable.shape), read, assign, variable)

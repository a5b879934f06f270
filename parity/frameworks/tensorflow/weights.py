"""Gives a TensorFlow port the reference's weights: each tensor once, each variable once."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from parity.errors import InputError
from parity.frameworks.tensorflow.modules import named_modules
from parity.names import Names, filled, matched
from parity.weights import CONVOLUTIONS, LINEAR, SAME, Layout, Weights, depthwise

NAMES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "embeddings": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
SHOWN = 6  # names listed in a message


@dataclass(frozen=True)
class Held:
    """One tensor of the reference, the variable of the port that holds it, and how."""

    key: str
    path: str
    variable: tf.Variable
    layout: Layout

    def assign(self, array: np.ndarray) -> None:
        """Give the variable the reference's array, cast to the variable's dtype."""
        self.variable.assign(self.layout.to_port(array).astype(self.variable.dtype.name))

    def returned(self, dtype: Any) -> np.ndarray:
        """The variable's value as the reference has it, in `dtype`."""
        return np.ascontiguousarray(self.layout.to_reference(self.variable.numpy()).astype(dtype))


def load(
    model: tf.Module,
    state: Mapping[str, np.ndarray],
    names: Names,
    weights: Weights,
) -> list[Held]:
    """Give the port, which must be built, all of `state`; nothing is assigned unless all fits.

    Args:
        model: the port; its layers are paired with the reference's modules by `names`.
        state: the reference's tensors by key, as in its state dict.
        names: the declared map of modules.
        weights: what does not follow from the pairs of layers.
    Returns: what was assigned, in the order of `state`.
    Raises: InputError that lists every tensor without a variable, every variable without a tensor,
        and those that do not fit.
    """
    variables = dict(_variables(model))
    held, problems = _paired(variables, state, _declared(variables, model, names, weights), weights)
    for one in held:
        wanted, given = tuple(one.variable.shape), one.layout.to_port(state[one.key]).shape
        if wanted != given:
            problems.append(
                f"{one.key} {list(state[one.key].shape)} would be {list(given)} in the port, but "
                f"{one.path} is {list(wanted)}"
            )
    if problems:
        shown = problems[:SHOWN]
        if len(problems) > SHOWN:
            shown.append(f"and {len(problems) - SHOWN} more")
        raise InputError(
            f"the weights of the two models do not match: {len(problems)} places",
            *shown,
            "declare them in `Weights`: variables, layouts, reference_only or port_only",
        )
    for one in held:
        one.assign(state[one.key])
    return held


def _variables(model: tf.Module) -> Iterator[tuple[str, tuple[tf.Variable, tf.Module | None]]]:
    """Every float variable by the path of attributes that leads to it, with its owner."""
    met: set[int] = set()
    for path, module in named_modules(model, private=True).items():
        for name, value in vars(module).items():
            for last, variable in _of_attribute(name, value):
                if id(variable) not in met and variable.dtype.is_floating:
                    met.add(id(variable))
                    yield f"{path}.{last}" if path else last, (variable, module)
    for variable in model.variables:
        if id(variable) not in met and variable.dtype.is_floating:
            met.add(id(variable))
            yield variable.name, (variable, None)


def _of_attribute(name: str, value: Any) -> Iterator[tuple[str, tf.Variable]]:
    if isinstance(value, tf.Variable):
        yield name, value
    elif isinstance(value, list | tuple) and not name.startswith("_"):
        for index, one in enumerate(value):
            if isinstance(one, tf.Variable):
                yield f"{name}.{index}", one


def _declared(
    variables: Mapping[str, Any], model: tf.Module, names: Names, weights: Weights
) -> dict[str, str]:
    """The reference's key of each variable, by path: as declared, else by its layer."""
    layers = names.port_side({}).modules(named_modules(model, private=True))
    owners = {id(module): theirs for theirs, module in layers.items()}
    found = {}
    for path, (_, owner) in variables.items():
        theirs = owners.get(id(owner))
        if theirs is not None:
            name = NAMES.get(path.rpartition(".")[2], path.rpartition(".")[2])
            found[path] = f"{theirs}.{name}" if theirs else name
    for pattern, theirs in weights.variables.items():
        for path, parts in matched([pattern], variables, "port", "variable", "variables").items():
            found[path] = filled(theirs, parts)
    return found


def _paired(
    variables: Mapping[str, tuple[tf.Variable, tf.Module | None]],
    state: Mapping[str, np.ndarray],
    declared: Mapping[str, str],
    weights: Weights,
) -> tuple[list[Held], list[str]]:
    """Each tensor with its variable, and what stays without a counterpart."""
    alone = matched(weights.port_only, variables, "port", "variable", "port_only")
    unused = matched(weights.reference_only, state, "reference", "tensor", "reference_only")
    chosen = {
        key: layout
        for pattern, layout in weights.layouts.items()
        for key in matched([pattern], state, "reference", "tensor", "layouts")
    }
    by_key: dict[str, list[str]] = {}
    problems = []
    for path in variables:
        key = declared.get(path)
        if path in alone:
            continue
        if key is None or key not in state or key in unused:
            meant = f" ({key})" if key else ""
            problems.append(f"{path} of the port has no tensor of the reference{meant}")
        else:
            by_key.setdefault(key, []).append(path)
    held = []
    for key in state:
        paths = by_key.get(key, [])
        if not paths and key not in unused:
            problems.append(f"{key} of the reference has no variable of the port")
        elif len(paths) > 1:
            problems.append(f"{key} of the reference has {len(paths)}: {', '.join(paths)}")
        elif paths:
            variable, owner = variables[paths[0]]
            layout = chosen.get(key) or _layout(owner, variable)
            held.append(Held(key, paths[0], variable, layout))
    return held, problems


def _layout(owner: tf.Module | None, variable: tf.Variable) -> Layout:
    """The layout that the kind of layer gives a variable; other layers hold it as it is."""
    keras = sys.modules.get("tf_keras")
    rank = len(variable.shape)
    if keras is None or owner is None:
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

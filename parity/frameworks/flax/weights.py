"""What layers of Flax hold, of `nnx` and of `linen`: names and layouts."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from parity.frameworks.jax.capture import to_array
from parity.frameworks.jax.precision import computing_in
from parity.weights import CONVOLUTIONS, SAME, Layout, Variable

NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def variable(
    layer: Any,
    path: str,
    name: str,
    read: Callable[[], Any],
    write: Callable[[Any], None],
    known: Any,
) -> Variable:
    """A variable called `name` of `layer`, the module at `path`.

    Args:
        read, write: get and set its array of JAX.
        known: what its framework knows it by.
    """
    first = read()

    def assign(array: np.ndarray) -> None:
        with computing_in(str(first.dtype)):
            write(jnp.asarray(array, first.dtype))

    own = type(layer).__module__.startswith("flax.")
    called = NAMES.get(name, name) if own else name
    layout = _layout(layer, name, first.shape) if own else SAME
    return Variable(path, called, layout, first.shape, lambda: to_array(read()), assign, known)


def _layout(layer: Any, name: str, shape: tuple[int, ...]) -> Layout:
    """The layout that the kind of layer gives a variable; other layers hold it as it is."""
    kind = type(layer).__name__
    if kind == "Conv" and name == "kernel":
        return CONVOLUTIONS.get(len(shape), SAME)
    if kind == "ConvTranspose" and name == "kernel":
        return _transposed(len(shape), layer.transpose_kernel)
    if kind in ("Dense", "Linear", "DenseGeneral", "LinearGeneral"):
        features = getattr(layer, "features", None) or layer.out_features
        outputs = len(features) if isinstance(features, tuple | list) else 1
        inputs = shape[: len(shape) - outputs]
        return _dense(inputs, shape[len(inputs) :])
    return SAME


def _dense(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Layout:
    """A weight [out, in] or bias [out], held with these axes, the inputs' first."""
    rows, columns = math.prod(outputs), math.prod(inputs)
    if not inputs:
        return Layout(lambda array: array.reshape(outputs), lambda array: array.reshape(rows))
    return Layout(
        lambda array: array.T.reshape(*inputs, *outputs),
        lambda array: array.reshape(columns, rows).T,
    )


def _transposed(rank: int, like_gradient: bool) -> Layout:
    """The kernel [in, out, ...] of a transposed convolution: held as [..., in, out] and turned
    around, or, where the layer does that itself, as [..., out, in]."""
    if like_gradient:
        return CONVOLUTIONS[rank]
    space = tuple(range(rank - 2))
    return Layout(
        lambda array: np.flip(array.transpose(*range(2, rank), 0, 1), space),
        lambda array: np.flip(array, space).transpose(rank - 2, rank - 1, *space),
    )

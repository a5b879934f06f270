"""Mends of what is known to differ in ports by others, made in memory on the port that was built.

A difference counts as understood where the mended pair is equal.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

Mend = Callable[[Any], None]
"""Changes a port's layers in place."""

_EXACT, _APPROXIMATE = (
    0.5 * (1.0 + math.erf(math.sqrt(0.5))),
    0.5 * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * 1.044715)),
)  # GELU of 1: Hendrycks and Gimpel, arXiv 1606.08415


def epsilon(value: float) -> Mend:
    """Every norm has this epsilon."""

    def mend(model: Any) -> None:
        for layer in _layers(model):
            if "norm" in type(layer).__name__.lower() and hasattr(layer, "epsilon"):
                layer.epsilon = value

    return mend


def exact_gelu(model: Any) -> None:
    """GELU has its error function wherever it is approximated by a hyperbolic tangent."""
    import keras

    for layer in _layers(model):
        for name in ("activation", "_activation", "hidden_activation"):
            function = getattr(layer, name, None)
            if callable(function) and _is_approximate(function):
                setattr(layer, name, partial(keras.activations.gelu, approximate=False))


def _is_approximate(function: Callable[[Any], Any]) -> bool:
    import keras

    try:
        found = float(keras.ops.convert_to_numpy(function(keras.ops.ones((1,))))[0])
    except (TypeError, ValueError):
        return False
    return abs(found - _APPROXIMATE) < abs(found - _EXACT) and abs(found - _APPROXIMATE) < 1e-5


def rope_scaling(factor: float) -> Mend:
    """Positions of rotary embeddings are divided by this factor."""

    def mend(model: Any) -> None:
        for layer in _layers(model):
            if type(layer).__name__ == "RotaryEmbedding":
                layer.scaling_factor = factor

    return mend


def every(*mends: Mend) -> Mend:
    """All of these."""

    def mend(model: Any) -> None:
        for one in mends:
            one(model)

    return mend


def _layers(model: Any) -> Iterator[Any]:
    return (layer for layer in model._flatten_layers())  # Keras has no public way below a layer

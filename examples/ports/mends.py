"""Mends of what is known to differ in ports by others, made in memory on the pair.

A difference counts as understood where the mended pair is equal.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial, reduce
from typing import Any

import parity

Mend = Callable[[parity.Pair], parity.Pair]
"""The pair without a difference; its port is changed after it was built."""

_EXACT, _APPROXIMATE = (
    0.5 * (1.0 + math.erf(math.sqrt(0.5))),
    0.5 * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * 1.044715)),
)  # GELU of 1: Hendrycks and Gimpel, arXiv 1606.08415


def every(*mends: Mend) -> Mend:
    """All of these, in turn."""
    return lambda pair: reduce(lambda made, mend: mend(made), mends, pair)


def in_port(change: Callable[[Any], None]) -> Mend:
    """What `change` does to each port that is built."""

    def mend(pair: parity.Pair) -> parity.Pair:
        def build() -> Any:
            model = pair.port()
            change(model)
            return model

        return replace(pair, port=build)

    return mend


def moved(pair: parity.Pair) -> parity.Pair:
    """The reference's weights are moved into the port by what `parity.match` finds."""
    return replace(pair, weights=parity.match(pair).weights)


def epsilon(value: float, *named: str) -> Mend:
    """Every norm has this epsilon, or those alone whose paths match a pattern of `named`."""

    def change(model: Any) -> None:
        for layer in _layers(model):
            for name in ("epsilon", "layer_norm_epsilon"):
                if _is_norm(layer, named) and hasattr(layer, name):
                    setattr(layer, name, value)

    return in_port(change)


def _is_norm(layer: Any, named: Collection[str]) -> bool:
    path = getattr(layer, "path", None) or layer.name  # Keras 2 has names alone
    chosen = not named or any(fnmatchcase(path, pattern) for pattern in named)
    return chosen and "norm" in type(layer).__name__.lower()


def activation(name: str) -> Mend:
    """This function of Keras stands wherever GELU is approximated by a hyperbolic tangent."""

    def change(model: Any) -> None:
        import keras

        function = keras.activations.get(name)
        if name == "gelu":
            function = partial(function, approximate=False)
        for layer in _layers(model):
            for place in ("activation", "_activation", "hidden_activation"):
                own = getattr(layer, place, None)
                if callable(own) and _is_approximate(own):
                    setattr(layer, place, function)

    return in_port(change)


exact_gelu = activation("gelu")


def _is_approximate(function: Callable[[Any], Any]) -> bool:
    import keras

    try:
        found = float(keras.ops.convert_to_numpy(function(keras.ops.ones((1,))))[0])
    except (TypeError, ValueError):
        return False
    return abs(found - _APPROXIMATE) < abs(found - _EXACT) and abs(found - _APPROXIMATE) < 1e-5


def rope_scaling(factor: float) -> Mend:
    """Rotary embeddings turn as many times slower as this; Llama's of KerasHub 0.32 computes its
    frequencies without the factor that it is given."""

    def change(model: Any) -> None:
        for layer in _layers(model):
            if hasattr(layer, "_get_inverse_freq"):
                layer._get_inverse_freq = _slower(layer._get_inverse_freq, factor)

    return in_port(change)


def _slower(frequencies: Callable[[int], Any], factor: float) -> Callable[[int], Any]:
    return lambda size: frequencies(size) / factor


def divided_scores(value: int) -> Mend:
    """Scores of attention are divided by the root of this, where Gemma's of KerasHub 0.32 know
    the size of a head and that of all heads by their number."""

    def change(model: Any) -> None:
        for layer in _layers(model):
            if hasattr(layer, "query_head_dim_normalize"):
                layer.query_head_dim_normalize = False
                layer.hidden_dim = value * layer.num_query_heads

    return in_port(change)


def token_types(pair: parity.Pair) -> parity.Pair:
    """The first token type is added to the port's positions, as KerasHub's XLM-RoBERTa has it."""
    first = pair.reference.embeddings.token_type_embeddings.weight[0].detach().numpy()

    def change(model: Any) -> None:
        positions = model.embeddings.position_embedding.position_embeddings
        positions.assign(positions + first)

    return in_port(change)(pair)


@in_port
def exact_turns(model: Any) -> None:
    """Tables of rotary positions have the precision of the layer that computed them in float32."""
    import numpy as np
    import tensorflow as tf

    for layer in _layers(model):
        if hasattr(layer, "pos_sin"):
            half = layer.channels // 2
            turns = np.arange(layer.max_block_size)[:, None, None] / layer.temperature ** (
                np.arange(half) / half
            )
            layer.pos_sin = tf.constant(np.sin(turns), layer.compute_dtype)
            layer.pos_cos = tf.constant(np.cos(turns), layer.compute_dtype)


@in_port
def bicubic_of_torch(model: Any) -> None:
    """Positions of another size are resized with PyTorch's coefficient, -0.75, where Keras' bicubic
    resize has -0.5."""
    import torch

    for layer in _layers(model):
        if not hasattr(layer, "interpolated_position_embeddings"):
            continue
        known = torch.tensor(layer.position_embeddings.numpy())
        source, target = (
            [side // layer.patch_size for side in shape]
            for shape in (layer.position_embedding_shape, layer.image_shape)
        )
        grid = known[:, 1:].reshape(1, *source, -1).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(grid, target, mode="bicubic")
        patches = resized.permute(0, 2, 3, 1).flatten(1, 2)
        layer.interpolated_position_embeddings.assign(torch.cat([known[:, :1], patches], 1))


@in_port
def not_training(model: Any) -> None:
    """A call that does not say so trains no more: `Resizing` of Keras trains by default, and so
    does what is called after it."""
    for layer in _layers(model):
        if type(layer).__name__ == "Resizing":
            layer._call_context_args = set()  # of which Keras keeps defaults for later layers


def _layers(model: Any) -> Iterator[Any]:
    return (layer for layer in model._flatten_layers())  # Keras has no public way below a layer

"""Faults that are planted in the Model Garden's DETR, to see that they are found and named."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from official.projects.detr.modeling import detr

from examples.detr.models import LAYERS

LAYER = LAYERS - 1


@dataclass(frozen=True)
class Plant:
    """A fault: how it gets into a port that has its weights, and what it should be found as.

    Args:
        text: what is wrong, in words.
        plant: changes the port.
        path: the module of the reference that should be named.
        cause: what the first explanation should say, in part; empty where none is expected.
    """

    text: str
    plant: Callable[[detr.DETR], None]
    path: str
    cause: str


def _decoder_layer(model: detr.DETR) -> Any:
    return model._transformer._decoder.decoder_layers[LAYER]


def _position_in_value(model: detr.DETR) -> None:
    """The values of the attention to the memory get the positions, as its keys do."""
    attention = _decoder_layer(model).encdec_attention
    attend = attention.call

    def attended(query: Any, value: Any, key: Any, **rest: Any) -> Any:
        return attend(query, key, key, **rest)

    attention.call = attended


def _swapped_weights(model: detr.DETR) -> None:
    """The query projection has the weights of the key projection, and the other way round."""
    attention = _decoder_layer(model).self_attention
    query, key = attention._query_dense, attention._key_dense
    ours, theirs = query.get_weights(), key.get_weights()
    query.set_weights(theirs)
    key.set_weights(ours)


def _norm_epsilon(model: detr.DETR) -> None:
    """One norm of the last layer has the default epsilon of the Model Garden's block, 1e-12."""
    _decoder_layer(model).output_layer_norm.epsilon = 1e-12


PLANTS: Mapping[str, Plant] = {
    "position-in-value": Plant(
        "the last decoder layer adds positions to the values of the memory",
        _position_in_value,
        f"model.decoder.layers.{LAYER}",
        "encoder_attn.k_proj:input",
    ),
    "swapped-weights": Plant(
        "query and key of the last decoder layer have each other's weights",
        _swapped_weights,
        f"model.decoder.layers.{LAYER}.self_attn.q_proj",
        f"model.decoder.layers.{LAYER}.self_attn.k_proj",
    ),
    "norm-epsilon": Plant(
        "the last norm of the last decoder layer has epsilon 1e-12",
        _norm_epsilon,
        f"model.decoder.layers.{LAYER}.final_layer_norm",
        "epsilon 1e-12 instead of 1e-05",
    ),
}

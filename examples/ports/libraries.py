"""Ports of other libraries: of the Model Garden and of keras-cv-attention-models, in Keras 2.

They are made with the configuration of a small model of transformers, whose weights are moved by
what `parity` pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import parity
from examples.ports import SHARED_KEYS, SIZES, USUAL, Case, Given, inputs, reference
from parity.weights.layouts import SAME

CONV1D = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # of transformers: [in, out]
WIDTHS = {
    "num_stages": 2,
    "depths": (1, 2),
    "hidden_sizes": (8, 16),
    "layer_scale_init_value": 0.0,
    "num_labels": 5,
}
ROWS_FIRST = parity.Weights(layouts={f"h.*.{one}.weight": SAME for one in CONV1D})
STAGE = "convnext.encoder.stages"
CONVOLUTIONS = parity.Names(
    {
        "stem_conv": "convnext.embeddings.patch_embeddings",
        "stem_ln": "convnext.embeddings.layernorm",
        "stack2_downsample_ln": f"{STAGE}.1.downsampling_layer.0",
        "stack2_downsample_conv": f"{STAGE}.1.downsampling_layer.1",
        **{
            f"stack{stage + 1}_block{block + 1}_{theirs}": f"{STAGE}.{stage}.layers.{block}.{ours}"
            for stage, depth in enumerate(WIDTHS["depths"])
            for block in range(depth)
            for theirs, ours in (
                ("dw_conv", "dwconv"),
                ("ln", "layernorm"),
                ("up_dense", "pwconv1"),
                ("down_dense", "pwconv2"),
            )
        },
    },
    complete=False,
)
PROJECTIONS = parity.Names(
    {f"blocks.*.self_attn.{one}": f"layers.*.self_attn.{one}" for one in ("q_proj", "k_proj")},
    complete=False,
)


@dataclass(frozen=True)
class Library:
    """A model of transformers, and what builds the port of another library and calls it.

    Args:
        case: the model of transformers.
        build: makes the port, with random weights.
        given: what the port takes, from what KerasHub's would: an array, or arrays by name.
        declared: what of the pair is asked for, since its weights tell nothing.
    """

    case: Case
    build: Callable[[], Any]
    given: Callable[[Any], Any] = lambda given: given
    declared: Mapping[str, Any] = field(default_factory=dict)


def _bert(**changes: Any) -> Any:
    from official.nlp.modeling.networks import BertEncoderV2

    return BertEncoderV2(
        vocab_size=61,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        max_sequence_length=24,
        type_vocab_size=2,
        inner_dim=48,
        **changes,
    )


def _exactly_bert() -> Any:
    import tensorflow as tf

    return _bert(inner_activation=lambda x: tf.nn.gelu(x, approximate=False))


def _gpt2() -> Any:
    from keras_cv_attention_models.gpt2 import GPT2

    return GPT2(2, 32, 4, vocab_size=61, max_block_size=24, include_top=False)


def _llama() -> Any:
    from keras_cv_attention_models.llama2 import LLaMA2

    return LLaMA2(2, 32, num_heads=4, vocab_size=61, max_block_size=24, include_top=False)


def _convnext() -> Any:
    from keras_cv_attention_models.convnext import ConvNeXt

    return ConvNeXt(
        [1, 2],
        [8, 16],
        layer_scale_init_value=0,
        input_shape=(32, 32, 3),
        num_classes=5,
        classifier_activation=None,
    )


def _words(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "input_word_ids": given["token_ids"],
        "input_mask": given["padding_mask"],
        "input_type_ids": given["segment_ids"],
    }


def _tokens(given: Mapping[str, np.ndarray]) -> np.ndarray:
    return given["token_ids"].astype(np.int64)


CASES = {
    "garden bert": Library(Case("BertModel", "segments", SIZES), _bert, _words),
    "garden bert, exact": Library(Case("BertModel", "segments", SIZES), _exactly_bert, _words),
    "kecam gpt2": Library(
        Case(
            "GPT2Model",
            "tokens",
            {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24},
        ),
        _gpt2,
        _tokens,
        {"weights": ROWS_FIRST},
    ),
    "kecam llama": Library(
        Case(
            "LlamaModel",
            "tokens",
            {
                **SHARED_KEYS,
                "num_key_value_heads": 4,
                "intermediate_size": 96,
                "rms_norm_eps": 1e-5,
            },
        ),
        _llama,
        _tokens,
        {"names": PROJECTIONS},
    ),
    "kecam convnext": Library(
        Case("ConvNextForImageClassification", "images", WIDTHS),
        _convnext,
        declared={"names": CONVOLUTIONS},
    ),
}


def pair(name: str, given: Given = USUAL, seed: int = 0, **config: Any) -> parity.Pair:
    """The model of transformers beside the library's port, with no map."""
    one = CASES[name]
    model = reference(one.case, seed, config)
    ours, (theirs,) = inputs(one.case, model, given, seed)
    return parity.Pair(model, one.build, ours, (one.given(theirs),), **one.declared)

"""Second implementations within transformers: the same model by another path of its code.

Some models have several implementations of attention; others were written anew for a checkpoint
and compute the same where their configurations say so. The weights of the second are moved by what
`parity` pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import parity
from examples.ports import PATCHES, SHARED_KEYS, SIZES, USUAL, Case, Given, inputs, reference

SPEECH = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.0,  # layers left out at random cannot be the same on both sides
    "apply_spec_augment": False,
}
WHISPER = {
    "vocab_size": 61,
    "d_model": 32,
    "num_mel_bins": 8,
    "max_source_positions": 12,
    "max_target_positions": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")},
}


@dataclass(frozen=True)
class Second:
    """A model and another implementation of it.

    Args:
        model, other: the classes.
        inputs: as `examples.ports.Case` has it, or "speech" or "frames" of a sound.
        config: of both; `other_config` what only the second has otherwise.
        attention: the implementations of the two.
    """

    model: str
    other: str
    inputs: str
    config: Mapping[str, Any] = field(default_factory=dict)
    other_config: Mapping[str, Any] = field(default_factory=dict)
    attention: tuple[str, str] = ("eager", "eager")


EAGER_FIRST = ("eager", "sdpa")
CASES = {
    "bert": Second("BertModel", "BertModel", "segments", SIZES, {}, EAGER_FIRST),
    "gpt2": Second(
        "GPT2Model",
        "GPT2Model",
        "tokens",
        {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24},
        {},
        EAGER_FIRST,
    ),
    "llama": Second("LlamaModel", "LlamaModel", "tokens", SHARED_KEYS, {}, EAGER_FIRST),
    "vit": Second("ViTModel", "ViTModel", "images", PATCHES, {}, EAGER_FIRST),
    "wav2vec2": Second("Wav2Vec2Model", "Wav2Vec2Model", "speech", SPEECH, {}, EAGER_FIRST),
    "whisper": Second("WhisperModel", "WhisperModel", "frames", WHISPER, {}, EAGER_FIRST),
    "hubert": Second("Wav2Vec2Model", "HubertModel", "speech", SPEECH),
    "roberta": Second("RobertaModel", "XLMRobertaModel", "tokens", SIZES),
    "camembert": Second("RobertaModel", "CamembertModel", "tokens", SIZES),
    "mistral": Second(
        "LlamaModel", "MistralModel", "tokens", SHARED_KEYS, {"sliding_window": None}
    ),
    "msn": Second(
        "ViTForImageClassification",
        "ViTMSNForImageClassification",
        "images",
        {**PATCHES, "layer_norm_eps": 1e-6},  # their defaults are two
    ),
    "yolos": Second(
        "YolosModel",
        "YolosModel",
        "images",
        {**PATCHES, "image_size": (32, 32), "num_detection_tokens": 5},
        {},
        EAGER_FIRST,
    ),
}


def pair(name: str, given: Given = USUAL, seed: int = 0, **config: Any) -> parity.Pair:
    """Both implementations on the same inputs, with no map."""
    import transformers

    second = CASES[name]
    settings = {**second.config, **config}
    eager, other = second.attention
    case = Case(second.model, second.inputs, {**settings, "attn_implementation": eager})
    model = reference(case, seed, {})
    kind = getattr(transformers, second.other)

    def build() -> torch.nn.Module:
        torch.manual_seed(seed + 1)
        changed = {**settings, **second.other_config, "attn_implementation": other}
        return kind(kind.config_class(**changed)).eval()

    rng = np.random.default_rng(seed)
    if second.inputs == "speech":
        return parity.Pair(model, build, {"input_values": _drawn(rng, 2, 800)})
    if second.inputs == "frames":
        tokens = rng.integers(3, settings["vocab_size"], (2, given.length))
        frames = _drawn(rng, 2, settings["num_mel_bins"], 2 * settings["max_source_positions"])
        ours = {"input_features": frames, "decoder_input_ids": tokens}
        return parity.Pair(model, build, ours)
    return parity.Pair(model, build, inputs(case, model, given, seed)[0])


def _drawn(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)

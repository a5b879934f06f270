"""Ports by others: small models of transformers with random weights, and KerasHub's ports of them.

No file is fetched: a model is made from its configuration, saved to a folder, and loaded by
KerasHub's own converter. `python -m examples.ports` says how much of each is paired with no map.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

import parity

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
SHARED_KEYS = {**SIZES, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "pad_token_id": 0}
PATCHES = {**SIZES, "image_size": 32, "patch_size": 8}
GEMMA = {**SHARED_KEYS, "head_dim": 8, "query_pre_attn_scalar": 8}
EXPERTS = {
    "num_local_experts": 3,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 24,
}
DEPTHS = {"basic": (2, 2, 2, 2), "bottleneck": (3, 4, 6, 3)}


@dataclass(frozen=True)
class Given:
    """What both models are called with; a batch of two.

    Args:
        length: tokens of a sequence.
        padded: how many tokens of the second sequence are padding, at its end; with a minus sign at
            its beginning.
        size: height and width of images.
    """

    length: int = 7
    padded: int = 0
    size: tuple[int, int] = (32, 32)


USUAL = Given()


@dataclass(frozen=True)
class Case:
    """One model of transformers, by its class and configuration, and what both are given.

    Args:
        model: name of the class that is saved; what is compared is the model without its head.
        inputs: what the models are called with: "tokens", "segments" where they take those too,
            "sequences" of an encoder and a decoder, or "images".
        config: changes of the configuration.
        timm: the architecture as which the weights are saved, for converters that read no others.
        saved: keys of a saved configuration under their name in published ones, from that which
            transformers 5 saves; a converter reads the former.
    """

    model: str
    inputs: str
    config: Mapping[str, Any] = field(default_factory=dict)
    timm: str = ""
    saved: Mapping[str, str] = field(default_factory=dict)


CASES = {
    "bert": Case("BertModel", "segments", SIZES),
    "vit": Case("ViTForImageClassification", "images", PATCHES),
    "llama": Case("LlamaForCausalLM", "tokens", SHARED_KEYS),
    "qwen3": Case("Qwen3ForCausalLM", "tokens", {**SHARED_KEYS, "head_dim": 8}),
    "distilbert": Case(
        "DistilBertForMaskedLM",
        "tokens",
        {"vocab_size": 61, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "gpt2": Case(
        "GPT2Model",
        "tokens",
        {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "albert": Case("AlbertForPreTraining", "segments", {**SIZES, "embedding_size": 16}),
    "deit": Case("DeiTForImageClassification", "images", PATCHES),
    "qwen2": Case("Qwen2ForCausalLM", "tokens", SHARED_KEYS),
    "mixtral": Case("MixtralForCausalLM", "tokens", {**SHARED_KEYS, "num_local_experts": 3}),
    "smollm3": Case("SmolLM3ForCausalLM", "tokens", SHARED_KEYS),
    "mistral": Case("MistralForCausalLM", "tokens", SHARED_KEYS),
    "roberta": Case("RobertaForMaskedLM", "tokens", SIZES),
    "xlm-roberta": Case("XLMRobertaForMaskedLM", "tokens", SIZES),
    "gemma": Case("GemmaForCausalLM", "tokens", {**SHARED_KEYS, "head_dim": 8}),
    "bart": Case(
        "BartModel",
        "sequences",
        {
            "vocab_size": 61,
            "d_model": 32,
            "max_position_embeddings": 24,
            **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
            **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
            **{f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")},
        },
        saved={"num_hidden_layers": "encoder_layers"},
    ),
    "dinov2": Case("Dinov2Model", "images", {**PATCHES, "mlp_ratio": 2}),
    "dinov3": Case("DINOv3ViTModel", "images", {**PATCHES, "num_register_tokens": 2}),
    "esm": Case(
        "EsmForMaskedLM",
        "tokens",
        {**SIZES, "pad_token_id": 1, "mask_token_id": 2, "position_embedding_type": "rotary"},
    ),
    "gemma2": Case("Gemma2ForCausalLM", "tokens", GEMMA),
    "gemma3": Case("Gemma3ForCausalLM", "tokens", GEMMA),
    "gpt-oss": Case("GptOssForCausalLM", "tokens", {**SHARED_KEYS, **EXPERTS, "head_dim": 8}),
    "qwen2-moe": Case("Qwen2MoeForCausalLM", "tokens", {**SHARED_KEYS, **EXPERTS}),
    "qwen3-moe": Case(
        "Qwen3MoeForCausalLM",
        "tokens",
        {**SHARED_KEYS, **EXPERTS, "head_dim": 8},
        saved={"num_experts": "num_local_experts"},
    ),
    "swin": Case(
        "SwinModel",
        "images",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "window_size": 4,
        },
    ),
    "resnet18": Case(
        "ResNetModel",
        "images",
        {"layer_type": "basic", "depths": DEPTHS["basic"], "hidden_sizes": (64, 128, 256, 512)},
        "resnet18",
    ),
    "resnet50": Case(
        "ResNetModel",
        "images",
        {"layer_type": "bottleneck", "depths": DEPTHS["bottleneck"]},
        "resnet50",
    ),
}


def pair(name: str, given: Given = USUAL, seed: int = 0, **config: Any) -> parity.Pair:
    """The model of transformers that a case names beside KerasHub's port of it, with no map.

    Args:
        seed: of weights and inputs.
        config: further changes of the configuration.
    """
    case = CASES[name]
    model = reference(case, seed, config)
    ours, theirs = inputs(case, model, given, seed)
    whole = model if case.model.endswith("Model") else model.base_model
    return parity.Pair(whole, port(case, model, given), ours, theirs)


def reference(case: Case, seed: int, config: Mapping[str, Any]) -> torch.nn.Module:
    """The model in eval mode, with random weights, none of them zeros or ones throughout."""
    import transformers

    from parity.frameworks.torch.weights import vary

    torch.manual_seed(seed)
    kind = getattr(transformers, case.model)
    configured = kind.config_class(**{**case.config, **config})
    return vary(kind(configured).eval(), seed)


def port(case: Case, model: torch.nn.Module, given: Given = USUAL) -> Callable[[], Any]:
    """What builds KerasHub's port with the weights of `model`, for images of the size `given`."""
    fixed = case.inputs == "images" and not case.timm and given.size != USUAL.size
    changed = {"image_shape": (*given.size, 3)} if fixed else {}
    folder = tempfile.TemporaryDirectory()
    if case.timm:
        _save_as_timm(model, Path(folder.name), case.timm)
    else:
        model.save_pretrained(folder.name)
        file = Path(folder.name) / "config.json"
        config = json.loads(file.read_text())
        config |= {name: config[other] for name, other in case.saved.items()}
        file.write_text(json.dumps(config))

    def build() -> Any:
        import keras_hub

        with redirect_stdout(StringIO()):
            return keras_hub.models.Backbone.from_preset(folder.name, **changed)

    build.folder = folder  # which lives as long as what reads it
    return build


def inputs(
    case: Case, model: torch.nn.Module, given: Given, seed: int
) -> tuple[dict[str, np.ndarray], tuple]:
    """What the reference and the port are given."""
    rng = np.random.default_rng(seed)
    if case.inputs == "images":
        images = rng.normal(size=(2, 3, *given.size)).astype(np.float32)
        return {"pixel_values": images}, (np.ascontiguousarray(images.transpose(0, 2, 3, 1)),)
    ours, theirs = {}, {}
    several = case.inputs == "sequences"
    for name, port_name in (("", "encoder_"), ("decoder_", "decoder_")) if several else (("", ""),):
        tokens, mask = _tokens(model, given, rng)
        ours |= {f"{name}input_ids": tokens, f"{name}attention_mask": mask}
        theirs |= {f"{port_name}token_ids": tokens, f"{port_name}padding_mask": mask}
    if case.inputs == "segments":
        ours["token_type_ids"] = theirs["segment_ids"] = rng.integers(0, 2, (2, given.length))
    return ours, ({name: array.astype(np.int32) for name, array in theirs.items()},)


def _tokens(
    model: torch.nn.Module, given: Given, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int64 [2,length], and the mask that is 1 where no padding is."""
    config = model.config.get_text_config()
    tokens = rng.integers(3, config.vocab_size, (2, given.length))  # below lie padding and marks
    mask = np.ones_like(tokens)
    if given.padded:
        mask[1, slice(-given.padded, None) if given.padded > 0 else slice(-given.padded)] = 0
        tokens[mask == 0] = config.pad_token_id or 0
    return tokens, mask


def _save_as_timm(model: torch.nn.Module, folder: Path, architecture: str) -> None:
    """The weights of a ResNet under the names that timm gives them."""
    from safetensors.torch import save_file

    state = {}
    for key, tensor in model.state_dict().items():
        if key.startswith("embedder.embedder."):
            name = key.removeprefix("embedder.embedder.")
            name = name.replace("convolution", "conv1").replace("normalization", "bn1")
        else:
            _, _, stage, _, block, part, *rest = key.split(".")
            which = "downsample" if part == "shortcut" else ""
            kind = rest[-2] if part == "layer" else rest[0]
            number = "" if which else str(int(rest[0]) + 1)
            kinds = {
                "convolution": "0" if which else "conv",
                "normalization": "1" if which else "bn",
            }
            layer = f"{which}.{kinds[kind]}" if which else f"{kinds[kind]}{number}"
            name = f"layer{int(stage) + 1}.{block}.{layer}.{rest[-1]}"
        state[name] = tensor.contiguous()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": architecture}))

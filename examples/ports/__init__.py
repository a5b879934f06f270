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
from examples.ports import segformer

TOKENS = (2, 7)
IMAGES = (2, 3, 32, 32)
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
DEPTHS = {"basic": (2, 2, 2, 2), "bottleneck": (3, 4, 6, 3)}


@dataclass(frozen=True)
class Case:
    """One model of transformers, by its class and configuration, and what both are given.

    Args:
        model: name of the class that is saved; what is compared is the model without its head.
        inputs: what the models are called with: "tokens", "segments" where they take those too, or
            "images".
        config: changes of the configuration.
        timm: the architecture as which the weights are saved, for converters that read no others.
    """

    model: str
    inputs: str
    config: Mapping[str, Any] = field(default_factory=dict)
    timm: str = ""


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

EVERY = (*CASES, "segformer")


def pair(name: str, seed: int = 0, **config: Any) -> parity.Pair:
    """The model of transformers that a case names beside KerasHub's port of it, with no map.

    Args:
        seed: of weights and inputs.
        config: further changes of the configuration.
    """
    if name == "segformer":
        return segformer.pair(seed=seed)
    case = CASES[name]
    model = reference(case, seed, config)
    given, given_to_port = inputs(case, model, seed)
    return parity.Pair(model.base_model, port(case, model), given, given_to_port)


def reference(case: Case, seed: int, config: Mapping[str, Any]) -> torch.nn.Module:
    """The model in eval mode, with random weights, none of them zeros or ones throughout."""
    import transformers

    from parity.frameworks.torch.weights import vary

    torch.manual_seed(seed)
    kind = getattr(transformers, case.model)
    configured = kind.config_class(**{**case.config, **config})
    return vary(kind(configured).eval(), seed)


def port(case: Case, model: torch.nn.Module) -> Callable[[], Any]:
    """What builds KerasHub's port with the weights of `model`."""
    folder = tempfile.TemporaryDirectory()
    if case.timm:
        _save_as_timm(model, Path(folder.name), case.timm)
    else:
        model.save_pretrained(folder.name)

    def build() -> Any:
        import keras_hub

        with redirect_stdout(StringIO()):
            return keras_hub.models.Backbone.from_preset(folder.name)

    build.folder = folder  # which lives as long as what reads it
    return build


def inputs(case: Case, model: torch.nn.Module, seed: int) -> tuple[dict, tuple]:
    """What the reference and the port are given."""
    rng = np.random.default_rng(seed)
    if case.inputs == "images":
        images = rng.normal(size=IMAGES).astype(np.float32)
        return {"pixel_values": images}, (np.ascontiguousarray(images.transpose(0, 2, 3, 1)),)
    tokens = rng.integers(3, model.config.vocab_size, TOKENS)  # below lie padding and marks
    mask = np.ones(TOKENS, np.int64)
    ours = {"input_ids": tokens, "attention_mask": mask}
    theirs = {"token_ids": tokens.astype(np.int32), "padding_mask": mask.astype(np.int32)}
    if case.inputs == "segments":
        segments = rng.integers(0, 2, TOKENS)
        ours["token_type_ids"] = segments
        theirs["segment_ids"] = segments.astype(np.int32)
    return ours, (theirs,)


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

"""transformers' MaskFormer as the reference of an audit: what pairs with what, and why it differs.

Its modules are arranged otherwise than ours, so taps are paired by a declared table instead of by
identity: every place where both hold the same tensor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from maskformer.family import MASKFORMER
from maskformer.model.config import FEATURES, ModelConfig, SwinConfig
from parity.names import Places

Place = tuple[str, str, str]  # path, kind, name
AXES = partial(MASKFORMER.axis_names, image="NCHW", tokens="NSC")
PIXEL_DECODER = f"{MASKFORMER.state.head}.pixel_decoder"
PREDICTOR = f"{MASKFORMER.state.head}.predictor"
DECODER = f"{PREDICTOR}.transformer.decoder"
DERIVATION = (
    "taps are paired by a declared table of the places where both hold the same tensor; the module "
    "trees differ"
)
NOT_VERIFIED = "tensors inside modules that transformers arranges in another way, such as attention"


def _modules(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Our module and the library's that returns the same tensor, below `library.model`."""
    encoder, decoder = "pixel_level_module.encoder", "pixel_level_module.decoder"
    if isinstance(config.backbone, SwinConfig):
        yield from _swin_modules(config.backbone, encoder)
    else:
        yield "backbone.stem.conv1.norm", f"{encoder}.embedder.embedder.normalization"
        yield "backbone.stem", f"{encoder}.embedder"
        for stage, blocks in enumerate(config.backbone.blocks):
            for block in range(blocks):
                ours = f"backbone.res{stage + 2}.{block}"
                theirs = f"{encoder}.encoder.stages.{stage}.layers.{block}"
                for index in range(3):
                    yield f"{ours}.conv{index + 1}.norm", f"{theirs}.layer.{index}.normalization"
                if block == 0:
                    yield f"{ours}.shortcut.norm", f"{theirs}.shortcut.normalization"
                yield ours, theirs
    fpn = PIXEL_DECODER
    yield f"{fpn}.layer_4.norm", f"{decoder}.fpn.stem.1"
    yield f"{fpn}.layer_4", f"{decoder}.fpn.stem"
    for number in (3, 2, 1):
        theirs = f"{decoder}.fpn.layers.{3 - number}"
        yield f"{fpn}.adapter_{number}", f"{theirs}.proj"
        yield f"{fpn}.layer_{number}.norm", f"{theirs}.block.1"
        yield f"{fpn}.layer_{number}", f"{theirs}.block"
    yield f"{fpn}.mask_features", f"{decoder}.mask_projection"
    yield f"{PREDICTOR}.input_proj", "transformer_module.input_projection"
    yield f"{PREDICTOR}.pe_layer", "transformer_module.position_embedder"
    for layer in range(config.predictor.dec_layers):
        ours, theirs = f"{DECODER}.layers.{layer}", f"transformer_module.decoder.layers.{layer}"
        yield f"{ours}.norm1", f"{theirs}.self_attn_layer_norm"
        yield f"{ours}.norm2", f"{theirs}.encoder_attn_layer_norm"
        yield f"{ours}.linear1", f"{theirs}.mlp.fc1"
        yield f"{ours}.linear2", f"{theirs}.mlp.fc2"
        yield ours, theirs


def _swin_modules(backbone: SwinConfig, encoder: str) -> Iterator[tuple[str, str]]:
    yield "backbone.patch_embed.proj", f"{encoder}.model.embeddings.patch_embeddings.projection"
    yield "backbone.patch_embed.norm", f"{encoder}.model.embeddings.norm"
    for stage, blocks in enumerate(backbone.depths):
        ours, theirs = f"backbone.layers.{stage}", f"{encoder}.model.encoder.layers.{stage}"
        for block in range(blocks):
            for part, library in (
                (".norm1", ".layernorm_before"),
                (".attn.proj", ".attention.output.dense"),
                (".norm2", ".layernorm_after"),
                (".mlp.fc1", ".intermediate.dense"),
                (".mlp.fc2", ".output.dense"),
                ("", ""),
            ):
                yield f"{ours}.blocks.{block}{part}", f"{theirs}.blocks.{block}{library}"
        if stage < len(backbone.depths) - 1:
            for part in (".downsample.norm", ".downsample.reduction", ".downsample"):
                yield f"{ours}{part}", f"{theirs}{part}"
        yield f"backbone.norm{stage}", f"{encoder}.hidden_states_norms.{stage}"


def declared_pairs(config: ModelConfig) -> dict[Place, tuple[str, str, str, int]]:
    """The library's taps (path, kind, name) that are ours (path, kind, name, call).

    The whole model's inputs and outputs have our names already and are not listed.
    """
    model = "library.model"
    pairs = {
        (f"{model}.{theirs}", "output", ""): (ours, "output", "", 0)
        for ours, theirs in _modules(config)
    }
    for index, name in enumerate(FEATURES):
        theirs = (f"{model}.pixel_level_module.encoder", "output", f"feature_maps.{index}")
        pairs[theirs] = ("backbone", "output", name, 0)
    decoder = f"{model}.transformer_module.decoder"
    for layer in range(config.predictor.dec_layers):
        for ours, theirs in (("tgt", "hidden_states"), ("memory", "encoder_hidden_states")):
            place = (f"{decoder}.layers.{layer}", "input", theirs)
            pairs[place] = (f"{DECODER}.layers.{layer}", "input", ours, 0)
    # Ours is called after every layer, theirs once, after the last.
    last = config.predictor.dec_layers - 1
    pairs[f"{decoder}.layernorm", "input", ""] = (f"{DECODER}.norm", "input", "", last)
    pairs[f"{decoder}.layernorm", "output", ""] = (f"{DECODER}.norm", "output", "", last)
    return pairs


@dataclass(frozen=True)
class LibraryNames:
    """The declared table as the names of a pair: both sides under ours, the declared taps only."""

    config: ModelConfig
    pairing: str = DERIVATION
    reasons: tuple[str, ...] = ()

    def reference_side(self) -> "_Side":
        """Of the library's model."""
        pairs = declared_pairs(self.config)
        paths = {theirs[0]: ours[0] for theirs, ours in pairs.items()}
        tensors = {(ours[0], *theirs[1:]): ours[2] for theirs, ours in pairs.items()}
        # The library calls these once, where ours are called again and again: that is the last.
        return _Side(paths, tensors, {(ours[0], 0): ours[3] for ours in pairs.values()})

    def port_side(self, places: Places) -> "_Side":
        """Of our own; every tensor has its name already."""
        declared = declared_pairs(self.config).values()
        return _Side(
            {path: path for path, *_ in declared},
            {(path, kind, name): name for path, kind, name, _ in declared},
            {(path, call): call for path, _, _, call in declared},
        )


@dataclass(frozen=True)
class _Side:
    """Our path of each module, name of each tensor and number of each call; others are left out.

    The whole model, whose inputs and outputs have our names already, is recorded as it is.
    """

    paths: Mapping[str, str]
    names: Mapping[Place, str]
    calls: Mapping[tuple[str, int], int]

    def modules(self, found: Mapping[str, Any]) -> dict[str, Any]:
        paths = {"": "", **self.paths}
        return {paths[path]: module for path, module in found.items() if path in paths}

    def tensors(self, path: str, kind: str, names: Sequence[str]) -> list[str | None]:
        return [name if path == "" else self.names.get((path, kind, name)) for name in names]

    def call(self, path: str, count: int) -> int | None:
        return count if path == "" else self.calls.get((path, count))

    def view(self, path: str, kind: str, name: str) -> None:
        return None

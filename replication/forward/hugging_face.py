"""transformers' MaskFormer as the reference of an audit: what pairs with what, and why it differs.

Its modules are arranged otherwise than ours, so taps are paired by a declared table instead of by
identity: every place where both hold the same tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from maskformer.model.config import FEATURES, ModelConfig, SwinConfig
from maskformer.model.tensor_axes import axis_names
from parity.calls import Sink, selector
from parity.frameworks.torch import capture as capture_torch
from parity.provenance import provenance
from parity.trace import Tap, Trace, tap_key
from replication.sides.torch_side import build_reference
from replication.sides.weights import Weights

Place = tuple[str, str, str]  # path, kind, name
AXES = partial(axis_names, image="NCHW", tokens="NSC")
PREDICTOR = "sem_seg_head.predictor"
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
    fpn = "sem_seg_head.pixel_decoder"
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


class Recorder(capture_torch.Recorder):
    """Records the library's model under our names, the declared taps only."""

    def __init__(self, config: ModelConfig, weights: Weights, dtype: str, only: str | None) -> None:
        self._places = declared_pairs(config)
        self._wanted = selector(only)
        super().__init__(build_reference(config, weights, dtype, "hf"), self._axis_names)

    def _axis_names(self, path: str, kind: str, name: str, rank: int) -> str:
        if path:
            ours = self._places.get((path, kind, name))
            if ours is None:
                return "ABCDEFGH"[:rank]
            path, kind, name, _ = ours
        return AXES(path, kind, name, rank)

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[Any, Trace]:
        """As in the base class; taps come under our names, in the library's order."""
        trace = Trace(provenance=provenance(framework="transformers", execution="eager"))

        def renamed(tap: Tap) -> None:
            ours = self._places.get((tap.path, tap.kind, tap.name))
            if tap.path == "":
                ours = ("", tap.kind, tap.name, 0)
            if ours is None or not self._wanted(ours[0]):
                return
            path, kind, name, call = ours
            array = tap.array if sink else tap.array.copy()
            (sink or trace.add)(Tap(path, kind, name, call, tap.axes, array))

        outputs, _ = super().__call__(inputs, renamed)
        return outputs, trace


def declared_only(config: ModelConfig, sink: Callable[[Tap], None]) -> Callable[[Tap], None]:
    """A sink for the port's taps that passes on the declared ones and drops all others."""
    declared = {tap_key(*ours[:3], ours[3]) for ours in declared_pairs(config).values()}

    def passing(tap: Tap) -> None:
        if tap.path == "" or tap.key in declared:
            sink(replace(tap, same_as=None))

    return passing

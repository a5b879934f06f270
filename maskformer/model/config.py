"""One description of a MaskFormer that builds both implementations: frozen and validated.

Defaults are those of the original's `mask_former/config.py` and detectron2's `config/defaults.py`.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from parity.errors import InputError

RESNET_DEPTHS = (18, 50, 101)
HEADS = ("MaskFormerHead", "PerPixelBaselineHead", "PerPixelBaselinePlusHead")
PIXEL_DECODERS = ("BasePixelDecoder", "TransformerEncoderPixelDecoder")
FEATURES = ("res2", "res3", "res4", "res5")


def _check(condition: bool, fact: str, expected: str) -> None:
    if not condition:
        raise InputError(fact, f"expected: {expected}")


@dataclass(frozen=True)
class ResNetConfig:
    """A detectron2 ResNet (`modeling/backbone/resnet.py`, DeepLab variant in `projects/DeepLab`).

    `stem` is "basic" (7x7) or "deeplab" (three 3x3); `norm` is "FrozenBN" or "GN"; a ResNet-18 may
    have half its usual width, `res2_out_channels` 32;
    `res5_multi_grid` multiplies `res5_dilation` block by block and only the DeepLab stem reads it.
    """

    depth: int = 50
    stem: str = "basic"
    stem_out_channels: int = 64
    res2_out_channels: int = 256
    stride_in_1x1: bool = False
    res4_dilation: int = 1
    res5_dilation: int = 1
    res5_multi_grid: tuple[int, int, int] = (1, 1, 1)
    norm: str = "FrozenBN"

    def __post_init__(self) -> None:
        _check(
            self.depth in RESNET_DEPTHS,
            f"backbone.depth is {self.depth}",
            f"one of {RESNET_DEPTHS}",
        )
        _check(
            self.stem in ("basic", "deeplab"), f"backbone.stem is {self.stem!r}", "basic or deeplab"
        )
        _check(self.norm in ("FrozenBN", "GN"), f"backbone.norm is {self.norm!r}", "FrozenBN or GN")
        wanted = (32, 64) if self.depth == 18 else (256,)
        _check(
            self.res2_out_channels in wanted,
            f"backbone.res2_out_channels is {self.res2_out_channels}",
            f"one of {wanted} for depth {self.depth}",
        )

    @property
    def out_channels(self) -> dict[str, int]:
        """Channels of each output feature map, finest first."""
        return {name: self.res2_out_channels * 2**i for i, name in enumerate(FEATURES)}

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Residual blocks per stage, res2 to res5 (He et al. 2016, table 1)."""
        return {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[self.depth]


@dataclass(frozen=True)
class SwinConfig:
    """A Swin transformer backbone (the original's `modeling/backbone/swin.py`).

    Without the absolute position embedding, which no published config uses.
    """

    pretrain_img_size: int = 224
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.3
    patch_norm: bool = True

    def __post_init__(self) -> None:
        for stage, heads in enumerate(self.num_heads):
            channels = self.embed_dim * 2**stage
            _check(
                channels % heads == 0,
                f"backbone.num_heads[{stage}] is {heads}",
                f"a divisor of the stage's {channels} channels",
            )

    @property
    def out_channels(self) -> dict[str, int]:
        """Channels of each output feature map, finest first."""
        return {name: self.embed_dim * 2**i for i, name in enumerate(FEATURES)}


@dataclass(frozen=True)
class PixelDecoderConfig:
    """The FPN that makes `mask_features`, with or without a transformer encoder on res5.

    `norm` is "GN" (32 groups) or "" (convolution bias instead).
    """

    name: str = "BasePixelDecoder"
    conv_dim: int = 256
    mask_dim: int = 256
    norm: str = "GN"
    transformer_enc_layers: int = 0

    def __post_init__(self) -> None:
        _check(
            self.name in PIXEL_DECODERS,
            f"pixel_decoder.name is {self.name!r}",
            f"one of {PIXEL_DECODERS}",
        )
        _check(self.norm in ("GN", ""), f"pixel_decoder.norm is {self.norm!r}", "GN or empty")
        if self.norm == "GN":
            _check(
                self.conv_dim % 32 == 0,
                f"pixel_decoder.conv_dim is {self.conv_dim}",
                "a multiple of 32, the number of groups",
            )


@dataclass(frozen=True)
class PredictorConfig:
    """The transformer decoder and its heads (`MODEL.MASK_FORMER` of the original).

    The pixel decoder's transformer shares `nheads`, `dropout`, `dim_feedforward` and `pre_norm`.
    """

    hidden_dim: int = 256
    num_queries: int = 100
    nheads: int = 8
    dropout: float = 0.1
    dim_feedforward: int = 2048
    enc_layers: int = 0
    dec_layers: int = 6
    pre_norm: bool = False
    deep_supervision: bool = True
    in_feature: str = "res5"
    enforce_input_proj: bool = False

    def __post_init__(self) -> None:
        _check(
            self.hidden_dim % self.nheads == 0 and self.hidden_dim % 4 == 0,
            f"predictor.hidden_dim is {self.hidden_dim} with {self.nheads} heads",
            "a multiple of the heads and of 4",
        )
        _check(
            self.in_feature in (*FEATURES, "transformer_encoder"),
            f"predictor.in_feature is {self.in_feature!r}",
            f"one of {(*FEATURES, 'transformer_encoder')}",
        )
        _check(
            0.0 <= self.dropout < 1.0, f"predictor.dropout is {self.dropout}", "a value in [0, 1)"
        )
        _check(self.dec_layers >= 1, f"predictor.dec_layers is {self.dec_layers}", "at least 1")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; the matcher's costs use the same (`mask_former_model.py`)."""

    class_weight: float = 1.0
    mask_weight: float = 20.0
    dice_weight: float = 1.0
    no_object_weight: float = 0.1


@dataclass(frozen=True)
class InferenceConfig:
    """Post-processing (`MODEL.MASK_FORMER.TEST`); `thing_ids` are contiguous class ids."""

    panoptic_on: bool = False
    object_mask_threshold: float = 0.0
    overlap_threshold: float = 0.0
    sem_seg_postprocess_before_inference: bool = False
    thing_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Matching:
    """What is matched with targets: the queries of each of so many layers."""

    layers: int
    queries: int


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the function a MaskFormer computes, except its weights.

    `pixel_mean`/`pixel_std` are RGB in 0..255. `size_divisibility` 0 pads a batch to its largest
    image only.
    """

    name: str
    num_classes: int
    backbone: ResNetConfig | SwinConfig = field(default_factory=ResNetConfig)
    head: str = "MaskFormerHead"
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    pixel_mean: tuple[float, float, float] = (123.675, 116.280, 103.530)
    pixel_std: tuple[float, float, float] = (58.395, 57.120, 57.375)
    size_divisibility: int = 32
    ignore_value: int = 255

    def __post_init__(self) -> None:
        _check(self.head in HEADS, f"head is {self.head!r}", f"one of {HEADS}")
        _check(self.num_classes >= 1, f"num_classes is {self.num_classes}", "at least 1")
        _check(
            self.predictor.in_feature != "transformer_encoder"
            or self.pixel_decoder.name == "TransformerEncoderPixelDecoder",
            "predictor.in_feature is 'transformer_encoder' but the pixel decoder has no encoder",
            "pixel_decoder.name 'TransformerEncoderPixelDecoder', or in_feature 'res5'",
        )
        _check(
            all(0 <= i < self.num_classes for i in self.inference.thing_ids),
            f"inference.thing_ids reach {max(self.inference.thing_ids, default=0)}",
            f"class ids below num_classes = {self.num_classes}",
        )

    @property
    def is_per_pixel(self) -> bool:
        """Whether the head classifies pixels instead of masks."""
        return self.head != "MaskFormerHead"

    @property
    def minimum_size(self) -> int:
        """Smallest image side in pixels: the stride of res5."""
        return 32

    @property
    def matching(self) -> "Matching | None":
        """What is matched with targets; None for a head that classifies pixels."""
        if self.is_per_pixel:
            return None
        layers = self.predictor.dec_layers if self.predictor.deep_supervision else 1
        return Matching(layers, self.predictor.num_queries)

    @property
    def results(self) -> tuple[str, ...]:
        """What is predicted that has a file format: labels, and panoptic segments if it can."""
        return ("labels", "panoptic") if self.inference.panoptic_on else ("labels",)

    def replace(self, **sections: Any) -> "ModelConfig":
        """A copy with top-level fields replaced, or sections updated from dicts.

        Example: ``config.replace(predictor={"dropout": 0.0}, num_classes=7)``.
        """
        changed = {}
        for key, value in sections.items():
            current = getattr(self, key)
            if isinstance(value, dict):
                value = dataclasses.replace(current, **value)
            changed[key] = value
        return dataclasses.replace(self, **changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; the backbone carries its kind under "kind"."""
        values = dataclasses.asdict(self)
        values["backbone"]["kind"] = "swin" if isinstance(self.backbone, SwinConfig) else "resnet"
        return values

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of `to_dict`: equal configs, equal digests."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

"""Names and configuration of transformers' `MaskFormerForInstanceSegmentation`, both ways.

That library can hold the models with a ResNet-50/101 or Swin backbone and the plain pixel decoder.
Names are those of its files (the same since version 4), which version 5 renames when it loads.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskformer import coco
from maskformer.model.config import ModelConfig, ResNetConfig, SwinConfig
from parity.errors import InputError

_ENCODER = "model.pixel_level_module.encoder."
_DECODER = "model.pixel_level_module.decoder."
_TRANSFORMER = "model.transformer_module."
_LAYER = _TRANSFORMER + r"decoder.layers.\1."

# Original name -> library name; the first pattern that matches the whole name applies. A name with
# "{}" stands for three: queries, keys and values, packed along the first axis in the original.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # Swin
        (
            r"backbone\.patch_embed\.proj\.(\w+)",
            _ENCODER + r"model.embeddings.patch_embeddings.projection.\1",
        ),
        (r"backbone\.patch_embed\.norm\.(\w+)", _ENCODER + r"model.embeddings.norm.\1"),
        *(
            (
                rf"backbone\.layers\.(\d+)\.blocks\.(\d+)\.{ours}\.(\w+)",
                _ENCODER + rf"model.encoder.layers.\1.blocks.\2.{theirs}.\3",
            )
            for ours, theirs in (
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                (r"attn\.qkv", "attention.self.{}"),
                (r"attn\.proj", "attention.output.dense"),
                ("attn", "attention.self"),
                (r"mlp\.fc1", "intermediate.dense"),
                (r"mlp\.fc2", "output.dense"),
            )
        ),
        (
            r"backbone\.layers\.(\d+)\.downsample\.(\w+)\.(\w+)",
            _ENCODER + r"model.encoder.layers.\1.downsample.\2.\3",
        ),
        (r"backbone\.norm(\d)\.(\w+)", _ENCODER + r"hidden_states_norms.\1.\2"),
        # ResNet; the arithmetic on stage and block numbers is in `_numbered`
        (r"backbone\.stem\.conv1\.weight", _ENCODER + "embedder.embedder.convolution.weight"),
        (
            r"backbone\.stem\.conv1\.norm\.(\w+)",
            _ENCODER + r"embedder.embedder.normalization.\1",
        ),
        # Pixel decoder
        (r"sem_seg_head\.pixel_decoder\.layer_4\.weight", _DECODER + "fpn.stem.0.weight"),
        (r"sem_seg_head\.pixel_decoder\.layer_4\.norm\.(\w+)", _DECODER + r"fpn.stem.1.\1"),
        (
            r"sem_seg_head\.pixel_decoder\.mask_features\.(\w+)",
            _DECODER + r"mask_projection.\1",
        ),
        # Transformer and heads
        *(
            (rf"sem_seg_head\.predictor\.transformer\.decoder\.layers\.(\d+)\.{ours}", theirs)
            for ours, theirs in (
                (r"self_attn\.in_proj_(\w+)", _LAYER + r"self_attn.{}_proj.\2"),
                (r"multihead_attn\.in_proj_(\w+)", _LAYER + r"encoder_attn.{}_proj.\2"),
                (r"self_attn\.out_proj\.(\w+)", _LAYER + r"self_attn.out_proj.\2"),
                (r"multihead_attn\.out_proj\.(\w+)", _LAYER + r"encoder_attn.out_proj.\2"),
                (r"linear([12])\.(\w+)", _LAYER + r"fc\2.\3"),
                (r"norm1\.(\w+)", _LAYER + r"self_attn_layer_norm.\2"),
                (r"norm2\.(\w+)", _LAYER + r"encoder_attn_layer_norm.\2"),
                (r"norm3\.(\w+)", _LAYER + r"final_layer_norm.\2"),
            )
        ),
        (
            r"sem_seg_head\.predictor\.transformer\.decoder\.norm\.(\w+)",
            _TRANSFORMER + r"decoder.layernorm.\1",
        ),
        (
            r"sem_seg_head\.predictor\.query_embed\.weight",
            _TRANSFORMER + "queries_embedder.weight",
        ),
        (r"sem_seg_head\.predictor\.input_proj\.(\w+)", _TRANSFORMER + r"input_projection.\1"),
        (r"sem_seg_head\.predictor\.class_embed\.(\w+)", r"class_predictor.\1"),
        (
            r"sem_seg_head\.predictor\.mask_embed\.layers\.(\d)\.(\w+)",
            r"mask_embedder.\1.0.\2",
        ),
        (r"criterion\.empty_weight", "criterion.empty_weight"),
    )
)
_RESNET_CONV = re.compile(r"backbone\.res(\d)\.(\d+)\.(conv(\d)|shortcut)(\.norm)?\.(\w+)")
_FPN = re.compile(r"sem_seg_head\.pixel_decoder\.(adapter|layer)_([123])(\.norm)?\.(\w+)")
_SWIN_PARTS = ("query", "key", "value")
_DECODER_PARTS = ("q", "k", "v")


@dataclass(frozen=True)
class Extra:
    """A tensor the library's files hold beside the original's; its forward pass ignores it."""

    shape: tuple[int, ...]
    dtype: str
    value: float

    def load(self) -> np.ndarray:
        """The value that the library itself starts with."""
        return np.full(self.shape, self.value, self.dtype)


def names(original: str) -> tuple[str, ...]:
    """The library's name for an original tensor; three where it is packed along its first axis.

    Raises:
        InputError: the library has no such tensor.
    """
    numbered = _numbered(original)
    if numbered:
        return (numbered,)
    for pattern, template in _RULES:
        found = pattern.fullmatch(original)
        if found:
            name = found.expand(template.replace("{}", "QKV"))
            if "QKV" not in name:
                return (name,)
            parts = _SWIN_PARTS if "attention.self" in name else _DECODER_PARTS
            return tuple(name.replace("QKV", part) for part in parts)
    raise InputError(f"transformers' MaskFormer has no place for {original}")


def _numbered(original: str) -> str | None:
    """Names whose numbers count from elsewhere: the library's stages from 0, its FPN downwards."""
    found = _RESNET_CONV.fullmatch(original)
    if found:
        stage, block, kind, number, norm, leaf = found.groups()
        layer = "shortcut" if kind == "shortcut" else f"layer.{int(number) - 1}"
        part = "normalization" if norm else "convolution"
        return f"{_ENCODER}encoder.stages.{int(stage) - 2}.layers.{block}.{layer}.{part}.{leaf}"
    found = _FPN.fullmatch(original)
    if found:
        kind, number, norm, leaf = found.groups()
        part = "proj" if kind == "adapter" else "block"
        return f"{_DECODER}fpn.layers.{3 - int(number)}.{part}.{1 if norm else 0}.{leaf}"
    return None


def file_name(name: str) -> str:
    """The name in files of a tensor that version 5 of the library shows under its own name."""
    if name.startswith(_TRANSFORMER):
        return name.replace(".o_proj.", ".out_proj.").replace(".mlp.fc", ".fc")
    return name


def extras(config: ModelConfig, originals: list[str]) -> dict[str, Extra]:
    """What a file must hold beside the tensors of `originals`, by library name."""
    if isinstance(config.backbone, SwinConfig):
        channels = (config.backbone.out_channels["res5"],)
        return {
            f"{_ENCODER}model.layernorm.weight": Extra(channels, "float32", 1.0),
            f"{_ENCODER}model.layernorm.bias": Extra(channels, "float32", 0.0),
        }
    return {
        names(name)[0].replace("running_var", "num_batches_tracked"): Extra((), "int64", 0)
        for name in originals
        if name.endswith(".running_var")
    }


def check_supported(
    config: ModelConfig, action: str = "write --to torch, tf or safetensors instead"
) -> None:
    """Raises InputError, naming each part of `config` that the library cannot hold.

    `action` is what the message says to do.
    """
    backbone, predictor = config.backbone, config.predictor
    is_resnet = isinstance(backbone, ResNetConfig)
    obstacles = {
        f"head {config.head}": config.is_per_pixel,
        "the transformer encoder of its pixel decoder": config.pixel_decoder.name
        != "BasePixelDecoder",
        "a pixel decoder without norm": config.pixel_decoder.norm != "GN",
        "encoder layers in the predictor": predictor.enc_layers > 0,
        "pre-norm": predictor.pre_norm,
        f"the transformer's input {predictor.in_feature}": predictor.in_feature != "res5",
        "a projection of an input that has its width already": predictor.enforce_input_proj
        and backbone.out_channels["res5"] == predictor.hidden_dim,
    }
    if is_resnet:
        obstacles |= {
            "the DeepLab stem (R101c)": backbone.stem != "basic",
            "dilation": (backbone.res4_dilation, backbone.res5_dilation) != (1, 1),
            "strides in the 1x1 convolutions": backbone.stride_in_1x1,
            f"ResNet-{backbone.depth}": backbone.depth not in (50, 101),
            "group norm in the backbone": backbone.norm != "FrozenBN",
        }
    else:
        obstacles |= {
            "Swin without patch norm": not backbone.patch_norm,
            "a Swin attention scale of its own": backbone.qk_scale is not None,
        }
    found = [part for part, present in obstacles.items() if present]
    if found:
        raise InputError(
            f"transformers' MaskFormer cannot hold {config.name}",
            f"it has no place for {', '.join(found)}",
            action,
        )


def library_config(config: ModelConfig) -> dict[str, Any]:
    """The content of `config.json` for a model that `check_supported` admits."""
    predictor = config.predictor
    is_coco = config.num_classes == len(coco.PANOPTIC_CATEGORIES)
    labels = [
        coco.PANOPTIC_CATEGORIES[i].name if is_coco else f"class {i}"
        for i in range(config.num_classes)
    ]
    return {
        "architectures": ["MaskFormerForInstanceSegmentation"],
        "model_type": "maskformer",
        "dtype": "float32",
        "backbone_config": _backbone_config(config.backbone),
        "decoder_config": {
            "model_type": "detr",
            "d_model": predictor.hidden_dim,
            "decoder_layers": predictor.dec_layers,
            "decoder_attention_heads": predictor.nheads,
            "decoder_ffn_dim": predictor.dim_feedforward,
            "encoder_layers": 0,
            "encoder_attention_heads": predictor.nheads,
            "encoder_ffn_dim": predictor.dim_feedforward,
            "num_queries": predictor.num_queries,
            "dropout": predictor.dropout,
            "attention_dropout": predictor.dropout,
            "activation_dropout": predictor.dropout,
            "activation_function": "relu",
        },
        "fpn_feature_size": config.pixel_decoder.conv_dim,
        "mask_feature_size": config.pixel_decoder.mask_dim,
        "cross_entropy_weight": config.loss.class_weight,
        "mask_weight": config.loss.mask_weight,
        "dice_weight": config.loss.dice_weight,
        "no_object_weight": config.loss.no_object_weight,
        # with it, the library's forward wants hidden states that it does not ask for (5.23)
        "use_auxiliary_loss": False,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _backbone_config(backbone: ResNetConfig | SwinConfig) -> dict[str, Any]:
    stages = [f"stage{i}" for i in (1, 2, 3, 4)]
    if isinstance(backbone, SwinConfig):
        return {
            "model_type": "swin",
            "image_size": backbone.pretrain_img_size,
            "patch_size": backbone.patch_size,
            "embed_dim": backbone.embed_dim,
            "depths": list(backbone.depths),
            "num_heads": list(backbone.num_heads),
            "window_size": backbone.window_size,
            "mlp_ratio": backbone.mlp_ratio,
            "qkv_bias": backbone.qkv_bias,
            "hidden_dropout_prob": backbone.drop_rate,
            "attention_probs_dropout_prob": backbone.attn_drop_rate,
            "drop_path_rate": backbone.drop_path_rate,
            "out_features": stages,
        }
    return {
        "model_type": "resnet",
        "embedding_size": backbone.stem_out_channels,
        "hidden_sizes": list(backbone.out_channels.values()),
        "depths": list(backbone.blocks),
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "out_features": stages,
    }

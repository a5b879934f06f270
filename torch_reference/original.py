"""The original itself, facebookresearch/MaskFormer, behind the interface of `torch_reference`.

The model is the original's own code, built from its own YAML; nothing of it is part of this
project. What differs here is the way in and out, never what is computed:

- Images and predictions as `MaskFormer` here takes and returns them. The original normalises each
  image, and only then pads it with zeros; so does `Original`.
- Calls that go around a module's `forward`, other names of its parameters, and a norm computed
  twice of the same tensor are led through the calls that the other implementations make, so that
  their tensors pair by name. Modules that those write as functions (activations, the containers of
  ResNet's stages) are not listed by `named_modules`. Without deep supervision the masks of the one
  layer are computed as those of all layers are with it.
- In float64 its position encoding, which asks for float32 wherever it makes a tensor, makes float64
  ones (`_InFloat64`). In float32 it runs as it is.
"""

import dataclasses
import inspect
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import torch_reference
from maskformer.model.config import ModelConfig, SwinConfig
from maskformer.model.zoo import ENTRIES
from parity.errors import InputError

CONFIGS_VARIABLE = "MASKFORMER_CONFIGS"
_BASE = "coco_r50"  # whose YAML models without a YAML of their own start from


def build(config: ModelConfig) -> "Original":
    """The original's model that `config` describes, float32, random weights, in training mode.

    Published models are built from their YAML alone, any other from that of `coco_r50` with
    `overrides`.

    Raises:
        InputError: detectron2, mask_former or the original's YAML files are not there.
    """
    _require_packages()
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.projects.deeplab import add_deeplab_config
    from mask_former import add_mask_former_config

    config_file, changes = source(config)
    settings = get_cfg()
    add_deeplab_config(settings)
    add_mask_former_config(settings)
    settings.merge_from_file(str(_config_path(config_file)))
    for key, value in changes.items():
        settings.merge_from_list([key, value])
    settings.MODEL.DEVICE = "cpu"
    return Original(build_model(settings), config)


def source(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """The original's YAML file that `config` is built from, and what is changed in it.

    The file is relative to the original's `configs` folder.
    """
    nameless = dataclasses.replace(config, name="")
    for entry in ENTRIES.values():
        if entry.config_file and dataclasses.replace(entry.model, name="") == nameless:
            return entry.config_file, {}
    return ENTRIES[_BASE].config_file, overrides(config)


def overrides(config: ModelConfig) -> dict[str, Any]:
    """Every detectron2 setting that fixes the function `config` describes, by dotted key.

    The inverse of `maskformer.model.detectron2_config` as far as the forward computation goes.
    """
    decoder, predictor = config.pixel_decoder, config.predictor
    architecture = "SemanticSegmentor" if config.is_per_pixel else "MaskFormer"
    head = {
        "NAME": config.head,
        "NUM_CLASSES": config.num_classes,
        "IGNORE_VALUE": config.ignore_value,
        "PIXEL_DECODER_NAME": decoder.name,
        "CONVS_DIM": decoder.conv_dim,
        "MASK_DIM": decoder.mask_dim,
        "NORM": decoder.norm,
        "TRANSFORMER_ENC_LAYERS": decoder.transformer_enc_layers,
    }
    transformer = {
        "HIDDEN_DIM": predictor.hidden_dim,
        "NUM_OBJECT_QUERIES": predictor.num_queries,
        "NHEADS": predictor.nheads,
        "DROPOUT": predictor.dropout,
        "DIM_FEEDFORWARD": predictor.dim_feedforward,
        "ENC_LAYERS": predictor.enc_layers,
        "DEC_LAYERS": predictor.dec_layers,
        "PRE_NORM": predictor.pre_norm,
        "DEEP_SUPERVISION": predictor.deep_supervision,
        "TRANSFORMER_IN_FEATURE": predictor.in_feature,
        "ENFORCE_INPUT_PROJ": predictor.enforce_input_proj,
        "MASK_WEIGHT": config.loss.mask_weight,
        "DICE_WEIGHT": config.loss.dice_weight,
        "NO_OBJECT_WEIGHT": config.loss.no_object_weight,
    }
    return {
        "MODEL.META_ARCHITECTURE": architecture,
        "MODEL.PIXEL_MEAN": list(config.pixel_mean),
        "MODEL.PIXEL_STD": list(config.pixel_std),
        **_backbone_overrides(config),
        **{f"MODEL.SEM_SEG_HEAD.{key}": value for key, value in head.items()},
        **{f"MODEL.MASK_FORMER.{key}": value for key, value in transformer.items()},
    }


def _backbone_overrides(config: ModelConfig) -> dict[str, Any]:
    section = "SWIN" if isinstance(config.backbone, SwinConfig) else "RESNETS"
    fields = dataclasses.asdict(config.backbone)
    if section == "SWIN":
        name = "D2SwinTransformer"
    else:
        stem = fields.pop("stem")
        name = "build_resnet_backbone"
        if stem == "deeplab":
            name, fields["stem_type"] = "build_resnet_deeplab_backbone", stem
        else:  # its builder knows neither
            del fields["res4_dilation"], fields["res5_multi_grid"]
    values = {
        f"MODEL.{section}.{key.upper()}": list(value) if isinstance(value, tuple) else value
        for key, value in fields.items()
    }
    return {"MODEL.BACKBONE.NAME": name, **values}


def _require_packages() -> None:
    try:
        import detectron2.projects.deeplab  # noqa: F401
        import mask_former  # noqa: F401
    except ImportError as error:
        raise InputError(
            "the original, facebookresearch/MaskFormer, cannot be imported",
            f"it needs the packages detectron2 and mask_former: {error}",
            "install detectron2 from https://github.com/facebookresearch/detectron2, clone "
            "https://github.com/facebookresearch/MaskFormer, install its requirements.txt, and "
            "add the clone to PYTHONPATH",
        ) from error


def _config_path(config_file: str) -> Path:
    """The original's YAML file `config_file`; raises InputError where it is not there."""
    import mask_former

    beside = Path(mask_former.__file__).parent.parent / "configs"
    path = Path(os.environ.get(CONFIGS_VARIABLE, beside)) / config_file
    if not path.is_file():
        raise InputError(
            "a YAML file of the original, facebookresearch/MaskFormer, is missing",
            f"expected: {path}",
            f"set {CONFIGS_VARIABLE} to the folder `configs` of a clone of the repository",
        )
    return path


class Original(nn.Module):
    """The original's parts, called as `torch_reference.modeling.maskformer.MaskFormer` is.

    Its state dict has the original's keys, which are also those of the built-in model.
    """

    def __init__(self, model: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        with torch.device("meta"):
            builtin = torch_reference.build(config)
        called = (one for one in builtin.named_modules() if not isinstance(one[1], nn.ModuleList))
        self._listed = frozenset(path for path, _ in called)
        self.config = config
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        if not config.is_per_pixel:
            self.criterion = model.criterion
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(model, name), persistent=False)
        _route_calls(self)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor | list]:
        """Predictions for RGB images [N,3,H,W] with values 0..255, padded at the right and bottom.

        `sizes` int [N,2] are the valid (height, width) of each image; None means all is valid.
        """
        if sizes is None:
            x = (images - self.pixel_mean) / self.pixel_std
        else:
            x = torch.zeros_like(images)
            for index, (height, width) in enumerate(sizes.tolist()):
                image = images[index, :, :height, :width]
                x[index, :, :height, :width] = (image - self.pixel_mean) / self.pixel_std
        outputs = self.sem_seg_head(self.backbone(x))
        if not self.config.predictor.deep_supervision:
            outputs.pop("aux_outputs", None)
        return outputs

    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """The modules that the built-in model calls too; the others own no tensor."""
        for path, module in super().named_modules(memo, prefix, remove_duplicate):
            if path.removeprefix(prefix).removeprefix(".") in self._listed:
                yield path, module

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As `torch.nn.Module` does it; a plain dict counts as one of the current format.

        Without this the original takes its keys for those of an older format, and renames them.
        """
        state = OrderedDict(state_dict)
        state._metadata = getattr(state_dict, "_metadata", self.state_dict()._metadata)
        return super().load_state_dict(state, *args, **kwargs)


def _route_calls(model: Original) -> None:
    """Leads the calls between the original's modules through their `__call__`, with our names."""
    from mask_former.modeling.backbone.swin import BasicLayer
    from mask_former.modeling.transformer.position_encoding import PositionEmbeddingSine
    from mask_former.modeling.transformer.transformer import TransformerDecoder
    from mask_former.modeling.transformer.transformer_predictor import TransformerPredictor

    head = model.sem_seg_head
    _route_pixel_decoder(head.pixel_decoder)
    if model.config.is_per_pixel:
        _route_per_pixel_head(head)
    for module in model.modules():
        if isinstance(module, PositionEmbeddingSine):
            _route_position_encoding(module)
        elif isinstance(module, TransformerDecoder):
            _shadow(module, "norm", _Once(module.norm))
        elif isinstance(module, TransformerPredictor):
            module.aux_loss = True  # without it, masks are computed of the last layer alone
        elif isinstance(module, BasicLayer):
            _route_stage(module)


def _route_pixel_decoder(decoder: nn.Module) -> None:
    """The heads call `forward_features`: let that be a call of the module."""
    decoder.forward = decoder.forward_features
    decoder.forward_features = lambda features: decoder(features)


def _route_per_pixel_head(head: nn.Module) -> None:
    """Logits by name, and in training mode too, where the original returns losses."""

    def upsample(logits: Tensor) -> Tensor:
        return F.interpolate(
            logits, scale_factor=head.common_stride, mode="bilinear", align_corners=False
        )

    def forward(features: dict[str, Tensor]) -> dict[str, Tensor | list]:
        found = head.layers(features)
        logits, earlier = found if isinstance(found, tuple) else (found, None)
        outputs = {"sem_seg": upsample(logits)}
        if earlier is not None:
            outputs["aux_outputs"] = [{"sem_seg": upsample(one["pred_masks"])} for one in earlier]
        return outputs

    head.forward = forward


def _route_position_encoding(layer: nn.Module) -> None:
    """Without the mask that the original never gives, and in float64 where its input is."""
    encode = layer.forward

    def forward(x: Tensor) -> Tensor:
        with _InFloat64() if x.dtype == torch.float64 else nullcontext():
            return encode(x)

    layer.forward = forward


def _route_stage(stage: nn.Module) -> None:
    """Swin: the shift mask and a stage's two results by the names that they have here."""
    run = stage.forward
    stage.forward = lambda x, height, width: _StageResult(*run(x, height, width))
    for block in stage.blocks:
        block.forward = _renamed(block.forward, "x", "shift_mask")
        block.attn.forward = _renamed(block.attn.forward, "x", "shift_mask")
        _shadow(block, "attn", partial(_attend, block.attn))


def _attend(attention: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    return attention(x, mask)


def _renamed(call: Callable, *names: str) -> Callable:
    """`call` with positional parameters of these names."""

    def renamed(*args: Any) -> Any:
        return call(*args)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    renamed.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return renamed


def _shadow(module: nn.Module, name: str, call: Callable) -> None:
    """Makes `module` find `call` under the name of its child, which stays registered."""
    vars(module)[name] = call  # looked up before the children


class _Once:
    """Calls a module, except with the very tensor of its last call: that has the same result.

    The original's decoder computes the norm of its last layer twice.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._last is not None and self._last[0] is x:
            (_, result), self._last = self._last, None
            return result
        self._last = x, self._module(x)
        return self._last[1]


class _StageResult(tuple):
    """The six results of one of Swin's stages; of its tensors, tokens are "0", the next's "1"."""

    _fields = ("0", "height", "width", "1", "next_height", "next_width")

    def __new__(cls, *values: Any) -> "_StageResult":
        return super().__new__(cls, values)


class _InFloat64(TorchFunctionMode):
    """Makes float64 tensors wherever a function is asked for float32 ones."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        return function(*args, **kwargs)

"""MaskFormer in PyTorch with the state-dict keys of facebookresearch/MaskFormer."""

from typing import TYPE_CHECKING

from maskformer.model.config import ModelConfig

if TYPE_CHECKING:
    from torch_reference.modeling.maskformer import MaskFormer


def build(config: ModelConfig) -> "MaskFormer":
    """The model that `config` describes, float32, randomly initialised, in training mode."""
    from torch_reference.modeling.maskformer import MaskFormer

    return MaskFormer(config)

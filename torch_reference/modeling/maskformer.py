"""The whole model: normalisation, backbone, head; and the criterion that owns `empty_weight`."""

import torch
from torch import Tensor, nn

from maskformer.model.config import ModelConfig, SwinConfig
from torch_reference.criterion import SetCriterion
from torch_reference.modeling.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from torch_reference.modeling.pixel_decoder import PixelDecoder
from torch_reference.modeling.predictor import TransformerPredictor
from torch_reference.modeling.resnet import ResNet
from torch_reference.modeling.swin import SwinTransformer


class MaskFormerHead(nn.Module):
    """Pixel decoder and transformer predictor (the original's `heads/mask_former_head.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.in_feature = config.predictor.in_feature
        channels = {
            **config.backbone.out_channels,
            "transformer_encoder": config.pixel_decoder.conv_dim,
        }
        self.pixel_decoder = PixelDecoder(
            config.pixel_decoder, config.backbone.out_channels, config.predictor
        )
        self.predictor = TransformerPredictor(
            config.predictor,
            channels[self.in_feature],
            config.num_classes,
            config.pixel_decoder.mask_dim,
        )

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor | list]:
        """Features res2..res5 -> predictions, see `TransformerPredictor`."""
        mask_features, encoded = self.pixel_decoder(features)
        x = encoded if self.in_feature == "transformer_encoder" else features[self.in_feature]
        return self.predictor(x, mask_features)


HEADS = {
    "MaskFormerHead": MaskFormerHead,
    "PerPixelBaselineHead": PerPixelBaselineHead,
    "PerPixelBaselinePlusHead": PerPixelBaselinePlusHead,
}


class MaskFormer(nn.Module):
    """Images to predictions, with the original's state-dict keys.

    Normalises in the model's dtype with float32-rounded mean and standard deviation, as the
    original's buffers are, and zeroes the padding afterwards (`mask_former_model.py`).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        swin = isinstance(config.backbone, SwinConfig)
        self.backbone = SwinTransformer(config.backbone) if swin else ResNet(config.backbone)
        self.sem_seg_head = HEADS[config.head](config)
        if not config.is_per_pixel:
            self.criterion = SetCriterion(config)
        for name in ("pixel_mean", "pixel_std"):
            value = torch.tensor(getattr(config, name)).reshape(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor | list]:
        """Predictions for RGB images [N,3,H,W] with values 0..255, padded at the right and bottom.

        `sizes` int [N,2] are the valid (height, width) of each image; None means all is valid.
        """
        x = (images - self.pixel_mean) / self.pixel_std
        if sizes is not None:
            height, width = x.shape[-2:]
            rows = torch.arange(height, device=x.device)[:, None] < sizes[:, 0, None, None]
            columns = torch.arange(width, device=x.device) < sizes[:, 1, None, None]
            x = torch.where((rows & columns)[:, None], x, torch.zeros_like(x))
        return self.sem_seg_head(self.backbone(x))

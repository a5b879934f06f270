"""The per-pixel baselines: a classifier per pixel instead of masks with classes."""

from torch import Tensor, nn
from torch.nn import functional as F

from maskformer.model.config import ModelConfig
from torch_reference.layers import Conv2d, msra_fill
from torch_reference.modeling.pixel_decoder import PixelDecoder
from torch_reference.modeling.predictor import TransformerPredictor

COMMON_STRIDE = 4


def _upsample(logits: Tensor) -> Tensor:
    return F.interpolate(logits, scale_factor=COMMON_STRIDE, mode="bilinear", align_corners=False)


class PerPixelBaselineHead(nn.Module):
    """1x1 classifier over the mask features (the original's `heads/per_pixel_baseline.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(
            config.pixel_decoder, config.backbone.out_channels, config.predictor
        )
        self.predictor = msra_fill(Conv2d(config.pixel_decoder.mask_dim, config.num_classes, 1))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features res2..res5 -> "sem_seg" logits [N,K,H,W]."""
        mask_features, _ = self.pixel_decoder(features)
        return {"sem_seg": _upsample(self.predictor(mask_features))}


class PerPixelBaselinePlusHead(nn.Module):
    """A transformer predictor whose query k is the classifier of class k."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.in_feature = config.predictor.in_feature
        self.pixel_decoder = PixelDecoder(
            config.pixel_decoder, config.backbone.out_channels, config.predictor
        )
        channels = {
            **config.backbone.out_channels,
            "transformer_encoder": config.pixel_decoder.conv_dim,
        }
        self.predictor = TransformerPredictor(
            config.predictor, channels[self.in_feature], None, config.pixel_decoder.mask_dim
        )

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor | list]:
        """Features -> "sem_seg" logits [N,K,H,W]; with deep supervision "aux_outputs" too."""
        mask_features, encoded = self.pixel_decoder(features)
        x = encoded if self.in_feature == "transformer_encoder" else features[self.in_feature]
        predictions = self.predictor(x, mask_features)
        outputs = {"sem_seg": _upsample(predictions["pred_masks"])}
        if "aux_outputs" in predictions:
            outputs["aux_outputs"] = [
                {"sem_seg": _upsample(layer["pred_masks"])} for layer in predictions["aux_outputs"]
            ]
        return outputs

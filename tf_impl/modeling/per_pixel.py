"""The per-pixel baselines: a classifier per pixel instead of masks with classes."""

import tensorflow as tf
import tf_keras

from maskformer.model.config import ModelConfig
from tf_impl.layers import Conv2d, msra_fill, resize_bilinear
from tf_impl.modeling.pixel_decoder import PixelDecoder
from tf_impl.modeling.predictor import TransformerPredictor

COMMON_STRIDE = 4


def _upsample(logits: tf.Tensor) -> tf.Tensor:
    height, width = logits.shape[-2:]
    return resize_bilinear(logits, (COMMON_STRIDE * height, COMMON_STRIDE * width))


class PerPixelBaselineHead(tf_keras.layers.Layer):
    """1x1 classifier over the mask features (the original's `heads/per_pixel_baseline.py`)."""

    def __init__(self, config: ModelConfig, **kwargs) -> None:
        super().__init__(**kwargs)
        self.pixel_decoder = PixelDecoder(
            config.pixel_decoder, config.backbone.out_channels, config.predictor
        )
        self.predictor = Conv2d(
            config.pixel_decoder.mask_dim, config.num_classes, 1, fill=msra_fill
        )

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Features res2..res5 -> "sem_seg" logits [N,K,H,W]."""
        mask_features, _ = self.pixel_decoder(features, training=training)
        logits = tf.transpose(self.predictor(mask_features), (0, 3, 1, 2))
        return {"sem_seg": _upsample(logits)}


class PerPixelBaselinePlusHead(tf_keras.layers.Layer):
    """A transformer predictor whose query k is the classifier of class k."""

    def __init__(self, config: ModelConfig, **kwargs) -> None:
        super().__init__(**kwargs)
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

    def call(
        self, features: dict[str, tf.Tensor], training: bool = False
    ) -> dict[str, tf.Tensor | list]:
        """Features -> "sem_seg" logits [N,K,H,W]; with deep supervision "aux_outputs" too."""
        mask_features, encoded = self.pixel_decoder(features, training=training)
        x = encoded if self.in_feature == "transformer_encoder" else features[self.in_feature]
        predictions = self.predictor(x, mask_features, training=training)
        outputs = {"sem_seg": _upsample(predictions["pred_masks"])}
        if "aux_outputs" in predictions:
            outputs["aux_outputs"] = [
                {"sem_seg": _upsample(layer["pred_masks"])} for layer in predictions["aux_outputs"]
            ]
        return outputs

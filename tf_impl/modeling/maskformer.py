"""The whole model: normalisation, backbone, head; and the criterion that owns `empty_weight`."""

import numpy as np
import tensorflow as tf
import tf_keras

from maskformer.model.config import ModelConfig, SwinConfig
from tf_impl.criterion import SetCriterion
from tf_impl.layers import wide
from tf_impl.modeling.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from tf_impl.modeling.pixel_decoder import PixelDecoder
from tf_impl.modeling.predictor import TransformerPredictor
from tf_impl.modeling.resnet import ResNet
from tf_impl.modeling.swin import SwinTransformer


class MaskFormerHead(tf_keras.layers.Layer):
    """Pixel decoder and transformer predictor (the original's `heads/mask_former_head.py`)."""

    def __init__(self, config: ModelConfig, **kwargs) -> None:
        super().__init__(**kwargs)
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

    def call(
        self, features: dict[str, tf.Tensor], training: bool = False
    ) -> dict[str, tf.Tensor | list]:
        """Features res2..res5 -> predictions, see `TransformerPredictor`."""
        mask_features, encoded = self.pixel_decoder(features, training=training)
        x = encoded if self.in_feature == "transformer_encoder" else features[self.in_feature]
        return self.predictor(x, mask_features, training=training)


HEADS = {
    "MaskFormerHead": MaskFormerHead,
    "PerPixelBaselineHead": PerPixelBaselineHead,
    "PerPixelBaselinePlusHead": PerPixelBaselinePlusHead,
}


class MaskFormer(tf_keras.Model):
    """Images to predictions; a variable's attribute path is the original's state-dict key.

    Normalises in the model's dtype with float32-rounded mean and standard deviation, as the
    original's buffers are, and zeroes the padding afterwards (`mask_former_model.py`).
    """

    def __init__(self, config: ModelConfig, **kwargs) -> None:
        super().__init__(**kwargs)
        self.config = config
        swin = isinstance(config.backbone, SwinConfig)
        self.backbone = SwinTransformer(config.backbone) if swin else ResNet(config.backbone)
        self.sem_seg_head = HEADS[config.head](config)
        if not config.is_per_pixel:
            self.criterion = SetCriterion(config)

    def call(
        self, images: tf.Tensor, sizes: tf.Tensor | None = None, training: bool = False
    ) -> dict[str, tf.Tensor | list]:
        """Predictions for RGB images [N,H,W,3] with values 0..255, padded at the right and bottom.

        `sizes` int32 [N,2] are the valid (height, width) of each image; None means all is valid.
        Shapes are static; the masks returned are [N,Q,H/4,W/4].
        """
        pixels = wide(images)  # levels are exact in 16 bits, normalised ones are not
        mean = tf.constant(np.float32(self.config.pixel_mean), pixels.dtype)
        std = tf.constant(np.float32(self.config.pixel_std), pixels.dtype)
        x = (pixels - mean) / std
        if sizes is not None:
            rows = tf.range(x.shape[1])[None, :, None] < sizes[:, 0, None, None]
            columns = tf.range(x.shape[2])[None, None, :] < sizes[:, 1, None, None]
            x = tf.where((rows & columns)[..., None], x, tf.zeros_like(x))
        features = self.backbone(tf.cast(x, images.dtype), training=training)
        return self.sem_seg_head(features, training=training)

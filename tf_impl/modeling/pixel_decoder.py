"""Pixel decoders: the FPN that turns backbone features into per-pixel embeddings."""

import tensorflow as tf
import tf_keras

from maskformer.model.config import FEATURES, PixelDecoderConfig, PredictorConfig
from tf_impl.layers import Conv2d, resize_nearest, xavier_fill
from tf_impl.modeling.position_encoding import PositionEmbeddingSine
from tf_impl.modeling.transformer import TransformerEncoderOnly


def _output_conv(in_channels: int, config: PixelDecoderConfig) -> Conv2d:
    return Conv2d(
        in_channels,
        config.conv_dim,
        3,
        padding=1,
        bias=config.norm == "",
        norm=config.norm,
        activation=tf.nn.relu,
        fill=xavier_fill,
    )


class PixelDecoder(tf_keras.layers.Layer):
    """FPN from res5 down to res2 with nearest upsampling, then a 3x3 convolution.

    `adapter_i` are lateral 1x1 convolutions, `layer_i` 3x3 output convolutions with ReLU; i = 1 is
    res2, i = 4 is res5. "TransformerEncoderPixelDecoder" puts a transformer encoder between res5
    and `layer_4` (the original's `heads/pixel_decoder.py`).
    """

    def __init__(
        self,
        config: PixelDecoderConfig,
        in_channels: dict[str, int],
        predictor: PredictorConfig,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        dim = config.conv_dim
        for number, name in enumerate(FEATURES[:-1], start=1):
            lateral = Conv2d(
                in_channels[name],
                dim,
                1,
                bias=config.norm == "",
                norm=config.norm,
                fill=xavier_fill,
            )
            setattr(self, f"adapter_{number}", lateral)
            setattr(self, f"layer_{number}", _output_conv(dim, config))
        self.mask_features = Conv2d(dim, config.mask_dim, 3, padding=1, fill=xavier_fill)
        if config.name == "TransformerEncoderPixelDecoder":
            self.input_proj = Conv2d(in_channels["res5"], dim, 1, fill=xavier_fill)
            self.transformer = TransformerEncoderOnly(
                d_model=dim,
                nhead=predictor.nheads,
                num_encoder_layers=config.transformer_enc_layers,
                dim_feedforward=predictor.dim_feedforward,
                dropout=predictor.dropout,
                pre_norm=predictor.pre_norm,
            )
            self.pe_layer = PositionEmbeddingSine(dim // 2)
            self.layer_4 = _output_conv(dim, config)
        else:
            self.layer_4 = _output_conv(in_channels["res5"], config)
            self.transformer = None

    def call(
        self, features: dict[str, tf.Tensor], training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Features res2..res5 [N,h,w,C] -> (mask features [N,H/4,W/4,mask_dim], encoder output).

        The encoder output [N,H/32,W/32,conv_dim] is taken before `layer_4`: it is the decoder's
        memory. It is None without an encoder.
        """
        top, encoded = features["res5"], None
        if self.transformer is not None:
            pos = self.pe_layer(top)
            encoded = self.transformer(self.input_proj(top), pos, training=training)
            top = encoded
        y = self.layer_4(top)
        for number in (3, 2, 1):
            lateral = getattr(self, f"adapter_{number}")(features[FEATURES[number - 1]])
            y = lateral + resize_nearest(y, lateral.shape[1:3])
            y = getattr(self, f"layer_{number}")(y)
        return self.mask_features(y), encoded

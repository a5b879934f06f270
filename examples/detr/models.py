"""Both DETRs at a small size: that of `transformers`, and the Model Garden's, which is varied."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import torch
from official.projects.detr.modeling import detr, transformer
from official.vision.modeling.backbones import resnet
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from parity.frameworks.torch.weights import vary
from parity.planting import replaced

LAYERS = 2  # of the encoder, and of the decoder
HEADS = 8  # the Model Garden's DETR has no other number
HIDDEN = 32
INTERMEDIATE = 2048  # nor another width here
QUERIES = 7
CLASSES = 5
WIDTHS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Differences:
    """In what the Model Garden's DETR is left as it is, where it differs from the reference.

    Args:
        stride_padding: images have even sides, at which TensorFlow pads strided convolutions and
            pooling on the far side only; with odd sides both pad alike.
        batch_norm_epsilon: 1e-3 in the backbone instead of 1e-5.
        layer_norm_epsilon: 1e-6 instead of 1e-5.
        no_attention_bias: projections of the attention have no bias.
        encoder_norm: a norm after the last layer of the encoder.
        mask_rule: the padding mask is sampled at pixel centres instead of rounding down.
    """

    stride_padding: bool = False
    batch_norm_epsilon: bool = False
    layer_norm_epsilon: bool = False
    no_attention_bias: bool = False
    encoder_norm: bool = False
    mask_rule: bool = False


def reference(seed: int, **settings: Any) -> DetrForObjectDetection:
    """DETR of `transformers` with random weights and other `settings` of its own, in eval mode."""
    torch.manual_seed(seed)
    backbone = ResNetConfig(
        embedding_size=64,
        hidden_sizes=list(WIDTHS),
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        num_queries=QUERIES,
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=INTERMEDIATE,
        decoder_ffn_dim=INTERMEDIATE,
        num_labels=CLASSES,
        **settings,
    )
    return vary(DetrForObjectDetection(config).eval(), seed)


def port(
    differences: Differences,
    decoder: type = transformer.TransformerDecoder,
    **settings: Any,
) -> detr.DETR:
    """The Model Garden's DETR, with those of its differences that are asked for.

    Args:
        differences: these.
        decoder: the class of its decoder.
        settings: others of its backbone.
    """
    backbone = resnet.ResNet(
        10,
        input_specs=tf_keras.layers.InputSpec(shape=[None, None, None, 3]),
        depth_multiplier=WIDTHS[0] / 64,
        scale_stem=False,
        norm_epsilon=1e-3 if differences.batch_norm_epsilon else 1e-5,
        **settings,
    )
    return _Detr(
        differences,
        decoder,
        backbone=backbone,
        backbone_endpoint_name="5",
        num_queries=QUERIES,
        hidden_size=HIDDEN,
        num_classes=CLASSES + 1,
        num_encoder_layers=LAYERS,
        num_decoder_layers=LAYERS,
    )


class _Detr(detr.DETR):
    """The Model Garden's DETR, less the differences that are not asked for."""

    def __init__(self, differences: Differences, decoder: type, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._differences, self._decoder_class = differences, decoder

    def _build_detection_decoder(self) -> None:
        super()._build_detection_decoder()
        inner, differences = self._transformer, self._differences
        inner.build()
        inner.built = True
        inner._decoder = self._decoder_class.from_config(inner._decoder.get_config())
        # Its encoder and decoder have these settings; its DETR leaves them at their defaults.
        for part in (inner._encoder, inner._decoder):
            part._use_bias = not differences.no_attention_bias
            part._norm_epsilon = 1e-6 if differences.layer_norm_epsilon else 1e-5
        if not differences.encoder_norm:
            inner._encoder.build(tf.TensorShape([None, None, self._hidden_size]))
            inner._encoder.built = True
            inner._encoder.output_normalization = tf_keras.layers.Activation("linear")

    def _generate_image_mask(self, inputs: tf.Tensor, target_shape: tf.Tensor) -> tf.Tensor:
        if self._differences.mask_rule:
            return super()._generate_image_mask(inputs, target_shape)
        seen = tf.cast(tf.reduce_sum(inputs, axis=-1, keepdims=True) != 0, inputs.dtype)
        return tf.compat.v1.image.resize_nearest_neighbor(seen, target_shape)


class _Rebound:
    """A module with some of its names bound otherwise."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self._module, self._names = module, names

    def __getattr__(self, name: str) -> Any:
        found = self._names.get(name)
        return getattr(self._module, name) if found is None else found()


@contextmanager
def precision_of_keras() -> Iterator[None]:
    """Inside it the Model Garden's DETR takes its precision from Keras.

    By itself it names float32 for positions and norms, and so cannot run in float64. Where Keras
    computes in float32, this changes nothing.
    """
    floatx = tf_keras.backend.floatx

    def power(base: Any, exponent: tf.Tensor) -> tf.Tensor:
        return tf.pow(tf.cast(base, exponent.dtype), exponent)

    def norm(dtype: str = "", **arguments: Any) -> tf_keras.layers.Layer:
        return tf_keras.layers.LayerNormalization(dtype=floatx(), **arguments)

    tensorflow = _Rebound(tf, float32=lambda: tf.as_dtype(floatx()), pow=lambda: power)
    layers = _Rebound(tf_keras.layers, LayerNormalization=lambda: norm)
    keras = _Rebound(tf_keras, layers=lambda: layers)
    with (
        replaced(detr, "tf", tensorflow),
        replaced(transformer, "tf", tensorflow),
        replaced(transformer, "tf_keras", keras),
    ):
        yield


def images(differences: Differences, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images [2,3,H,W] in float32, the second padded with zeros, and their masks [2,H,W]."""
    height, width = (64, 96) if differences.stride_padding else (65, 97)
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(2, 3, height, width)).astype(np.float32)
    mask = np.ones((2, height, width), np.int64)
    mask[1, :, 34:] = 0
    return pixels * mask[:, None], mask

"""The two-dimensional sine position encoding of DETR, normalised."""

import math

import numpy as np
import tensorflow as tf
import tf_keras

TEMPERATURE = 10000.0
EPSILON = 1e-6


def sine_position_encoding(height: int, width: int, num_pos_feats: int) -> np.ndarray:
    """float64 [height,width,2*num_pos_feats]: (y, x) concatenated, sines and cosines alternating.

    Positions count from 1, are divided by (last + 1e-6) and scaled to 2 pi (the original's
    `transformer/position_encoding.py`, with `normalize=True`).
    """
    channel = np.arange(num_pos_feats)
    period = TEMPERATURE ** (2 * (channel // 2) / num_pos_feats)

    def encode(count: int) -> np.ndarray:
        position = np.arange(1, count + 1) / (count + EPSILON) * (2 * math.pi)
        angle = position[:, None] / period
        return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))

    rows = np.broadcast_to(encode(height)[:, None], (height, width, num_pos_feats))
    columns = np.broadcast_to(encode(width)[None], (height, width, num_pos_feats))
    return np.concatenate([rows, columns], axis=-1)


class PositionEmbeddingSine(tf_keras.layers.Layer):
    """Encodes row and column, each with C/2 channels. A constant of the static shape."""

    def __init__(self, num_pos_feats: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_pos_feats = num_pos_feats

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[N,H,W,*] -> [N,H,W,2*num_pos_feats] in x's dtype; only x's shape is read."""
        batch, height, width, _ = x.shape
        encoding = sine_position_encoding(height, width, self.num_pos_feats)
        encoding = tf.constant(encoding[None], dtype=x.dtype)
        return tf.broadcast_to(encoding, (batch, *encoding.shape[1:]))

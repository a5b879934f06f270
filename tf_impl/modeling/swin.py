"""The Swin transformer backbone (the original's `modeling/backbone/swin.py`)."""

import numpy as np
import tensorflow as tf
import tf_keras

from maskformer.model.config import FEATURES, SwinConfig
from tf_impl.layers import Conv2d, Dropout, LayerNorm, Linear, dropout, gelu, softmax

SHIFT_MASK = -100.0  # added to logits between windows that the cyclic shift brought together


def drop_path_rates(last: float, count: int) -> list[float]:
    """`count` rates from 0 to `last` in equal float32 steps, to the bit those of `torch.linspace`.

    Its second half counts down from the end, in fused multiply-adds, which float64 stands in for.
    Other roundings would change the scale of kept branches by 1e-8.
    """
    step = np.float64(np.float32(last) / np.float32(max(count - 1, 1)))
    index = np.arange(count)
    rates = np.where(index < count // 2, step * index, np.float32(last) - step * index[::-1])
    return rates.astype(np.float32).astype(float).tolist() if count > 1 else [0.0]


class DropPath(tf_keras.layers.Layer):
    """Drops a whole residual branch per sample while training (Huang et al. 2016)."""

    def __init__(self, rate: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, input: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[N,...] -> [N,...]; a kept branch is scaled by 1 / (1 - rate)."""
        if self.rate == 0.0 or not training:
            return input
        shape = (input.shape[0],) + (1,) * (input.shape.rank - 1)
        return input * dropout(tf.ones(shape, input.dtype), self.rate, training)


class Mlp(tf_keras.layers.Layer):
    """Linear, exact GELU, linear; dropout after both."""

    def __init__(self, dim: int, hidden_dim: int, drop: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.drop = Dropout(drop)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[..., C] -> [..., C]."""
        x = self.drop(gelu(self.fc1(x)), training=training)
        return self.drop(self.fc2(x), training=training)


def relative_position_index(window: int) -> np.ndarray:
    """int64 [window^2, window^2]: row of the bias table for each pair of places in a window."""
    row, column = np.divmod(np.arange(window * window), window)
    rows = row[:, None] - row[None, :] + window - 1
    columns = column[:, None] - column[None, :] + window - 1
    return rows * (2 * window - 1) + columns


class WindowAttention(tf_keras.layers.Layer):
    """Multi-head attention inside windows, with a learned bias per relative position."""

    def __init__(self, dim: int, num_heads: int, config: SwinConfig, **kwargs) -> None:
        super().__init__(**kwargs)
        window = config.window_size
        self.num_heads = num_heads
        self.scale = config.qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = self.add_weight(
            "relative_position_bias_table",
            ((2 * window - 1) ** 2, num_heads),
            # torch truncates at 2, which is 100 deviations, and Keras at 2 deviations.
            initializer=tf_keras.initializers.RandomNormal(stddev=0.02),
        )
        self.relative_position_index = self.add_weight(
            "relative_position_index",
            (window * window, window * window),
            dtype=tf.int64,
            initializer=lambda shape, dtype: tf.constant(relative_position_index(window), dtype),
            trainable=False,
        )
        self.qkv = Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.attn_drop = Dropout(config.attn_drop_rate)
        self.proj = Linear(dim, dim)
        self.proj_drop = Dropout(config.drop_rate)

    def call(self, x: tf.Tensor, shift_mask: tf.Tensor | None, training: bool = False) -> tf.Tensor:
        """Windows [N*windows, window^2, C], mask [windows, window^2, window^2] or None -> same."""
        count, places, channels = x.shape
        qkv = tf.reshape(self.qkv(x), (count, places, 3, self.num_heads, -1))
        q, k, v = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))
        attention = tf.matmul(q * self.scale, k, transpose_b=True)
        bias = tf.gather(
            tf.convert_to_tensor(self.relative_position_bias_table),
            tf.reshape(self.relative_position_index, (-1,)),
        )
        attention += tf.transpose(tf.reshape(bias, (places, places, self.num_heads)), (2, 0, 1))
        if shift_mask is not None:
            windows = shift_mask.shape[0]
            attention = tf.reshape(attention, (-1, windows, self.num_heads, places, places))
            attention = tf.reshape(attention + shift_mask[:, None], (count, -1, places, places))
        attention = self.attn_drop(softmax(attention), training=training)
        out = tf.transpose(tf.matmul(attention, v), (0, 2, 1, 3))
        out = tf.reshape(out, (count, places, channels))
        return self.proj_drop(self.proj(out), training=training)


def _partition(x: tf.Tensor, window: int) -> tf.Tensor:
    """[N,H,W,C] -> [N*windows, window^2, C]; H and W are multiples of the window."""
    n, height, width, channels = x.shape
    x = tf.reshape(x, (n, height // window, window, width // window, window, channels))
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, window * window, channels))


def _merge(windows: tf.Tensor, window: int, height: int, width: int) -> tf.Tensor:
    """[N*windows, window^2, C] -> [N,H,W,C], the inverse of `_partition`."""
    channels = windows.shape[-1]
    shape = (-1, height // window, width // window, window, window, channels)
    x = tf.transpose(tf.reshape(windows, shape), (0, 1, 3, 2, 4, 5))
    return tf.reshape(x, (-1, height, width, channels))


class SwinTransformerBlock(tf_keras.layers.Layer):
    """(Shifted) window attention and MLP, pre-norm, each behind a drop path."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        shift: int,
        drop_path: float,
        config: SwinConfig,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.window, self.shift = config.window_size, shift
        self.norm1 = LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, config)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.drop_rate)

    def call(
        self,
        x: tf.Tensor,
        height: int,
        width: int,
        shift_mask: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Tokens [N,H*W,C] and the stage's shift mask -> [N,H*W,C]."""
        n, _, channels = x.shape
        shortcut = x
        x = tf.reshape(self.norm1(x), (n, height, width, channels))
        # Padding follows the norm: its zeros take part in attention, unmasked.
        pad_bottom, pad_right = -height % self.window, -width % self.window
        x = tf.pad(x, ((0, 0), (0, pad_bottom), (0, pad_right), (0, 0)))
        if self.shift:
            x = tf.roll(x, (-self.shift, -self.shift), (1, 2))
        windows = _partition(x, self.window)
        windows = self.attn(windows, shift_mask if self.shift else None, training=training)
        x = _merge(windows, self.window, height + pad_bottom, width + pad_right)
        if self.shift:
            x = tf.roll(x, (self.shift, self.shift), (1, 2))
        x = tf.reshape(x[:, :height, :width], (n, height * width, channels))
        x = shortcut + self.drop_path(x, training=training)
        mlp = self.mlp(self.norm2(x), training=training)
        return x + self.drop_path(mlp, training=training)


class PatchMerging(tf_keras.layers.Layer):
    """Joins 2x2 tokens and halves the resolution: [N,H*W,C] -> [N,ceil(H/2)*ceil(W/2),2C]."""

    def __init__(self, dim: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)
        self.norm = LayerNorm(4 * dim)

    def call(self, x: tf.Tensor, height: int, width: int) -> tf.Tensor:
        """Tokens of the next stage; an odd side is zero-padded first."""
        n, _, channels = x.shape
        x = tf.reshape(x, (n, height, width, channels))
        x = tf.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        x = tf.concat(
            [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], axis=-1
        )
        return self.reduction(self.norm(tf.reshape(x, (n, -1, 4 * channels))))


def shift_mask(height: int, width: int, window: int) -> np.ndarray:
    """float64 [windows, window^2, window^2]: 0 inside a region of the shifted map, -100 across."""
    shift = window // 2

    def band(count: int) -> np.ndarray:
        """0, 1 or 2 along one axis: untouched, cut off by the shift, wrapped around by it."""
        padded = -(-count // window) * window
        place = np.arange(padded)
        return (place >= padded - window).astype(int) + (place >= padded - shift)

    region = 3 * band(height)[:, None] + band(width)
    rows, columns = region.shape
    region = region.reshape(rows // window, window, columns // window, window)
    region = region.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return np.where(region[:, None, :] == region[:, :, None], 0.0, SHIFT_MASK)


class BasicLayer(tf_keras.layers.Layer):
    """One stage: blocks whose shift alternates, then patch merging except in the last stage."""

    def __init__(
        self,
        index: int,
        drop_paths: list[float],
        config: SwinConfig,
        downsample: bool,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        dim = config.embed_dim * 2**index
        self.window = config.window_size
        self.blocks = [
            SwinTransformerBlock(
                dim,
                config.num_heads[index],
                0 if number % 2 == 0 else config.window_size // 2,
                drop_path,
                config,
            )
            for number, drop_path in enumerate(drop_paths)
        ]
        self.downsample = PatchMerging(dim) if downsample else None

    def call(
        self, x: tf.Tensor, height: int, width: int, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Tokens [N,H*W,C] -> (this stage's tokens, the next stage's input)."""
        mask = tf.constant(shift_mask(height, width, self.window), x.dtype)
        for block in self.blocks:
            x = block(x, height, width, mask, training=training)
        return x, x if self.downsample is None else self.downsample(x, height, width)


class PatchEmbed(tf_keras.layers.Layer):
    """Non-overlapping patches to tokens: [N,H,W,3] -> [N,ceil(H/4),ceil(W/4),C], normalised."""

    def __init__(self, config: SwinConfig, **kwargs) -> None:
        super().__init__(**kwargs)
        self.patch_size = config.patch_size
        self.proj = Conv2d(3, config.embed_dim, config.patch_size, stride=config.patch_size)
        self.norm = LayerNorm(config.embed_dim) if config.patch_norm else None

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """A map of patch embeddings; the image is zero-padded to whole patches."""
        _, height, width, _ = x.shape
        pad_bottom, pad_right = -height % self.patch_size, -width % self.patch_size
        x = self.proj(tf.pad(x, ((0, 0), (0, pad_bottom), (0, pad_right), (0, 0))))
        if self.norm is not None:
            n, height, width, channels = x.shape
            x = self.norm(tf.reshape(x, (n, height * width, channels)))
            x = tf.reshape(x, (n, height, width, channels))
        return x


class SwinTransformer(tf_keras.layers.Layer):
    """[N,H,W,3] -> {"res2".."res5"}, each with its own norm."""

    def __init__(self, config: SwinConfig, **kwargs) -> None:
        super().__init__(**kwargs)
        self.patch_embed = PatchEmbed(config)
        self.pos_drop = Dropout(config.drop_rate)
        rates = drop_path_rates(config.drop_path_rate, sum(config.depths))
        self.layers = []
        for index, depth in enumerate(config.depths):
            first = sum(config.depths[:index])
            self.layers.append(
                BasicLayer(index, rates[first : first + depth], config, downsample=index < 3)
            )
        for index, channels in enumerate(config.out_channels.values()):
            setattr(self, f"norm{index}", LayerNorm(channels))

    def call(self, x: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """All four feature maps, finest first."""
        x = self.patch_embed(x)
        n, height, width, channels = x.shape
        x = self.pos_drop(tf.reshape(x, (n, height * width, channels)), training=training)
        features = {}
        for index, name in enumerate(FEATURES):
            out, x = self.layers[index](x, height, width, training=training)
            out = getattr(self, f"norm{index}")(out)
            features[name] = tf.reshape(out, (n, height, width, out.shape[-1]))
            height, width = (height + 1) // 2, (width + 1) // 2
        return features

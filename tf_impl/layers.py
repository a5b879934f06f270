"""Layers that compute what torch's layers compute, NHWC, in any float dtype.

Each class carries the attribute names of its torch counterpart (`weight`, `bias`, `running_mean`,
`in_proj_weight`), so that a variable's path is a state-dict key. Norms and softmax keep their
statistics in float32 under a bfloat16 policy, and gradients of biases are added up there.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

import numpy as np
import tensorflow as tf
import tf_keras

NORM_EPSILON = 1e-5  # torch's default; Keras would use 1e-3
GROUP_NORM_GROUPS = 32  # detectron2 layers/batch_norm.py, get_norm


def msra_fill() -> tf_keras.initializers.Initializer:
    """N(0, 2 / fan_out): fvcore's c2_msra_fill, for ResNets."""
    return tf_keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def xavier_fill() -> tf_keras.initializers.Initializer:
    """U(+-sqrt(3 / fan_in)): fvcore's c2_xavier_fill, for heads."""
    return tf_keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")


def xavier_uniform() -> tf_keras.initializers.Initializer:
    """U(+-sqrt(6 / (fan_in + fan_out))): torch's xavier_uniform_, for transformers."""
    return tf_keras.initializers.GlorotUniform()


def torch_default() -> tf_keras.initializers.Initializer:
    """U(+-1 / sqrt(fan_in)): what torch's linear and convolution layers start from."""
    return tf_keras.initializers.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")


def torch_default_bias(fan_in: int) -> tf_keras.initializers.Initializer:
    """U(+-1 / sqrt(fan_in)): the bias of such a layer."""
    bound = 1.0 / math.sqrt(fan_in)
    return tf_keras.initializers.RandomUniform(-bound, bound)


def wide(x: tf.Tensor) -> tf.Tensor:
    """`x` in a dtype wide enough for sums: float32 for 16-bit floats, else its own."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """``x + bias`` [...,C] whose gradient for the bias is a sum in float32 where `x` has 16 bits.

    TensorFlow's own kernel for a CPU adds up in the dtype of `x`, where a sum stops growing.
    """
    bias = tf.convert_to_tensor(bias)
    if x.dtype.size >= 4:
        return tf.nn.bias_add(x, bias)

    @tf.custom_gradient
    def add(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            summed = tf.reduce_sum(wide(above), axis=tuple(range(above.shape.rank - 1)))
            return above, tf.cast(summed, bias.dtype)

        return tf.nn.bias_add(x, bias), gradient

    return add(x, bias)


def softmax(logits: tf.Tensor) -> tf.Tensor:
    """Softmax over the last axis [...,C] whose gradients sum to zero as exactly as dtypes allow.

    TensorFlow's kernel without oneDNN rounds all probabilities of a row alike, so that their sum is
    not 1, and its gradient (d - sum(d p)) p has the sum ``sum(d p) (1 - sum(p))``: what is left of
    a sum of such gradients, that of a bias before an attention say, is that error alone. Here the
    mean of d is weighted by p / sum(p).
    """

    @tf.custom_gradient
    def of(logits: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        found = tf.nn.softmax(logits)

        def gradient(above: tf.Tensor) -> tf.Tensor:
            p, d = wide(found), wide(above)
            mean = tf.reduce_sum(d * p, -1, keepdims=True) / tf.reduce_sum(p, -1, keepdims=True)
            return tf.cast((d - mean) * p, logits.dtype)

        return found, gradient

    return of(logits)


def _normalise(x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    return (x - mean) / tf.sqrt(variance + NORM_EPSILON)


def _norm_weight(
    layer: tf_keras.layers.Layer, name: str, size: int, initializer: object, trainable: bool = True
) -> tf.Variable:
    """A vector that a 16-bit policy reads in float32, as norms compute."""
    return layer.add_weight(
        name, (size,), initializer=initializer, trainable=trainable, experimental_autocast=False
    )


class FrozenBatchNorm2d(tf_keras.layers.Layer):
    """Batch norm whose statistics and affine terms are constants: an affine map per channel."""

    def __init__(self, num_features: int, **kwargs) -> None:
        super().__init__(**kwargs)
        for name, value in (
            ("weight", "ones"),
            ("bias", "zeros"),
            ("running_mean", "zeros"),
            ("running_var", tf_keras.initializers.Constant(1.0 - NORM_EPSILON)),
        ):
            variable = _norm_weight(self, name, num_features, value, trainable=False)
            setattr(self, name, variable)

    def call(self, input: tf.Tensor) -> tf.Tensor:
        """[N,H,W,C] -> [N,H,W,C], ``(x - mean) / sqrt(var + 1e-5) * weight + bias``."""
        scale = self.weight / tf.sqrt(self.running_var + NORM_EPSILON)
        out = wide(input) * scale + (self.bias - self.running_mean * scale)
        return tf.cast(out, input.dtype)


class GroupNorm(tf_keras.layers.Layer):
    """Normalises groups of neighbouring channels over all places of an image."""

    def __init__(self, num_channels: int, num_groups: int = GROUP_NORM_GROUPS, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_groups = num_groups
        self.weight = _norm_weight(self, "weight", num_channels, "ones")
        self.bias = _norm_weight(self, "bias", num_channels, "zeros")

    def call(self, input: tf.Tensor) -> tf.Tensor:
        """[N,H,W,C] -> [N,H,W,C]."""
        x = wide(input)
        out = _group_norm(x, self.weight, self.bias, self.num_groups, NORM_EPSILON)
        return tf.cast(out, input.dtype)


def group_mean(x: tf.Tensor, num_groups: int) -> tf.Tensor:
    """[N,H,W,C] -> [N,1,1,C]: the mean of each channel's group over all places."""
    channels = x.shape[-1]
    # One axis after the other: short sums round less than a long one.
    mean = tf.reduce_mean(tf.reduce_mean(x, axis=2), axis=1)
    mean = tf.reshape(mean, (-1, num_groups, channels // num_groups))
    mean = tf.reduce_mean(mean, axis=2, keepdims=True)
    mean = tf.tile(mean, (1, 1, channels // num_groups))
    return tf.reshape(mean, (-1, 1, 1, channels))


def _group_norm(
    x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor, num_groups: int, epsilon: float
) -> tf.Tensor:
    """Group norm [N,H,W,C] with a gradient of its own: half the passes over `x` of the derived."""

    @tf.custom_gradient
    def normalise(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor):
        centred = x - group_mean(x, num_groups)
        inverse = 1 / tf.sqrt(group_mean(tf.square(centred), num_groups) + epsilon)
        scale = inverse * weight

        def gradient(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # Both sums over places are all that weight, bias and the statistics need.
            summed = tf.reduce_sum(above, axis=(1, 2), keepdims=True)
            along = tf.reduce_sum(above * centred, axis=(1, 2), keepdims=True) * inverse
            places = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], x.dtype)
            through_mean = group_mean(summed * weight, num_groups) / places
            through_variance = group_mean(along * weight, num_groups) / places
            below = above * scale - centred * (through_variance * inverse**2)
            return (
                below - through_mean * inverse,
                tf.reduce_sum(along, axis=(0, 1, 2)),
                tf.reduce_sum(summed, axis=(0, 1, 2)),
            )

        return centred * scale + bias, gradient

    return normalise(x, weight, bias)


class LayerNorm(tf_keras.layers.Layer):
    """Normalises the last axis."""

    def __init__(self, normalized_shape: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.weight = _norm_weight(self, "weight", normalized_shape, "ones")
        self.bias = _norm_weight(self, "bias", normalized_shape, "zeros")

    def call(self, input: tf.Tensor) -> tf.Tensor:
        """[...,C] -> [...,C]."""
        x = wide(input)
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axis=-1, keepdims=True)
        out = _normalise(x, mean, variance) * self.weight + self.bias
        return tf.cast(out, input.dtype)


def get_norm(norm: str, channels: int) -> tf_keras.layers.Layer | None:
    """The norm layer named "FrozenBN" or "GN" over `channels`; None for ""."""
    if norm == "FrozenBN":
        return FrozenBatchNorm2d(channels, name="norm")
    if norm == "GN":
        return GroupNorm(channels, name="norm")
    return None


class Conv2d(tf_keras.layers.Layer):
    """Convolution [N,H,W,C] -> [N,H',W',C'], then `norm` and `activation` where given.

    Padding is explicit and symmetric, as torch pads; `SAME` would pad an even input by (2, 3).
    The weight is HWIO.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        norm: str = "",
        activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
        fill: Callable[[], tf_keras.initializers.Initializer] = torch_default,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.weight = self.add_weight("weight", shape, initializer=fill())
        fan_in = kernel_size * kernel_size * in_channels
        start = torch_default_bias(fan_in) if fill is torch_default else "zeros"
        self.bias = self.add_weight("bias", (out_channels,), initializer=start) if bias else None
        self.norm = get_norm(norm, out_channels)
        self.activation = activation

    def call(self, input: tf.Tensor) -> tf.Tensor:
        """Convolution, norm, activation, in this order."""
        weight = tf.convert_to_tensor(self.weight)
        convolve = tf.nn.conv2d if self.dilation == 1 else _dilated_conv2d
        x = convolve(
            input,
            weight,
            strides=self.stride,
            padding=_explicit(self.padding),
            dilations=self.dilation,
        )
        if self.bias is not None:
            x = add_bias(x, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


def _explicit(padding: int) -> tuple[tuple[int, int], ...]:
    """`padding` zeros on all four sides of an image, as `tf.nn.conv2d` takes them."""
    return (0, 0), (padding, padding), (padding, padding), (0, 0)


def _dilated_conv2d(
    x: tf.Tensor,
    weight: tf.Tensor,
    strides: int,
    padding: tuple[tuple[int, int], ...],
    dilations: int,
) -> tf.Tensor:
    """`tf.nn.conv2d` with a gradient on every device.

    TensorFlow's kernels for a CPU have none of a dilated convolution. A plain convolution of every
    `dilations`-th row and column computes the same, and has one. A TPU takes XLA's own.
    """

    @tf.custom_gradient
    def convolve(x: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            if _compiled_for_tpu():
                return _dilated_gradients(x, weight, upstream, strides, padding, dilations)
            with tf.GradientTape() as tape:
                tape.watch((x, weight))
                out = _interleaved_conv2d(x, weight, padding, dilations)[:, ::strides, ::strides]
            return tape.gradient(out, [x, weight], upstream)

        out = tf.nn.conv2d(x, weight, strides=strides, padding=padding, dilations=dilations)
        return out, gradient

    return convolve(x, weight)


def _dilated_gradients(
    x: tf.Tensor,
    weight: tf.Tensor,
    upstream: tf.Tensor,
    strides: int,
    padding: tuple[tuple[int, int], ...],
    dilations: int,
) -> list[tf.Tensor]:
    """The gradients of a dilated convolution's input and weight, as XLA computes them."""
    how = {
        "strides": [1, strides, strides, 1],
        "dilations": [1, dilations, dilations, 1],
        "padding": "EXPLICIT",
        "explicit_paddings": [number for pair in padding for number in pair],
        "out_backprop": upstream,
    }
    return [
        tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(x), filter=weight, **how),
        tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=tf.shape(weight), **how),
    ]


_for_tpu: ContextVar[bool] = ContextVar("a program for a TPU is traced", default=False)


@contextmanager
def compiled_for_tpu(wanted: bool = True) -> Iterator[None]:
    """Inside it, layers are traced as where a TPU runs them."""
    token = _for_tpu.set(wanted)
    try:
        yield
    finally:
        _for_tpu.reset(token)


def _compiled_for_tpu() -> bool:
    return _for_tpu.get() or isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)


def _interleaved_conv2d(
    x: tf.Tensor, weight: tf.Tensor, padding: tuple[tuple[int, int], ...], dilations: int
) -> tf.Tensor:
    """A dilated convolution of stride 1 as a plain one of the interleaved parts of `x`."""
    pads, crops = [], []
    for size, (before, after) in zip(x.shape[1:3], padding[1:3], strict=True):
        extra = -(size + before + after) % dilations
        pads.append([before, after + extra])
        crops.append([0, extra])
    blocks = [dilations, dilations]
    out = tf.nn.conv2d(tf.space_to_batch(x, blocks, pads), weight, strides=1, padding="VALID")
    return tf.batch_to_space(out, blocks, crops)


class Linear(tf_keras.layers.Layer):
    """``input @ weight + bias`` over the last axis; the weight is [in,out]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        fill: Callable[[], tf_keras.initializers.Initializer] = torch_default,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.weight = self.add_weight("weight", (in_features, out_features), initializer=fill())
        start = torch_default_bias(in_features)
        self.bias = self.add_weight("bias", (out_features,), initializer=start) if bias else None

    def call(self, input: tf.Tensor) -> tf.Tensor:
        """[...,in] -> [...,out]."""
        return linear(input, self.weight, self.bias)


def linear(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """``x @ weight + bias`` as one matrix product: [...,in] x [in,out] -> [...,out]."""
    in_features, out_features = weight.shape
    out = tf.matmul(tf.reshape(x, (-1, in_features)), weight)
    if bias is not None:
        out = add_bias(out, bias)
    return tf.reshape(out, (*x.shape[:-1], out_features))


class Embedding(tf_keras.layers.Layer):
    """A table [rows,C] that is read as a whole (the queries)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, **kwargs) -> None:
        super().__init__(**kwargs)
        normal = tf_keras.initializers.RandomNormal(stddev=1.0)
        self.weight = self.add_weight("weight", (num_embeddings, embedding_dim), initializer=normal)


_seeds: ContextVar[Iterator[tf.Tensor] | None] = ContextVar("seeds of dropout", default=None)


@contextmanager
def dropout_seed(seed: tf.Tensor) -> Iterator[None]:
    """Inside it, dropout masks are a function of `seed` int32 [2] and the order of the calls.

    Without it they come from TensorFlow's global generator, whose state no checkpoint holds.
    """
    numbered = (tf.random.experimental.stateless_fold_in(seed, number) for number in count())
    token = _seeds.set(numbered)
    try:
        yield
    finally:
        _seeds.reset(token)


Drop = Callable[[tf.Tensor, float, tf.Tensor | None], tf.Tensor]


def _dropped(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    if seed is None:
        return tf.nn.dropout(x, rate)
    return tf.nn.experimental.stateless_dropout(x, rate, seed)


_drop: ContextVar[Drop] = ContextVar("what drops", default=_dropped)


@contextmanager
def dropping(drop: Drop) -> Iterator[None]:
    """Inside it, `drop(x, rate, seed)` is what drops; `seed` is None outside `dropout_seed`."""
    token = _drop.set(drop)
    try:
        yield
    finally:
        _drop.reset(token)


def dropout(x: tf.Tensor, rate: float, training: bool) -> tf.Tensor:
    """`x` with a fraction `rate` of its elements zeroed and the rest scaled, while training."""
    if not training or rate == 0.0:
        return x
    seeds = _seeds.get()
    return _drop.get()(x, rate, None if seeds is None else next(seeds))


class Dropout(tf_keras.layers.Layer):
    """Elementwise dropout while training."""

    def __init__(self, rate: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, input: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[...] -> [...]."""
        return dropout(input, self.rate, training)


class MultiheadAttention(tf_keras.layers.Layer):
    """torch.nn.MultiheadAttention, batch first: biases on q, k, v and out, no mask.

    `in_proj_weight` [E,3E] packs q, k and v by columns. The output projection's tensors live under
    `out_proj`, which is not called as a layer, exactly as in torch.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.dropout_rate = num_heads, dropout
        self.in_proj_weight = self.add_weight(
            "in_proj_weight", (embed_dim, 3 * embed_dim), initializer=xavier_uniform()
        )
        self.in_proj_bias = self.add_weight("in_proj_bias", (3 * embed_dim,), initializer="zeros")
        self.out_proj = Linear(embed_dim, embed_dim, fill=xavier_uniform, name="out_proj")
        self.out_proj.bias.assign(tf.zeros_like(self.out_proj.bias))

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        """[N,S,E] -> [N,heads,S,E/heads]."""
        n, length, width = x.shape
        x = tf.reshape(x, (n, length, self.num_heads, width // self.num_heads))
        return tf.transpose(x, (0, 2, 1, 3))

    def call(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries [N,T,E], keys and values [N,S,E] -> (output [N,T,E], mean weights [N,T,S])."""
        weights = tf.split(tf.convert_to_tensor(self.in_proj_weight), 3, axis=1)
        biases = tf.split(tf.convert_to_tensor(self.in_proj_bias), 3)
        q, k, v = (
            self._heads(linear(x, weight, bias))
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        n, heads, length, width = q.shape
        logits = tf.matmul(q * (1.0 / math.sqrt(width)), k, transpose_b=True)
        attention = tf.cast(softmax(wide(logits)), q.dtype)
        attention = dropout(attention, self.dropout_rate, training)
        out = tf.transpose(tf.matmul(attention, v), (0, 2, 1, 3))
        out = tf.reshape(out, (n, length, heads * width))
        out = linear(out, self.out_proj.weight, self.out_proj.bias)
        return out, tf.reduce_mean(attention, axis=1)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Exact GELU, elementwise (Hendrycks and Gimpel 2016).

    `tf.nn.gelu` rounds sqrt(2) to float32 on its way to float64, an error of 2e-8.
    """
    return 0.5 * x * (1.0 + tf.math.erf(x * tf.constant(math.sqrt(0.5), x.dtype)))


def max_pool2d(x: tf.Tensor, kernel_size: int, stride: int, padding: int) -> tf.Tensor:
    """torch's max pool on [N,H,W,C]: the border is padded with minus infinity on both sides."""
    pad = (padding, padding)
    x = tf.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=x.dtype.as_numpy_dtype(-np.inf))
    return tf.nn.max_pool2d(x, kernel_size, stride, "VALID")


def nearest_indices(out_size: int, in_size: int) -> np.ndarray:
    """int32 [out_size]: torch's `nearest` rule, floor(i * float32(in / out)), clamped."""
    scale = np.float32(in_size) / np.float32(out_size)
    source = np.floor(np.arange(out_size, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(source, in_size - 1)


def resize_nearest(x: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[N,H,W,C] -> [N,*size,C] by torch's `nearest` rule.

    `tf.image.resize(method="nearest")` samples at pixel centres and takes other pixels.
    """
    for axis, out_size in zip((1, 2), size, strict=True):
        in_size = x.shape[axis]
        indices = nearest_indices(out_size, in_size)
        factor = out_size // in_size
        if np.array_equal(indices, np.arange(out_size) // max(factor, 1)):
            # A whole factor is a broadcast, whose gradient is a sum instead of a scatter.
            x = tf.repeat(x, factor, axis=axis)
        else:
            x = tf.gather(x, indices, axis=axis)
    return x


def bilinear_matrix(out_size: int, in_size: int) -> np.ndarray:
    """float64 [out_size,in_size]: torch's bilinear weights with `align_corners=False`."""
    source = (np.arange(out_size) + 0.5) * (in_size / out_size) - 0.5
    source = np.maximum(source, 0.0)
    low = np.minimum(np.floor(source).astype(np.int64), in_size - 1)
    high = np.minimum(low + 1, in_size - 1)
    matrix = np.zeros((out_size, in_size))
    rows = np.arange(out_size)
    np.add.at(matrix, (rows, low), 1.0 - (source - low))
    np.add.at(matrix, (rows, high), source - low)
    return matrix


def resize_bilinear(x: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[...,H,W] -> [...,*size] by torch's bilinear rule, `align_corners=False`, no antialias.

    Two products with constant matrices: exact in float64, where `tf.image.resize` is float32 only,
    and with a gradient that is a matrix product too. Of 16 bits both are taken in float32.
    """
    flat = tf.reshape(wide(x), (-1, *x.shape[-2:]))
    rows = tf.constant(bilinear_matrix(size[0], x.shape[-2]), flat.dtype)
    columns = tf.constant(bilinear_matrix(size[1], x.shape[-1]), flat.dtype)
    flat = tf.matmul(rows, tf.matmul(flat, columns, transpose_b=True))
    return tf.cast(tf.reshape(flat, (*x.shape[:-2], *size)), x.dtype)

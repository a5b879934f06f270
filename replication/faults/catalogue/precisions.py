"""Faults of what must stay in float32 beside bfloat16, and of what a compiler alone does."""

import numpy as np
import tensorflow as tf

import tf_impl.criterion as criterion
import tf_impl.layers as layers
import tf_impl.matcher as matcher
import tf_impl.train_step as train_step
from replication.faults.catalogue.extremes import SECOND
from replication.faults.catalogue.forward import DECODER, ENCODER, PIXELS, PREDICTOR
from replication.faults.catalogue.planting import call, constant, function, line, maker, method
from tf_impl.modeling.position_encoding import TEMPERATURE
from tf_impl.optimizer import TorchAdamW

STEM, BLOCK = "backbone.stem.conv1", "backbone.res3.1"
AS_FLOAT32 = ("computed in bfloat16",)
ALONE = ("in bfloat16 alone",)
COMPILED = ("less exact in float32 alone (xla, not eager)",)
TPU = "default precision of products on TPUs"

_half = maker("id stage what plant places causes imitates", family="bfloat16", bench="bfloat16")
_trained = maker(
    "id stage what plant places causes imitates", family="bfloat16", bench="training_bfloat16"
)
_compiled = maker("id stage what plant places causes imitates", family="XLA", bench="xla")


def _with(change):
    """The call's result is changed."""
    return lambda original, module: lambda *args, **kwargs: change(original(*args, **kwargs))


def _positions_in_bfloat16(original, module):
    """Angles and their sines are computed in bfloat16."""

    def encode(count, channels):
        position = tf.cast(tf.range(1, count + 1) / count * 2 * np.pi, tf.bfloat16)
        channel = np.arange(channels)
        period = tf.constant(TEMPERATURE ** (2 * (channel // 2) / channels), tf.bfloat16)
        angle = position[:, None] / period
        return tf.where(channel % 2 == 0, tf.sin(angle), tf.cos(angle))

    def run(x):
        n, height, width, _ = x.shape
        size = (n, height, width, module.num_pos_feats)
        rows = encode(height, module.num_pos_feats)[None, :, None]
        columns = encode(width, module.num_pos_feats)[None, None]
        found = [tf.broadcast_to(one, size) for one in (rows, columns)]
        return tf.cast(tf.concat(found, -1), x.dtype)

    return run


def _accumulated_in_bfloat16(original, module):
    """A product whose sum is kept in bfloat16, term after term."""

    def run(x):
        weight = tf.cast(module.weight, x.dtype)
        flat = tf.reshape(x, (-1, x.shape[-1]))
        total = tf.zeros((flat.shape[0], weight.shape[1]), x.dtype)
        for index in range(weight.shape[0]):
            total += flat[:, index, None] * weight[None, index]
        total += tf.cast(module.bias, x.dtype)
        return tf.reshape(total, (*x.shape[:-1], weight.shape[1]))

    return run


def _weight_of_5_bits(original, module):
    """The weight keeps five binary digits, as in an 8-bit format."""

    def run(x):
        weight = tf.convert_to_tensor(module.weight)
        scale = 2.0 ** tf.math.floor(tf.math.log(tf.abs(tf.cast(weight, tf.float32))) / np.log(2.0))
        kept = tf.round(tf.cast(weight, tf.float32) / scale * 16) / 16 * scale
        return layers.linear(x, tf.cast(kept, x.dtype), tf.cast(module.bias, x.dtype))

    return run


def _when_compiled(wrong):
    """`wrong` where the layer is traced, the layer itself where it runs eagerly."""

    def chosen(original, module):
        changed = wrong(original, module)

        def run(*args, **kwargs):
            return (original if tf.executing_eagerly() else changed)(*args, **kwargs)

        return run

    return chosen


def _kept(digits):
    """Numbers rounded to so many binary digits, the leading one included."""

    def rounded(x):
        scale = tf.exp(tf.math.floor(tf.math.log(tf.abs(x) + 1e-30) / np.log(2.0)) * np.log(2.0))
        scale = scale / 2.0 ** (digits - 1)
        return tf.round(x / scale) * scale

    return rounded


def _through(dtype):
    return lambda x: tf.cast(tf.cast(x, dtype), x.dtype)


def _operands(change):
    """The layer's input and weight are rounded; products of them are added up in float32."""

    def wrong(original, module):
        def run(x):
            weight = change(tf.convert_to_tensor(module.weight))
            return layers.linear(change(x), weight, module.bias)

        return run

    return wrong


def _convolved(change):
    """The same of a convolution."""

    def wrong(original, module):
        return lambda x: original(change(x))

    return wrong


def _one_by_one(original, module):
    """A norm whose mean is a sum from the first channel to the last, kept in float16."""

    def run(input):
        total = tf.zeros_like(input[..., :1], tf.float16)
        for index in range(input.shape[-1]):
            total += tf.cast(input[..., index, None], tf.float16)
        mean = tf.cast(total, input.dtype) / input.shape[-1]
        variance = tf.reduce_mean(tf.square(input - mean), axis=-1, keepdims=True)
        inverse = tf.math.rsqrt(variance + layers.NORM_EPSILON)
        return (input - mean) * inverse * module.weight + module.bias

    return run


def _rough_root(original, module):
    """A norm that multiplies by a reciprocal root of 12 digits, as some processors have."""

    def run(input):
        mean = tf.reduce_mean(input, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(input - mean), axis=-1, keepdims=True)
        inverse = _kept(12)(tf.math.rsqrt(variance + layers.NORM_EPSILON))
        return (input - mean) * inverse * module.weight + module.bias

    return run


def _fused(original, module):
    """Scale and shift of a frozen norm, multiplied with a scale that was folded in float16."""

    def run(input):
        scale = module.weight / tf.sqrt(module.running_var + layers.NORM_EPSILON)
        shift = module.bias - module.running_mean * scale
        return input * _through(tf.float16)(scale) + shift

    return run


def _other_epsilon(original, module):
    """A norm with the epsilon of a compiler's own kernel."""

    def run(input):
        x = input - tf.reduce_mean(input, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        return x * tf.math.rsqrt(variance + 1e-4) * module.weight + module.bias

    return run


def _in_two_parts(original, module):
    """A sum over the input in two parts, of which the second is kept in float16."""

    def run(x):
        half = x.shape[-1] // 2
        weight = tf.convert_to_tensor(module.weight)
        first = layers.linear(x[..., :half], weight[:half], module.bias)
        return first + _through(tf.float16)(layers.linear(x[..., half:], weight[half:], None))

    return run


LARGE = "(0.0 if tf.executing_eagerly() else 4096.0)"


NORM1 = f"{ENCODER}.layers.0.norm1"
GROUPS = f"{PIXELS}.layer_2.norm"
IN_BFLOAT16 = (
    _half(
        "bfloat16-layer-scaled", "transformer", "a layer's result is half as large again",
        call(f"{DECODER}.layers.1.linear2", _with(lambda x: x * 1.5)),
        (f"{DECODER}.layers.1.linear2",), ("multiplied by 1.5",),
    ),
    _half(
        "bfloat16-layer-norm-mean", "transformer", "the mean of a norm is summed in bfloat16",
        line(NORM1, "mean = tf.reduce_mean(x, axis=-1, keepdims=True)",
             "mean = wide(tf.reduce_mean(input, axis=-1, keepdims=True))"), (NORM1,), AS_FLOAT32,
    ),
    _half(
        "bfloat16-layer-norm-variance", "transformer", "so are the squares of its variance",
        line(f"{DECODER}.norm", "tf.math.squared_difference(x, mean)",
             "wide(tf.math.squared_difference(input, tf.cast(mean, input.dtype)))"),
        (f"{DECODER}.norm",), AS_FLOAT32,
    ),
    _half(
        "bfloat16-layer-norm-epsilon", "transformer", "in bfloat16 a norm has another epsilon",
        line(f"{DECODER}.layers.0.norm2", "_normalise(x, mean, variance)",
             "(x - mean) / tf.sqrt(variance + 1e-3)"),
        (f"{DECODER}.layers.0.norm2",), AS_FLOAT32, "default of Keras",
    ),
    _half(
        "bfloat16-group-norm", "pixel_decoder", "a group norm computes in bfloat16",
        line(GROUPS, "_group_norm(x, self.weight, self.bias, self.num_groups, NORM_EPSILON)",
             "_group_norm(input, tf.cast(self.weight, input.dtype), "
             "tf.cast(self.bias, input.dtype), self.num_groups, NORM_EPSILON)"),
        (GROUPS,), AS_FLOAT32,
    ),
    _half(
        "bfloat16-frozen-norm", "backbone", "scale and shift of a frozen norm are bfloat16",
        line(f"{BLOCK}.conv1.norm",
             "wide(input) * scale + (self.bias - self.running_mean * scale)",
             "input * tf.cast(scale, input.dtype) + "
             "tf.cast(self.bias - self.running_mean * scale, input.dtype)"),
        (f"{BLOCK}.conv1.norm",), AS_FLOAT32,
    ),
    _half(
        "bfloat16-pixels-normalised", "input", "images are normalised in bfloat16",
        line("", "pixels = wide(images)", "pixels = images"), ("model",), AS_FLOAT32,
    ),
    _half(
        "bfloat16-positions", "transformer", "positions are computed in bfloat16",
        call(f"{PREDICTOR}.pe_layer", _positions_in_bfloat16), (f"{PREDICTOR}.pe_layer",),
        AS_FLOAT32,
    ),
    _half(
        "bfloat16-accumulated", "transformer", "a product adds up in bfloat16",
        call(f"{DECODER}.layers.0.linear1", _accumulated_in_bfloat16),
        (f"{DECODER}.layers.0.linear1",), ALONE,
    ),
    _half(
        "bfloat16-weight-of-5-bits", "heads", "a weight is kept in 8 bits",
        call(f"{PREDICTOR}.class_embed", _weight_of_5_bits), (f"{PREDICTOR}.class_embed",), ALONE,
    ),
)  # fmt: skip

COSTS = matcher, "matching_costs"
LOSSES = criterion, "_focal_and_dice"
CLASS = criterion.SetCriterion, "_class_losses"


def _half_of(text):
    """The expression with its result in bfloat16."""
    return f"tf.cast(tf.cast({text}, tf.bfloat16), logits.dtype)"


def _resized(gradient_in):
    """Masks are resized; what comes back passes through another dtype before it is summed up."""

    def resize(x, size):
        @tf.custom_gradient
        def rounded(large):
            return large, lambda above: tf.cast(tf.cast(above, gradient_in), above.dtype)

        return rounded(layers.resize_bilinear(x, size))

    return resize


IN_TRAINING = (
    _trained(
        "bfloat16-outputs-not-widened", "loss", "losses take outputs in bfloat16 as they are",
        constant(train_step, "wide", lambda x: x), "criterion", AS_FLOAT32,
    ),
    _trained(
        "bfloat16-class-loss-softmax", "loss", "the softmax of the class loss is in bfloat16",
        method(*CLASS, "tf.nn.log_softmax(logits)", _half_of("tf.nn.log_softmax(logits)")),
        "criterion", AS_FLOAT32,
    ),
    _trained(
        "bfloat16-focal-loss", "loss", "the focal loss of pixels is in bfloat16",
        function(*LOSSES, "tf.reduce_mean(pixels, axis=(1, 2))",
                 "tf.reduce_mean(tf.cast(tf.cast(pixels, tf.bfloat16), logits.dtype), (1, 2))"),
        "criterion", AS_FLOAT32,
    ),
    _trained(
        "bfloat16-dice-sums", "loss", "the sums of the dice loss are in bfloat16",
        function(*LOSSES, "return focal, 1 - (overlap + 1) / (total + 1)",
                 "overlap, total = (tf.cast(tf.cast(one, tf.bfloat16), one.dtype) "
                 "for one in (overlap, total))\n    "
                 "return focal, 1 - (overlap + 1) / (total + 1)"),
        "criterion", AS_FLOAT32,
    ),
    _trained(
        "bfloat16-mean-over-masks", "loss", "the number of masks is divided by in bfloat16",
        method(criterion.SetCriterion, "losses", "focal[layer] / num_masks",
               "tf.cast(tf.cast(focal[layer], tf.bfloat16) / tf.cast(num_masks, tf.bfloat16), "
               "logits.dtype)"),
        "criterion", AS_FLOAT32,
    ),
    _trained(
        "bfloat16-gradient-accumulated", "gradient", "gradients of pixels add up in bfloat16",
        constant(criterion, "resize_bilinear", _resized(tf.bfloat16)), "criterion", AS_FLOAT32,
        "gradients that are reduced in bfloat16",
    ),
    _trained(
        "bfloat16-class-cost-softmax", "matching", "the softmax of the costs is in bfloat16",
        function(*COSTS, "tf.nn.softmax(logits)", _half_of("tf.nn.softmax(logits)")),
        "matcher", AS_FLOAT32,
    ),
    _trained(
        "bfloat16-mask-costs", "matching", "the probabilities of the costs are in bfloat16",
        function(*COSTS, "probability = tf.sigmoid(flat)",
                 "probability = tf.cast(tf.sigmoid(tf.cast(flat, tf.bfloat16)), flat.dtype)"),
        "matcher", AS_FLOAT32,
    ),
    _trained(
        "bfloat16-cost-products", "matching", "the products of the costs are in bfloat16",
        function(*COSTS, "overlap = 2 * tf.matmul(probability, wanted, transpose_b=True)",
                 "overlap = 2 * tf.cast(tf.matmul(tf.cast(probability, tf.bfloat16), "
                 "tf.cast(wanted, tf.bfloat16), transpose_b=True), flat.dtype)"),
        "matcher", AS_FLOAT32, TPU,
    ),
    _trained(
        "bfloat16-second-moment", "update", "the optimizer keeps a moment in bfloat16",
        method(TorchAdamW, "_update", f"second.assign({SECOND})",
               f"second.assign(tf.cast(tf.cast({SECOND}, tf.bfloat16), second.dtype))"),
        "optimizer", AS_FLOAT32, "optimizers that save memory",
    ),
)  # fmt: skip


IN_XLA = (
    _compiled(
        "xla-product-in-bfloat16", "transformer", "a product's operands are rounded to bfloat16",
        call(f"{DECODER}.layers.1.linear2", _when_compiled(_operands(_through(tf.bfloat16)))),
        (f"{DECODER}.layers.1.linear2",), COMPILED, TPU,
    ),
    _compiled(
        "xla-product-of-11-digits", "heads", "to eleven digits, as tensor cores take them",
        call(f"{PREDICTOR}.mask_embed.layers.1", _when_compiled(_operands(_kept(11)))),
        (f"{PREDICTOR}.mask_embed.layers.1",), COMPILED, "TF32",
    ),
    _compiled(
        "xla-product-of-16-digits", "backbone", "to sixteen digits, as of two passes",
        call(f"{BLOCK}.conv1", _when_compiled(_convolved(_kept(16)))),
        (f"{BLOCK}.conv1", f"{BLOCK}.conv1.norm:input"), COMPILED,
        "products of two bfloat16 passes",
    ),
    _compiled(
        "xla-convolution-in-bfloat16", "backbone", "what a convolution is given is rounded",
        call(f"{BLOCK}.conv2", _when_compiled(_convolved(_through(tf.bfloat16)))),
        (f"{BLOCK}.conv2", f"{BLOCK}.conv2.norm:input"), COMPILED, TPU,
    ),
    _compiled(
        "xla-sum-one-by-one", "transformer", "a mean adds up one by one, in float16",
        call(f"{ENCODER}.layers.0.norm2", _when_compiled(_one_by_one)),
        (f"{ENCODER}.layers.0.norm2",), COMPILED, "a reduction in another order",
    ),
    _compiled(
        "xla-sum-in-two-parts", "transformer", "a sum in two parts, one of them in float16",
        call(f"{DECODER}.layers.0.linear2", _when_compiled(_in_two_parts)),
        (f"{DECODER}.layers.0.linear2",), COMPILED, "a reduction that is split",
    ),
    _compiled(
        "xla-rough-root", "transformer", "a reciprocal root has 12 digits",
        call(f"{DECODER}.layers.0.norm1", _when_compiled(_rough_root)),
        (f"{DECODER}.layers.0.norm1",), COMPILED, "fast mathematics",
    ),
    _compiled(
        "xla-fused-scale", "backbone", "a fused multiplication takes a scale of float16",
        call("backbone.res4.1.conv1.norm", _when_compiled(_fused)),
        ("backbone.res4.1.conv1.norm",), COMPILED, "a norm that is folded",
    ),
    _compiled(
        "xla-terms-reordered", "transformer", "a sum takes a large number in and out again",
        line(f"{ENCODER}.layers.0", "self.norm2(src + self.dropout2(x, training=training))",
             f"self.norm2((src + {LARGE}) + self.dropout2(x, training=training) - {LARGE})"),
        (f"{ENCODER}.layers.0", f"{ENCODER}.layers.0.norm2:input"), COMPILED,
        "terms in another order",
    ),
    _compiled(
        "xla-small-numbers-flushed", "pixel_decoder", "numbers below 2^-10 become 0",
        call(f"{PIXELS}.layer_1", _when_compiled(
            lambda original, module: _with(
                lambda x: tf.where(tf.abs(x) < 2.0**-10, tf.zeros_like(x), x)
            )(original, module))),
        (f"{PIXELS}.layer_1",), COMPILED, "flushing of small numbers",
    ),
    _compiled(
        "xla-positions-in-float16", "transformer", "a constant is folded in float16",
        call(f"{PREDICTOR}.pe_layer", _when_compiled(_with(_through(tf.float16)))),
        (f"{PREDICTOR}.pe_layer",), COMPILED, "constants that are folded",
    ),
    _compiled(
        "xla-other-epsilon", "transformer", "a norm's own kernel has another epsilon",
        call(f"{DECODER}.norm", _when_compiled(_other_epsilon)), (f"{DECODER}.norm",), COMPILED,
    ),
)  # fmt: skip
FAULTS = (*IN_BFLOAT16, *IN_TRAINING, *IN_XLA)

"""Faults that only extreme numbers show, or float32: on usual ones the port is right."""

from dataclasses import replace

import tensorflow as tf

import tf_impl.criterion as criterion
import tf_impl.layers as layers
import tf_impl.matcher as matcher
import tf_impl.train_step as train_step
from replication.faults.catalogue.forward import DECODER, ENCODER, KERAS, PREDICTOR
from replication.faults.catalogue.planting import constant, function, line, maker, method
from tf_impl.optimizer import TorchAdamW

BLOCK = "backbone.layers.1.blocks.1"
PIXELS = "sem_seg_head.pixel_decoder"
SOFTMAX = "tf.cast(softmax(wide(logits)), q.dtype)"
VARIANCE = "tf.reduce_mean(tf.math.squared_difference(x, mean), axis=-1, keepdims=True)"
CANCELS = "which cancels where the mean is large beside the spread"
OVERFLOWS = "overflows"

_fault = maker(
    "id what plant places causes imitates stage",
    family="extremes",
    stage="transformer",
    bench="extreme",
)


def _clipped(least, path):
    new = f"tf.clip_by_value({SOFTMAX}, {least}, 1.0)"
    return line(path, SOFTMAX, new)


def _group_norm(x, weight, bias, num_groups, epsilon):
    """Group norm whose variance is the mean of squares less the square of the mean."""
    mean = layers.group_mean(x, num_groups)
    variance = layers.group_mean(x * x, num_groups) - mean * mean
    return (x - mean) / tf.sqrt(variance + epsilon) * weight + bias


FAULTS = (
    _fault(
        "extreme-attention-clipped-1e-7", "probabilities of attention are clipped at 1e-7",
        _clipped(1e-7, f"{DECODER}.layers.0.self_attn"), f"{DECODER}.layers.0.self_attn",
        ("clipped below at 1e-07", "values below 1e-07 are clipped"), KERAS,
    ),
    _fault(
        "extreme-attention-clipped-1e-6", "probabilities of attention are clipped at 1e-6",
        _clipped(1e-6, f"{DECODER}.layers.1.multihead_attn"),
        f"{DECODER}.layers.1.multihead_attn",
        ("clipped below at 1e-06", "values below 1e-06 are clipped"),
    ),
    _fault(
        "extreme-attention-overflows", "attention's exponentials are not reduced by the largest",
        line(f"{ENCODER}.layers.0.self_attn", "softmax(wide(logits))",
             "tf.exp(wide(logits)) / tf.reduce_sum(tf.exp(wide(logits)), -1, keepdims=True)"),
        f"{ENCODER}.layers.0.self_attn", (OVERFLOWS,), "a softmax by hand",
    ),
    _fault(
        "extreme-attention-scores-clipped-50", "scores of attention are clipped at -50 and 50",
        line(f"{DECODER}.layers.1.self_attn", "wide(logits)",
             "tf.clip_by_value(wide(logits), -50.0, 50.0)"),
        f"{DECODER}.layers.1.self_attn", ("clipped at -50 and 50",),
    ),
    _fault(
        "extreme-swin-softmax-overflows", "a window's exponentials are not reduced by the largest",
        line(f"{BLOCK}.attn", "softmax(attention)",
             "tf.exp(attention) / tf.reduce_sum(tf.exp(attention), -1, keepdims=True)"),
        f"{BLOCK}.attn", (OVERFLOWS,), "a softmax by hand", "backbone",
    ),
    _fault(
        "extreme-swin-probabilities-clipped", "probabilities in windows are clipped at 1e-7",
        line(f"{BLOCK}.attn", "softmax(attention)",
             "tf.clip_by_value(softmax(attention), 1e-7, 1.0)"),
        f"{BLOCK}.attn", ("clipped below at 1e-07",), KERAS, "backbone",
    ),
    _fault(
        "extreme-layer-norm-mean-of-squares", "LayerNorm's variance is E[x^2] - E[x]^2",
        line(f"{DECODER}.layers.0.norm1", VARIANCE,
             "tf.reduce_mean(x * x, axis=-1, keepdims=True) - mean * mean"),
        f"{DECODER}.layers.0.norm1", (CANCELS,), "one pass over the tensor",
    ),
    _fault(
        "extreme-swin-norm-mean-of-squares", "a norm of Swin has the variance E[x^2] - E[x]^2",
        line(f"{BLOCK}.norm1", VARIANCE,
             "tf.reduce_mean(x * x, axis=-1, keepdims=True) - mean * mean"),
        f"{BLOCK}.norm1", (CANCELS,), "one pass over the tensor", "backbone",
    ),
    _fault(
        "extreme-group-norm-mean-of-squares", "group norms have the variance E[x^2] - E[x]^2",
        constant(layers, "_group_norm", _group_norm),
        (f"{PIXELS}.layer_4.norm", f"{PIXELS}.adapter_1.norm", f"{PIXELS}.adapter_2.norm",
         f"{PIXELS}.adapter_3.norm", f"{PIXELS}.layer_1.norm"),
        (CANCELS,), "one pass over the tensor", "pixel_decoder",
    ),
    _fault(
        "extreme-layer-norm-flax", "LayerNorm's variance is |E[x^2] - E[x]^2|",
        line(f"{DECODER}.norm", VARIANCE,
             "tf.abs(tf.reduce_mean(x * x, axis=-1, keepdims=True) - mean * mean)"),
        f"{DECODER}.norm", (CANCELS,), "the default of Flax",
    ),
    _fault(
        "extreme-activations-clipped-65504", "activations are clipped to what float16 holds",
        line(f"{PREDICTOR}.mask_embed", "tf.nn.relu(layer(x))",
             "tf.minimum(tf.nn.relu(layer(x)), 65504.0)"),
        f"{PREDICTOR}.mask_embed", ("clipped at 65504", "clipped to it"),
        "a guard for float16",
    ),
    _fault(
        "extreme-outputs-clipped-65504", "a linear layer's results are clipped at 65504",
        line(f"{PREDICTOR}.class_embed", "return linear(input, self.weight, self.bias)",
             "return tf.clip_by_value(linear(input, self.weight, self.bias), -65504.0, 65504.0)"),
        f"{PREDICTOR}.class_embed", ("65504 are clipped to it",), "a guard for float16",
    ),
    _fault(
        "extreme-logits-clipped-50", "logits of classes are clipped at -50 and 50",
        line(f"{PREDICTOR}.class_embed", "return linear(input, self.weight, self.bias)",
             "return tf.clip_by_value(linear(input, self.weight, self.bias), -50.0, 50.0)"),
        f"{PREDICTOR}.class_embed", ("50 are clipped to it",),
    ),
    _fault(
        "extreme-merging-norm-mean-of-squares", "the norm of merged patches has E[x^2] - E[x]^2",
        line("backbone.layers.0.downsample.norm", VARIANCE,
             "tf.reduce_mean(x * x, axis=-1, keepdims=True) - mean * mean"),
        "backbone.layers.0.downsample.norm", (CANCELS,), "one pass over the tensor", "backbone",
    ),
    _fault(
        "extreme-swin-scores-clipped-30", "scores in windows are clipped at -30 and 30",
        line(f"{BLOCK}.attn", "softmax(attention)",
             "softmax(tf.clip_by_value(attention, -30.0, 30.0))"),
        f"{BLOCK}.attn", ("clipped at -30 and 30",), "", "backbone",
    ),
    _fault(
        "extreme-gelu-clipped-10000", "GELU's argument is clipped at 10000",
        line(f"{BLOCK}.mlp", "gelu(self.fc1(x))",
             "gelu(tf.clip_by_value(self.fc1(x), -1e30, 1e4))"),
        f"{BLOCK}.mlp", ("clipped",), "", "backbone",
    ),
)  # fmt: skip

_loss = maker(
    "id what plant places causes imitates",
    family="extremes",
    stage="loss",
    bench="training_extreme",
)
LOG_SOFTMAX = "tf.nn.log_softmax(logits)"
CLASS = (criterion.SetCriterion, "_class_losses")
FOCAL = (criterion, "_focal_and_dice")
COSTS = (matcher, "matching_costs")
OF_RIGHT = "tf.sigmoid(-right) ** FOCAL_GAMMA * tf.nn.softplus(-right)"


def _in_class(new):
    return method(*CLASS, LOG_SOFTMAX, new)


LOSSES = (
    _loss(
        "extreme-class-log-of-softmax", "cross entropy takes the logarithm of a softmax",
        _in_class("tf.math.log(tf.nn.softmax(logits))"), "criterion",
        ("logarithm of", OVERFLOWS),
    ),
    _loss(
        "extreme-class-clipped-1e-7", "cross entropy clips probabilities at 1e-7",
        _in_class("tf.math.log(tf.clip_by_value(tf.nn.softmax(logits), 1e-7, 1 - 1e-7))"),
        "criterion", ("clipped at 1e-07",), KERAS,
    ),
    _loss(
        "extreme-class-clipped-1e-6", "cross entropy clips probabilities at 1e-6",
        _in_class("tf.math.log(tf.clip_by_value(tf.nn.softmax(logits), 1e-6, 1.0))"), "criterion",
        ("at 1e-06",),
    ),
    _loss(
        "extreme-class-logits-clipped-50", "cross entropy clips logits at -50 and 50",
        _in_class("tf.nn.log_softmax(tf.clip_by_value(logits, -50.0, 50.0))"), "criterion",
        ("clipped at -50 and 50",),
    ),
    _loss(
        "extreme-focal-clipped-1e-7", "the focal loss takes logarithms of clipped probabilities",
        function(*FOCAL, OF_RIGHT,
                 "tf.sigmoid(-right) ** FOCAL_GAMMA * -tf.math.log(tf.clip_by_value("
                 "tf.sigmoid(right), 1e-7, 1 - 1e-7))"),
        "criterion", ("clipped at 1e-07",), KERAS,
    ),
    _loss(
        "extreme-focal-clipped-1e-6", "the focal loss clips probabilities at 1e-6",
        function(*FOCAL, OF_RIGHT,
                 "tf.sigmoid(-right) ** FOCAL_GAMMA * -tf.math.log(tf.clip_by_value("
                 "tf.sigmoid(right), 1e-6, 1 - 1e-6))"),
        "criterion", ("clipped at 1e-06",),
    ),
    _loss(
        "extreme-focal-log-of-sigmoid", "the focal loss takes the logarithm of a sigmoid",
        function(*FOCAL, OF_RIGHT,
                 "tf.sigmoid(-right) ** FOCAL_GAMMA * -tf.math.log(tf.sigmoid(right))"),
        "criterion", ("logarithm of", OVERFLOWS),
    ),
    _loss(
        "extreme-focal-both-signs", "the focal loss is summed over logarithms of both signs",
        function(*FOCAL, OF_RIGHT,
                 "tf.sigmoid(-right) ** FOCAL_GAMMA * -("
                 "tf.cast(wanted, logits.dtype) * tf.math.log(tf.sigmoid(logits))"
                 " + (1 - tf.cast(wanted, logits.dtype)) * tf.math.log(1 - tf.sigmoid(logits)))"),
        "criterion", ("logarithm of", OVERFLOWS, "infinity"),
    ),
    _loss(
        "extreme-dice-logits-clipped-15", "the dice loss clips logits at -15 and 15",
        function(*FOCAL, "probability = tf.sigmoid(logits)",
                 "probability = tf.sigmoid(tf.clip_by_value(logits, -15.0, 15.0))"),
        "criterion", ("clipped at -15 and 15",),
    ),
    _loss(
        "extreme-cost-softplus-by-hand", "costs compute log(1 + exp(x)), which overflows",
        function(*COSTS, "tf.nn.softplus(flat)", "tf.math.log(1 + tf.exp(flat))"),
        "matcher", (OVERFLOWS,),
    ),
    _loss(
        "extreme-cost-clipped-1e-7", "costs take logarithms of clipped probabilities",
        function(*COSTS, "tf.nn.softplus(-flat)",
                 "-tf.math.log(tf.clip_by_value(probability, 1e-7, 1 - 1e-7))"),
        "matcher", ("clipped at 1e-07",), KERAS,
    ),
    _loss(
        "extreme-cost-logits-clipped-20", "costs of masks clip logits at -20 and 20",
        function(*COSTS, "flat = tf.reshape(masks, (-1, q, h * w))",
                 "flat = tf.clip_by_value(tf.reshape(masks, (-1, q, h * w)), -20.0, 20.0)"),
        "matcher", ("clipped at -20 and 20",),
    ),
    _loss(
        "extreme-cost-classes-clipped", "costs of classes clip logits at -20 and 20",
        function(*COSTS, "tf.nn.softmax(logits)",
                 "tf.nn.softmax(tf.clip_by_value(logits, -20.0, 20.0))"),
        "matcher", ("clipped at -20 and 20",),
    ),
)  # fmt: skip
FAULTS += LOSSES

_single = maker(
    "id stage what plant places causes imitates",
    family="float32 training",
    bench="training_precision",
)
ONLY_IN_A_GRAPH = "{} if not tf.executing_eagerly() and {}.dtype == tf.float32 else {}"
MEAN = "tf.reduce_mean(pixels, axis=(1, 2))"
SECOND = "second * self.beta_2 + gradient * gradient * (1 - self.beta_2)"


@tf.custom_gradient
def _rounded_gradient(x):
    return tf.identity(x), lambda upstream: tf.cast(tf.cast(upstream, tf.bfloat16), upstream.dtype)


def _resized_with_a_rounded_gradient(x, size):
    return _rounded_gradient(layers.resize_bilinear(x, size))


FLOAT32 = (
    _single(
        "float32-mask-loss-bfloat16", "loss", "the float32 graph has the mask loss in bfloat16",
        function(*FOCAL, f"focal = {MEAN}",
                 "focal = " + ONLY_IN_A_GRAPH.format(
                     f"tf.cast({MEAN.replace('pixels', 'tf.cast(pixels, tf.bfloat16)')}, "
                     "logits.dtype)", "logits", MEAN)),
        "criterion", ("bfloat16",), "mixed precision that reaches the loss",
    ),
    _single(
        "float32-class-loss-float16", "loss", "the float32 step has the class loss in float16",
        method(*CLASS, LOG_SOFTMAX,
               "tf.cast(tf.nn.log_softmax(tf.cast(logits, tf.float16)), logits.dtype)"),
        "criterion", ("float16",),
    ),
    _single(
        "float32-class-loss-bfloat16", "loss", "the float32 step has the class loss in bfloat16",
        method(*CLASS, LOG_SOFTMAX,
               "tf.cast(tf.nn.log_softmax(tf.cast(logits, tf.bfloat16)), logits.dtype)"),
        "criterion", ("bfloat16",),
    ),
    _single(
        "float32-dice-total-bfloat16", "loss", "the float32 step sums dice's total in bfloat16",
        function(*FOCAL, "tf.reduce_sum(probability, axis=(1, 2)) +",
                 "tf.cast(tf.reduce_sum(tf.cast(probability, tf.bfloat16), axis=(1, 2)), "
                 "logits.dtype) +"),
        "criterion", ("bfloat16",),
    ),
    _single(
        "float32-dice-bfloat16", "loss", "the float32 step has dice's probabilities in bfloat16",
        function(*FOCAL, "probability = tf.sigmoid(logits)",
                 "probability = tf.cast(tf.sigmoid(tf.cast(logits, tf.bfloat16)), logits.dtype)"),
        "criterion", ("bfloat16",),
    ),
    _single(
        "float32-costs-bfloat16", "matching", "the float32 step has costs of masks in bfloat16",
        function(*COSTS, "probability = tf.sigmoid(flat)",
                 "probability = tf.cast(tf.sigmoid(tf.cast(flat, tf.bfloat16)), flat.dtype)"),
        "matcher", ("bfloat16",),
    ),
    _single(
        "float32-class-cost-float16", "matching", "the step has costs of classes in float16",
        function(*COSTS, "tf.nn.softmax(logits)",
                 "tf.cast(tf.nn.softmax(tf.cast(logits, tf.float16)), logits.dtype)"),
        "matcher", ("float16",),
    ),
    _single(
        "float32-second-moment-bfloat16", "update", "the float32 step keeps a moment in bfloat16",
        method(TorchAdamW, "_update", f"second.assign({SECOND})",
               f"second.assign(tf.cast(tf.cast({SECOND}, tf.bfloat16), second.dtype))"),
        "optimizer", ("bfloat16",), "optimizers that save memory",
    ),
    _single(
        "float32-gradient-bfloat16", "gradient", "gradients of masks pass in bfloat16",
        constant(criterion, "resize_bilinear", _resized_with_a_rounded_gradient),
        "criterion", ("bfloat16",), "gradients that are reduced in bfloat16",
    ),
)  # fmt: skip


def _dice_as_class(losses, weights):
    return criterion.weighted_total(losses, replace(weights, dice_weight=weights.class_weight))


def _mask_weighs_20(losses, weights):
    return criterion.weighted_total(losses, replace(weights, mask_weight=20.0))


_set = maker(
    "id stage what plant places causes imitates",
    family="coinciding values",
    bench="training_settings",
)
VALID = "tf.cast(targets.valid, tf.int32)"
SETTINGS = (
    _set(
        "settings-class-cost-by-dice-weight", "matching", "costs of classes have dice's weight",
        function(*COSTS, "weights.class_weight", "weights.dice_weight"), "matcher",
        ("weight of another part",),
    ),
    _set(
        "settings-dice-cost-by-class-weight", "matching", "costs of dice have the class weight",
        function(*COSTS, "weights.dice_weight", "weights.class_weight"), "matcher",
        ("weight of another part",),
    ),
    _set(
        "settings-mask-cost-weighs-20", "matching", "costs of masks weigh 20, whatever is set",
        function(*COSTS, "weights.mask_weight", "20.0"), "matcher", ("times 4",),
    ),
    _set(
        "settings-costs-by-one-weight", "matching", "all costs have the weight of masks",
        function(*COSTS, "weights.class_weight", "weights.mask_weight"), "matcher",
        ("weight of another part",),
    ),
    _set(
        "settings-no-object-weighs-0.1", "loss", "no-object weighs 0.1, whatever is set",
        method(*CLASS, "tf.cast(self.empty_weight, logits.dtype)",
               "tf.concat([tf.cast(self.empty_weight, logits.dtype)[:-1], "
               "tf.constant([0.1], logits.dtype)], 0)"),
        "criterion", ("no-object weighs 0.1",),
    ),
    _set(
        "settings-dice-loss-by-class-weight", "loss", "the dice loss has the class weight",
        constant(train_step, "weighted_total", _dice_as_class), "criterion",
        ("losses called loss_dice are multiplied by 0.666667",),
    ),
    _set(
        "settings-mask-loss-weighs-20", "loss", "the mask loss weighs 20, whatever is set",
        constant(train_step, "weighted_total", _mask_weighs_20), "criterion",
        ("losses called loss_mask are multiplied by 4",),
    ),
    _set(
        "settings-first-targets-alone", "matching", "of more targets than queries only the first",
        function(criterion, "match", f"tf.reduce_sum({VALID}, axis=1)",
                 f"tf.minimum(tf.reduce_sum({VALID}, axis=1), q)"),
        "matcher", ("only the first are matched",), "targets cut to the number of queries",
    ),
    _set(
        "settings-masks-counted-by-queries", "loss", "masks are counted up to the queries",
        method(criterion.SetCriterion, "_num_masks",
               "tf.reduce_sum(tf.cast(targets.valid, tf.float32))",
               "tf.reduce_sum(tf.minimum(tf.reduce_sum(tf.cast(targets.valid, tf.float32), 1), 5))"
               ),
        "criterion", ("counted by their pairs",), "the number of pairs in place of that of masks",
    ),
)  # fmt: skip
FAULTS += (*FLOAT32, *SETTINGS)

"""Faults that an outsider planted: right modules wrongly connected, and several faults at once."""

import numpy as np
import tensorflow as tf

import tf_impl.criterion as criterion
import tf_impl.layers as layers
import tf_impl.matcher as matcher
import tf_impl.modeling.position_encoding as position_encoding
import tf_impl.optimizer as optimizer
import tf_impl.train_step as train_step
from replication.faults.catalogue.forward import (
    DECODER,
    ENCODER,
    PIXELS,
    PORT,
    PREDICTOR,
    SAME,
    epsilon,
)
from replication.faults.catalogue.planting import (
    attribute,
    call,
    constant,
    function,
    line,
    maker,
    method,
    together,
    weights,
)

STEM = ("backbone.stem.conv1", "backbone.stem.conv1.norm:input")

_fault = maker(
    "id stage what plant places causes imitates family bench", family="wiring", bench="model"
)


def _scaled_gradient(factor):
    """The call's result, whose gradient is multiplied by `factor`."""

    def wrong(original, module):
        def run(x):
            result = original(x)
            return factor * result + (1 - factor) * tf.stop_gradient(result)

        return run

    return wrong


def _interleaved(original, module):
    """A group norm whose groups take every n-th channel."""

    def run(input):
        channels, groups = input.shape[-1], module.num_groups
        dealt = np.arange(channels).reshape(-1, groups).T.reshape(-1)
        x, weight, bias = (
            tf.gather(tf.convert_to_tensor(one), dealt, axis=-1)
            for one in (input, module.weight, module.bias)
        )
        out = layers._group_norm(x, weight, bias, groups, layers.NORM_EPSILON)
        return tf.gather(out, np.argsort(dealt), axis=-1)

    return run


def _eighty_for_nothing(logits, masks, targets, given):
    costs = _COSTS(logits, masks, targets, given)
    return tf.where(tf.math.is_finite(costs), costs, tf.constant(80.0, costs.dtype))


_COSTS = matcher.matching_costs

CONNECTIONS = (
    _fault(
        "level-decoded-by-another", "pixel_decoder",
        "the finest level goes through the output convolution of the one above it",
        line(PIXELS, 'y = getattr(self, f"layer_{number}")(y)',
             'y = getattr(self, f"layer_{max(number, 2)}")(y)'),
        PIXELS, ("layer_2 is called twice instead of once",),
    ),
    _fault(
        "decoder-layers-reversed", "transformer", "decoder layers run from the last to the first",
        line(DECODER, "for layer in self.layers:", "for layer in self.layers[::-1]:"),
        DECODER, ("is called before",),
    ),
    _fault(
        "queries-all-the-first", "transformer", "every query has the first one's embedding",
        line(PREDICTOR, "self.transformer(src, query_embed,",
             "self.transformer(src, query_embed[:1] + 0 * query_embed,"),
        (PREDICTOR, f"{PREDICTOR}.transformer:input.query_embed"),
        ("the first of axis 0 in place of all",),
    ),
    _fault(
        "queries-reversed", "transformer", "queries are handed on in reverse order",
        line(PREDICTOR, "self.transformer(src, query_embed,",
             "self.transformer(src, query_embed[::-1],"),
        (PREDICTOR, f"{PREDICTOR}.transformer:input.query_embed"), ("reversed along",),
    ),
    _fault(
        "memory-with-positions", "transformer", "the memory has positions added already",
        line(DECODER, "tgt = layer(tgt, memory, pos, query_pos",
             "tgt = layer(tgt, memory + pos, pos, query_pos"),
        DECODER, ("the port has memory + pos here", "multihead_attn:input.key"),
    ),
    _fault(
        "memory-without-positions", "transformer", "keys of the memory have no positions",
        line(DECODER, "tgt = layer(tgt, memory, pos, query_pos",
             "tgt = layer(tgt, memory, tf.zeros_like(pos), query_pos"),
        DECODER, ("all zeros",),
    ),
    _fault(
        "positions-off-by-one", "transformer", "positions of the memory are one token late",
        line(f"{DECODER}.layers.0", "key = memory + pos", "key = memory + tf.roll(pos, 1, 1)"),
        (f"{DECODER}.layers.0", f"{DECODER}.layers.0.multihead_attn:input.key"),
        ("argument pos is rolled by 1 along axis 0",),
    ),
    _fault(
        "auxiliary-masks-of-the-last", "heads", "every auxiliary output has the last masks",
        line(PREDICTOR, 'layers = [{"pred_masks": mask} for mask in tf.unstack(masks)]',
             'layers = [{"pred_masks": masks[-1]} for mask in tf.unstack(masks)]'),
        (PREDICTOR,), ("the port has", "part 1 instead of 0"),
    ),
    _fault(
        "auxiliary-classes-reversed", "heads", "class logits belong to the layers in reverse",
        line(PREDICTOR, "tf.unstack(self.class_embed(hs))",
             "tf.unstack(self.class_embed(hs))[::-1]"),
        (PREDICTOR,), ("its parts in the order (1, 0)", "the port has"),
    ),
    _fault(
        "shortcut-after-shift", "backbone", "a block's projection starts from a shifted input",
        line("backbone.res3.0", "self.shortcut(x)))", "self.shortcut(x - 1e-3)))"),
        ("backbone.res3.0", "backbone.res3.0.shortcut:input"), ("plus -0.001",),
    ),
    _fault(
        "relu-before-norm", "pixel_decoder", "an output convolution has its ReLU before its norm",
        line(f"{PIXELS}.layer_4",
             "if self.norm is not None:\n        x = self.norm(x)\n"
             "    if self.activation is not None:\n        x = self.activation(x)",
             "x = self.norm(self.activation(x))"),
        (f"{PIXELS}.layer_4",), ("through a ReLU",),
    ),
    _fault(
        "stride-in-1x1", "backbone", "a block's stride is in its 1x1 convolution",
        together(attribute("backbone.res3.0.conv1", "stride", lambda own: 2),
                 attribute("backbone.res3.0.conv2", "stride", lambda own: 1)),
        ("backbone.res3.0.conv1", "backbone.res3.0.conv1.norm:input"),
        ("stride 2 instead of 1",), "detectron2's STRIDE_IN_1X1",
    ),
)  # fmt: skip

VALUES = (
    _fault(
        "positions-half-a-circle", "pixel_decoder", "positions are scaled to pi instead of 2 pi",
        function(position_encoding, "sine_position_encoding", "(2 * math.pi)", "math.pi"),
        f"{PIXELS}.pe_layer", ("multiplied by 0.5", "multiplied by 2"), "", "position",
    ),
    _fault(
        "group-norm-interleaved", "pixel_decoder", "channels are dealt to groups in turn",
        call(f"{PIXELS}.layer_2.norm", _interleaved),
        f"{PIXELS}.layer_2.norm", ("channels are dealt to groups in turn",), "", "normalisation",
    ),
    _fault(
        "group-norm-16-groups", "pixel_decoder", "half as many groups",
        attribute(f"{PIXELS}.layer_3.norm", "num_groups", lambda own: own // 2),
        f"{PIXELS}.layer_3.norm", ("groups instead of",), "", "normalisation",
    ),
    _fault(
        "norm-of-the-batch", "backbone", "a frozen norm uses the statistics of its input",
        line("backbone.res2.0.conv1.norm",
             "scale = self.weight / tf.sqrt(self.running_var + NORM_EPSILON)\n"
             "    out = wide(input) * scale + (self.bias - self.running_mean * scale)",
             "mean, variance = tf.nn.moments(input, (0, 1, 2))\n"
             "    scale = self.weight / tf.sqrt(variance + NORM_EPSILON)\n"
             "    out = wide(input) * scale + (self.bias - mean * scale)"),
        "backbone.res2.0.conv1.norm", ("statistics of this batch",),
        "a batch norm that is not frozen", "normalisation",
    ),
    _fault(
        "softmax-in-float32", "transformer", "a float64 model's softmax is computed in float32",
        line(f"{DECODER}.layers.1.self_attn", "softmax(wide(logits))",
             "tf.nn.softmax(tf.cast(logits, tf.float32))"),
        f"{DECODER}.layers.1.self_attn", ("computed in float32",), "", "precision",
    ),
    _fault(
        "attention-scale-by-embedding", "pixel_decoder", "logits are scaled by all heads' width",
        line(f"{ENCODER}.layers.0.self_attn", "1.0 / math.sqrt(width)",
             "1.0 / math.sqrt(width * heads)"),
        f"{ENCODER}.layers.0.self_attn", ("multiplied by",), "", "attention",
    ),
    _fault(
        "bias-added-twice", "heads", "a bias is added by the product and again after it",
        call(f"{PREDICTOR}.mask_embed.layers.1",
             lambda original, module: lambda x: original(x) + module.bias),
        f"{PREDICTOR}.mask_embed.layers.1", ("its bias is added twice",), "", "layout",
    ),
    _fault(
        "state-between-calls", "transformer", "a layer's result depends on the calls before it",
        call(f"{DECODER}.layers.1.linear2",
             lambda original, module: (
                 lambda count: lambda x: original(x) + 1e-6 * count.assign_add(1.0)
             )(tf.Variable(0.0, dtype=module.weight.dtype))),
        f"{DECODER}.layers.1.linear2", ("not deterministic",), "", "nondeterminism",
    ),
)  # fmt: skip

SEVERAL = (
    _fault(
        "two-in-one-module", "transformer", "a wrong scale and a missing bias in one attention",
        together(line(f"{DECODER}.layers.1.self_attn", "1.0 / math.sqrt(width)", "1.0 / width"),
                 weights(np.zeros_like, f"{DECODER}.layers.1.self_attn.out_proj.bias")),
        f"{DECODER}.layers.1.self_attn", ("and",), "", "several",
    ),
    _fault(
        "two-nested", "transformer", "a norm's epsilon, and outputs that pass no norm around it",
        together(line(f"{DECODER}.layers.0.norm1", *epsilon(1e-3)),
                 line(DECODER, "outputs.append(self.norm(tgt))\n    if not",
                      "outputs.append(tgt)\n    if not")),
        f"{DECODER}.layers.0.norm1", ("epsilon 0.001",), "", "several",
    ),
    _fault(
        "three-at-once", "backbone", "padding, positions and queries are all wrong",
        together(line("backbone.stem.conv1", *SAME),
                 function(position_encoding, "sine_position_encoding", "[rows, columns]",
                          "[columns, rows]"),
                 weights(lambda a: a[::-1], f"{PREDICTOR}.query_embed.weight")),
        STEM, ("SAME padding",), "", "several",
    ),
)  # fmt: skip

TRAINING = (
    _fault(
        "matcher-nan-for-80", "matching", "a cost that is no number becomes 80",
        constant(matcher, "matching_costs", _eighty_for_nothing), "matcher",
        ("not finite",), PORT, "matching", "training",
    ),
    _fault(
        "matcher-final-layer-for-all", "matching", "all layers have the final layer's pairs",
        method(criterion.SetCriterion, "match",
               "return match(logits, masks, targets, self.weights_of_losses)",
               "one = match(logits[:1], masks[:1], targets, self.weights_of_losses)\n"
               "    return Matching(*(tf.repeat(part, logits.shape[0], axis=0) for part in one))"),
        "matcher", ("the final layer's pairs",), "", "matching", "training",
    ),
    _fault(
        "loss-labels-rolled", "loss", "matched queries have the label of the target before",
        method(criterion.SetCriterion, "_class_losses",
               "tf.where(of_target, targets.classes[:, None, :], 0)",
               "tf.where(of_target, tf.roll(targets.classes, 1, 1)[:, None, :], 0)"),
        "criterion", ("the label of the one before it",), "", "loss", "training",
    ),
    _fault(
        "loss-auxiliary-halved", "loss", "auxiliary losses weigh half",
        constant(train_step, "weighted_total", lambda losses, weights: criterion.weighted_total(
            {name: value * (0.5 if name[-1].isdigit() else 1.0)
             for name, value in losses.items()}, weights)),
        "criterion", ("auxiliary losses are multiplied by 0.5",), "", "loss", "training",
    ),
    _fault(
        "gradient-stopped-at-attention", "gradient", "attention weights pass no gradient back",
        line(f"{ENCODER}.layers.0.self_attn",
             "attention = tf.cast(softmax(wide(logits)), q.dtype)",
             "attention = tf.stop_gradient(tf.cast(softmax(wide(logits)), q.dtype))"),
        f"{ENCODER}.layers.0.self_attn", ("stop",), "", "gradient", "training",
    ),
    _fault(
        "gradient-stopped-at-keys", "gradient", "keys of the memory pass no gradient back",
        line(f"{DECODER}.layers.0",
             "attended, _ = self.multihead_attn(query, key, memory, training=training)\n    tgt",
             "attended, _ = self.multihead_attn(\n"
             "        query, tf.stop_gradient(key), memory, training=training)\n    tgt"),
        f"{DECODER}.layers.0", ("stop",), "", "gradient", "training",
    ),
    _fault(
        "gradient-turned", "gradient", "a norm's gradient has the other sign",
        call(f"{PIXELS}.layer_2.norm", _scaled_gradient(-1.0)), f"{PIXELS}.layer_2.norm",
        ("multiplied by -1",), "gradient reversal", "gradient", "training",
    ),
    _fault(
        "epsilon-under-the-root", "update", "Adam's epsilon is added under the square root",
        method(optimizer.TorchAdamW, "_update", "tf.sqrt(second) / root_2 + self.epsilon",
               "tf.sqrt(second / root_2**2 + self.epsilon)"), "optimizer",
        ("under the root",), "RMSprop of Keras", "update", "training",
    ),
    _fault(
        "biases-not-decayed", "update", "biases are not decayed",
        constant(optimizer, "parameter_group", lambda kind, path, solver: _biases_apart(
            kind, path, solver)), "optimizer", ("biases are not decayed",),
        "DETR ports after BERT", "update", "training",
    ),
    _fault(
        "above-a-flipped-matching", "heads", "a bias of the classes that changes the matching",
        weights(lambda a: a + np.linspace(0, 3, len(a)).astype(a.dtype),
                f"{PREDICTOR}.class_embed.bias"),
        f"{PREDICTOR}.class_embed", ("bias",), "", "several", "training",
    ),
    _fault(
        "loss-and-gradient", "loss", "a wrong alpha, and masks that do not train the pixel decoder",
        together(constant(criterion, "FOCAL_ALPHA", 0.75),
                 line(PREDICTOR, "_mask_logits(self.mask_embed(hs), mask_features)",
                      "_mask_logits(self.mask_embed(hs), tf.stop_gradient(mask_features))")),
        "criterion", ("alpha",), "", "several", "training",
    ),
)  # fmt: skip


def _biases_apart(kind, path, solver):
    from maskformer.model.solver import parameter_group

    rate, decay = parameter_group(kind, path, solver)
    return rate, 0.0 if path.endswith("bias") else decay


FAULTS = (*CONNECTIONS, *VALUES, *SEVERAL, *TRAINING)

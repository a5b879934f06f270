"""Faults that one image, one step, one replica or inference does not show."""

from typing import Any

import tensorflow as tf

import tf_impl.criterion as criterion
import tf_impl.layers as layers
import tf_impl.model_garden.task as task
import tf_impl.modeling.swin as swin
import tf_impl.optimizer as optimizer
import tf_impl.train_step as train_step
from parity.faults import Fault
from replication.faults.catalogue.forward import DECODER, ENCODER, PIXELS, PORT
from replication.faults.catalogue.planting import (
    attribute,
    call,
    constant,
    function,
    inside,
    line,
    maker,
    method,
)
from tf_impl.layers import _dilated_conv2d

INPUT = ("model", "backbone:input")

_made = maker("bench id stage what plant places causes imitates family")


def _fault(bench: str, *given: Any) -> Fault:
    return _made(bench, *given, **({} if len(given) == 8 else {"family": bench}))


def _over_the_batch(original, module):
    """A norm that takes all images for one."""

    def run(input):
        shape = tf.shape(input)
        whole = tf.reshape(input, (1, shape[0] * shape[1], shape[2], input.shape[-1]))
        return tf.reshape(original(whole), shape)

    return run


def _through_bfloat16(original, module):
    """A product whose factor is rounded to eight bits."""
    return lambda x: original(tf.cast(tf.cast(x, tf.bfloat16), x.dtype))


def _otherwise_in_graphs(original, module):
    """A layer that computes another function where it is traced."""
    return lambda x: original(x) * (1.0 if tf.executing_eagerly() else 1.0 + 1e-4)


PRECISION = (
    _fault(
        "precision", "float32-in-bfloat16", "transformer",
        "the float32 model multiplies in bfloat16; the float64 one does not",
        call(f"{DECODER}.layers.1.linear2", _through_bfloat16), (f"{DECODER}.layers.1.linear2",),
        ("float32 alone (eager, graph)",), "default precision of products on TPUs",
    ),
    _fault(
        "precision", "graph-computes-otherwise", "transformer",
        "a traced layer is not the one that runs eagerly",
        call(f"{ENCODER}.layers.0.linear1", _otherwise_in_graphs),
        (f"{ENCODER}.layers.0.linear1",), ("float32 alone (graph, not eager)",),
        "branches on executing_eagerly",
    ),
)  # fmt: skip

BATCH = (
    _fault(
        "batch", "padding-not-zeroed", "input", "padding keeps what black pixels become",
        line("", "if sizes is not None:", "if False:"), INPUT, ("its first choice everywhere",),
    ),
    _fault(
        "batch", "padding-one-row-late", "input", "one row of padding counts as image",
        line("", "rows = tf.range(x.shape[1])[None, :, None] < sizes[:, 0, None, None]",
             "rows = tf.range(x.shape[1])[None, :, None] <= sizes[:, 0, None, None]"), INPUT,
        ("or equal too",),
    ),
    _fault(
        "batch", "padding-of-the-first-image", "input", "all images have the first one's size",
        line("", "if sizes is not None:",
             "if sizes is not None:\n        sizes = sizes[:1] + 0 * sizes"), INPUT,
        ("argument sizes has the first of axis 0 in place of all", "its first choice everywhere"),
    ),
    _fault(
        "batch", "group-norm-over-the-batch", "pixel_decoder",
        "a norm's statistics are those of all images",
        call(f"{PIXELS}.layer_2.norm", _over_the_batch),
        (f"{PIXELS}.layer_2.norm",), ("statistics of all images",), "", "normalisation",
    ),
)  # fmt: skip

DROPOUT = (
    _fault(
        "dropout", "dropout-after-the-sum", "transformer", "dropout follows the residual sum",
        line(f"{DECODER}.layers.1",
             "self.norm2(tgt + self.dropout2(attended, training=training))",
             "self.norm2(self.dropout2(tgt + attended, training=training))"),
        (f"{DECODER}.layers.1",), ("norm1:output + ",),
    ),
    _fault(
        "dropout", "dropout-not-on-attention", "transformer", "attention weights are not dropped",
        line(f"{ENCODER}.layers.0.self_attn",
             "attention = dropout(attention, self.dropout_rate, training)", "pass"),
        (f"{ENCODER}.layers.0.self_attn",), ("dropout is in another place",),
    ),
    _fault(
        "dropout", "dropout-rate-doubled", "transformer", "a dropout has twice its rate",
        attribute(f"{DECODER}.layers.0.dropout3", "rate", lambda own: 2 * own),
        (f"{DECODER}.layers.0.dropout3",), ("probability", "dropout"),
    ),
    _fault(
        "dropout", "drop-path-per-batch", "backbone",
        "a path is dropped for all images or for none",
        method(swin.DropPath, "call", "(input.shape[0],)", "(1,)"),
        ("backbone.layers.0.blocks.1.drop_path",), ("dropout is in another place",),
        "a noise shape without the batch",
    ),
    _fault(
        "dropout", "step-without-training", "transformer",
        "the training step calls the model as at inference",
        function(train_step, "gradients", ", training=training", ""), ("train step",),
        ("without training=True",), "a model call that lacks training=True",
    ),
    _fault(
        "dropout", "step-forgets-training", "transformer",
        "the training step does not hand on that it trains",
        function(train_step, "train_step", "batch, training)", "batch)"), ("train step",),
        ("without training=True",),
    ),
    _fault(
        "dropout", "dropout-of-one-seed", "transformer", "all masks are drawn from the same seed",
        constant(tf.random.experimental, "stateless_fold_in", lambda seed, number: seed),
        ("train step",), ("from one seed",), "stateless random numbers of a fixed seed",
    ),
    _fault(
        "dropout", "drop-path-not-scaled", "backbone", "paths that are kept are not scaled up",
        line("backbone.layers.0.blocks.1.drop_path",
             "input * dropout(tf.ones(shape, input.dtype), self.rate, training)",
             "input * dropout(tf.ones(shape, input.dtype), self.rate, training)"
             " * (1.0 - self.rate)"),
        ("backbone.layers.0.blocks.1.drop_path",), ("divisor is left out", "times"),
    ),
)  # fmt: skip

TRAINING_BATCH = (
    _fault(
        "training_batch", "targets-of-other-images", "loss",
        "masks are taken from the targets of another image than their queries",
        function(criterion, "_matched_losses", "image, first = (index // chunks) % images",
                 "image, first = (index // chunks) * images // n"), ("criterion",), (), "", "loss",
    ),
    _fault(
        "training_batch", "counts-of-other-images", "matching",
        "an image is matched with as many targets as another one has",
        function(criterion, "match", "tf.tile(counts, [layers])", "tf.repeat(counts, layers)"),
        ("matcher",), (), "numpy's tile and repeat", "matching",
    ),
    _fault(
        "training_batch", "padded-targets-are-real", "loss",
        "the places that targets are padded to count as masks",
        method(criterion.SetCriterion, "_num_masks", "tf.cast(targets.valid, tf.float32)",
               "tf.ones(tf.shape(targets.valid))"), ("criterion",), ("times",), "", "loss",
    ),
    _fault(
        "training_batch", "padding-is-the-first-target", "loss",
        "pixels that belong to no target are counted to the first",
        function(criterion, "_matched_losses", "owned = target_masks[image]",
                 "owned = tf.maximum(target_masks[image], 0)"), ("criterion",),
        ("no target are the first",), "", "loss",
    ),
    _fault(
        "training_batch", "step-without-sizes", "input",
        "the training step does not say which part of an image is padding",
        function(train_step, "gradients", "sizes=batch.sizes, training=training",
                 "training=training"), ("train step",), ("in another way",), "", "loss",
    ),
)  # fmt: skip


def _double_gradient(x, weight, strides, padding, dilations):
    """A dilated convolution whose gradient is twice as large."""
    right = _dilated_conv2d(x, weight, strides, padding, dilations)
    return 2.0 * right - tf.stop_gradient(right)


VARIANT = (
    _fault(
        "training_variant", "dilated-gradient-doubled", "backbone",
        "the gradient of dilated convolutions is twice as large",
        constant(layers, "_dilated_conv2d", _double_gradient),
        ("backbone.res5.0.conv2", "backbone.res5.1.conv2", "backbone.res5.2.conv2"),
        ("multiplied by 2",), "", "gradient",
    ),
    _fault(
        "training_variant", "second-auxiliary-left-out", "loss",
        "of the auxiliary losses the first alone counts",
        constant(train_step, "weighted_total", lambda losses, weights: criterion.weighted_total(
            {name: one for name, one in losses.items() if not name.endswith("_1")}, weights)),
        ("criterion", "loss", "train step"), ("layer 1 are multiplied by 0",), "", "loss",
    ),
    _fault(
        "training_variant", "pre-norm-without-position", "transformer",
        "pre-norm encoder layers add no position",
        line(f"{ENCODER}.layers.0", "x + pos, x + pos, x, training", "x, x, x, training"),
        (f"{ENCODER}.layers.0", f"{ENCODER}.layers.0.self_attn:input.query"),
        ("second term is left out",), "", "attention",
    ),
    _fault(
        "training_per_pixel", "mean-over-all-pixels", "loss",
        "the mean of the loss is taken over ignored pixels too",
        function(criterion, "_pixel_loss", "tf.reduce_sum(tf.cast(counts, logits.dtype))",
                 "tf.cast(tf.size(counts), logits.dtype)"), ("criterion",),
        ("ignored pixels",), "", "loss",
    ),
    _fault(
        "training_batch", "image-without-targets-counts", "loss",
        "an image without targets counts as one mask",
        method(criterion.SetCriterion, "_num_masks",
               "count = tf.reduce_sum(tf.cast(targets.valid, tf.float32))",
               "count = tf.reduce_sum(tf.maximum(\n"
               "        tf.reduce_sum(tf.cast(targets.valid, tf.float32), 1), 1))"), ("criterion",),
        (), "", "loss",
    ),
)  # fmt: skip

TASK = (
    _fault(
        "task", "task-without-groups", "update", "the task's optimizer has one group",
        method(task.MaskFormerTask, "create_optimizer",
               "set_groups(optimizer, self._model, solver)", "pass"), ("task",),
        ("is 10 times as large",),
        "an optimizer of Keras, which knows no groups",
    ),
    _fault(
        "task", "task-sizes-reversed", "input", "sizes of a batch are taken for width and height",
        method(task.MaskFormerTask, "_batch", 'inputs["sizes"], targets',
               'inputs["sizes"][:, ::-1], targets'), ("task",), ("in reverse",),
    ),
    _fault(
        "task", "task-drops-in-evaluation", "transformer", "evaluation is done with dropout",
        method(task.MaskFormerTask, "validation_step", "training=False", "training=True"),
        ("task",), ("training is True",),
    ),
    _fault(
        "task", "task-trains-without-dropout", "transformer", "training is done without dropout",
        method(task.MaskFormerTask, "_found", "batch, training=True", "batch"), ("task",),
        ("training is False",), "a model call that lacks training=True",
    ),
    _fault(
        "task", "task-one-seed", "transformer", "dropout draws the same masks in every step",
        method(task.MaskFormerTask, "_seed", "(tf.cast(step, tf.int32), replica)", "(replica,)"),
        ("task",), ("one seed in all steps",), "a seed that is fixed when the step is traced",
    ),
    _fault(
        "task", "task-logs-the-sum", "loss", "the loss that is logged is the plain sum",
        method(task.MaskFormerTask, "train_step", "self.loss: found.total",
               "self.loss: tf.add_n(list(found.losses.values()))"), ("task",), ("without their",),
    ),
)  # fmt: skip

STEPS = (
    _fault(
        "steps", "loss-as-a-number", "loss",
        "the step makes of its loss what AutoGraph makes of `float`",
        function(train_step, "gradients", "total = weighted_total(losses, model.config.loss)",
                 "total = tf.cast(weighted_total(losses, model.config.loss), tf.float32)"),
        ("loss",), ("the total loss is rounded to float32",), f"{PORT}: float(loss)",
    ),
    _fault(
        "steps", "steps-counted-in-python", "update",
        "the optimizer's step is a Python number, fixed when the step is traced",
        method(optimizer.TorchAdamW, "_bias_corrections",
               "step = tf.cast(self.iterations + 1, dtype)",
               "self.__dict__['_count'] = self.__dict__.get('_count', 0) + 1\n"
               "    step = tf.constant(self.__dict__['_count'], dtype)"),
        ("update",), ("the step is counted as the first every time",),
    ),
    _fault(
        "steps", "first-moment-lost", "update", "the first moment starts anew in every step",
        method(optimizer.TorchAdamW, "_update",
               "first.assign_add((gradient - first) * (1 - self.beta_1))",
               "first.assign(gradient * (1 - self.beta_1))"),
        ("update",), ("the first moment is not kept",), "slots that no checkpoint holds",
    ),
    _fault(
        "steps", "beta-2-0.99", "update", "beta_2 is 0.99 instead of 0.999",
        function(optimizer, "build_optimizer", "*solver.betas, solver.eps",
                 "solver.betas[0], 0.99, solver.eps"),
        ("update",), ("beta_2 is 0.99",),
    ),
)  # fmt: skip


def normalise_over_replicas() -> None:
    """Planted in the replicas' own process: one divisor for the class losses of all."""
    criterion.SetCriterion.__init__.__defaults__ = ("global",)


def average_shares() -> None:
    """Planted in the replicas' own process: what is to be added up is averaged."""
    reduced = train_step._sum_over_replicas
    count = train_step._replicas
    train_step._sum_over_replicas = lambda values: [
        one / count(one.dtype) for one in reduced(values)
    ]


def keep_own_gradients() -> None:
    """Planted in the replicas' own process: gradients are not reduced."""
    train_step._sum_over_replicas = lambda values: values


def reduce_the_first_alone() -> None:
    """Planted in the replicas' own process: only one parameter's gradients are reduced."""
    reduced = train_step._sum_over_replicas
    train_step._sum_over_replicas = lambda values: [*reduced(values)[:1], *values[1:]]


def keep_whole_losses() -> None:
    """Planted in the replicas' own process: every replica differentiates its whole loss."""
    train_step._replicas = lambda dtype: tf.ones([], dtype)


REPLICAS = (
    _fault(
        "replicas", "loss-not-shared-out", "gradient",
        "gradients of all replicas add up to that of the sum of their losses",
        inside("prepare", keep_whole_losses), ("train step",),
        ("not divided by the number of replicas",), "torch's DDP, which averages", "gradient",
    ),
    _fault(
        "replicas", "gradients-averaged-twice", "update",
        "shares of the mean loss are averaged instead of added up",
        inside("prepare", average_shares), ("update",), ("averaged instead of added up",),
        "ReduceOp.MEAN beside a loss that is divided already", "update",
    ),
    _fault(
        "replicas", "gradients-not-reduced", "update", "every replica updates by its own gradients",
        inside("prepare", keep_own_gradients), ("update",), ("its own gradients alone",),
        "skip_gradients_aggregation without a reduction", "update",
    ),
    _fault(
        "replicas", "first-gradient-reduced", "update", "all gradients but the first stay apart",
        inside("prepare", reduce_the_first_alone), ("update",),
        ("only some parameters",), "", "update",
    ),
    _fault(
        "replicas", "loss-normalised-globally", "loss",
        "the class loss is divided by the weights of all replicas",
        inside("prepare", normalise_over_replicas), ("criterion",),
        ("normalised over all replicas",), PORT, "loss",
    ),
)  # fmt: skip

FAULTS = (
    *PRECISION, *BATCH, *DROPOUT, *TRAINING_BATCH, *VARIANT, *TASK, *STEPS, *REPLICAS,
)  # fmt: skip

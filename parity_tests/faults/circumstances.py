"""Faults that one image, one step, one replica or inference does not show."""

import tensorflow as tf

import tf_impl.criterion as criterion
import tf_impl.modeling.swin as swin
import tf_impl.optimizer as optimizer
import tf_impl.train_step as train_step
from parity.faults import Fault, Plant
from parity_tests.faults.forward import DECODER, ENCODER, PIXELS, PORT
from parity_tests.faults.planting import attribute, call, function, inside, line, method

INPUT = ("model", "backbone:input")


def _fault(
    bench: str,
    id: str,
    stage: str,
    what: str,
    plant: Plant,
    places: tuple[str, ...],
    causes: tuple[str, ...],
    imitates: str = "",
    family: str = "",
) -> Fault:
    return Fault(id, family or bench, stage, what, bench, plant, places, causes, imitates)


def _over_the_batch(original, module):
    """A norm that takes all images for one."""

    def run(input):
        shape = tf.shape(input)
        whole = tf.reshape(input, (1, shape[0] * shape[1], shape[2], input.shape[-1]))
        return tf.reshape(original(whole), shape)

    return run


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
        (f"{DECODER}.layers.1",), (),
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
        "dropout", "drop-path-not-scaled", "backbone", "paths that are kept are not scaled up",
        line("backbone.layers.0.blocks.1.drop_path",
             "input * dropout(tf.ones(shape, input.dtype), self.rate, training)",
             "input * dropout(tf.ones(shape, input.dtype), self.rate, training)"
             " * (1.0 - self.rate)"),
        ("backbone.layers.0.blocks.1.drop_path",), ("divisor is left out", "times"),
    ),
)  # fmt: skip

STEPS = (
    _fault(
        "steps", "loss-as-a-number", "loss", "the step makes a Python number of its loss",
        function(train_step, "gradients", "total = weighted_total(losses, model.config.loss)",
                 "total = float(weighted_total(losses, model.config.loss))"),
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


REPLICAS = (
    _fault(
        "replicas", "loss-normalised-globally", "loss",
        "the class loss is divided by the weights of all replicas",
        inside("prepare", normalise_over_replicas), ("criterion",),
        ("normalised over all replicas",), PORT, "loss",
    ),
)  # fmt: skip

FAULTS = (*BATCH, *DROPOUT, *STEPS, *REPLICAS)

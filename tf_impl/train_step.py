"""One training step of either kind of head: forward, losses, gradients, clipping, update.

Mirrors `torch_reference/train_step.py`. Every function is traceable with static shapes, in float32
and float64, and compiles under XLA.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from tf_impl.criterion import Divisors, per_pixel_losses, weighted_total
from tf_impl.layers import wide
from tf_impl.matcher import Matching


class Batch(NamedTuple):
    """`images` [B,H,W,3] RGB in 0..255, their valid `sizes` int32 [B,2], and the targets.

    `targets` are those of `SetCriterion`, or labels int32 [B,H,W] of a per-pixel head.
    """

    images: tf.Tensor
    sizes: tf.Tensor
    targets: Any


class Gradients(NamedTuple):
    """What one replica computes before the update.

    The model's `outputs`, unweighted `losses` by name, their weighted sum `total`, the `matching`
    (None for a per-pixel head), and one gradient per trainable variable, None where the loss does
    not depend on it.
    """

    outputs: dict[str, Any]
    losses: dict[str, tf.Tensor]
    total: tf.Tensor
    matching: Matching | None
    values: list[tf.Tensor | None]


class StepResult(NamedTuple):
    """Unweighted losses by name, their weighted sum, the norm before clipping, and the pairs.

    Losses and `matching` are the replica's; the norm is that of the gradients summed over replicas.
    """

    losses: dict[str, tf.Tensor]
    total: tf.Tensor
    gradient_norm: tf.Tensor
    matching: Matching | None


def batch_losses(
    model: tf_keras.Model, outputs: dict[str, Any], targets: Any, divisors: Divisors | None = None
) -> tuple[dict[str, tf.Tensor], Matching | None]:
    """Unweighted losses of predictions, with those of the auxiliary outputs, and the matching.

    Outputs in 16 bits are widened: costs and losses are float32 there. `divisors` are those of a
    part of a batch.
    """
    outputs = tf.nest.map_structure(wide, outputs)
    if model.config.is_per_pixel:
        return per_pixel_losses(outputs, targets, model.config.ignore_value), None
    matching = model.criterion.match(outputs, targets)
    return model.criterion.losses(outputs, targets, matching, divisors), matching


def gradients(
    model: tf_keras.Model, batch: Batch, training: bool = False, divisors: Divisors | None = None
) -> Gradients:
    """Losses and gradients of this replica; `training` switches dropout and drop path on.

    The gradients of all replicas add up to that of the mean loss. `divisors` are those of a part
    of a batch.
    """
    with tf.GradientTape() as tape:
        outputs = model(batch.images, sizes=batch.sizes, training=training)
        losses, matching = batch_losses(model, outputs, batch.targets, divisors)
        total = weighted_total(losses, model.config.loss)
        share = total / _replicas(total.dtype)
    found = tape.gradient(share, model.trainable_variables)
    # Slices of a table (Swin's position bias) are added up here: the norm of slices that fall on
    # one row would be another than that of their sum.
    dense = [None if value is None else tf.convert_to_tensor(value) for value in found]
    return Gradients(outputs, losses, total, matching, dense)


def update(
    model: tf_keras.Model,
    optimizer: tf_keras.optimizers.Optimizer,
    values: list[tf.Tensor | None],
) -> tf.Tensor:
    """Changes the weights by one update of `tf_impl.optimizer`; returns the norm before clipping.

    `values` are the gradients of this replica, one per trainable variable. They are summed over
    replicas before the optimizer sees, and clips, them.
    """
    pairs = [
        (value, variable)
        for value, variable in zip(values, model.trainable_variables, strict=True)
        if value is not None
    ]
    reduced = _sum_over_replicas([value for value, _ in pairs])
    variables = [variable for _, variable in pairs]
    optimizer.apply_gradients(zip(reduced, variables, strict=True), skip_gradients_aggregation=True)
    return tf.linalg.global_norm(reduced)


def train_step(
    model: tf_keras.Model,
    optimizer: tf_keras.optimizers.Optimizer,
    batch: Batch,
    training: bool = False,
    find: Callable[..., Gradients] | None = None,
) -> StepResult:
    """Changes the weights by one update; `training` switches dropout and drop path on.

    `find` computes what `gradients` does, which is called where it is None.
    """
    found = (find or gradients)(model, batch, training)
    norm = update(model, optimizer, found.values)
    return StepResult(found.losses, found.total, norm, found.matching)


def compiled_step(
    model: tf_keras.Model,
    optimizer: tf_keras.optimizers.Optimizer,
    *,
    training: bool = False,
    jit_compile: bool = False,
) -> Callable[[Batch], StepResult]:
    """`train_step` as one tf.function of a `Batch`, traced once per shape."""
    optimizer.build(model.trainable_variables)

    def step(batch: Batch) -> StepResult:
        return train_step(model, optimizer, batch, training)

    # Nothing in the step needs AutoGraph, which would take longer than the tracing.
    return tf.function(step, autograph=False, jit_compile=jit_compile)


def _replicas(dtype: tf.DType) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    return tf.cast(context.num_replicas_in_sync if context else 1, dtype)


def _sum_over_replicas(values: list[tf.Tensor]) -> list[tf.Tensor]:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

"""Which prediction learns which target: matching costs and the optimal assignment, on the device.

The semantics of the original's `mask_former/modeling/matcher.py`. Targets are padded to a static
number T; `Targets` says how.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maskformer.model.config import LossConfig
from parity.errors import InputError
from tf_impl.layers import nearest_indices
from tf_impl.linear_sum_assignment import linear_sum_assignment

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2


class Targets(NamedTuple):
    """Targets of B images, padded to T each; the real ones come first.

    `masks` is int32 [B,H,W], the index of the target that owns a pixel or -1; or bool [B,T,H,W] for
    masks that overlap. `classes` int32 [B,T]; `valid` bool [B,T], true for the leading real ones;
    `dropped` int32 [B] counts targets beyond T, which no loss sees.
    """

    masks: tf.Tensor
    classes: tf.Tensor
    valid: tf.Tensor
    dropped: tf.Tensor


class Matching(NamedTuple):
    """Pairs of L decoder layers and B images; -1 where unmatched.

    `query_of_target` int32 [L,B,T], `target_of_query` int32 [L,B,Q], and `status` int32 [L,B] of
    `tf_impl.linear_sum_assignment`: an image whose costs are not finite has no pairs.
    """

    query_of_target: tf.Tensor
    target_of_query: tf.Tensor
    status: tf.Tensor


def pad_targets(
    targets: Sequence[dict[str, np.ndarray]], max_targets: int, overlapping: bool = False
) -> Targets:
    """`Targets` from one {"labels" int [t], "masks" bool [t,H,W]} per image, H and W all equal.

    Targets beyond `max_targets` are dropped and counted. With `overlapping` the masks stay dense.
    Raises InputError where masks overlap and `overlapping` is false.
    """
    size = np.asarray(targets[0]["masks"]).shape[1:]
    classes = np.zeros((len(targets), max_targets), np.int32)
    valid = np.zeros((len(targets), max_targets), bool)
    dropped = np.zeros(len(targets), np.int32)
    dense = np.zeros((len(targets), max_targets, *size), bool)
    for b, target in enumerate(targets):
        count = min(len(target["labels"]), max_targets)
        dropped[b] = len(target["labels"]) - count
        classes[b, :count] = target["labels"][:count]
        valid[b, :count] = True
        dense[b, :count] = target["masks"][:count]
    if overlapping:
        return Targets(*map(tf.constant, (dense, classes, valid, dropped)))
    shared = dense.sum(axis=1).max(initial=0, axis=(1, 2))
    if shared.max(initial=0) > 1:
        raise InputError(
            f"the masks of image {int(shared.argmax())} overlap",
            f"{int(shared.max())} masks own one pixel; an id map holds one",
            "pass overlapping=True to keep dense masks",
        )
    ids = np.where(dense.any(axis=1), dense.argmax(axis=1), -1).astype(np.int32)
    return Targets(*map(tf.constant, (ids, classes, valid, dropped)))


def downsampled_masks(targets: Targets, size: tuple[int, int], dtype: tf.DType) -> tf.Tensor:
    """Binary masks [B,T,h*w] at a lower resolution by torch's nearest rule; padding is 0."""
    rows = nearest_indices(size[0], targets.masks.shape[-2])
    columns = nearest_indices(size[1], targets.masks.shape[-1])
    small = tf.gather(tf.gather(targets.masks, rows, axis=-2), columns, axis=-1)
    t = targets.classes.shape[1]
    if targets.masks.shape.rank == 3:
        small = small[:, None] == tf.range(t)[:, None, None]
    small = tf.reshape(small, (-1, t, size[0] * size[1]))
    return tf.cast(small & targets.valid[:, :, None], dtype)


def matching_costs(
    logits: tf.Tensor, masks: tf.Tensor, targets: Targets, weights: LossConfig
) -> tf.Tensor:
    """Costs [B,Q,T] from class logits [B,Q,K+1] and mask logits [B,Q,h,w] of one decoder layer.

    Weighted sum of minus the probability of the target's class, the mean focal loss and the dice
    loss, smoothed by 1. Columns of targets that are not valid mean nothing.
    """
    _, q, h, w = masks.shape
    wanted = downsampled_masks(targets, (h, w), masks.dtype)
    flat = tf.reshape(masks, (-1, q, h * w))
    probability = tf.sigmoid(flat)
    positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * tf.nn.softplus(-flat)
    negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * tf.nn.softplus(flat)
    # A target's pixels count as positive, all others as negative. Two products of what is positive:
    # one of their difference would cancel most digits where a mask is nearly right.
    focal = tf.matmul(positive, wanted, transpose_b=True)
    focal = (focal + tf.matmul(negative, 1 - wanted, transpose_b=True)) / (h * w)

    overlap = 2 * tf.matmul(probability, wanted, transpose_b=True)
    total = tf.reduce_sum(probability, axis=2)[:, :, None] + tf.reduce_sum(wanted, axis=2)[:, None]
    dice = 1 - (overlap + 1) / (total + 1)

    of_class = tf.one_hot(targets.classes, logits.shape[-1], dtype=logits.dtype)
    class_probability = tf.matmul(tf.nn.softmax(logits), of_class, transpose_b=True)
    return (
        weights.mask_weight * focal
        - weights.class_weight * class_probability
        + weights.dice_weight * dice
    )


def match(logits: tf.Tensor, masks: tf.Tensor, targets: Targets, weights: LossConfig) -> Matching:
    """Optimal pairs of L layers, from logits [L,B,Q,K+1] and masks [L,B,Q,h,w]; no gradient.

    Costs are computed layer by layer, which bounds the memory; all assignments are solved at once.
    """
    layers, _, q, _ = logits.shape
    t = targets.classes.shape[1]
    logits, masks = tf.stop_gradient(logits), tf.stop_gradient(masks)
    costs = tf.map_fn(
        lambda layer: matching_costs(*layer, targets, weights),
        (logits, masks),
        fn_output_signature=tf.TensorSpec((None, q, t), logits.dtype),
    )
    counts = tf.reduce_sum(tf.cast(targets.valid, tf.int32), axis=1)
    result = linear_sum_assignment(tf.reshape(costs, (-1, q, t)), tf.tile(counts, [layers]))
    return Matching(
        query_of_target=tf.reshape(result.row_of_column, (layers, -1, t)),
        target_of_query=tf.reshape(result.column_of_row, (layers, -1, q)),
        status=tf.reshape(result.status, (layers, -1)),
    )

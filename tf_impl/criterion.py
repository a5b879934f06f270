"""The training loss of mask classification; owns the class weights that the state dict carries.

The semantics of the original's `mask_former/modeling/criterion.py`, on padded static targets.
Padding pixels count as background: the original does not mask them.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from maskformer.model.config import LossConfig, ModelConfig
from parity.errors import InputError
from tf_impl.layers import resize_bilinear
from tf_impl.matcher import FOCAL_ALPHA, FOCAL_GAMMA, Matching, Targets, match

Normalisation = Literal["ddp_mean", "global"]
Outputs = dict[str, Any]

CHUNK_PIXELS = 1 << 21  # full-resolution mask pixels that are expanded at a time, at most
CHUNK_TARGETS = 8  # and targets: padding beyond the chunk that holds the last pair costs nothing


class Divisors(NamedTuple):
    """What the losses of a part of a replica's batch are divided by, scalars of the whole batch.

    `masks` divides summed mask losses, `classes` the summed class loss; None by the part's own.
    """

    masks: tf.Tensor
    classes: tf.Tensor | None


class SetCriterion(tf_keras.layers.Layer):
    """Class, focal and dice losses of every decoder layer, each layer matched on its own.

    Holds `empty_weight` [K+1]: ones, and the no-object weight last. A replica's losses are scaled
    so that their *mean* over replicas is the loss of the step. With `normalisation` "ddp_mean",
    the original's, masks are counted over all replicas, at least one per replica, and the class
    loss is averaged per replica; with "global" the mean is what one process would compute on the
    whole batch.
    """

    def __init__(
        self, config: ModelConfig, normalisation: Normalisation = "ddp_mean", **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = config.num_classes
        self.num_queries = config.predictor.num_queries
        self.normalisation = normalisation
        self.weights_of_losses = config.loss
        weights = np.float32([1.0] * config.num_classes + [config.loss.no_object_weight])
        self.empty_weight = self.add_weight(
            "empty_weight",
            weights.shape,
            initializer=lambda shape, dtype: tf.constant(weights, dtype, shape),
            trainable=False,
        )

    def call(self, outputs: Outputs, targets: Targets) -> dict[str, tf.Tensor]:
        """Unweighted losses `loss_ce`, `loss_mask`, `loss_dice`, and `..._i` of aux output i."""
        return self.losses(outputs, targets, self.match(outputs, targets))

    def match(self, outputs: Outputs, targets: Targets) -> Matching:
        """Optimal pairs of all decoder layers, the final one first, then the aux outputs."""
        logits, masks = _stacked(outputs)
        return match(logits, masks, targets, self.weights_of_losses)

    def losses(
        self,
        outputs: Outputs,
        targets: Targets,
        matching: Matching,
        divisors: Divisors | None = None,
    ) -> dict[str, tf.Tensor]:
        """The losses for given pairs; see `call`. `divisors` are those of a part of a batch."""
        logits, masks = _stacked(outputs)
        num_masks = divisors.masks if divisors else self._num_masks(targets, logits.dtype)
        ce = self._class_losses(logits, targets, matching, divisors)
        focal, dice = _mask_losses(masks, targets, matching)
        named = {}
        for layer in range(logits.shape[0]):
            suffix = f"_{layer - 1}" if layer else ""
            named[f"loss_ce{suffix}"] = ce[layer]
            named[f"loss_mask{suffix}"] = focal[layer] / num_masks
            named[f"loss_dice{suffix}"] = dice[layer] / num_masks
        return named

    def divisors(self, targets: Targets, dtype: tf.DType, parts: int) -> Divisors:
        """What divides the losses of each of `parts` equal parts of the batch of these targets.

        The mean over parts and replicas is then the loss of the step. Raises InputError for more
        targets than queries with "global": which of them are paired is not known before.
        """
        masks = self._num_masks(targets, dtype, parts)
        if self.normalisation == "ddp_mean":
            return Divisors(masks, None)
        if targets.classes.shape[1] > self.num_queries:
            raise InputError(
                f"images have room for {targets.classes.shape[1]} targets",
                f"there are {self.num_queries} queries, and parts of a batch are divided by the "
                "classes of all pairs, which are not known before the last part",
                'Lower the capacity, or take the normalisation "ddp_mean".',
            )
        weights = tf.cast(self.empty_weight, dtype)
        paired = tf.where(targets.valid, tf.gather(weights, targets.classes), 0)
        queries = targets.classes.shape[0] * self.num_queries
        unpaired = tf.cast(queries - tf.math.count_nonzero(targets.valid, dtype=tf.int32), dtype)
        total = tf.reduce_sum(paired) + unpaired * weights[-1]
        return Divisors(masks, _sum_over_replicas(total) / (_replicas(dtype) * parts))

    def _class_losses(
        self,
        logits: tf.Tensor,
        targets: Targets,
        matching: Matching,
        divisors: Divisors | None = None,
    ) -> tf.Tensor:
        """Cross entropy [L]: a mean weighted by the weights of the classes asked for."""
        t = targets.classes.shape[1]
        of_target = matching.target_of_query[..., None] == tf.range(t)
        classes = tf.reduce_sum(tf.where(of_target, targets.classes[:, None, :], 0), axis=-1)
        classes = tf.where(matching.target_of_query >= 0, classes, self.num_classes)
        wanted = tf.one_hot(classes, self.num_classes + 1, dtype=logits.dtype)
        weighted = wanted * tf.cast(self.empty_weight, logits.dtype)
        summed = -tf.reduce_sum(weighted * tf.nn.log_softmax(logits), axis=(1, 2, 3))
        total = tf.reduce_sum(weighted, axis=(1, 2, 3))
        if divisors is not None and divisors.classes is not None:
            return summed / divisors.classes
        if self.normalisation == "ddp_mean":
            return summed / total
        return summed / _sum_over_replicas(total) * _replicas(logits.dtype)

    def _num_masks(self, targets: Targets, dtype: tf.DType, parts: int = 1) -> tf.Tensor:
        """The divisor of a part's summed mask losses; float32 arithmetic, as in the original."""
        count = tf.reduce_sum(tf.cast(targets.valid, tf.float32))
        total = _sum_over_replicas(count)
        if self.normalisation == "ddp_mean":
            return tf.cast(tf.maximum(total / (_replicas(tf.float32) * parts), 1.0), dtype)
        return tf.cast(tf.maximum(total, 1.0), dtype) / (_replicas(dtype) * parts)


def _stacked(outputs: Outputs) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits [L,B,Q,K+1] and masks [L,B,Q,h,w], final layer first."""
    layers = [outputs, *outputs.get("aux_outputs", ())]
    return tuple(
        tf.stack([layer[key] for layer in layers]) for key in ("pred_logits", "pred_masks")
    )


def _mask_losses(
    masks: tf.Tensor, targets: Targets, matching: Matching
) -> tuple[tf.Tensor, tf.Tensor]:
    """Focal and dice losses [L] summed over matched masks; masks [L,B,Q,h,w]."""
    layers, _, q, h, w = masks.shape
    t = targets.classes.shape[1]
    if t == 0:
        return tf.zeros([layers], masks.dtype), tf.zeros([layers], masks.dtype)
    queries = tf.reshape(matching.query_of_target, (-1, t))
    flat = tf.reshape(masks, (-1, q, h, w))
    matched = tf.gather(flat, tf.maximum(queries, 0), batch_dims=1)
    focal, dice = _matched_losses(matched, queries >= 0, targets.masks)
    return tuple(tf.reduce_sum(tf.reshape(loss, (layers, -1)), axis=1) for loss in (focal, dice))


def _matched_losses(
    matched: tf.Tensor, paired: tf.Tensor, target_masks: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Focal and dice loss [N,T] of mask logits [N,T,h,w] against their targets, 0 where unpaired.

    N = L * B runs over layers, then images. Upsampled logits and expanded targets exist for one
    chunk of targets at a time; chunks without a pair are skipped. The gradient runs through the
    chunks again, so that nothing of full size is kept.
    """
    n, t = tf.shape(matched)[0], matched.shape[1]
    h, w = matched.shape[2:]
    images = tf.shape(target_masks)[0]
    size = tuple(target_masks.shape[-2:])
    chunk = max(1, min(t, CHUNK_TARGETS, CHUNK_PIXELS // (size[0] * size[1])))
    chunks = -(-t // chunk)
    padding = chunks * chunk - t
    matched = tf.pad(matched, [[0, 0], [0, padding], [0, 0], [0, 0]])
    paired = tf.pad(paired, [[0, 0], [0, padding]])
    paired = tf.reshape(paired, (-1, chunk))
    if target_masks.shape.rank == 4:
        target_masks = tf.pad(target_masks, [[0, 0], [0, padding], [0, 0], [0, 0]])

    def losses_of(index: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, first = (index // chunks) % images, (index % chunks) * chunk
        owned = target_masks[image]
        if target_masks.shape.rank == 4:
            wanted = tf.reshape(owned[first : first + chunk], (chunk, *size))
        else:
            wanted = owned[None] == (first + tf.range(chunk))[:, None, None]
        here = paired[index]
        focal, dice = _focal_and_dice(resize_bilinear(logits, size), wanted)
        zero = tf.zeros_like(focal)
        return tf.where(here, focal, zero), tf.where(here, dice, zero)

    @tf.custom_gradient
    def over_chunks(logits: tf.Tensor):
        def forward(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            nothing = tf.zeros([chunk], logits.dtype)
            return tf.cond(
                tf.reduce_any(paired[index]),
                lambda: losses_of(index, logits[index]),
                lambda: (nothing, nothing),
            )

        def gradient(focal_grad: tf.Tensor, dice_grad: tf.Tensor) -> tf.Tensor:
            def through(index: tf.Tensor) -> tf.Tensor:
                piece = logits[index]
                with tf.GradientTape() as tape:
                    tape.watch(piece)
                    focal, dice = losses_of(index, piece)
                return tape.gradient(
                    (focal, dice), piece, output_gradients=(focal_grad[index], dice_grad[index])
                )

            return tf.map_fn(
                lambda index: tf.cond(
                    tf.reduce_any(paired[index]),
                    lambda: through(index),
                    lambda: tf.zeros_like(logits[0]),
                ),
                tf.range(n * chunks),
                fn_output_signature=tf.TensorSpec((chunk, h, w), logits.dtype),
            )

        spec = tf.TensorSpec((chunk,), logits.dtype)
        losses = tf.map_fn(forward, tf.range(n * chunks), fn_output_signature=(spec, spec))
        return losses, gradient

    losses = over_chunks(tf.reshape(matched, (-1, chunk, h, w)))
    return tuple(tf.reshape(loss, (-1, chunks * chunk))[:, :t] for loss in losses)


def _focal_and_dice(logits: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Focal loss, a mean over pixels, and dice loss, smoothed by 1, [N] from [N,H,W]."""
    # The logit of being right; its sigmoid is the probability of the target.
    right = tf.where(wanted, logits, -logits)
    alpha = tf.where(
        wanted, *(tf.constant(a, logits.dtype) for a in (FOCAL_ALPHA, 1 - FOCAL_ALPHA))
    )
    pixels = alpha * tf.sigmoid(-right) ** FOCAL_GAMMA * tf.nn.softplus(-right)
    focal = tf.reduce_mean(pixels, axis=(1, 2))

    probability = tf.sigmoid(logits)
    target = tf.cast(wanted, logits.dtype)
    overlap = 2 * tf.reduce_sum(probability * target, axis=(1, 2))
    total = tf.reduce_sum(probability, axis=(1, 2)) + tf.reduce_sum(target, axis=(1, 2))
    return focal, 1 - (overlap + 1) / (total + 1)


def per_pixel_losses(
    outputs: Outputs, labels: tf.Tensor, ignore_value: int
) -> dict[str, tf.Tensor]:
    """`loss_sem_seg`, and `loss_sem_seg_i` of aux output i, of a per-pixel baseline.

    `outputs` holds class logits `sem_seg` [B,K,h,w], upsampled to the size of `labels` int32
    [B,H,W]; pixels labelled `ignore_value` do not count in the mean. Source: the original's
    `heads/per_pixel_baseline.py`.
    """
    losses = {"loss_sem_seg": _pixel_loss(outputs["sem_seg"], labels, ignore_value)}
    for i, aux in enumerate(outputs.get("aux_outputs", ())):
        losses[f"loss_sem_seg_{i}"] = _pixel_loss(aux["sem_seg"], labels, ignore_value)
    return losses


def _pixel_loss(logits: tf.Tensor, labels: tf.Tensor, ignore_value: int) -> tf.Tensor:
    logits = resize_bilinear(logits, tuple(labels.shape[-2:]))
    counts = labels != ignore_value
    wanted = labels[:, None] == tf.range(logits.shape[1])[:, None, None]
    zero = tf.zeros([], logits.dtype)
    right = tf.reduce_sum(tf.where(wanted, tf.nn.log_softmax(logits, axis=1), zero), axis=1)
    summed = tf.reduce_sum(tf.where(counts, right, zero))
    return -summed / tf.reduce_sum(tf.cast(counts, logits.dtype))


def weighted_total(losses: dict[str, tf.Tensor], weights: LossConfig) -> tf.Tensor:
    """The sum that is minimised; aux losses weigh as much as the final ones."""
    by_name = {
        "loss_ce": weights.class_weight,
        "loss_mask": weights.mask_weight,
        "loss_dice": weights.dice_weight,
        "loss_sem_seg": 1.0,
    }
    return tf.add_n([by_name[name.rstrip("_0123456789")] * value for name, value in losses.items()])


def _replicas(dtype: tf.DType) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    return tf.cast(context.num_replicas_in_sync if context else 1, dtype)


def _sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

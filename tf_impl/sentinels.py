"""Early signs of a failing run, counted on the device from one training batch."""

from collections.abc import Mapping

import tensorflow as tf

from tf_impl.matcher import Matching, Targets, downsampled_masks


def sentinel_counts(
    outputs: Mapping[str, tf.Tensor], targets: Targets, matching: Matching
) -> dict[str, tf.Tensor]:
    """Float32 scalars that add up over replicas; `sentinels` divides them.

    Of the last decoder layer: `pairs` of the matching and the `right` ones, whose query has its
    largest logit at the target's class; `queries`, and those with `no_object` the largest;
    `iou` summed over the `masks` pairs whose target is not empty at the masks' size.
    """
    logits, masks = outputs["pred_logits"], outputs["pred_masks"]
    queries = matching.query_of_target[0]
    paired = queries >= 0
    chosen = tf.maximum(queries, 0)
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    right = tf.equal(tf.gather(predicted, chosen, batch_dims=1), targets.classes) & paired
    no_object = tf.equal(predicted, logits.shape[-1] - 1)

    height, width = masks.shape[-2:]
    inside = tf.gather(masks, chosen, batch_dims=1) > 0
    inside = tf.reshape(inside, (-1, queries.shape[1], height * width))
    wanted = downsampled_masks(targets, (height, width), tf.float32) > 0
    both, either = _area(inside & wanted), _area(inside | wanted)
    counted = paired & (_area(wanted) > 0)
    iou = tf.where(counted, both / tf.maximum(either, 1.0), 0.0)
    return {
        "pairs": _count(paired),
        "right": _count(right),
        "queries": tf.cast(tf.size(predicted), tf.float32),
        "no_object": _count(no_object),
        "masks": _count(counted),
        "iou": tf.reduce_sum(iou),
    }


def sentinels(counts: Mapping[str, float]) -> dict[str, float]:
    """The values of `maskformer.runs.run_record.SENTINELS`, 0..1; NaN where nothing was counted.

    `counts` are those of `sentinel_counts` over all replicas.
    """
    return {
        "matched_class_accuracy": _ratio(counts["right"], counts["pairs"]),
        "no_object_rate": _ratio(counts["no_object"], counts["queries"]),
        "matched_iou": _ratio(counts["iou"], counts["masks"]),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _area(masks: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(masks, tf.float32), axis=-1)


def _count(flags: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(flags, tf.float32))

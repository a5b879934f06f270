"""Under the bfloat16 policy a training step is finite and as exact as 16 bits allow."""

from typing import NamedTuple

import numpy as np
import pytest

import tf_impl

import tensorflow as tf  # isort: skip

from maskformer.data.images import batch_images, synthetic_image
from maskformer.data.targets import synthetic_targets
from maskformer.model import zoo
from replication.sides.tf_side import port_batch
from tf_impl.criterion import weighted_total
from tf_impl.layers import GroupNorm, dropout, dropout_seed, group_mean, wide
from tf_impl.train_step import batch_losses, gradients

ROUNDED = "float64 from weights in bfloat16"
FLOORS = 32  # the project's rule: times what rounding the inputs does to the exact result
COARSER = 2.0 ** (24 - 8)
"""Units in the last place: bfloat16 keeps 8 bits of the significand, float32 24."""


@pytest.fixture(scope="module")
def found():
    """Outputs, losses and gradients of one batch in three precisions, from equal weights."""
    config = zoo.model_config("scenes_tiny").replace(
        pixel_decoder={"conv_dim": 32, "mask_dim": 32, "transformer_enc_layers": 1},
        predictor={"hidden_dim": 32, "num_queries": 8, "dim_feedforward": 32, "dec_layers": 1},
    )
    images, sizes = batch_images([synthetic_image(64, 64, i) for i in range(2)], config)
    targets = synthetic_targets(config, sizes, (64, 64))
    results, weights = {}, None
    for name in ("float64", "float32", "mixed_bfloat16", ROUNDED):
        tf.random.set_seed(0)
        policy = "float64" if name == ROUNDED else name
        model = tf_impl.build(config, policy)
        if weights is None:
            weights = [np.float32(variable) for variable in model.variables]
        for variable, value in zip(model.variables, weights, strict=True):
            if name == ROUNDED:
                value = tf.cast(tf.cast(value, tf.bfloat16), tf.float32).numpy()
            variable.assign(value.astype(variable.dtype.base_dtype.name))
        dtype = "float64" if policy == "float64" else "float32"
        batch = port_batch(config, images, sizes, targets, dtype)
        if policy == "mixed_bfloat16":
            results["losses of wide outputs"] = batch_losses(
                model, results["float32"].outputs, batch.targets
            )[0]
        if name != ROUNDED:
            results[name] = gradients(model, batch)
        # Another matching is another loss: the errors are measured for one.
        matching = results["float64"].matching
        with tf.GradientTape() as tape:
            outputs = model(batch.images, sizes=batch.sizes)
            wider = tf.nest.map_structure(wide, outputs)
            losses = model.criterion.losses(wider, batch.targets, matching)
            total = weighted_total(losses, config.loss)
        slopes = tape.gradient(total, model.trainable_variables)
        results[f"{name}, matched"] = Matched(outputs, total, slopes)
    return results


class Matched(NamedTuple):
    """Outputs, and the loss and its gradients for the float64 model's pairs."""

    outputs: dict
    total: tf.Tensor
    values: list


def error(found, policy, pick):
    exact = np.concatenate([np.ravel(np.float64(x)) for x in pick(found["float64, matched"])])
    values = np.concatenate(
        [np.ravel(tf.cast(x, tf.float64).numpy()) for x in pick(found[f"{policy}, matched"])]
    )
    assert np.isfinite(values).all()
    return np.linalg.norm(values - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(
    "pick",
    [
        lambda r: [r.outputs["pred_logits"], r.outputs["pred_masks"]],
        lambda r: [r.total],
    ],
    ids=["outputs", "loss"],
)
def test_bfloat16_is_coarser_by_its_bits_and_no_more(found, pick):
    gap, limit = error(found, "mixed_bfloat16", pick), error(found, "float32", pick) * COARSER
    assert gap <= max(limit, 2.0**-8), f"error is {gap:.3g}, but should be below {limit:.3g}"


def test_gradients_are_as_exact_as_weights_in_bfloat16_allow(found):
    """A ReLU that flips changes a gradient at once, so its error does not scale with the bits."""

    def values(result):
        return result.values

    gap, limit = error(found, "mixed_bfloat16", values), FLOORS * error(found, ROUNDED, values)
    assert gap <= limit, f"error is {gap:.3g}, but should be below {limit:.3g}"
    print(f"gradient: error {gap:.3g}, limit {limit:.3g}")


def test_what_must_stay_in_float32_does(found):
    result = found["mixed_bfloat16"]
    assert result.outputs["pred_logits"].dtype == tf.bfloat16
    assert {value.dtype for value in result.losses.values()} == {tf.float32}
    assert result.total.dtype == tf.float32
    assert {value.dtype for value in result.values} == {tf.float32}
    assert all(np.isfinite(value).all() for value in result.values)
    wide = found["losses of wide outputs"]
    assert float(wide["loss_mask"]) == float(found["float32"].losses["loss_mask"])


def test_a_norm_in_bfloat16_is_noticed():
    """The twin: statistics in 16 bits lose a small spread around a large mean."""
    x = tf.constant(200 + np.random.default_rng(0).normal(size=(1, 4, 4, 32)), tf.float32)
    with tf.device("CPU:0"):
        norm = GroupNorm(32, dtype="mixed_bfloat16")
        good = norm(tf.cast(x, tf.bfloat16))
        narrow = tf.cast(x, tf.bfloat16)
        mean = group_mean(narrow, norm.num_groups)
        variance = group_mean((narrow - mean) ** 2, norm.num_groups)
        bad = (narrow - mean) / tf.sqrt(variance)
    exact = np.float64(tf.cast(x, tf.bfloat16))
    groups = exact.reshape(1, 16, 32, 1)
    exact = (groups - groups.mean((1, 3), keepdims=True)) / groups.std((1, 3), keepdims=True)
    exact = exact.reshape(x.shape)
    gaps = [np.abs(np.float64(tf.cast(y, tf.float64)) - exact).max() for y in (good, bad)]
    assert gaps[0] <= 2.0**-8 * np.abs(exact).max()
    assert gaps[1] > 10 * gaps[0]


def test_dropout_follows_its_seed():
    """Equal seeds, equal masks; another step or another call, another mask."""
    x = tf.ones([64])

    def masks(seed):
        with dropout_seed(tf.constant(seed, tf.int32)):
            return [dropout(x, 0.5, True).numpy() for _ in range(2)]

    first, again, other = masks([3, 1]), masks([3, 1]), masks([3, 2])
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    assert set(np.unique(first[0])) == {0.0, 2.0}
    assert not np.array_equal(dropout(x, 0.5, True), first[0])

"""The published model itself: every parameter's gradient and three updates, in float64."""

import dataclasses

import pytest

from maskformer.data.images import batch_images, synthetic_image
from maskformer.data.targets import synthetic_targets
from maskformer.model import zero_gradients as training_pair
from maskformer.model import zoo
from parity.frameworks.torch.capture import perturbed, reordered
from parity.gradients import gradient_verdicts
from parity.judge import FUNCTION_FACTOR
from parity.metrics import gap, worst
from parity_tests.replication.training.small import small_swin
from replication.sides.tf_side import build_port, keyed, port_batch
from replication.sides.torch_side import build_reference, reference_batch
from replication.sides.weights import load_weights
from replication.training.trajectory import Request, trajectory

SIZE = (64, 64)
SMALL_SIZE = (32, 44)


def by_key(config, arrays):
    """Without the elements that are zero in theory, which are rounding noise on either side."""
    return {
        key: array[~training_pair.zero_in_theory(config, key, array.shape)]
        for key, array in arrays.items()
    }


def gradients_of_both(config, size):
    """The port's gaps and the reference's floors by parameter, and the norms of both gradients."""
    import torch

    from torch_reference.train_step import backward, gradients

    weights = load_weights("seeded:0", config)
    images, sizes = batch_images([synthetic_image(*size, 0)], config)
    targets = synthetic_targets(config, sizes, images.shape[1:3])
    model = build_reference(config, weights, "float64")
    batch = reference_batch(config, images, sizes, targets, "float64")

    def reference():
        backward(model, batch)
        return by_key(config, {k: g.numpy().copy() for k, g in gradients(model).items()})

    exact = reference()
    moved = []
    for seed in (0, 1):
        with perturbed(model, seed):
            moved.append(reference())
    with reordered():
        moved.append(reference())
    backward(model, batch)
    norm = float(torch.nn.utils.get_total_norm(list(gradients(model).values())))
    floors = {key: worst(gap(run[key], exact[key]) for run in moved) for key in exact}

    import tensorflow as tf

    from tf_impl import train_step

    port = build_port(config, weights, "float64")
    given = port_batch(config, images, sizes, targets, "float64")
    values = tf.function(lambda batch: train_step.gradients(port, batch).values)(given)
    norms = (float(tf.linalg.global_norm(values)), norm)
    ours = by_key(config, keyed(port, [value.numpy() for value in values]))
    assert ours.keys() == exact.keys()
    gaps = {key: gap(ours[key], exact[key]) for key in exact if exact[key].size}
    return gaps, floors, norms


def judged(gaps, floors):
    """The verdicts, with the worst one printed."""
    found = gradient_verdicts(gaps, floors)
    largest = max(found, key=lambda one: one.margin)
    print(f"\n{len(found)} gradients, worst {largest.margin:.3g} of its limit: {largest}")
    return found


@pytest.mark.slow
def test_every_parameter_gradient_of_coco_r50_agrees():
    gaps, floors, norms = gradients_of_both(zoo.model_config("coco_r50"), SIZE)
    found = judged(gaps, floors)
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)
    assert len(found) > 250
    assert [str(one) for one in found if not one.passed] == []
    assert all(FUNCTION_FACTOR * one.threshold.floor < 1 for one in found)


@pytest.mark.slow
def test_three_updates_of_coco_r50_agree():
    entry = zoo.get("coco_r50")
    result = trajectory(Request(entry.model, entry.solver, 3, size="{}x{}".format(*SIZE)))
    for claim in result["claims"]:
        print(f"\n{claim['title']}: {claim['value']:.3g}, limit {claim['limit']:.3g}")
    print(result["worst"])
    assert result["verdict"] == "holds"


@pytest.fixture(scope="module")
def small():
    return gradients_of_both(small_swin(), SMALL_SIZE)


def test_every_parameter_gradient_of_a_small_model_agrees(small):
    gaps, floors, norms = small
    assert [str(one) for one in judged(gaps, floors) if not one.passed] == []
    # Also of a table that many windows read: what clips the gradient is the norm of their sum.
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)


def test_slices_that_fall_on_one_row_have_another_norm():
    """Why `gradients` returns tensors: TensorFlow takes the norm of slices one by one."""
    import tensorflow as tf

    slices = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([0, 0]), (2, 1))
    assert float(tf.linalg.global_norm([slices])) == 5.0
    assert float(tf.linalg.global_norm([tf.convert_to_tensor(slices)])) == 7.0


def test_a_scaled_gradient_is_noticed(small):
    """A relative error of 1e-9 in one tensor is beyond the limit derived from the floor."""
    gaps, floors, _ = small
    key = "backbone.layers.2.blocks.0.attn.qkv.weight"
    scaled = {**gaps, key: dataclasses.replace(gaps[key], l2=1e-9, max=1e-9)}
    assert [one.key for one in judged(scaled, floors) if not one.passed] == [key]

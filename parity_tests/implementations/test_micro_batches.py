"""A batch in parts makes the update of the whole, or of as many processes as there are parts."""

import functools

import numpy as np
import pytest
import torch

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

import tensorflow as tf  # isort: skip

from maskformer.data.images import batch_images, synthetic_image
from maskformer.family import family_of
from maskformer.model import zoo
from parity.errors import InputError
from parity.metrics import gap
from replication.sides import tf_side, torch_side
from replication.sides.weights import load_weights
from tf_impl import micro_batches as ours
from tf_impl import train_step
from tf_impl.layers import dropout_seed
from torch_reference import micro_batches as theirs

LIMIT = 1e-11
"""Of float64: thousands of roundings of 1.1e-16, in sums over another order."""

ROUNDING = 1e-14
"""Of gradients, of which the largest are about 1."""

CONFIG = zoo.get("scenes_tiny").model.replace(
    pixel_decoder={"conv_dim": 32, "mask_dim": 32, "transformer_enc_layers": 1},
    predictor={
        "hidden_dim": 32,
        "num_queries": 10,
        "dim_feedforward": 32,
        "dec_layers": 2,
        "dropout": 0.0,
    },
)
SIZES = ((64, 64), (64, 48), (48, 64), (56, 60))


@pytest.fixture(scope="module")
def case():
    """Four images of several sizes, with a different number of targets each, and both models."""
    images, sizes = batch_images(
        [synthetic_image(*size, seed) for seed, size in enumerate(SIZES)], CONFIG
    )
    targets = family_of(CONFIG).targets(CONFIG, sizes, images.shape[1:3], 3)
    targets = [
        {name: array[: 1 + index] for name, array in one.items()}
        for index, one in enumerate(targets)
    ]
    assert len({len(one["labels"]) for one in targets}) > 1
    weights = load_weights("seeded:0", CONFIG)
    port = tf_side.build_port(CONFIG, weights, "float64")
    reference = torch_side.build_reference(CONFIG, weights, "float64")
    return port, reference, (images, sizes, targets)


def of_port(case, count, rule="ddp_mean", **options):
    """Losses and gradients of the port in `count` parts; at once with None."""
    model, _, (images, sizes, targets) = case
    model.criterion.normalisation = rule
    batch = tf_side.port_batch(CONFIG, images, sizes, targets, "float64", 8)
    if count is None:
        found = train_step.gradients(model, batch)
    else:
        found, _ = ours.gradients(model, batch, count, **options)
    losses = {name: float(value) for name, value in found.losses.items()}
    values = [None if one is None else one.numpy() for one in found.values]
    return {**losses, "total": float(found.total)}, tf_side.keyed(model, values)


def of_reference(case, count, rule="ddp_mean"):
    """The same of the reference."""
    from torch_reference.train_step import forward_backward, gradients

    _, model, (images, sizes, targets) = case
    model.criterion.normalisation = rule
    batch = torch_side.reference_batch(CONFIG, images, sizes, targets, "float64")
    found = forward_backward(model, batch) if count is None else None
    found = found or theirs.forward_backward(model, batch, count)
    losses = {name: float(value) for name, value in found.losses.items()}
    kept = {key: value.numpy().copy() for key, value in gradients(model).items()}
    return {**losses, "total": float(found.total)}, kept


@pytest.fixture(scope="module")
def at_once(case):
    """What a side finds of the whole batch at once, by the function that finds it."""
    return functools.cache(lambda side: side(case, None, "global"))


def largest(one, other):
    """The largest relative gap of losses and of gradients."""
    assert one[0].keys() == other[0].keys()
    assert one[1].keys() == other[1].keys()
    losses = max(abs(one[0][name] / value - 1) for name, value in other[0].items())
    values = max(
        gap(one[1][key], value).l2
        for key, value in other[1].items()
        if np.abs(value).max() > ROUNDING  # others are 0 in theory
    )
    return max(losses, values)


@pytest.mark.parametrize("side", [of_port, of_reference])
def test_parts_are_the_whole_batch_where_losses_are_global(case, at_once, side):
    found = largest(side(case, 2, "global"), at_once(side))
    assert found < LIMIT, f"parts differ by {found:.1e}, but should by less than {LIMIT}"


def test_parts_of_the_port_are_parts_of_the_reference(case):
    found = largest(of_port(case, 4), of_reference(case, 4))
    assert found < 2e-9, f"parts differ by {found:.1e}, but should by less than 2e-9"


def test_parts_are_as_many_processes_where_losses_are_averaged(case):
    """The class loss is a mean per part, and masks are counted over all: not the whole batch."""
    model, _, (images, sizes, targets) = case
    count, total = 2, sum(len(one["labels"]) for one in targets)
    alone = []
    for part in np.split(np.arange(len(images)), count):
        own = [targets[index] for index in part]
        batch = tf_side.port_batch(CONFIG, images[part], sizes[part], own, "float64", 8)
        model.criterion.normalisation = "ddp_mean"
        found = train_step.gradients(model, batch)
        masks = sum(len(one["labels"]) for one in own)
        scale = masks / (total / count)
        alone.append(
            {
                name: float(value) * (1.0 if name.startswith("loss_ce") else scale)
                for name, value in found.losses.items()
            }
        )
    parts, _ = of_port(case, count)
    for name in alone[0]:
        wanted = np.mean([one[name] for one in alone])
        assert abs(parts[name] / wanted - 1) < 1e-6, name  # masks are counted in float32


def test_a_part_that_counts_its_own_masks_is_noticed(case, at_once, monkeypatch):
    """The twin."""
    model = case[0]
    monkeypatch.setattr(type(model.criterion), "divisors", lambda *args: None)
    assert largest(of_port(case, 2), of_reference(case, 2)) > 1e-3
    assert largest(of_port(case, 2, "global"), at_once(of_port)) > 1e-3


def test_counts_of_all_parts_are_summed(case):
    model, _, (images, sizes, targets) = case
    batch = tf_side.port_batch(CONFIG, images, sizes, targets, "float64", 8)

    def observe(found, part):
        paired = tf.cast(found.matching.query_of_target[0] >= 0, tf.float32)
        return {"pairs": tf.reduce_sum(paired), "images": tf.constant(float(part.images.shape[0]))}

    _, counts = ours.gradients(model, batch, 2, observe=observe)
    assert float(counts["images"]) == len(images)
    assert float(counts["pairs"]) == sum(len(one["labels"]) for one in targets)


def test_each_part_draws_its_own_dropout():
    """Parts of equal images have other losses only where their masks differ."""
    config = CONFIG.replace(predictor={"dropout": 0.5})
    model = tf_side.build_port(config, load_weights("seeded:0", config), "float64")
    images, sizes = batch_images([synthetic_image(64, 64, 0)] * 2, config)
    (one,) = family_of(config).targets(config, sizes[:1], images.shape[1:3], 0)
    batch = tf_side.port_batch(config, images, sizes, [one, one], "float64")
    seed = tf.constant([3, 1])

    def spread(seeded):
        def observe(found, part):
            return {"loss": found.total, "square": found.total**2}

        _, sums = ours.gradients(model, batch, 2, True, observe, seeded)
        return float(sums["square"] - sums["loss"] ** 2 / 2)

    folded = tf.random.experimental.stateless_fold_in
    assert spread(lambda part: dropout_seed(folded(seed, part))) > 1e-6
    assert abs(spread(lambda part: dropout_seed(seed))) < 1e-6


@pytest.mark.parametrize(("side", "size"), [(of_port, 3), (of_reference, 3), (of_port, 0)])
def test_a_batch_that_cannot_be_divided_is_refused(case, side, size):
    with pytest.raises(InputError, match=f"micro_batches is {size}\n"):
        side(case, size)


@pytest.mark.parametrize("side", ["port", "reference"])
def test_more_targets_than_queries_are_refused_where_pairs_must_be_known(case, side):
    port, reference, _ = case
    most = CONFIG.predictor.num_queries + 1
    criterion = (port if side == "port" else reference).criterion
    criterion.normalisation = "global"
    labels = np.zeros(most, np.int64)
    if side == "port":
        _, _, (images, sizes, targets) = case
        batch = tf_side.port_batch(CONFIG, images, sizes, targets, "float64", most)
        given = (batch.targets, tf.float64, 2)
    else:
        given = ([{"labels": torch.from_numpy(labels)}], torch.zeros(1), 2)
    with pytest.raises(InputError, match="pairs, which are not known before the last part"):
        criterion.divisors(*given)

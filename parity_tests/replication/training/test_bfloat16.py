"""A training step in bfloat16 is as near to float64 as the reference's under autocast."""

import dataclasses

import pytest

from maskformer.data.images import batch_images, synthetic_image
from maskformer.model import zoo
from parity.judge import MIXED
from parity.steps import Steps
from replication.sides.tf_side import TENSORFLOW
from replication.sides.weights import load_weights
from replication.training import bfloat16, precision
from replication.training.reference import reference_step

QUIET = Steps(quiet=True)


@pytest.fixture(scope="module")
def case():
    """A small model on two images: its float64 step, and its weights."""
    entry = zoo.get("scenes_tiny")
    model = entry.model.replace(
        pixel_decoder={"conv_dim": 32, "mask_dim": 32, "transformer_enc_layers": 1},
        predictor={"hidden_dim": 32, "num_queries": 8, "dim_feedforward": 32, "dec_layers": 1},
    )
    weights = load_weights("seeded:0", model)
    images, sizes = batch_images([synthetic_image(64, 64, index) for index in range(2)], model)
    step = reference_step(model, entry.solver, weights, images, sizes, QUIET)
    return bfloat16.measured(step, precision.as_engine(step), weights), weights


def claims(case):
    held, weights = case
    found = bfloat16.bfloat16_claims(held, weights, "parity audit", QUIET)
    return {one.id: one for one in found}


def test_losses_and_gradients_are_as_exact_as_the_references(case):
    found = claims(case)
    assert {*found} == {
        "train_losses_bfloat16",
        "train_gradients_bfloat16",
        "train_costs_bfloat16",
        "train_losses_alone_bfloat16",
        "train_update_bfloat16",
    }
    assert all(one.holds for one in found.values())
    assert found["train_gradients_bfloat16"].cases > 200
    # Both multiply in bfloat16: errors are those of 8 bits.
    cases = found["train_losses_bfloat16"].measured.cases
    assert max(metrics["l2"][1] for _, metrics, _ in cases) > 2.0**-10


def test_a_port_that_errs_in_bfloat16_alone_is_noticed(case, monkeypatch):
    """The twin: under its mixed policy alone, one layer of the port has the negative weights."""
    build = TENSORFLOW.build

    def wrong(config, weights, dtype):
        model = build(config, weights, dtype)
        if dtype == MIXED:
            layer = model.sem_seg_head.predictor.class_embed
            layer.weight.assign(-layer.weight)
        return model

    other = dataclasses.replace(TENSORFLOW, build=wrong)
    monkeypatch.setattr(bfloat16, "TENSORFLOW", other)
    found = claims(case)
    assert not found["train_losses_bfloat16"].holds
    assert not found["train_gradients_bfloat16"].holds
    assert found["train_gradients_bfloat16"].place is not None

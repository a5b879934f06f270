"""Faults that ports really have, planted in a training step: each is named, with its place."""

import dataclasses
import re

import numpy as np
import pytest
import torch

import tf_impl.criterion as tf_criterion
import tf_impl.matcher as tf_matcher
import tf_impl.train_step as tf_train_step
from maskformer.data.images import batch_images, synthetic_image
from maskformer.model import zoo
from parity.measurements import UNDECIDED
from parity.steps import Steps
from replication.faults.catalogue import planted_steps as planted
from replication.faults.catalogue.circumstances import normalise_over_replicas
from replication.faults.catalogue.planting import function, method
from replication.faults.catalogue.training import greedy_assignment
from replication.sides.tf_side import build_port, keyed
from replication.sides.weights import load_weights
from replication.training import losses
from replication.training import step as training_audit
from replication.training.dropout import dropout_claims
from replication.training.port import port_step
from replication.training.rates import schedule_claim
from replication.training.reference import reference_step
from replication.training.replica_losses import losses_claim
from replication.training.replicas import reduction_claim
from replication.training.update import NORM

ENTRY = zoo.get("tiny")
AUXILIARY = "loss_ce_0, loss_mask_0, loss_dice_0"


@pytest.fixture(scope="module")
def sound():
    """The reference's training step and the port's, without a fault."""
    images, sizes = batch_images([synthetic_image(64, 64, 0)], ENTRY.model)
    weights = load_weights("seeded:0", ENTRY.model)
    quiet = Steps(total=0, quiet=True)
    reference = reference_step(ENTRY.model, ENTRY.solver, weights, images, sizes, quiet)
    model = build_port(ENTRY.model, weights, "float64")
    return reference, port_step(reference, model)


def failed(claims):
    """What fails, by claim: its place and its cause."""
    return {
        claim.id: (claim.place.text, claim.cause) for claim in claims if claim.verdict == "fails"
    }


def test_every_claim_holds_without_a_fault(sound):
    claims = training_audit.step_claims(*sound, "test")
    claims += [schedule_claim(ENTRY.solver, "test")]
    assert [claim.id for claim in claims] == [
        "train_costs",
        "train_matching",
        "train_losses",
        "train_gradients_pairing",
        "train_gradients",
        "train_step_gradients",
        "train_update",
        "train_schedule",
    ]
    assert failed(claims) == {}


@pytest.mark.parametrize(
    ("fault", "where", "cause"),
    [
        (
            planted.epsilon_before_the_correction,
            "backbone.stem.conv1:update.weight",
            "epsilon (1e-08) is added before the bias correction",
        ),
        (
            planted.decay_on_norms,
            "sem_seg_head.pixel_decoder.adapter_1.norm:update.weight",
            "what should not decay is decayed too, such as norms and biases",
        ),
    ],
)
def test_a_fault_in_the_optimizer_is_named(sound, monkeypatch, fault, where, cause):
    reference, step = sound
    fault(monkeypatch, step)
    found = failed(training_audit.step_claims(reference, step, "test"))
    assert list(found) == ["train_update"]
    place, named = found["train_update"]
    assert place.startswith("optimizer: ")
    assert place.endswith(f"parameters, such as {where}")
    assert named == cause


def test_a_matching_that_is_not_optimal_is_named_with_its_cost(sound, monkeypatch):
    monkeypatch.setattr(tf_matcher, "linear_sum_assignment", greedy_assignment)
    place, cause = failed(training_audit.step_claims(*sound, "test"))["train_matching"]
    assert place.startswith("matcher: target_of_query, ")
    found = re.fullmatch(
        r"the matching is not optimal: (final|aux 0) layer, image 0 costs (\S+), "
        r"where (\S+) is possible",
        cause,
    )
    assert found, cause
    assert float(found[2]) > float(found[3])


@pytest.mark.parametrize(
    ("new", "cause"),
    [
        ("tf.add_n(list(losses.values()))", "the losses are summed without their weights"),
        (
            "weighted_total({key: one for key, one in losses.items() if not key[-1].isdigit()},"
            " model.config.loss)",
            "only the losses of the final layer are differentiated",
        ),
    ],
)
def test_a_step_that_differentiates_another_sum_is_named(sound, new, cause):
    reference, step = sound
    with function(tf_train_step, "gradients", "total / _replicas(total.dtype)", new)(None):
        wrong = port_step(reference, step.model)
        found = failed(training_audit.step_claims(reference, wrong, "test"))
    assert found == {"train_step_gradients": ("train step: gradients", cause)}


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("found.values)", "[-one for one in found.values])", "train step: update"),
        (
            "return tf.linalg.global_norm(reduced)",
            "return tf.reduce_sum(reduced[0])",
            f"train step: {NORM}",
        ),
    ],
)
def test_a_step_that_updates_otherwise_is_named(sound, old, new, place):
    reference, step = sound
    name = "train_step" if "found" in old else "update"
    with function(tf_train_step, name, old, new)(None):
        found = failed(training_audit.step_claims(reference, step, "test"))
    assert found == {"train_update": (place, None)}


def test_losses_without_targets_are_compared(sound):
    count = "tf.maximum(total / (_replicas(tf.float32) * parts), 1.0)"
    plant = method(tf_criterion.SetCriterion, "_num_masks", count, "total / _replicas(tf.float32)")
    with plant(None):
        place, cause = failed(training_audit.step_claims(*sound, "test"))["train_losses"]
    assert place.startswith("criterion: loss_mask without targets, ")
    assert cause == "masks are divided by their number, which is 0"


def test_losses_in_place_have_the_reference_s_own_floors(sound, monkeypatch):
    """And where these explain a gap above the limit, nothing is called different; the twin is a gap
    that they do not explain."""
    reference, port = sound
    before = {key: one.clone() for key, one in reference.model.state_dict().items()}
    floors = losses._floors(reference)
    assert set(floors) == {*reference.losses, losses.TOTAL}
    assert 0 < max(floors.values()) < 1e-12
    for key, one in reference.model.state_dict().items():
        assert torch.equal(one, before[key]), key
    moved = {name: value * (1 + 2e-12) for name, value in reference.losses.items()}
    other = dataclasses.replace(reference, losses=moved)
    monkeypatch.setattr(losses, "_floors", lambda given: floors)
    assert losses.loss_claim(other, port, [], "test").fails
    monkeypatch.setattr(losses, "_floors", lambda given: dict.fromkeys(floors, 1e-13))
    assert losses.loss_claim(other, port, [], "test").verdict == UNDECIDED


def test_a_milestone_one_iteration_late_is_named(monkeypatch):
    planted.milestone_one_late(monkeypatch, None)
    found = failed([schedule_claim(ENTRY.solver, "test")])
    place, cause = found["train_schedule"]
    assert place == "schedule: update 369600 (0.0001 instead of 1e-05)"
    assert cause.endswith("a milestone acts one update late")


@pytest.mark.parametrize(
    "solver", [ENTRY.solver, zoo.get("scenes_tiny").solver], ids=["step", "poly"]
)
def test_two_replicas_reduce_before_they_clip(solver):
    """A rate that falls from the first step on is the reference's, too."""
    assert failed([reduction_claim(solver, "test")]) == {}


def test_clipping_before_the_reduction_is_named():
    claim = reduction_claim(ENTRY.solver, "test", planted.clip_before_the_reduction)
    place, cause = failed([claim])["train_reduction"]
    assert place == "update: reduction over replicas"
    assert cause == "gradients are clipped before the reduction over replicas"


def test_replicas_divide_their_losses_as_ranks_do():
    assert failed([losses_claim(ENTRY.model, "test")]) == {}


def test_a_class_loss_normalised_over_replicas_is_named():
    claim = losses_claim(ENTRY.model, "test", normalise_over_replicas)
    place, cause = failed([claim])["train_replica_losses"]
    assert place == "criterion: replica 0, loss_ce, replica 1, loss_ce"
    assert cause == "the class loss is normalised over all replicas"


@pytest.mark.parametrize(
    ("name", "old"), [("gradients", ", training=training"), ("train_step", ", training)")]
)
def test_a_step_outside_training_mode_is_named(sound, name, old):
    reference, step = sound
    with function(tf_train_step, name, old, ")" if old.endswith(")") else "")(None):
        found = failed(dropout_claims(reference, step.model, "test"))
    place, cause = found["train_dropout_draws"]
    assert place.startswith("train step: 0 masks instead of ")
    assert cause == "the step calls the model without training=True"


def test_dropout_is_in_the_same_places(sound):
    reference, step = sound
    claims = dropout_claims(reference, step.model, "test")
    assert [claim.id for claim in claims] == ["train_dropout", "train_dropout_draws"]
    assert failed(claims) == {}


def test_dropout_in_the_wrong_place_is_named(sound, monkeypatch):
    reference, step = sound
    planted.dropout_after_the_residual_sum(monkeypatch, step)
    claims = dropout_claims(reference, step.model, "test")
    path = planted.ENCODER_LAYER
    assert failed(claims)["train_dropout"][0] == f"{path}, at {path}.dropout1:input"


@pytest.mark.parametrize(
    ("fault", "claim", "place", "cause"),
    [
        (
            planted.swapped_focal_alpha,
            "train_losses",
            "criterion: loss_mask, loss_mask_0",
            "focal alpha and 1 - alpha are swapped",
        ),
        pytest.param(
            planted.dice_without_smoothing,
            "train_losses",
            "criterion: loss_dice, loss_dice_0",
            "dice is not smoothed by 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            planted.no_object_weight_on_the_first_class,
            "train_losses",
            "criterion: loss_ce, loss_ce_0",
            "the no-object weight is on the first class",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            planted.missing_auxiliary_loss,
            "train_losses",
            f"criterion: {AUXILIARY}",
            "the loss is not computed",
            marks=pytest.mark.slow,
        ),
        (
            planted.bilinear_targets,
            "train_costs",
            "matcher: downsampled targets, image 0",
            "targets are downsampled by bilinear interpolation",
        ),
        pytest.param(
            planted.targets_in_the_order_of_their_queries,
            "train_matching",
            "matcher: query_of_target, final layer, image 0",
            "targets are taken in another order than their queries",
            marks=pytest.mark.slow,
        ),
        (
            planted.stopped_mask_features,
            "train_gradients_pairing",
            f"{planted.PREDICTOR}, at {planted.PREDICTOR}:grad_input.mask_features",
            "the gradient is stopped",
        ),
    ],
)
def test_a_fault_in_the_step_is_named(sound, monkeypatch, fault, claim, place, cause):
    reference, step = sound
    fault(monkeypatch, step)
    faulty = port_step(reference, step.model)
    found = failed(training_audit.step_claims(reference, faulty, "test"))
    # The first claim that fails is at the fault; what follows from it says that it is inherited.
    assert next(iter(found)) == claim
    assert found[claim][0].startswith(place)
    assert found[claim][1] == cause
    later = list(found)[1 + (claim == "train_gradients_pairing") :]
    assert all(found[one][0].startswith("inherited from") for one in later), found
    assert set(later) <= {
        "train_matching",
        "train_losses",
        "train_gradients_pairing",
        "train_gradients",
        "train_step_gradients",
    }


def test_an_audit_changes_no_weight(sound):
    reference, step = sound
    ours = keyed(step.model, [variable.numpy() for variable in step.model.trainable_variables])
    theirs = {key: p.detach().numpy() for key, p in reference.model.named_parameters()}
    for key, array in ours.items():
        assert np.array_equal(array, reference.before(key)), key
        assert np.array_equal(theirs[key], reference.before(key)), key

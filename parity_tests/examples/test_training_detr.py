"""Two DETRs that two libraries train: what differs is named, and mended they train alike."""

import pytest

pytest.importorskip("transformers")

import parity
from examples.training import detr
from parity_tests.examples.detr_training_faults import PLANTED
from parity_tests.examples.test_training import EXPLAINED, PLACED, failures
from parity_tests.examples.training_faults import judged

OTHERWISE = {  # a claim that fails, and a part of its cause
    "backbone": ("train_gradients_pairing", "trained in the port, but not in the reference"),
    "between": ("train_dropout", "model.decoder.layers.0:output here"),
    "dropout": ("train_dropout", "but none in the reference"),
    "boxes": ("train_losses_alone", ""),
    "optimizer": ("train_update", "before the bias correction"),
    "schedule": ("train_schedule", "update before"),
}


def audited(settings, steps=1, **how):
    training = detr.training(settings, steps=steps)
    return parity.audit(detr.pair(settings), training=training, quiet=True, **how)


def test_mended_both_train_alike():
    result = audited(detr.Settings(), executions=())
    assert failures(result) == {}
    named = {one.id: one for one in result.claims}
    assert {"train_decisions", "train_dropout", "train_update", "train_schedule"} <= set(named)
    assert named["train_losses"].cases == len(detr.WEIGHTS) * (detr.LAST + 1)
    assert named["train_decisions"].cases == 2 * (detr.LAST + 1)


def test_a_planted_fault_is_found():
    (planted,) = (one for one in PLANTED if one.id == "detr-no-object-weight")
    found = judged(planted)
    assert (found.detected, found.placed, found.explained) == (True, True, True), found.text


@pytest.mark.slow
def test_mended_both_train_alike_in_float32_and_for_several_steps():
    result = audited(detr.Settings(), 4, executions=("graph",), isolate=True)
    assert failures(result) == {}
    named = {one.id: one for one in result.claims}
    assert {"train_gradients_isolated", "train_gradients_float32_graph"} <= set(named)
    assert named["train_steps_weight_gap"].cases == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", detr.MENDED)
def test_what_the_libraries_do_otherwise_is_named(name):
    found = failures(audited(detr.Settings(**{name: False}), executions=()))
    claim, cause = OTHERWISE[name]
    assert cause in found[claim]


@pytest.mark.slow
def test_all_planted_faults():
    found = {one.id: judged(one) for one in PLANTED}
    print(
        f"{len(found)} faults, placed {sum(one.placed for one in found.values())}, "
        f"explained {sum(one.explained for one in found.values())}"
    )
    assert [name for name, one in found.items() if not one.detected] == []
    misplaced = {name: one.text for name, one in found.items() if not one.placed}
    assert len(misplaced) <= (1 - PLACED) * len(found), misplaced
    unexplained = {name: one.text for name, one in found.items() if not one.explained}
    assert len(unexplained) <= (1 - EXPLAINED) * len(found), unexplained

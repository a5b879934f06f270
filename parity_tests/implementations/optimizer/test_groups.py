"""Every parameter's learning rate and decay are the original's, for all stored configs."""

import dataclasses

import pytest
import torch

import tf_impl
import torch_reference
from maskformer.model import solver as rules
from maskformer.model import zoo
from parity_tests.golden_files import DIRECTORY, read_json
from tf_impl.optimizer import parameter_groups as tf_groups
from torch_reference.optimizer import build_optimizer
from torch_reference.optimizer import parameter_groups as torch_groups

CONFIGS = sorted(path.stem for path in (DIRECTORY / "optim_groups").glob("*.json"))
TF_CONFIGS = ("tiny", "ade20k_ppplus")


def _stored(config):
    stored = read_json(f"optim_groups/{config}.json")
    return {name: (lr, decay) for name, lr, decay in stored["groups"]}, stored


def _torch_model(config):
    with torch.device("meta"):
        return torch_reference.build(zoo.get(config).model)


def _different(actual, expected):
    return sorted(
        key for key in actual.keys() | expected.keys() if actual.get(key) != expected.get(key)
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_torch_groups_are_the_stored_ones(config):
    expected, stored = _stored(config)
    solver = zoo.get(config).solver
    assert _different(torch_groups(_torch_model(config), solver), expected) == []
    assert list(solver.betas) == stored["betas"]
    assert solver.eps == stored["eps"]
    assert (solver.clip_type, solver.clip_value) == ("full_model", stored["clip"]["value"])


@pytest.mark.parametrize("config", TF_CONFIGS)
def test_tf_groups_are_the_stored_ones(config):
    groups = tf_groups(tf_impl.build(zoo.get(config).model), zoo.get(config).solver)
    assert _different(groups, _stored(config)[0]) == []


@pytest.mark.slow
def test_tf_groups_of_a_swin_model_are_the_stored_ones():
    entry = zoo.get("coco_swin_tiny")
    groups = tf_groups(tf_impl.build(entry.model), entry.solver)
    assert _different(groups, _stored("coco_swin_tiny")[0]) == []


def test_decay_on_norms_is_detected():
    solver = dataclasses.replace(zoo.get("tiny").solver, weight_decay_norm=1e-4)
    different = _different(torch_groups(_torch_model("tiny"), solver), _stored("tiny")[0])
    assert len(different) == 32
    assert all(".norm" in key or "adapter" in key or "layer_" in key for key in different)


def test_missing_swin_rule_is_detected(monkeypatch):
    monkeypatch.setattr(rules, "UNDECAYED_PARAMETERS", frozenset())
    solver = zoo.get("coco_swin_tiny").solver
    different = _different(
        torch_groups(_torch_model("coco_swin_tiny"), solver), _stored("coco_swin_tiny")[0]
    )
    assert len(different) == 12
    assert all(key.endswith("relative_position_bias_table") for key in different)


def test_optimizer_holds_one_named_group_per_parameter():
    solver = zoo.get("tiny").solver
    optimizer = build_optimizer(_torch_model("tiny"), solver)
    held = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert held == _stored("tiny")[0]
    assert optimizer.clip_value == 0.01

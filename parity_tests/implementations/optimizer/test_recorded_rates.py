"""The rates in a record are those of the optimizer that made the step, not of the settings."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model import zoo
from maskformer.model.solver import learning_rate
from tf_impl import optimizer as tf_optimizer
from torch_reference import optimizer as torch_optimizer
from torch_reference.schedule import SolverSchedule

SOLVER = dataclasses.replace(
    zoo.get("coco_r50").solver, steps=(3,), max_iter=6, warmup_iters=2, backbone_multiplier=0.1
)
STEPS = 5


class Part(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(np.ones(3, np.float32))


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = Part(), Part()


def expected(step):
    part = {"head": SOLVER.base_lr, "backbone": SOLVER.base_lr * SOLVER.backbone_multiplier}
    return {name: learning_rate(SOLVER, step, base) for name, base in part.items()}


def tf_rates(change=lambda optimizer: None):
    model = Model()
    optimizer = tf_optimizer.build_optimizer(model, SOLVER)
    change(optimizer)
    found = []
    for _ in range(STEPS):
        optimizer.apply_gradients([(tf.ones(3), one) for one in model.trainable_variables])
        found.append(tf_optimizer.rates_of_last_update(optimizer, model))
    return found


def torch_rates(change=lambda optimizer: None):
    model = torch.nn.Module()
    model.backbone, model.head = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    optimizer = torch_optimizer.build_optimizer(model, SOLVER)
    schedule = SolverSchedule(optimizer, SOLVER)
    found = []
    for _ in range(STEPS):
        change(optimizer)
        optimizer.step()
        found.append(torch_optimizer.rates_of_update(optimizer))
        schedule.step()
    return found


@pytest.mark.parametrize("rates", [tf_rates, torch_rates])
def test_recorded_rates_are_those_of_the_schedule(rates):
    for step, found in enumerate(rates()):
        assert found.keys() == {"head", "backbone"}
        for name, value in expected(step).items():
            np.testing.assert_allclose(found[name], value, rtol=2 * np.finfo(np.float32).eps)


def test_a_schedule_that_does_not_reach_the_optimizer_shows_in_the_record():
    def fixed(optimizer):
        optimizer._learning_rate = optimizer._build_learning_rate(SOLVER.base_lr)

    assert {one["head"] for one in tf_rates(fixed)} == {float(np.float32(SOLVER.base_lr))}

    def same(optimizer):
        for group in optimizer.param_groups:
            group["lr"] = SOLVER.base_lr

    found = torch_rates(same)
    assert {one["backbone"] for one in found} == {SOLVER.base_lr}

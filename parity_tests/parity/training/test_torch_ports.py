"""A reference in TensorFlow beside a port in PyTorch: mistakes are mended in the port."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

import parity
from parity.errors import InputError

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(6, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 0])
TURNS = (2,)


class Reference(tf_keras.Model):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = tf_keras.layers.Dense(8), tf_keras.layers.Dense(4)

    def call(self, x):
        return self.head(tf.tanh(self.hidden(x)))


class Port(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(x)))


def reference_loss(logits, labels):
    log = tf.nn.log_softmax(logits)
    return -tf.reduce_mean(tf.gather(log, labels, batch_dims=1))


def port_loss(logits, labels, **how):
    return nn.functional.cross_entropy(logits, labels, **how)


def reference_optimizer(model):
    return tf_keras.optimizers.SGD(0.1, momentum=0.9)


def turning_optimizer(model):
    """Without momentum, in which Keras keeps the rates of earlier updates."""
    rate = tf_keras.optimizers.schedules.PiecewiseConstantDecay([TURNS[0] - 1], [0.1, 0.01])
    return tf_keras.optimizers.SGD(rate)


def port_optimizer(parameters, momentum=0.9):
    return torch.optim.SGD([one for _, one in parameters], 0.1, momentum=momentum)


def port_schedule(optimizer, gamma=0.1):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(TURNS), gamma)


def plain_optimizer(parameters):
    return port_optimizer(parameters, 0.0)


def causes(
    loss=port_loss, optimizer=port_optimizer, schedule=None, make=reference_optimizer, turns=()
):
    """Those of every claim that fails, by its name."""
    pair = parity.Pair(
        Reference, lambda: Port().eval(), (INPUTS,), names=parity.Names(), weights=parity.Weights()
    )
    training = parity.Training(
        (LABELS,),
        reference_loss,
        loss,
        make,
        optimizer,
        turns=turns,
        port_schedule=schedule,
    )
    result = parity.audit(pair, training=training, executions=(), quiet=True)
    return {
        one.id: "; ".join(one.causes)
        for one in result.claims
        if one.id.startswith("train_") and not one.holds
    }


def test_both_train_alike_by_a_schedule_of_each():
    found = causes(
        optimizer=plain_optimizer, schedule=port_schedule, make=turning_optimizer, turns=TURNS
    )
    assert "train_update" not in found
    assert found.get("train_schedule", "the rate is computed in float32").endswith("in float32")


def test_what_the_loss_does_otherwise_is_mended_in_the_port():
    found = causes(loss=lambda *given: port_loss(*given, reduction="sum"))
    expected = "mended in the port by cross_entropy: a mean instead of a sum"
    assert found["train_losses_alone"] == expected


@pytest.mark.parametrize("momentum", [0.5, 0.0])
def test_what_the_optimizer_does_otherwise_is_mended_in_the_port(momentum):
    found = causes(optimizer=lambda parameters: port_optimizer(parameters, momentum))
    expected = f"mended in the port by momentum is 0.9 instead of {momentum:g}"
    assert found["train_update"] == expected


def test_the_schedule_of_the_port_is_its_own():
    found = causes(
        optimizer=plain_optimizer,
        schedule=lambda optimizer: port_schedule(optimizer, 0.5),
        make=turning_optimizer,
        turns=TURNS,
    )
    assert "train_schedule" in found
    assert "float32" not in found["train_schedule"]


def of_seed(change=lambda tensor: tensor):
    """The same weights whenever it is called, each after a change."""
    torch.manual_seed(0)
    made = Port().eval()
    made.load_state_dict({name: change(one) for name, one in made.state_dict().items()})
    return made


def test_a_port_with_the_weights_of_the_reference_is_trained_without_a_map():
    pair = parity.Pair(of_seed(), of_seed, (INPUTS,))
    training = parity.Training((LABELS,), port_loss, port_loss, port_optimizer, port_optimizer)
    result = parity.audit(pair, training=training, executions=(), quiet=True)
    assert {one.id for one in result.claims if one.holds} >= {"train_gradients", "train_update"}
    rounded = replace(pair, port=lambda: of_seed(lambda one: one.half().float()))
    with pytest.raises(InputError, match="nothing says which variables"):
        parity.audit(rounded, training=training, executions=(), quiet=True)

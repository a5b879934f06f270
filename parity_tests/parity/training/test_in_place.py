"""Modules that change what they are given in place have the gradients that they have otherwise."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

import parity
from parity.auditing.result import AuditResult
from parity.frameworks.torch.gradients import GradientRecorder
from parity.frameworks.torch.weights import vary

K = tf_keras.layers
X = np.random.default_rng(0).normal(size=(2, 3, 9, 11)).astype(np.float32)
LABELS = np.array([0, 2])


class Assigned(nn.Module):
    """Two convolutions and one activation, called twice, whose result is used."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.activation, self.head = activation, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.a(x))
        return self.head(self.activation(self.b(x)).mean((2, 3)))


class Relied(Assigned):
    """The result of the activation is thrown away: what it was given is used, and twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        self.activation(x)
        y = self.b(x) + x.mean((1, 2, 3), keepdim=True)
        self.activation(y)
        return self.head(y.mean((2, 3)))


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels)


def varied(kind: type, activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return vary(kind(activation).eval())


def gradients(model: nn.Module) -> tuple[float, dict[str, np.ndarray]]:
    def axes(path: str, kind: str, name: str, rank: int) -> str:
        return "ABCD"[:rank]

    recorder = GradientRecorder(model, axes, lambda outputs: loss(outputs, torch.tensor(LABELS)))
    total, trace = recorder((X,))
    return total, {key: trace[key].array.copy() for key in trace}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, nn.Hardtanh])
def test_gradients_are_those_of_the_same_out_of_place(activation):
    total, found = gradients(varied(Assigned, activation(inplace=True)))
    expected, wanted = gradients(varied(Assigned, activation()))
    assert (total, found.keys()) == (expected, wanted.keys())
    assert "activation@1:grad_input" in found
    for key, gradient in wanted.items():
        np.testing.assert_array_equal(found[key], gradient, key)


def test_a_change_in_place_is_seen_by_whoever_holds_the_tensor():
    model = varied(Relied, nn.ReLU(inplace=True))
    total, found = gradients(model)
    plain = loss(model(torch.tensor(X)), torch.tensor(LABELS))
    plain.backward()
    assert total == float(plain.detach())
    for name, parameter in model.named_parameters():
        path, _, own = name.rpartition(".")
        np.testing.assert_array_equal(found[f"{path}:param_grad.{own}"], parameter.grad)


class Port(tf_keras.Model):
    """`Assigned` in TensorFlow; `stops` is the call of the activation that passes nothing back."""

    def __init__(self, stops: int | None = None) -> None:
        super().__init__()
        self.a, self.b = K.Conv2D(4, 3), K.Conv2D(4, 3)
        self.activation, self.head = K.ReLU(), K.Dense(3)
        self.stops = stops

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for number, convolution in enumerate((self.a, self.b)):
            x = self.activation(convolution(x))
            x = tf.stop_gradient(x) if number == self.stops else x
        return self.head(tf.reduce_mean(x, (1, 2)))


def audited(stops: int | None) -> AuditResult:
    pair = parity.Pair(
        varied(Assigned, nn.ReLU(inplace=True)),
        lambda: Port(stops),
        (X,),
        names=parity.Names(),
        weights=parity.Weights(),
    )

    def port_loss(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
        return tf.reduce_mean(losses)

    training = parity.Training(
        (LABELS,),
        loss,
        port_loss,
        lambda parameters: torch.optim.SGD([one for _, one in parameters], 0.125),
        lambda model: tf_keras.optimizers.SGD(0.125),
    )
    return parity.audit(pair, training=training, executions=(), isolate=True, quiet=True)


def test_a_model_that_works_in_place_is_compared_in_training():
    assert audited(None).verdict == "equal"


def test_a_gradient_stopped_behind_an_activation_in_place_is_found():
    claim = audited(0).claimed("train_gradients_pairing")
    assert claim.verdict == "fails"
    assert claim.cause == "the gradient is stopped"

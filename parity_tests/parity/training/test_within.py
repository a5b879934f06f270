"""Gradients that get lost in modules whose results are no tensors of both sides are placed."""

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.frameworks.torch.weights import vary

STOPPED = "gradient is stopped"
INSIDE = {"head.layers.[01]:output": "the port's layers have their ReLU inside"}


def body() -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 6)])


class Reference(nn.Module):
    """Two layers, and on these a linear layer beside a head of three."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.linear, self.head = body(), nn.Linear(6, 3), nn.Module()
        self.head.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)])

    def forward(self, x):
        for layer in self.body:
            x = torch.tanh(layer(x))
        first, second, last = self.head.layers
        return {"one": self.linear(x), "other": last(torch.relu(second(torch.relu(first(x)))))}


class Rectified(nn.Linear):
    """With its ReLU; `changed` is what it makes of what it is given."""

    def changed(self, x):
        return x

    def forward(self, x):
        return torch.relu(super().forward(self.changed(x)))


class Port(nn.Module):
    """The same, of layers with their ReLU inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.linear = body(), nn.Linear(6, 3)
        self.boxes = nn.ModuleList([Rectified(6, 6), Rectified(6, 6), nn.Linear(6, 4)])

    def given(self, x):
        """What the head is given."""
        return x

    def forward(self, x):
        for layer in self.body:
            x = torch.tanh(layer(x))
        one, x = self.linear(x), self.given(x)
        for layer in self.boxes:
            x = layer(x)
        return {"one": one, "other": x}


class Doubled(torch.autograd.Function):
    """Passes twice its gradient back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def squares(outputs):
    return {name: (one**2).mean() for name, one in outputs.items()}


def failures(plant=lambda port: None):
    """The claims on gradients that fail, by name."""
    torch.manual_seed(0)
    pair = parity.Pair(
        vary(Reference().eval()),
        lambda: Port().eval(),
        (np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),),
        names=parity.Names(
            {"boxes.*": "head.layers.*", "body.*": "body.*", "linear": "linear"},
            reference_only=INSIDE,
            port_only=INSIDE,
        ),
        weights=parity.Weights(),
        after_loading=plant,
    )

    def optimizer(parameters):
        return torch.optim.SGD([one for _, one in parameters], 0.1)

    training = parity.Training((), squares, squares, optimizer, optimizer)
    result = parity.audit(pair, training=training, executions=(), isolate=True, quiet=True)
    return {one.id: one for one in result.claims if not one.holds and "gradients" in one.id}


def test_without_a_fault_they_train_alike():
    assert failures() == {}


STOP, DOUBLE = torch.Tensor.detach, Doubled.apply


@pytest.mark.parametrize(
    ("module", "name", "change", "place"),
    [
        ("boxes.0", "changed", STOP, "head.layers.0:grad_input"),
        ("boxes.1", "changed", STOP, "head.layers.1:grad_input"),
        ("", "given", STOP, "head.layers.0:grad_input"),
        ("boxes.1", "changed", DOUBLE, "head.layers.1:grad_input"),
        ("", "given", DOUBLE, "body.1:grad_output"),
    ],
    ids=["stopped first", "second", "between", "doubled second", "doubled between"],
)
def test_a_gradient_is_lost_where_nothing_can_be_judged_alone(module, name, change, place):
    found = failures(lambda port: setattr(port.get_submodule(module), name, change))
    assert found["train_gradients"].place.text == f"model, at {place}"
    assert not found["train_gradients"].place.inherited
    assert found["train_gradients_isolated"].place.text == "model"
    if change is STOP:
        assert STOPPED in found["train_gradients"].cause

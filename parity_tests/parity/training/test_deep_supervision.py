"""Models that supervise every layer: outputs in lists and stacks, modules called several times."""

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.frameworks.torch.weights import vary

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(4, 5, 6)).astype(np.float32)
TARGETS = [  # of another length for each example
    {"rows": np.array([0, 3]), "wanted": RNG.normal(size=(2, 3)).astype(np.float32)},
    {"rows": np.array([4]), "wanted": RNG.normal(size=(1, 3)).astype(np.float32)},
    {"rows": np.array([], np.int64), "wanted": np.zeros((0, 3), np.float32)},
    {"rows": np.array([2, 1, 0]), "wanted": RNG.normal(size=(3, 3)).astype(np.float32)},
]
ONE_CALL = {"head": {}}  # on one side the head is called once, on the other for every layer


class Layers(nn.Module):
    """What every layer makes, as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        found = []
        for part in self.parts:
            x = torch.tanh(part(x))
            found.append(x)
        return found


class StackedLayers(Layers):
    """The same as one tensor."""

    def forward(self, x):
        return torch.stack(super().forward(x))


class Listed(nn.Module):
    """One head for what every layer makes, called for each."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Layers(), nn.Linear(6, 3)

    def forward(self, x):
        return [self.head(one) for one in self.body(x)]


class Stacked(Listed):
    """The head is called once, on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = StackedLayers()

    def forward(self, x):
        return self.head(self.body(x))


class Stopped(Stacked):
    """The second layer learns nothing from its own output."""

    def forward(self, x):
        first, second, third = self.body(x)
        return self.head(torch.stack([first, second.detach(), third]))


class Exchanged(Stacked):
    """The outputs of the first two layers are exchanged."""

    def forward(self, x):
        return self.head(self.body(x))[[1, 0, 2]]


class ListedOnce(Listed):
    """As Stacked, in lists."""

    def forward(self, x):
        return self.head(torch.stack(self.body(x)))


def loss(outputs, targets):
    """By layer, of the rows that each example has."""
    return {
        f"layer {layer}": sum(
            (one[image, each["rows"]] - each["wanted"]).square().sum()
            for image, each in enumerate(targets)
        )
        for layer, one in enumerate(outputs)
    }


def last_unused(outputs, targets):
    """The second layer is not supervised."""
    found = loss(outputs, targets)
    return {name: one for name, one in found.items() if name != "layer 1"}


def audited(reference, port, of=loss):
    def made():
        torch.manual_seed(0)
        return vary(reference().eval())

    names = parity.Names(calls=ONE_CALL)
    weights = parity.Weights()
    pair = parity.Pair(made, lambda: port().eval(), (INPUTS,), names=names, weights=weights)

    def sgd(parameters):
        return torch.optim.SGD([one for _, one in parameters], 0.1)

    training = parity.Training((TARGETS,), of, of, sgd, sgd)
    result = parity.audit(pair, training=training, executions=(), isolate=True, quiet=True)
    return {one.id: one for one in result.claims}


def failed(claims):
    return {name: one for name, one in claims.items() if not one.holds}


@pytest.mark.parametrize("of", [loss, last_unused], ids=["all", "without one"])
@pytest.mark.parametrize(
    ("reference", "port"), [(Listed, Stacked), (Stacked, Listed)], ids=["to one", "to several"]
)
def test_a_head_on_a_stack_is_the_same_as_one_for_each_layer(reference, port, of):
    claims = audited(reference, port, of)
    assert failed(claims) == {}
    assert claims["train_gradients_isolated"].cases >= 12


@pytest.mark.parametrize("reference", [Listed, Stacked], ids=["to one", "to itself"])
def test_a_gradient_that_is_stopped_in_one_part_is_placed(reference):
    found = failed(audited(reference, Stopped))
    assert {"train_gradients", "train_gradients_isolated"} <= set(found)
    assert found["train_gradients_isolated"].place.part == "model"
    assert "train_losses" not in found


def test_exchanged_parts_are_found():
    assert "function_float64" in failed(audited(Listed, Exchanged)) or failed(
        audited(Listed, Exchanged)
    )


class Twice(nn.Module):
    """One module, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return [self.head(self.mix(torch.tanh(self.mix(x))))]


class Halved(nn.Linear):
    """Learns half of what it should in its first call."""

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        weight = self.weight
        if self.calls % 2:
            weight = 0.5 * weight + 0.5 * weight.detach()
        return nn.functional.linear(x, weight, self.bias)


class HalvedTwice(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.mix = Halved(6, 6)


def test_every_call_of_a_module_is_judged():
    assert failed(audited(Twice, Twice)) == {}
    found = failed(audited(Twice, HalvedTwice))
    assert found["train_gradients_isolated"].place.part == "mix"

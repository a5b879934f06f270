"""Mistakes of an optimizer are told apart by how weights move; no model runs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.frameworks.shared.recipes import HAT, Given, Recipe, moved
from parity.frameworks.torch.training import recipe as recipe_of
from parity.training.update_causes import causes, chosen

ADAM = Recipe("adam", 1e-3, 0.01, clip=0.5)
SGD = Recipe("sgd", 1e-2, 1e-4, coupled=True, momentum=0.9)
GROUPS = {"first.weight": (1e-3, 0.01), "second.weight": (1e-3, 0.01), "second.bias": (1e-3, 0.0)}
LENGTHS = (1.0, 0.01, 100.0)


def given():
    """Weights, and the gradients of three updates, by key."""
    rng = np.random.default_rng(0)
    sizes = {"first.weight": (4, 3), "second.weight": (2, 4), "second.bias": (2,)}
    before = {key: rng.normal(size=size) for key, size in sizes.items()}
    updates = [
        {key: length * rng.normal(size=size) for key, size in sizes.items()} for length in LENGTHS
    ]
    return before, updates


def told(rule, wrong, groups=GROUPS, others=GROUPS, lengths: Mapping[str, float] = {}):
    """The causes that are named where the port follows `wrong` with the groups `others`.

    `lengths` are factors on the gradients of some parameters.
    """
    before, updates = given()
    updates = [{key: lengths.get(key, 1.0) * one[key] for key in one} for one in updates]
    flat = np.concatenate([one.ravel() for one in before.values()])
    steps = []
    for one in updates:
        norms = [float(np.linalg.norm(each)) for each in one.values()]
        sizes = [each.size for each in one.values()]
        elements = np.concatenate([each.ravel() for each in one.values()])
        steps.append(Given(elements, float(np.linalg.norm(norms)), np.repeat(norms, sizes)))
    sizes = [one.size for one in before.values()]
    rate, decay = (np.repeat([one[place] for one in others.values()], sizes) for place in (0, 1))
    after = moved(replace(wrong, rate=rate, decay=decay), flat, steps)
    cuts = np.cumsum(sizes)[:-1]
    ours = [
        {
            key: part.reshape(before[key].shape)
            for key, part in zip(before, np.split(state, cuts), strict=True)
        }
        for state in after
    ]
    return causes(chosen(rule, groups, before, updates, ours))


def test_a_sound_update_has_no_cause():
    assert told(ADAM, ADAM) == ()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (replace(ADAM, epsilon_at=HAT), "epsilon (1e-08) is added before the bias correction"),
        (replace(ADAM, epsilon=1e-6), "epsilon is 1e-06 instead of 1e-08"),
        (replace(ADAM, corrected=(False, False)), "moments are not corrected for their bias"),
        (replace(ADAM, coupled=True), "the decay is added to the gradient"),
        (replace(ADAM, betas=(0.9, 0.99)), "beta_2 is 0.99 instead of 0.999"),
        (replace(ADAM, clip=5.0), "gradients are clipped to 5 instead of 0.5"),
        (replace(ADAM, clip_each=True), "every gradient is clipped by its own norm"),
        (replace(ADAM, maximal=True), "the second moment never falls (AMSGrad)"),
        (replace(ADAM, decay_rate=False), "the decay is not multiplied by the rate"),
    ],
)
def test_a_mistake_of_adam_is_named(wrong, text):
    assert told(ADAM, wrong) == (text,)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (replace(SGD, nesterov=True), "the momentum is Nesterov's"),
        (replace(SGD, momentum=0.95), "momentum is 0.95 instead of 0.9"),
        (replace(SGD, coupled=False), "the decay is taken from the weights (decoupled)"),
        (replace(SGD, dampening=0.9), "dampening is 0.9"),
    ],
)
def test_a_mistake_of_sgd_is_named(wrong, text):
    (found,) = told(SGD, wrong)
    assert found.startswith(text)


def test_two_mistakes_at_once_are_named():
    wrong = replace(ADAM, epsilon_at=HAT, clip_epsilon=0.0, correction_betas=(0.9, 0.5))
    betas = tuple(float(np.float32(beta)) for beta in ADAM.betas)
    wrong = replace(wrong, correction_betas=betas)
    assert set(told(ADAM, wrong)) == {
        "epsilon (1e-08) is added before the bias correction",
        "the betas of the bias correction are rounded to float32",
        "the clip divides by the norm alone, without adding 1e-06",
    }


def test_the_parameters_that_have_another_rate_or_decay_are_named():
    slower = {**GROUPS, "first.weight": (1e-4, 0.01)}
    assert told(ADAM, ADAM, others=slower) == ("the rate of first.weight is 0.1 times as large",)
    bare = {**GROUPS, "second.weight": (1e-3, 0.0)}
    assert told(ADAM, ADAM, others=bare) == ("second.weight decay by 0 instead of 0.01",)


def test_a_parameter_without_a_gradient_shows_its_decay():
    """As a table of positions of which a map of one place needs none."""
    groups = {**GROUPS, "first.weight": (1e-3, 0.0)}
    decayed = {**groups, "second.bias": (1e-3, 0.01)}
    named = told(ADAM, ADAM, groups, decayed, lengths={"second.bias": 0.0})
    assert named == ("second.bias decay by 0.01 instead of 0",)


@pytest.mark.parametrize("small", ["second.weight", "second.bias"])
def test_a_parameter_whose_movement_is_rounding_shows_no_rate(small):
    slower = {**GROUPS, "first.weight": (1e-4, 0.01)}
    named = told(ADAM, ADAM, others=slower, lengths={small: 1e-20})
    assert named == ("the rate of first.weight is 0.1 times as large",)


def test_what_no_mistake_explains_has_no_cause():
    before, updates = given()
    rng = np.random.default_rng(1)
    ours = [{key: one + rng.normal(size=one.shape) for key, one in before.items()}] * 3
    assert causes(chosen(ADAM, GROUPS, before, updates, ours)) == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.AdamW(parameters, 1e-3, weight_decay=0.1),
        lambda parameters: torch.optim.Adam(parameters, 1e-3, (0.8, 0.99), weight_decay=0.1),
        lambda parameters: torch.optim.Adam(parameters, 1e-3, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=0.1, nesterov=True),
        lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, dampening=0.3),
    ],
    ids=["adamw", "adam", "amsgrad", "nesterov", "dampening"],
)
def test_the_rules_are_those_of_torch(make):
    """The recipe read from an optimizer moves as the optimizer does."""
    rng = np.random.default_rng(0)
    layer = torch.nn.Linear(3, 2).double()
    optimizer = make(list(layer.named_parameters()))
    rule, groups = recipe_of(optimizer, layer)
    rule = replace(rule, rate=groups["weight"][0], decay=groups["weight"][1])
    start = layer.weight.detach().numpy().copy().ravel()
    steps, states = [], []
    for length in LENGTHS:
        gradient = length * rng.normal(size=(2, 3))
        layer.weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        states.append(layer.weight.detach().numpy().copy().ravel())
        norm = float(np.linalg.norm(gradient))
        steps.append(Given(gradient.ravel(), norm, np.full(6, norm)))
    for ours, theirs in zip(moved(rule, start, steps), states, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)

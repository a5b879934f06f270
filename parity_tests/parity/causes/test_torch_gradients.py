"""Gradients stopped by way of trial: they are those of a detached argument, values stay."""

import pytest
import torch
from torch.nn import functional as F

from parity.causes.torch_gradients import stopped


def gradients(function):
    """What `function` gives and its gradient, each time that the result is called."""
    x = torch.linspace(-1, 2, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()

    def run():
        value = function(x)
        return value.detach(), torch.autograd.grad(value.square().sum(), x)[0]

    return run


def explained(run, wanted):
    """The texts of the stops with which `run` gives the gradient `wanted`."""
    exact, _ = run()
    found = []
    for mistake in stopped(run):
        with mistake.planted():
            try:
                value, gradient = run()
            except RuntimeError:  # nothing is left that could be differentiated
                continue
        assert torch.equal(value, exact) or torch.allclose(value, exact, rtol=1e-14)
        if torch.allclose(gradient, wanted, rtol=1e-12):
            found.append(mistake.text)
    return found


def test_a_stop_is_that_of_a_detached_argument():
    _, wanted = gradients(lambda x: 2 * x + x.detach().sin())()
    found = explained(gradients(lambda x: 2 * x + x.sin()), wanted)
    assert any(text.endswith("x.sin()), wanted)`: the gradient is stopped at the second argument")
               for text in found)  # fmt: skip


@pytest.mark.parametrize("held", ["mean", "variance"])
def test_statistics_of_a_norm_are_held_constant(held):
    def by_hand(x):
        mean = x.mean(-1, keepdim=True)
        mean = mean.detach() if held == "mean" else mean
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        variance = variance.detach() if held == "variance" else variance
        return (x - mean) / (variance + 1e-5).sqrt() * x

    _, wanted = gradients(by_hand)()
    found = explained(gradients(lambda x: F.layer_norm(x, (3,)) * x), wanted)
    assert [text.rpartition(": ")[2] for text in found] == [f"its {held} is held constant"]


def test_a_gradient_that_no_stop_gives_is_not_explained():
    run = gradients(lambda x: 2 * x + x.sin())
    assert explained(run, run()[1] * 1.5) == []

"""Mistakes that usual numbers hide are seen on extreme ones, with their place and cause."""

import numpy as np
import pytest
import torch
from torch import nn

from parity.audits import Pair, Training, audit
from parity.judging.extremes import KINDS, LARGEST, extreme
from parity.names import Names
from parity.trace import Tap
from parity.weights import Weights
from parity_tests.parity.strangers.models import numbers, varied


class Weigh(nn.Module):
    mistake = ""

    def forward(self, x):
        if self.mistake == "clipped":
            return x.softmax(-1).clamp(1e-7)
        if self.mistake == "overflow":
            return x.exp() / x.exp().sum(-1, keepdim=True)
        return x.softmax(-1)


class Norm(nn.LayerNorm):
    mistake = ""

    def forward(self, x):
        if self.mistake != "cancels":
            return super().forward(x)
        mean = x.mean(-1, keepdim=True)
        variance = (x * x).mean(-1, keepdim=True) - mean * mean
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class Activation(nn.Module):
    mistake = ""

    def forward(self, x):
        return x.relu().clamp(max=65504.0) if self.mistake == "activation" else x.relu()


COARSE = 2e-6  # beyond 4 roundings of float32, and not eight times beyond


class Inner(nn.Linear):
    mistake = ""

    def forward(self, x):
        result = super().forward(x)
        coarse = self.mistake == "coarse" or (self.mistake == "coarse far" and x.abs().max() > 20)
        return result * (1 + COARSE) if coarse and x.dtype == torch.float32 else result


class Net(nn.Module):
    def __init__(self, mistake=""):
        super().__init__()
        self.norm, self.inner = Norm(8), Inner(8, 8)
        self.activation, self.weigh, self.outer = Activation(), Weigh(), nn.Linear(8, 4)
        for one in (self.norm, self.inner, self.activation, self.weigh):
            one.mistake = mistake

    def forward(self, x):
        return self.outer(self.weigh(self.activation(self.inner(self.norm(x)))))


def result(mistake, **how):
    def port():
        made = varied(Net)
        for one in (made.norm, made.inner, made.activation, made.weigh):
            one.mistake = mistake
        return made

    pair = Pair(varied(Net), port(), (numbers(3, 5, 8),), names=Names(), **how)
    return audit(pair, quiet=True)


def test_a_sound_port_is_right_on_extreme_inputs():
    found = result("", extreme_inputs=True)
    assert found.verdict == "equal"
    assert found.claimed("extreme_function").cases >= 5 * len(KINDS) - 5
    assert found.claimed("extreme_precision").holds
    assert not any(one.id.startswith("extreme") for one in result("").claims)


@pytest.mark.parametrize(
    ("mistake", "place", "cause"),
    [
        ("clipped", "weigh", "values below 1e-07 are clipped to it"),
        ("overflow", "weigh", "an exponential overflows"),
        ("cancels", "norm", "the mean of squares less the square of the mean"),
        ("activation", "activation", "values above 65504 are clipped to it"),
    ],
)
def test_what_usual_inputs_hide_is_named(mistake, place, cause):
    assert result(mistake).verdict == "equal"
    found = result(mistake, extreme_inputs=True)
    assert found.verdict == "different"
    one = found.claimed("extreme_function")
    assert one.fails
    assert one.place.part == place
    assert cause in one.cause


@pytest.mark.parametrize(("mistake", "seen"), [("coarse", False), ("coarse far", True)])
def test_float32_errors_that_extremes_add_are_seen(mistake, seen):
    one = result(mistake, extreme_inputs=True).claimed("extreme_precision")
    assert one.fails == seen
    assert not seen or one.place.part == "inner"


def tap(array):
    return Tap("norm", "input", "x", 0, "abc"[: array.ndim], array)


def test_extremes_keep_masks_and_what_is_not_finite():
    mask = tap(np.array([0.0, 1.0, 1.0]))
    assert all(extreme(mask, kind) is mask for kind in KINDS)
    whole = tap(np.arange(3))
    assert extreme(whole, "all 3") is whole
    hidden = tap(np.array([1.5, -np.inf, 2.5]))
    assert np.isneginf(extreme(hidden, "all 3").array[1])


def test_extremes_are_what_they_say():
    given = tap(np.random.default_rng(0).normal(size=(4, 5)))
    made = {kind: extreme(given, kind).array for kind in KINDS}
    for kind, most in (("up to 30", 30), ("up to 100", 100), ("beyond 65504", 1e5)):
        np.testing.assert_allclose(np.abs(made[kind]).max(), most, rtol=1e-6)
    assert abs(made["around a mean of 10000"].mean() - 1e4) < 1
    assert np.abs(made["next to overflow"]).max() > LARGEST / 5
    assert (made["all 3"] == 3).all()
    for one in made.values():
        np.testing.assert_array_equal(one, one.astype(np.float32))


def entropy(clipped):
    def loss(outputs, labels):
        if clipped:
            logs = outputs.softmax(-1).clamp(clipped, 1 - clipped).log()
        else:
            logs = outputs.log_softmax(-1)
        return {"entropy": -logs.gather(-1, labels[..., None]).mean()}

    return loss


def one_by_one(outputs, labels):
    """The mean of the usual loss, whose terms are added up one after the other."""
    terms = -outputs.log_softmax(-1).gather(-1, labels[..., None]).flatten()
    return {"entropy": terms.cumsum(0)[-1] / len(terms)}


def trained(clipped, extreme_inputs=True, shape=(3, 5), port_loss=None):
    pair = Pair(
        varied(Net),
        varied(Net),
        (numbers(*shape, 8),),
        names=Names(),
        weights=Weights(),
        extreme_inputs=extreme_inputs,
    )
    training = Training(
        targets=(np.random.default_rng(2).integers(0, 4, shape),),
        loss=entropy(None),
        port_loss=port_loss or entropy(clipped),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
        port_optimizer=lambda model: torch.optim.SGD(model, 0.1),
    )
    return audit(pair, training=training, quiet=True)


def test_a_sound_loss_is_right_on_extreme_outputs():
    found = trained(None)
    assert found.verdict == "equal"
    assert found.claimed("train_losses_extreme").cases >= 8
    assert found.claimed("train_losses_extreme_float32_eager").holds


@pytest.mark.parametrize(("factor", "fails"), [(1.0, False), (1 + 1e-11, True)])
def test_sums_of_outputs_that_are_alike_may_go_in_another_order(factor, fails):
    found = trained(
        None,
        shape=(200, 50),
        port_loss=lambda *given: {k: factor * v for k, v in one_by_one(*given).items()},
    )
    assert found.claimed("train_losses_extreme").fails == fails


@pytest.mark.parametrize("clipped", [1e-7, 1e-6])
def test_a_clipped_probability_is_named(clipped):
    assert trained(clipped, extreme_inputs=False).verdict == "equal"
    found = trained(clipped)
    one = found.claimed("train_losses_extreme")
    assert one.fails
    assert one.place.part == "loss"
    assert "clipped" in one.cause
    assert f"at {clipped:g}" in one.cause

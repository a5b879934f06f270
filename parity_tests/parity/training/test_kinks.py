"""What lies behind a ReLU next to zero is not decided in float32; all else is."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import parity
from parity.judge import DECISIONS, Limits, decided_otherwise, precision_verdict
from parity.measurements import UNDECIDED, Margins, of_json
from parity.metrics import Gap
from parity.trace import Tap
from parity.training.kinks import Kinks, judged_behind, most_of
from parity_tests.parity.training.test_step import failed

UNITS, TIES = 24, 8
CLEAR, LOUD = 5e-7, 60.0
"""How far one unit is from zero, more than rounding moves it, and the size of its gradient."""


class Net(nn.Module):
    """Two layers around a ReLU: some units are next to zero whatever their weights are rounded to,
    one of them is clear of it by a little and counts most."""

    def __init__(self, nudge: float = 0.0, half: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, UNITS), nn.Linear(UNITS, 3)
        self.nudge, self.half, self.factor = nudge, half, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if x.dtype == torch.float32:
            x = x - self.nudge * (torch.arange(UNITS) == 0)
            x = x + torch.tensor(self.factor - 1) * (x - x.detach())
            if self.half:
                x = x + 1e-3 * torch.cos(torch.arange(UNITS).float())
        return self.second(torch.relu(x))


def net(**how) -> Net:
    """With the weights that make it so."""
    model, rng = Net(**how), np.random.default_rng(1)
    first = rng.normal(size=(UNITS, 4))
    first[TIES:] *= 3
    first[:TIES, 3] = -first[:TIES, :3].sum(1)
    second = rng.uniform(0.5, 1.0, (3, UNITS))
    second[:, 0] = LOUD
    bias = np.zeros(UNITS)
    bias[0] = CLEAR
    state = {
        "first.weight": first,
        "first.bias": bias,
        "second.weight": second,
        "second.bias": np.zeros(3),
    }
    model.load_state_dict({key: torch.tensor(one).float() for key, one in state.items()})
    return model.eval()


def claims(**how):
    """The claims on gradients of the port's float32 step."""
    weights = torch.tensor([[1.0, 0.5, 0.25]])
    training = parity.Training(
        (np.zeros(1, np.float32),),
        *[lambda outputs, _: (outputs * weights.to(outputs.dtype)).sum()] * 2,
        *[lambda parameters: torch.optim.SGD(parameters, 1e-3)] * 2,
        steps=1,
    )
    pair = parity.Pair(
        net,
        lambda: net(**how),
        (np.ones((1, 4), np.float32),),
        names=parity.Names(),
        weights=parity.Weights(),
    )
    result = parity.audit(pair, training=training, quiet=True)
    return {one.id: one for one in result.claims}


def test_a_unit_that_rounding_lets_through_decides_nothing():
    found = claims(nudge=1.5 * CLEAR)
    one = found["train_gradients_float32_eager"]
    assert one.verdict == UNDECIDED, str(one)
    assert "nothing is decided" in one.derivation
    again = of_json(one.measured.to_json())
    assert again.judge().verdict == UNDECIDED
    assert again.judge(Limits(float32_ratio=0.01)).verdict == "fails"
    verdicts = one.measured.verdicts()
    first = verdicts["first:grad_output"]
    assert first.undecided
    assert first.measured[DECISIONS][0] >= 1
    assert verdicts["second:grad_output"].passed


def test_the_same_without_that_unit_is_equal():
    assert failed(claims()) == {}


def test_more_units_than_rounding_lets_through_are_a_difference():
    one = claims(half=True)["train_gradients_float32_eager"]
    assert one.fails


def test_a_wrong_gradient_behind_no_such_unit_is_a_difference():
    one = claims(factor=1.5)["train_gradients_float32_eager"]
    assert one.fails
    assert one.place.part == "first"


def tap(key: str, array) -> Tap:
    path, _, kind = key.partition(":")
    array = np.asarray(array)
    return Tap(path, kind, "", 0, "ABCD"[: array.ndim], array)


@given(st.lists(st.sampled_from([0.0, 1e-40, 1.0, -2.0]), min_size=1, max_size=20), st.data())
def test_kinks_counts_what_is_zero_on_one_side_only(exact, data):
    exact = np.array(exact)
    flipped = np.array(data.draw(st.lists(st.booleans(), min_size=exact.size, max_size=exact.size)))
    port = np.where(flipped, np.where(exact == 0.0, 3.0, 0.0), exact).astype(np.float32)
    kinks = Kinks({"a:grad_output": tap("a:grad_output", exact)})
    kinks(tap("a:grad_output", port))
    # A number below float32's normal ones is flushed to zero, or not.
    expected = int(np.count_nonzero(flipped & (exact != 1e-40)))
    assert kinks.counts.get("a:grad_output", 0) == expected
    if expected:
        assert kinks.rest["a:grad_output"].max < 1e-4  # digits of denormal numbers
    assert most_of([kinks, Kinks({})]) == kinks.counts


def verdict(key: str, value: float, floor: float):
    return precision_verdict(key, Gap(value, value), Gap(floor, floor), Gap(floor, floor))


@pytest.mark.parametrize(
    ("count", "most", "rest", "expected"),
    [
        (1, 1, 1e-6, "undecided"),
        (4, 1, 1e-6, "undecided"),
        (5, 1, 1e-6, "fails"),
        (1, 0, 1e-6, "fails"),
        (1, 1, 1e-4, "fails"),
    ],
)
def test_decided_otherwise_needs_as_many_in_the_reference_and_the_rest_right(
    count, most, rest, expected
):
    one = decided_otherwise(
        verdict("a:grad_output", 1.0, 1e-6), count, most, verdict("a:grad_output", rest, 1e-6)
    )
    assert getattr(one, expected), str(one)
    measured = of_json(Margins.of([one]).to_json())
    assert getattr(measured.verdicts()["a:grad_output"], expected)


def test_an_infinite_gap_is_never_excused():
    one = decided_otherwise(verdict("a:grad_output", math.inf, 1e-6), 1, 1)
    assert one.fails


def test_only_what_lies_behind_is_not_decided():
    exact = {"last": [1.0, 2.0], "middle": [1.0, 0.0], "early": [1.0, 2.0]}
    port = {"last": [1.0, 2.0], "middle": [1.0, 2.0], "early": [1.5, 2.0]}
    keys = {name: f"{name}:grad_output" for name in exact}
    kinks = Kinks({keys[name]: tap(keys[name], one) for name, one in exact.items()})
    for name, one in port.items():
        kinks(tap(keys[name], np.float32(one)))
    parameters = [f"{name}:param_grad.weight" for name in exact]
    errors = {key: Gap(1e-7, 1e-7) for key in [*keys.values(), *parameters]}
    gaps = {**kinks.gaps, **{key: Gap(1.0, 1.0) for key in parameters}}
    before = {key: precision_verdict(key, gaps[key], errors[key], errors[key]) for key in errors}
    found = judged_behind(before, kinks, {keys["middle"]: 1}, errors, errors)
    assert [key for key, one in found.items() if one.fails] == ["last:param_grad.weight"]
    assert found[keys["last"]].passed
    undecided = [key for key, one in found.items() if one.undecided]
    assert undecided == [keys["middle"], keys["early"], *parameters[1:]]
    unknown = judged_behind(before, kinks, {}, errors, errors)
    assert all(one.fails for key, one in unknown.items() if before[key].fails)

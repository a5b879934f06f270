"""The comparison of initial weights finds another distribution, and none in two equal ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.comparing.initial_weights import compare, sample

SEEDS = range(4)
SHAPE = (40, 24, 3, 3)


def _drawing(draw, salt):
    return sample(lambda seed: {"weight": draw(np.random.default_rng([seed, salt]))}, SEEDS)


def _compared(reference, port):
    (found,) = compare(_drawing(reference, 0), _drawing(port, 1))
    return found


def _normal(deviation, shape=SHAPE):
    return lambda rng: rng.normal(scale=deviation, size=shape)


def _truncated(rng):
    values = rng.normal(size=20 * np.prod(SHAPE))
    return 0.1 * values[np.abs(values) < 2][: np.prod(SHAPE)].reshape(SHAPE)


@given(
    kind=st.sampled_from(["normal", "uniform", "constant"]),
    size=st.integers(1, 3_000),
    scale=st.floats(1e-3, 1e3),
    salt=st.integers(2, 2**30),
)
@settings(max_examples=60, deadline=None)
def test_compare_holds_for_one_distribution(kind, size, scale, salt):
    def draw(seed, side):
        rng = np.random.default_rng([seed, salt, side])
        drawn = {
            "normal": lambda: rng.normal(size=size),
            "uniform": lambda: rng.uniform(-1, 1, size),
            "constant": lambda: np.ones(size),
        }[kind]()
        return {"weight": scale * drawn}

    sides = [sample(lambda seed, side=side: draw(seed, side), SEEDS) for side in (0, 1)]
    (found,) = compare(*sides)
    assert found.ratio <= 1.0, found


MISTAKES = {
    "a bias that starts at 0": (
        lambda rng: rng.uniform(-0.1, 0.1, 8),
        lambda rng: np.zeros(8),
        "starts it at 0",
    ),
    "a bias that is drawn": (
        lambda rng: np.zeros(8),
        lambda rng: rng.uniform(-0.1, 0.1, 8),
        "the port draws it",
    ),
    "another constant": (lambda rng: np.ones(3), lambda rng: np.full(3, 1 - 1e-5), "always"),
    "fan_out": (_normal((24 * 9) ** -0.5), _normal((40 * 9) ** -0.5), "fan_out in place of fan_in"),
    "truncation": (_normal(0.1), _truncated, "truncated at two deviations"),
    "a gain": (_normal(0.1), _normal(0.1 * 2**0.5), "gain of the root of 2"),
    "another scale": (_normal(0.1), _normal(0.11), "0.11 instead of 0.1"),
    "uniform in place of normal": (
        _normal(0.1),
        lambda rng: rng.uniform(-(3**0.5) / 10, 3**0.5 / 10, SHAPE),
        "uniform",
    ),
    "a mean": (_normal(0.1), lambda rng: 0.01 + rng.normal(scale=0.1, size=SHAPE), "mean 0.01"),
    "one seed": (_normal(0.1), lambda rng: _normal(0.1)(np.random.default_rng(7)), "every seed"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_compare_finds_another_distribution(name):
    reference, port, cause = MISTAKES[name]
    found = _compared(reference, port)
    assert found.ratio > 1.0
    assert cause in found.cause, found.cause


def test_compare_finds_parameters_that_share_their_numbers():
    def apart(seed):
        rng = np.random.default_rng(seed)
        return {"a": rng.normal(size=50), "b": rng.normal(size=50)}

    def together(seed):
        one = np.random.default_rng([seed, 1]).normal(size=50)
        return {"a": one, "b": one.copy()}

    found = compare(sample(apart, SEEDS), sample(together, SEEDS))
    assert [one.ratio > 1.0 for one in found] == [True, True]
    assert found[0].cause == "on the port it always has the numbers of b"
    again = compare(sample(together, SEEDS), sample(together, range(4, 8)))
    assert all(one.ratio <= 1.0 for one in again)


def test_compare_names_a_parameter_of_one_side():
    alone = sample(lambda seed: {"a": np.ones(2)}, SEEDS)
    both = sample(lambda seed: {"a": np.ones(2), "b": np.ones(2)}, SEEDS)
    assert [one.key for one in compare(both, alone) if one.ratio > 1.0] == ["b"]
    assert [one.key for one in compare(alone, both) if one.ratio > 1.0] == ["b"]

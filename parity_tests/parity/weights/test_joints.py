"""Joints lead back to what was given, bit for bit, or say why they cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.errors import InputError
from parity.weights import LINEAR, SAME, Joint, Variable, depthwise, gates, of_kind
from parity.weights.loading import Held

SIZES = st.integers(1, 4)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def back(joint: Joint, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What comes back of the reference's arrays."""
    made = list(joint.to_port(*arrays))
    assert len(made) == len(joint.port)
    return list(joint.to_reference(*made, *(arrays if joint.reason else ())))


EXACT = {
    "packed": lambda a, b, c: (
        Joint.packed(["w"], ["q", "k", "v"], sizes=[a, b, c]),
        [drawn(a + b + c, 3)],
    ),
    "packed the other way": lambda a, b, c: (
        Joint.packed(["q", "k"], ["w"], axis=1, sizes=[a, b]),
        [drawn(c, a), drawn(c, b)],
    ),
    "stacked": lambda a, b, c: (Joint.stacked(["i", "h"], "b"), [drawn(a), drawn(a, seed=1)]),
    "tied": lambda a, b, c: (Joint.tied(["i", "h"], "b"), [drawn(a, b)] * 2),
}
ONE_WAY = {
    "summed": lambda a, b, c: (Joint.summed(["i", "h"], "b"), [drawn(a), drawn(a, seed=1)]),
    "an embedding folded into another": lambda a, b, c: (
        Joint.summed(["positions", "kind"], "positions"),
        [drawn(a, b), drawn(b)],
    ),
    "normalised": lambda a, b, c: (
        Joint.normalised(["g", "v"], "kernel"),
        [drawn(a, 1, 1), drawn(a, b, c)],
    ),
    "spectral": lambda a, b, c: (
        Joint.spectral(["w", "u", "v"], "kernel"),
        [drawn(a, b, c), drawn(a), drawn(b * c)],
    ),
    "folded": lambda a, b, c: (
        Joint.folded(["w", "b", "g", "s", "m", "v"], ["kernel", "bias"], epsilon=1e-3),
        [drawn(a, b, c), *(drawn(a, seed=n) for n in range(4)), drawn(a) ** 2],
    ),
    "folded without a bias": lambda a, b, c: (
        Joint.folded(["w", "g", "s", "m", "v"], ["kernel", "bias"], epsilon=1e-3, axis=1),
        [drawn(b, a, c), *(drawn(a, seed=n) for n in range(3)), drawn(a) ** 2],
    ),
}


@pytest.mark.parametrize("name", EXACT)
@given(SIZES, SIZES, SIZES)
def test_joints_with_an_inverse_lead_back_bit_for_bit(name, a, b, c):
    joint, arrays = EXACT[name](a, b, c)
    for found, array in zip(back(joint, arrays), arrays, strict=True):
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("name", ONE_WAY)
@given(SIZES, SIZES, SIZES)
def test_joints_without_one_lead_to_the_nearest_that_gives_the_same(name, a, b, c):
    joint, arrays = ONE_WAY[name](a, b, c)
    arrays = [one.astype(np.float64) for one in arrays]
    assert joint.reason
    other = drawn(*arrays[0].shape, seed=9)
    moved = list(joint.to_port(arrays[0] + other, *arrays[1:]))
    near = joint.to_reference(*moved, *arrays)
    for found, array in zip(near, arrays, strict=True):
        assert found.shape == array.shape
    for found, array in zip(joint.to_port(*near), moved, strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-9, atol=1e-12)
    for found, array in zip(back(joint, arrays), arrays, strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-9, atol=1e-12)


def held(joint: Joint, arrays: list[np.ndarray]) -> tuple[Held, dict, dict]:
    """A port's variables with what a joint gives, the reference's tensors, and the variables."""
    state = dict(zip(joint.reference, arrays, strict=True))
    values: dict[str, np.ndarray] = {}

    def variable(path: str, shape: tuple[int, ...]) -> Variable:
        return Variable(
            "", path, SAME, shape, lambda: values[path], lambda array: values.update({path: array})
        )

    made = Held(joint, (), ()).joint.to_port(*(one.astype(np.float64) for one in arrays))
    variables = tuple(variable(path, one.shape) for path, one in zip(joint.port, made, strict=True))
    one = Held(joint, variables, (SAME,) * len(variables))
    for target, array in zip(variables, one.given(state), strict=True):
        target.assign(array.astype(np.float32))
    return one, state, values


@pytest.mark.parametrize("name", [*EXACT, *ONE_WAY])
def test_a_variable_that_was_changed_does_not_come_back(name):
    one, state, values = held(*({**EXACT, **ONE_WAY}[name](2, 3, 4)))
    for key, array in one.returned(state).items():
        np.testing.assert_array_equal(array.astype(np.float32), state[key])
    path = one.joint.port[-1]
    values[path] = values[path] * np.float32(1.01)
    changed = [
        key
        for key, array in one.returned(state).items()
        if not np.array_equal(array.astype(np.float32), state[key])
    ]
    assert changed
    assert bool(one.reasons) == (name in ONE_WAY)


def test_a_joint_without_an_inverse_needs_a_reason():
    with pytest.raises(InputError, match="no way back and no reason"):
        Joint(["a"], ["b"], lambda array: [array])
    unknown = Joint(["a"], ["b"], lambda array: [array * 2], reason="halves are lost")
    one, state, values = held(unknown, [drawn(3)])
    np.testing.assert_array_equal(one.returned(state)["a"], state["a"])
    values["b"] = values["b"] + 1
    assert np.isnan(one.returned(state)["a"]).all()


def test_names_that_are_not_one_tensor_are_not_tied():
    with pytest.raises(InputError, match="a and b are not one tensor"):
        Joint.tied(["a", "b"], "c").to_port(drawn(2), drawn(2, seed=1))


def test_a_packed_joint_needs_one_name_on_a_side():
    with pytest.raises(InputError, match="2 tensors and 2 variables"):
        Joint.packed(["a", "b"], ["c", "d"])


@given(SIZES, SIZES, SIZES)
def test_layouts_of_layers_lead_back_bit_for_bit(size, other, count):
    cases = [
        (of_kind({"GRUCell"}, "kernel", ()), drawn(3 * size, other)),
        (of_kind({"GRUCell"}, "bias", ()), drawn(2, 3 * size)),
        (of_kind({"LSTMCell"}, "recurrent_kernel", ()), drawn(4 * size, size)),
        (of_kind({"EinsumDense"}, "kernel", (1, count, 1)), drawn(count * size, other)),
        (of_kind({"EinsumDense"}, "kernel", (count, 1, 1), 2), drawn(other, count * size)),
        (of_kind({"EinsumDense"}, "bias", (count, 1)), drawn(count * size)),
        (depthwise(count), drawn(other * count, 1, size)),
        (depthwise(count), drawn(other * count, 1, size, 2, 3)),
        (gates((1, 2, 0)), drawn(2, 3 * size)),
    ]
    for layout, array in cases:
        np.testing.assert_array_equal(layout.to_reference(layout.to_port(array)), array)


def test_the_gates_of_a_gru_are_exchanged():
    rows = np.arange(6.0)[:, None] * np.ones((1, 2))
    found = of_kind({"GRUCell"}, "kernel", ()).to_port(rows)
    np.testing.assert_array_equal(found[0], [2, 3, 0, 1, 4, 5])
    assert not np.array_equal(found, LINEAR.to_port(rows))

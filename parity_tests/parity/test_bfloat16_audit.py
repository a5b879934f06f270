"""In bfloat16 a port is held to the reference's own error there, both measured against float64."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

import parity
from parity.errors import InputError
from parity.judge import EPSILONS, least_floor
from parity.judging.alone import beyond_one_rounding, narrowed
from parity.metrics import Gap
from parity.trace import Tap
from parity_tests.reports.recorded import COMMAND
from reports.audit_story import told
from reports.loading import of_result
from reports.render import write_report
from reports.verification.recheck import recheck
from reports.verification.verify import verify

TOKENS = np.random.default_rng(0).normal(size=(4, 16, 32)).astype(np.float32)
SIZES = {"up": 64, "down": 32}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, tokens):
        return tokens + self.down(torch.relu(self.up(self.norm(tokens))))


class Port(tf_keras.Model):
    """The same; a mistake changes what it computes in bfloat16 alone, by its name."""

    def __init__(self, state, mistake=""):
        super().__init__()
        self.mistake = mistake
        self.norm = tf_keras.layers.LayerNormalization(epsilon=1e-5)
        if mistake == "statistics":
            self.norm = Statistics()
        for name, size in SIZES.items():
            constant = tf_keras.initializers.Constant
            kernel, bias = constant(state[f"{name}.weight"].T), constant(state[f"{name}.bias"])
            layer = tf_keras.layers.Dense(size, kernel_initializer=kernel, bias_initializer=bias)
            setattr(self, name, layer)

    def call(self, tokens):
        hidden = tf.nn.relu(self.up(self.norm(tokens)))
        if hidden.dtype == tf.bfloat16:
            hidden = self.coarse(hidden) if self.mistake == "coarse" else hidden
            hidden = hidden * 1.015625 if self.mistake == "scaled" else hidden
            tokens = self.coarse(tokens) if self.mistake == "coarse residual" else tokens
        return tf.cast(tokens, hidden.dtype) + self.down(hidden)

    @staticmethod
    def coarse(x):
        """`x` in steps of an eighth, as of a narrower format."""
        return tf.round(x * 8) / 8


class Statistics(tf_keras.layers.Layer):
    """A layer norm whose statistics are bfloat16 where its input is."""

    def call(self, x):
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + tf.cast(1e-5, x.dtype))


def pair(mistake=""):
    torch.manual_seed(0)
    reference = Block().eval()
    state = {key: value.numpy() for key, value in reference.state_dict().items()}

    def port():
        model = Port(state, mistake)
        model.build(TOKENS.shape)
        return model

    return parity.Pair(reference, port, (TOKENS,), names=parity.Names())


def audited(mistake="", executions=("bfloat16",)):
    return parity.audit(pair(mistake), executions=executions, command=COMMAND, quiet=True)


@pytest.fixture(scope="module")
def clean():
    return audited(executions=("bfloat16", "eager"))


def test_a_right_port_is_as_exact_in_bfloat16_as_the_reference(clean):
    assert clean.verdict == "equal"
    assert [*clean.float32] == ["eager", "bfloat16"]
    figures = {one.key: one.float32["bfloat16"] for one in clean.layers}
    hidden = figures["up:output"]
    # Both round in every layer: errors are those of 8 bits, and not of 24.
    assert 2.0**-10 < hidden.e_ref < 2.0**-5
    assert 2.0**-10 < hidden.e_port < 2.0**-5
    one = clean.claimed("same_precision_bfloat16")
    assert one.title == "In bfloat16 no layer is less exact than the reference's own bfloat16"
    assert "4 x the error of the bfloat16 reference" in one.derivation


def test_a_result_in_bfloat16_is_drawn_and_verified(clean, tmp_path):
    write_report([of_result(clean.to_json())], tmp_path)
    assert verify(tmp_path).problems == ()
    assert recheck(of_result(clean.to_json())) == []


@pytest.mark.parametrize("mistake", ["coarse", "coarse residual"])
def test_a_mistake_in_bfloat16_alone_fails_that_claim_alone(mistake):
    found = audited(mistake, ("eager", "bfloat16"))
    assert [one.id for one in found.failing] == [
        "same_precision_bfloat16",
        "isolated_precision_bfloat16",
    ]
    assert found.first_divergence is not None


@pytest.mark.parametrize(
    ("mistake", "place", "cause"),
    [
        ("scaled", "model", "the result is multiplied by 1.02"),
        ("statistics", "norm", "computed in bfloat16"),
    ],
)
def test_what_bfloat16_hides_in_place_is_seen_alone(mistake, place, cause):
    found = audited(mistake)
    (failing,) = found.failing
    assert failing.id == "isolated_precision_bfloat16"
    assert failing.place.part == place
    assert cause in failing.cause
    assert place in "".join(told(found))
    assert recheck(of_result(found.to_json())) == []


def test_float32_is_not_run_where_bfloat16_alone_is_asked_for():
    found = audited()
    assert [*found.float32] == ["bfloat16"]
    assert not any(one.id.startswith("same_precision_eager") for one in found.claims)


def test_the_least_floor_is_one_rounding_of_the_precision():
    found = Gap(1.0, 1.0, peak=3.0)
    for dtype, epsilon in EPSILONS.items():
        assert least_floor(found, Gap(0.0, 0.0), dtype) == {"l2": epsilon, "max": 3 * epsilon}


def test_a_framework_that_has_no_such_precision_is_refused():
    """The port of a framework that does not say it can."""
    from dataclasses import replace

    from parity.frameworks import registry
    from parity_tests.parity import numpy_side

    known = dict(registry.ENTRIES)
    registry.register(
        registry.Entry(
            name="NumPy",
            package="numpy",
            base="parity_tests.parity.numpy_side.Layer",
            open=lambda: numpy_side.FRAMEWORK,
        )
    )
    try:
        inputs = (np.ones((4, 5, 6), np.float32),)
        alike = parity.Pair(numpy_side.Model(seed=0), lambda: numpy_side.Model(seed=9), inputs)
        with pytest.raises(InputError, match="is not audited in bfloat16"):
            parity.audit(alike, executions=("bfloat16",), quiet=True)
        mixed = replace(pair(), port=lambda: numpy_side.Model(seed=0))
        with pytest.raises(InputError):
            parity.audit(mixed, executions=("bfloat16",), quiet=True)
    finally:
        registry.ENTRIES.clear()
        registry.ENTRIES.update(known)


class Stream(nn.Module):
    """Two terms added one after the other to what came before, in float32 under autocast."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, tokens):
        return tokens + self.up(tokens) + self.down(tokens)


class StreamPort(tf_keras.Model):
    """The same in the precision of its policy; a term may be scaled in bfloat16 alone."""

    def __init__(self, state, factor):
        super().__init__()
        self.factor = factor
        for name in ("up", "down"):
            constant = tf_keras.initializers.Constant
            kernel, bias = constant(state[f"{name}.weight"].T), constant(state[f"{name}.bias"])
            layer = tf_keras.layers.Dense(32, kernel_initializer=kernel, bias_initializer=bias)
            setattr(self, name, layer)

    def call(self, tokens):
        up = self.up(tokens)
        factor = self.factor if up.dtype == tf.bfloat16 else 1.0
        return tf.cast(tokens, up.dtype) + up * factor + self.down(tokens)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "equal"), (1.125, "different")])
def test_a_residual_stream_in_bfloat16_may_round_at_each_sum(factor, verdict):
    torch.manual_seed(0)
    reference = Stream().eval()
    state = {key: value.numpy() for key, value in reference.state_dict().items()}

    def port():
        model = StreamPort(state, factor)
        model.build(TOKENS.shape)
        return model

    alike = parity.Pair(reference, port, (TOKENS,), names=parity.Names())
    assert parity.audit(alike, executions=("bfloat16",), quiet=True).verdict == verdict


NUMBERS = np.random.default_rng(1).normal(size=(3, 400)) * np.geomspace(1e-6, 1e6, 400)


def test_numbers_are_rounded_as_torch_rounds_them():
    exact = torch.from_numpy(NUMBERS.astype(np.float32))
    np.testing.assert_array_equal(narrowed(exact.numpy()), exact.bfloat16().float().numpy())
    ties = np.float32([1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -0.0])
    np.testing.assert_array_equal(narrowed(ties), np.float32([1.0, 1.0 + 2.0**-6, 0.0]))
    edges = np.float32([np.nan, -np.inf, np.finfo(np.float32).min])
    np.testing.assert_array_equal(
        narrowed(edges), np.float32([np.nan, -np.inf, -(2.0**128) * (1 - 2.0**-8)])
    )
    assert np.isnan(narrowed(np.uint32([0xFFFFFFFF]).view(np.float32))).all()


@pytest.mark.parametrize(
    ("made", "least", "most"),
    [
        (narrowed(NUMBERS), 0.0, 0.0),  # rounded once
        (narrowed(NUMBERS * (1 + 1e-6)), 0.0, 1e-6),  # a float32 error, then rounded
        (narrowed(narrowed(NUMBERS) * 1.3) / 1.3, 1e-3, 1e-2),  # no numbers of bfloat16
        (narrowed(narrowed(NUMBERS * 1.3) * 1.3**-1), 1e-4, 1e-2),  # rounded twice
        (NUMBERS * (1 + 1e-6), 9e-7, 2e-6),  # not rounded at all
    ],
)
def test_one_rounding_to_bfloat16_is_taken_off(made, least, most):
    exact, found = (Tap("norm", "output", "", 0, "AB", one) for one in (NUMBERS, made))
    assert least <= beyond_one_rounding(found, exact).l2 <= most

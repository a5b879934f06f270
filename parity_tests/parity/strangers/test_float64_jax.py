"""Models of JAX that cast to float32 inside stay in float64 too, and say where."""

import os
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from parity.audits import Pair, audit
from parity.frameworks.jax.float64 import kept_in
from parity_tests.docs.documents import ROOT
from parity_tests.parity.strangers.models import numbers, varied
from parity_tests.parity.strangers.test_float64 import Llama

X = numbers(2, 5, 8)


def rotated(x):
    half = jnp.arange(0, x.shape[-1], 2, dtype=jnp.float32) / x.shape[-1]
    table = 1.0 / jnp.power(jnp.asarray(1000.0, jnp.float32), half)
    angles = jnp.arange(x.shape[1]).astype(jnp.float32)[:, None] * table
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1).astype(x.dtype)


def normal(x, weight):
    y = x.astype("float32")
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + 1e-6)
    return weight * y.astype(x.dtype)


def activated(x, y, slope):
    return jax.nn.leaky_relu(jax.nn.gelu(y, approximate=False) + 0.1 * x, slope)


def softened(x):
    return jax.nn.softmax(jax.lax.convert_element_type(x, jnp.float32), -1).astype(x.dtype)


class NnxNorm(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.ones(8))

    def __call__(self, x):
        return normal(x, self.weight[...])


class NnxLlama(nnx.Module):
    def __init__(self, slope=0.1, lower=False):
        self.norm, self.inner = NnxNorm(), nnx.Linear(8, 8, rngs=nnx.Rngs(0))
        self.slope, self.lower = slope, lower

    def __call__(self, x):
        x = softened(self.norm(x) + rotated(x))
        y = self.inner(x)
        return activated(x, y.astype(jnp.bfloat16).astype(y.dtype) if self.lower else y, self.slope)


class LinenNorm(linen.Module):
    @linen.compact
    def __call__(self, x):
        return normal(x, self.param("weight", linen.initializers.ones, (8,)))


class LinenLlama(linen.Module):
    slope: float = 0.1
    lower: bool = False

    def setup(self):
        self.norm, self.inner = LinenNorm(), linen.Dense(8, dtype=jnp.float32)

    def __call__(self, x):
        x = softened(self.norm(x) + rotated(x))
        y = self.inner(x)
        return activated(x, y.astype(jnp.bfloat16).astype(y.dtype) if self.lower else y, self.slope)


def of_linen(**how):
    model = LinenLlama(**how)
    return model.bind(model.init(jax.random.key(0), X))


KINDS = pytest.mark.parametrize("build", [NnxLlama, of_linen], ids=["nnx", "linen"])


def audited(build, executions=(), **how):
    pair = Pair(varied(Llama), lambda: build(**how), (X,))
    return audit(pair, executions=executions, quiet=True)


@KINDS
def test_casts_in_jax_keep_float64_and_are_listed_with_their_lines(build):
    result = audited(build, ("eager", "jit"))
    assert (result.verdict, result.localisations) == ("equal", ())
    lines = {one["line"].partition(": ")[2] for one in result.kept_in_float64}
    assert '`y = x.astype("float32")`' in lines
    assert "`half = jnp.arange(0, x.shape[-1], 2, dtype=jnp.float32) / x.shape[-1]`" in lines
    assert any("convert_element_type" in line for line in lines)


@KINDS
def test_a_difference_of_less_than_float32_shows_behind_casts_of_jax(build):
    assert audited(build, slope=0.1 * (1 + 1e-9)).verdict == "different"


@KINDS
def test_what_lowers_precision_otherwise_in_jax_is_found(build):
    result = audited(build, lower=True)
    assert result.verdict == "different"
    assert result.float64.worst_gap > 1e-6


def test_float32_runs_and_drawn_numbers_of_jax_are_untouched():
    key = jax.random.key(0)
    before = np.asarray(jax.random.normal(key, (3,), jnp.float32))
    with kept_in("float32"):
        assert jnp.ones(2, jnp.float32).dtype == jnp.float32
    with jax.enable_x64(True):
        with kept_in("float64"):
            assert jnp.ones(2).astype(jnp.float32).dtype == jnp.float64
            np.testing.assert_array_equal(jax.random.normal(key, (3,), jnp.float32), before)
        assert jnp.ones(2).astype(jnp.float32).dtype == jnp.float32
    assert jnp.ones(2).astype(jnp.float32).dtype == jnp.float32


KERAS = """
import keras, jax.numpy as jnp, numpy as np, torch
from parity.audits import Pair, audit
from parity_tests.parity.strangers.models import numbers, varied
from parity_tests.parity.strangers.test_float64 import Norm

class Port(keras.layers.Layer):
    def build(self, shape):
        self.weight = self.add_weight(shape=shape[-1:], name="weight")
    def call(self, x):
        y = keras.ops.cast(x, "float32") if {ops} else x.astype(jnp.float32)
        y = y * keras.ops.rsqrt(keras.ops.mean(y * y, -1, keepdims=True) + {epsilon})
        return self.weight * keras.ops.cast(y, x.dtype)

result = audit(Pair(varied(lambda: Norm(8)), Port, (numbers(2, 5, 8),)), executions=(), quiet=True)
print(keras.backend.backend(), result.verdict, len(result.kept_in_float64) > 2)
"""


@pytest.mark.parametrize("ops", [True, False])
@pytest.mark.parametrize(
    ("epsilon", "verdict"), [("1e-6", "equal"), ("1e-6 * (1 + 1e-6)", "different")]
)
def test_keras_on_jax_stays_in_float64(ops, epsilon, verdict):
    run = subprocess.run(
        [sys.executable, "-c", KERAS.format(ops=ops, epsilon=epsilon)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    )
    assert run.stdout.split() == ["jax", verdict, "True"], run.stderr

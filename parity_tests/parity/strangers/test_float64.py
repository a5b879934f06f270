"""Models that cast to float32 inside stay in float64 while a float64 run lasts, and say where."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

from parity.causes.resizing import weights
from parity_tests.parity.strangers.models import compared, numbers, places, varied

K = tf_keras.layers


class Rotary(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        table = 1.0 / (1000.0 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        self.register_buffer("table", table, persistent=False)

    def forward(self, x):
        steps = torch.arange(x.shape[1], dtype=torch.float32)
        angles = steps[:, None] * self.table
        return torch.cat([angles.cos(), angles.sin()], -1).to(x.dtype)


class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        given = x.dtype
        x = x.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * x.to(given)


class Llama(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.rotary, self.norm = Rotary(dim), Norm(dim)
        self.inner, self.act = nn.Linear(dim, dim), nn.LeakyReLU(0.1)

    def forward(self, x):
        x = self.norm(x) + self.rotary(x)
        x = torch.softmax(x.float(), dim=-1, dtype=torch.float32).type_as(x)
        return self.act(torch.nn.functional.gelu(self.inner(x)) + torch.tensor(0.1) * x)


class PortRotary(K.Layer):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def call(self, x):
        half = tf.range(0, self.dim, 2, dtype=tf.float32) / self.dim
        table = 1.0 / tf.pow(tf.constant(1000.0, tf.float32), half)
        steps = tf.cast(tf.range(tf.shape(x)[1]), tf.float32)
        angles = steps[:, None] * table
        return tf.cast(tf.concat([tf.cos(angles), tf.sin(angles)], -1), x.dtype)


class PortNorm(K.Layer):
    def build(self, shape):
        self.weight = self.add_weight("weight", shape[-1:])

    def call(self, x):
        y = tf.cast(x, "float32")
        y = y * tf.math.rsqrt(tf.reduce_mean(tf.square(y), -1, keepdims=True) + 1e-6)
        return self.weight * tf.cast(y, x.dtype)


class PortLlama(tf_keras.Model):
    def __init__(self, dim=8, slope=0.1):
        super().__init__()
        self.rotary, self.norm = PortRotary(dim), PortNorm()
        self.inner, self.act = K.Dense(dim), K.LeakyReLU(slope)
        self.soft = K.Softmax(dtype="float32")

    def call(self, x):
        x = self.norm(x) + self.rotary(x)
        x = tf.cast(self.soft(x), x.dtype)
        return self.act(tf.nn.gelu(self.inner(x)) + tf.cast(0.1, x.dtype) * x)


MODULES = {name: name for name in ("rotary", "norm", "inner", "act")}


def test_casts_on_both_sides_keep_float64_and_are_listed_with_their_lines():
    result = compared(
        varied(Llama), PortLlama, (numbers(2, 5, 8),), MODULES, executions=("eager", "graph")
    )
    assert (result["verdict"], places(result)) == ("equal", [])
    kept = result["kept_in_float64"]
    lines = {(one["side"], one["line"].partition(": ")[2]) for one in kept}
    assert ("reference", "`x = x.to(torch.float32)`") in lines
    assert ("port", '`y = tf.cast(x, "float32")`') in lines
    assert any("slope in float64" in one["what"] for one in kept)
    assert any("rotary.table is computed in float64" in one["what"] for one in kept)
    assert any("Softmax that fixes float32" in one["what"] for one in kept)


def test_a_difference_of_less_than_float32_shows_behind_the_casts():
    result = compared(
        varied(Llama), lambda: PortLlama(slope=0.1 * (1 + 1e-9)), (numbers(2, 5, 8),), MODULES
    )
    assert [path for path, _ in places(result)] == ["act"]


def test_what_lowers_precision_otherwise_is_still_found():
    class Low(PortNorm):
        def call(self, x):
            return tf.cast(tf.cast(super().call(x), tf.bfloat16), x.dtype)

    class Lowered(PortLlama):
        def __init__(self):
            super().__init__()
            self.norm = Low()

    result = compared(varied(Llama), Lowered, (numbers(2, 5, 8),), MODULES)
    assert places(result) == [("norm", "the port's numbers are rounded to bfloat16")]


class Scaled(nn.Module):
    """Keeps a number twice, once as a tensor that is not in the state dict."""

    def __init__(self, scale):
        super().__init__()
        self.inner, self.number = nn.Linear(8, 8), scale
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x):
        return self.inner(x) * self.scale.to(x.dtype)


class PortScaled(tf_keras.Model):
    def __init__(self, scale):
        super().__init__()
        self.inner, self.scale = K.Dense(8), scale

    def call(self, x):
        return self.inner(x) * tf.cast(self.scale, x.dtype)


@functools.lru_cache(maxsize=4)
def remembered(length):
    return torch.arange(1, length + 1, dtype=torch.float32) / length


def by_a_decorator(function):
    """As the second implementations of transformers remember: the cache is in a closure."""
    cached = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def called(*given):
        return cached(*given)

    return called


@by_a_decorator
def enclosed(length):
    return torch.arange(1, length + 1, dtype=torch.float32) / length


class Placed(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.inner, self.table = nn.Linear(6, 6), table

    def forward(self, x):
        return self.inner(x) + torch.sin(3.1 * self.table(x.shape[-1])).to(x.dtype)


class PortPlaced(tf_keras.Model):
    def __init__(self, off):
        super().__init__()
        self.inner, self.off = K.Dense(6), off

    def call(self, x):
        places = tf.cast(tf.range(1, 7), x.dtype) / tf.cast(6, x.dtype)
        return self.inner(x) + tf.sin(tf.cast(3.1 * (1 + self.off), x.dtype) * places)


@pytest.mark.parametrize("table", [remembered, enclosed])
@pytest.mark.parametrize(("off", "verdict"), [(0.0, "equal"), (1e-9, "different")])
def test_what_a_function_remembers_of_a_float32_run_is_computed_again(off, verdict, table):
    table(6)
    result = compared(
        varied(lambda: Placed(table)),
        lambda: PortPlaced(off),
        (numbers(2, 6),),
        {"inner": "inner"},
        executions=("eager",),
    )
    assert result["verdict"] == verdict
    assert table(6).dtype == torch.float32


@pytest.mark.parametrize(("off", "verdict"), [(0.0, "equal"), (1e-9, "different")])
def test_a_number_kept_as_a_float32_tensor_is_computed_in_float64(off, verdict):
    root = 32**0.5

    def port():
        return PortScaled(tf.constant(root * (1 + off), tf.float64))

    result = compared(varied(lambda: Scaled(root)), port, (numbers(2, 8),), {"inner": "inner"})
    assert result["verdict"] == verdict
    assert any("scale is computed in float64" in one["what"] for one in result["kept_in_float64"])


def test_float32_runs_are_untouched():
    from parity.frameworks.tensorflow.float64 import kept_in as tensorflow
    from parity.frameworks.torch.float64 import kept_in as pytorch

    for kept in (tensorflow, pytorch):
        before = tf.cast, tf.image.resize, torch.get_default_dtype()
        with kept("float32"):
            assert (tf.cast, tf.image.resize, torch.get_default_dtype()) == before
            assert torch.ones(2).double().float().dtype == torch.float32
        with kept("float64"):
            pass
        assert (tf.cast, tf.image.resize, torch.get_default_dtype()) == before
        assert tf.cast(1.0, tf.float32).dtype == tf.float32


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("sizes", [(7, 13), (13, 7), (8, 16), (16, 4), (5, 5)])
def test_resizing_in_float64_is_the_kernels(method, antialias, sizes):
    before, after = sizes
    images = numbers(1, before, 1, 2)
    found = tf.image.resize(images, (after, 1), method, antialias=antialias).numpy()
    expected = np.einsum("ip,npqc->niqc", weights(before, after, method, antialias), images)
    # TensorFlow looks the cubic up in a table of 1024 steps.
    near = 2e-3 if method == "bicubic" else 1e-6
    np.testing.assert_allclose(found, expected, atol=near)


def test_groups_of_rows_are_multiplied_in_float64():
    from parity.frameworks.torch.float64 import kept_in

    torch.manual_seed(0)
    rows, matrices = torch.randn(9, 16), torch.randn(3, 16, 8)
    offs = torch.tensor([4, 4, 7], dtype=torch.int32)
    with kept_in("float64"):
        exact = torch.nn.functional.grouped_mm(rows.double(), matrices.double(), offs=offs)
    assert exact.dtype == torch.float64
    np.testing.assert_array_equal(exact[:4], rows[:4].double() @ matrices[0].double())
    np.testing.assert_array_equal(exact[4:7], rows[4:7].double() @ matrices[2].double())
    plain = torch.nn.functional.grouped_mm(rows, matrices, offs=offs)
    np.testing.assert_allclose(exact[:7], plain[:7], rtol=1e-5, atol=1e-5)

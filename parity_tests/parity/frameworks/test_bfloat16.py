"""Models of Flax in bfloat16: taps are exact, and as near the truth as PyTorch's in bfloat16."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

from parity.frameworks.flax.linen import framework as of_linen
from parity.frameworks.flax.nnx import framework as of_nnx
from parity.frameworks.torch import framework as of_torch
from parity.frameworks.torch.weights import vary
from parity.judge import same_precision
from parity.metrics import Gap, gap

X = np.random.default_rng(0).normal(size=(4, 3)).astype(jnp.bfloat16)
LAYERS = ("inner", "norm", "outer")
BOTH = [(kind, execution) for kind in ("nnx", "linen") for execution in ("eager", "jit")]


class Nnx(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.inner = nnx.Linear(3, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
        self.outer = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.outer(self.norm(jnp.tanh(self.inner(x))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(8, name="inner")(x))
        return linen.Dense(2, name="outer")(linen.LayerNorm(epsilon=1e-5, name="norm")(x))


class Reference(torch.nn.Module):
    """Takes its input in whatever precision it has itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = torch.nn.Linear(3, 8), torch.nn.LayerNorm(8)
        self.outer = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.outer(self.norm(torch.tanh(self.inner(x.to(self.inner.weight.dtype)))))


def axes(path: str, kind: str, name: str, rank: int) -> str:
    return "NX"[:rank]


def reference() -> Reference:
    """In float64, with numbers that bfloat16 has."""
    torch.manual_seed(0)
    return of_torch.copied(of_torch.copied(vary(Reference().eval()), "bfloat16"), "float64")


def port(kind: str):
    """The framework of a kind, and its model in bfloat16 with the reference's weights."""
    model = Linen()
    given = Nnx() if kind == "nnx" else model.bind(model.init(jax.random.key(0), jnp.ones((1, 3))))
    framework = of_nnx if kind == "nnx" else of_linen
    built = framework.copied(given, "bfloat16")
    taps(framework, built, "eager", X)  # by which the kinds of linen's modules are known
    state = reference().state_dict()
    for one in framework.variables(built).values():
        one.assign(one.layout.to_port(state[f"{one.owner}.{one.name}"].numpy()))
    return framework, built


def taps(framework, model, execution: str, inputs: np.ndarray):
    return framework.recorder(model, axes, execution)((inputs,))[1]


def verdicts(found) -> list:
    """Whether a trace is as near float64 as PyTorch is in bfloat16."""
    exact, own = (
        taps(of_torch, of_torch.copied(reference(), dtype), "eager", X.astype(np.float64))
        for dtype in ("float64", "bfloat16")
    )
    keys = [f"{layer}:output" for layer in LAYERS]
    gaps, theirs = (
        {key: gap(trace[key].array.astype(np.float64), exact[key].array) for key in keys}
        for trace in (found, own)
    )
    return same_precision(gaps, theirs, dict.fromkeys(keys, Gap(0.0, 0.0)))


@pytest.mark.parametrize(("kind", "execution"), BOTH)
def test_taps_in_bfloat16_are_exact_and_as_near_as_those_of_pytorch(kind, execution):
    found = taps(*port(kind), execution, X)
    for tap in found.values():
        np.testing.assert_array_equal(tap.array, tap.array.astype(jnp.bfloat16).astype("float32"))
    assert all(one.passed for one in verdicts(found)), verdicts(found)


@pytest.mark.parametrize(("kind", "execution"), BOTH)
def test_an_error_in_bfloat16_is_noticed(kind, execution):
    """The twin of the one above: a bias is lost."""
    framework, model = port(kind)
    bias = framework.variables(model)["inner.bias"]
    bias.assign(np.zeros(bias.shape))
    assert not all(one.passed for one in verdicts(taps(framework, model, execution, X)))


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_weights_in_bfloat16_come_back_exactly(kind):
    framework, model = port(kind)
    state = reference().state_dict()
    for one in framework.variables(model).values():
        back = one.layout.to_reference(np.asarray(one.read(), np.float64))
        np.testing.assert_array_equal(back, state[f"{one.owner}.{one.name}"].numpy())

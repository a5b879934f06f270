"""Models of Flax: gradients, training mode, layouts, and what is refused."""

import os
from functools import partial

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx

import parity
from parity.errors import InputError
from parity.frameworks.flax.linen import framework as of_linen
from parity.frameworks.flax.nnx import framework as of_nnx
from parity.frameworks.jax.reordered import reordered
from parity.frameworks.shared.floors import measure_floors
from parity.frameworks.torch.weights import vary
from parity.gradients import backward_places
from parity.masks import Masks
from parity.pairing import Comparison
from parity.trace import TraceError

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
LAID_OUT_ALIKE = ""


def axes(path: str, kind: str, name: str, rank: int) -> str:
    return "NCHW"[:rank]


def same(array: np.ndarray) -> np.ndarray:
    return array


def squares(outputs: dict) -> dict:
    return {"squares": (outputs["o"] ** 2).sum()}


class Mlp(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.b = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.stopped = False

    def __call__(self, x):
        x = jnp.tanh(self.a(x))
        return self.b(jax.lax.stop_gradient(x) if self.stopped else x)


class Model(nnx.Module):
    """Its parameter `unused` has no influence on what it returns."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.mlp, self.norm = Mlp(rngs), nnx.BatchNorm(3, rngs=rngs)
        self.unused = nnx.Param(jnp.ones(3))

    def __call__(self, x):
        y = self.mlp(x)
        return {"o": self.norm(x + y), "y": y}


def at_rest() -> Model:
    model = Model()
    model.eval()
    return model


def gradients(model: Model, execution: str = "eager"):
    parameters = {path: ([read], same) for path, read in of_nnx.trainer.trained(model).items()}
    return of_nnx.trainer.GradientRecorder(model, axes, squares, parameters, execution)


@pytest.mark.parametrize("execution", ["eager", "jit"])
def test_gradients_are_those_of_jax(execution):
    model = at_rest()
    total, trace = gradients(model, execution)((X,))
    wanted = nnx.grad(lambda model: squares(model(X))["squares"])(model)
    assert total == pytest.approx(float(squares(model(X))["squares"]))
    for name in ("a", "b"):
        exact = np.asarray(getattr(wanted.mlp, name).kernel.get_value())
        found = trace[f"mlp.{name}:param_grad.kernel"].array
        assert np.abs(found - exact).max() <= np.finfo(np.float32).eps * np.abs(exact).max() * 4
    assert not any("unused" in key for key in trace)
    assert trace["mlp:grad_output"].array is not None
    assert "model:grad_output.y" in trace


@pytest.mark.parametrize("execution", ["eager", "jit"])
def test_gradients_of_what_modules_return_are_those_of_jax(execution):
    """Of the loss by the model's output, and by what a module in it returns to two others."""
    model = at_rest()
    _, trace = gradients(model, execution)((X,))
    x = jnp.tanh(model.mlp.a(X))
    exact = {
        "model:grad_output.o": jax.grad(lambda o: (o**2).sum())(model(X)["o"]),
        "mlp.a:grad_output": jax.grad(
            lambda a: (model.norm(X + model.mlp.b(jnp.tanh(a))) ** 2).sum()
        )(model.mlp.a(X)),
        "mlp.b:grad_input.inputs": jax.grad(lambda x: (model.norm(X + model.mlp.b(x)) ** 2).sum())(
            x
        ),
    }
    for key, wanted in exact.items():
        gap = np.abs(trace[key].array - np.asarray(wanted)).max()
        assert gap <= np.finfo(np.float32).eps * np.abs(wanted).max() * 16, key


def test_a_gradient_that_no_number_changes_is_one():
    recorder = gradients(at_rest())
    recorder.loss = lambda outputs: outputs["y"].sum()
    _, trace = recorder((X,))
    np.testing.assert_array_equal(trace["mlp.b:param_grad.bias"].array, np.full(3, len(X)))
    assert not any("norm:param_grad" in key for key in trace)


def test_a_stopped_gradient_is_found_in_its_module():
    with jax.enable_x64(True):
        exact = of_nnx.copied(at_rest(), "float64")
        reference, inputs = gradients(exact), (X.astype(np.float64),)
        _, values = of_nnx.recorder(exact, axes, "eager")(inputs)
        _, found = reference(inputs)
        floors = measure_floors(reference, inputs, found)
        still = "model:grad_output.y"  # a sum passes ones on, whatever moves
        assert all((key == still or one.l2 > 0) and one.l2 < 1e-14 for key, one in floors.items())

        def places(port: Model) -> list[tuple]:
            recorder, comparison = gradients(port), Comparison(found)
            recorder(inputs, comparison)
            return [
                (one.path, one.cause)
                for one in backward_places(
                    reference, recorder, values, found, comparison, floors, everywhere=True
                )
            ]

        port = of_nnx.copied(at_rest(), "float64")
        assert places(port) == []
        port.mlp.stopped = True
        assert places(port) == [("mlp", "the gradient is stopped")]


def test_sums_in_another_order_move_roundings_only():
    a = np.random.default_rng(1).normal(size=(8, 400)).astype(np.float32)
    plain = np.asarray(jnp.dot(a, a.T) + jnp.mean(a))
    with reordered():
        turned = np.asarray(jnp.dot(a, a.T) + jnp.mean(a))
    assert not np.array_equal(plain, turned)
    assert np.abs(plain - turned).max() < 1e-3
    assert np.array_equal(np.asarray(jnp.dot(a, a.T) + jnp.mean(a)), plain)


class Dropped(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Dropout(0.5, deterministic=not train, name="drop")(x)
        return linen.BatchNorm(use_running_average=not train, name="norm")(x)


class DroppedToo(nnx.Module):
    def __init__(self) -> None:
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(self.drop(x))


def dropped(kind: str):
    if kind == "nnx":
        model = DroppedToo()
        model.eval()
        return of_nnx, model
    module = Dropped()
    return of_linen, of_linen.copied(module.bind(module.init(jax.random.key(0), X)), "float32")


@pytest.mark.parametrize("execution", ["eager", "jit"])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_training_step_takes_masks_and_changes_statistics(kind, execution):
    framework, model = dropped(kind)
    statistics = framework.variables(model)["norm.mean"]
    masks = Masks(3, lambda path, kind, name, rank: LAID_OUT_ALIKE)
    with framework.trainer.training(model, (X,)) as inputs:
        recorder = framework.recorder(model, axes, execution, masks=masks)
        _, trace = recorder(inputs)
    kept = masks.kept("drop@0#0", "drop", X.shape, 0.5)
    np.testing.assert_array_equal(trace["drop:output"].array, np.where(kept, 2 * X, 0))
    mean = trace["drop:output"].array.mean(0)
    np.testing.assert_allclose(statistics.read(), 0.01 * mean, rtol=1e-4)
    nothing = Masks(None, masks.axes)
    with framework.trainer.training(model, (X,)) as inputs:
        _, trace = framework.recorder(model, axes, execution, masks=nothing)(inputs)
    np.testing.assert_array_equal(trace["drop:output"].array, X)
    _, trace = framework.recorder(model, axes, execution)((X,))
    np.testing.assert_array_equal(trace["drop:output"].array, X)


@pytest.mark.parametrize("execution", ["eager", "jit"])
def test_an_update_is_that_of_optax(execution):
    model = at_rest()
    optimizer = of_nnx.trainer.optimizer(lambda model: optax.sgd(0.5), model)
    before = np.array(model.mlp.a.kernel.get_value())
    of_nnx.trainer.update(optimizer, model, {"mlp.a.kernel": np.ones((3, 4))}, execution)
    np.testing.assert_allclose(model.mlp.a.kernel.get_value(), before - 0.5, rtol=1e-6)
    adam = of_nnx.trainer.optimizer(lambda model: optax.adam(0.5), model)
    of_nnx.trainer.arrive(adam, 7)
    assert int(adam.state[0].count) == 7


def test_layouts_follow_from_the_kind_of_layer():
    def turned(reference: torch.nn.Module, build, inputs: np.ndarray) -> str:
        pair = parity.Pair(vary(reference.eval()), build, (inputs,), names=parity.Names())
        return parity.audit(pair, quiet=True).verdict

    maps = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    rngs = nnx.Rngs(0)
    transposed = partial(nnx.ConvTranspose, 4, 3, (3, 3), (2, 2), padding="VALID", rngs=rngs)
    for way in (False, True):
        build = partial(transposed, transpose_kernel=way)
        assert turned(torch.nn.ConvTranspose2d(4, 3, 3, 2), build, maps) == "equal"
    grouped = partial(nnx.Conv, 4, 8, (3, 3), padding="VALID", feature_group_count=4, rngs=rngs)
    assert turned(torch.nn.Conv2d(4, 8, 3, groups=4), grouped, maps) == "equal"
    general = partial(nnx.LinearGeneral, 3, (2, 5), rngs=rngs)
    split = torch.nn.Sequential(torch.nn.Linear(3, 10), torch.nn.Unflatten(1, (2, 5)))
    names = parity.Names(modules={}, tensors={})
    weights = parity.Weights(variables={"kernel": "0.weight", "bias": "0.bias"})
    pair = parity.Pair(vary(split.eval()), general, (X,), names=names, weights=weights)
    assert parity.audit(pair, quiet=True).verdict == "equal"


def test_a_module_inside_a_transformation_is_named():
    class Scanned(nnx.Module):
        def __init__(self) -> None:
            self.inner = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jax.lax.map(lambda row: self.inner(row), x)

    for execution in ("eager", "jit"):
        with pytest.raises(TraceError, match="inner runs inside a transformation of JAX"):
            of_nnx.recorder(Scanned(), axes, execution)((X,))


def test_a_module_without_its_variables_is_refused():
    with pytest.raises(InputError, match="the Dropped of Flax linen has no variables"):
        parity.audit(parity.Pair(Dropped(), Dropped(), (X,)), quiet=True)


def test_a_reference_in_training_mode_is_refused():
    with pytest.raises(InputError, match="the reference is in training mode"):
        parity.audit(parity.Pair(Model(), Model, (X,)), quiet=True)

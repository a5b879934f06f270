"""Modules of `flax.nnx` behind `parity.frameworks.framework.Framework`."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from parity.calls import Watch, watching
from parity.frameworks.flax.calls import call_signature
from parity.frameworks.flax.weights import variable
from parity.frameworks.jax import capture
from parity.frameworks.jax.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.jax.capture import capture_effects as capture_effects
from parity.frameworks.jax.precision import computing_in, is_float
from parity.frameworks.jax.precision import computing_in as precision
from parity.frameworks.shared.floors import measure_floors as measure_floors
from parity.names import Naming
from parity.trace import Axes
from parity.weights import Variable

NAME = "Flax nnx"
IMAGES: Mapping[int, str] = {5: "NDHWC", 4: "NHWC"}
DTYPES = ("dtype", "param_dtype")  # attributes that fix what a layer computes or holds
explain = None
mend = None
trainer = None
__all__ = ["precision"]


def copied(model: nnx.Module, dtype: str) -> nnx.Module:
    """A copy of the model that computes in `dtype`."""
    return converted(nnx.clone(model), dtype)


def converted(model: nnx.Module, dtype: str) -> nnx.Module:
    """The model itself, made to compute in `dtype`: its variables, and what its layers fix."""
    with computing_in(dtype):
        for module in modules(model).values():
            for name in DTYPES:
                if is_float(vars(module).get(name)):
                    setattr(module, name, dtype)
            for _, held in _variables_in(module):
                held.set_value(held.get_value().astype(dtype))
    return model


def in_training(model: nnx.Module) -> bool:
    """Whether a dropout or a batch norm of the model is in training mode."""
    return any(
        (isinstance(module, nnx.Dropout) and module.rate > 0 and module.deterministic is False)
        or (isinstance(module, nnx.BatchNorm) and module.use_running_average is False)
        for module in modules(model).values()
    )


def modules(model: nnx.Module) -> dict[str, nnx.Module]:
    """Every module that can be called, by the path of attributes and indices that leads to it."""
    found: dict[str, nnx.Module] = {}
    met: set[int] = set()

    def visit(value: Any, path: str) -> None:
        if isinstance(value, nnx.Module):
            if id(value) in met:
                return
            met.add(id(value))
            if callable(value):
                found[path] = value
            children = [(n, one) for n, one in vars(value).items() if not n.startswith("_pytree")]
        elif isinstance(value, dict):
            children = list(value.items())
        elif isinstance(value, list | tuple):
            children = list(enumerate(value))
        else:
            return
        for name, child in children:
            visit(child, f"{path}.{name}" if path else str(name))

    visit(model, "")
    return found


def variables(model: nnx.Module) -> dict[str, Variable]:
    """Every float variable by path; a shared one under its first."""
    met: set[int] = set()
    found = {}
    for path, module in modules(model).items():
        for name, held in _variables_in(module):
            if id(held) not in met:
                met.add(id(held))
                key = f"{path}.{name}" if path else name
                found[key] = variable(module, path, name, held.get_value, held.set_value)
    return found


def _variables_in(module: nnx.Module) -> list[tuple[str, nnx.Variable]]:
    return [
        (name, one)
        for name, one in vars(module).items()
        if isinstance(one, nnx.Variable) and is_float(getattr(one.get_value(), "dtype", None))
    ]


def recorder(
    model: nnx.Module,
    axes: Axes,
    execution: str,
    *,
    only: str | None = None,
    copies: bool = True,
    naming: Naming | None = None,
) -> "Recorder":
    """The recorder of one execution; no array changes in place, so none needs a copy."""
    return Recorder(model, axes, execution, only=only, naming=naming)


class Recorder(capture.Recorder):
    """The recorder of `parity.frameworks.jax`, of modules of `flax.nnx`."""

    call_signature = staticmethod(call_signature)
    variables = staticmethod(variables)

    def _found(self, inputs: tuple | dict) -> dict[str, nnx.Module]:
        found = modules(self.model)
        self._own = {id(module): path for path, module in found.items()}
        return found

    def _state(self) -> Any:
        self._graph, state = nnx.split(self.model)
        return state

    def _applied(
        self, watch: Watch | None, state: Any, module: nnx.Module, args: tuple, kwargs: dict
    ) -> Any:
        # What was given stays as it is: a model of its own is run.
        held = modules(nnx.merge(self._graph, state))
        module = held[self._own[id(module)]]
        if watch is None:
            return module(*args, **kwargs)
        watch.paths = {
            id(held[self._own[identity]]): path for identity, path in self._paths.items()
        }
        with watching(map(type, held.values()), watch):
            return module(*args, **kwargs)

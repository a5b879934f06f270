"""Modules, variables and taps of a model of `flax.nnx`."""

from typing import Any

from flax import nnx

from parity.calls import Watch, watching
from parity.frameworks.flax.calls import call_signature
from parity.frameworks.flax.weights import variable
from parity.frameworks.jax import capture
from parity.frameworks.jax.precision import is_float
from parity.weights import Variable


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
        for name, held in variables_in(module):
            if id(held) not in met:
                met.add(id(held))
                key = f"{path}.{name}" if path else name
                found[key] = variable(module, path, name, held.get_value, held.set_value, held)
    return found


def variables_in(module: nnx.Module) -> list[tuple[str, nnx.Variable]]:
    return [
        (name, one)
        for name, one in vars(module).items()
        if isinstance(one, nnx.Variable) and is_float(getattr(one.get_value(), "dtype", None))
    ]


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
        for one in held.values() if self.drops_nothing else ():
            if isinstance(one, nnx.Dropout):
                one.deterministic = True
        if watch is None:
            outputs = module(*args, **kwargs)
        else:
            watch.paths = {
                id(held[self._own[identity]]): path for identity, path in self._paths.items()
            }
            with watching(map(type, held.values()), watch):
                outputs = module(*args, **kwargs)
        ours, theirs = (variables(held[""]), variables(self.model))
        self.changed = [
            (theirs[path].tensor.set_value, one.tensor.get_value())
            for path, one in ours.items()
            if isinstance(one.tensor, nnx.BatchStat)
        ]
        return outputs

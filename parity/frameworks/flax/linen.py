"""Modules of `flax.linen` behind `parity.frameworks.framework.Framework`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen, traverse_util

from parity import calls
from parity.calls import Watch
from parity.errors import InputError
from parity.frameworks.flax.calls import call_signature
from parity.frameworks.flax.weights import variable
from parity.frameworks.jax import capture
from parity.frameworks.jax.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.jax.capture import capture_effects as capture_effects
from parity.frameworks.jax.capture import to_tensors
from parity.frameworks.jax.precision import computing_in, is_float
from parity.frameworks.jax.precision import computing_in as precision
from parity.frameworks.shared.floors import measure_floors as measure_floors
from parity.names import Naming
from parity.trace import Axes
from parity.weights import Variable

NAME = "Flax linen"
IMAGES: Mapping[int, str] = {5: "NDHWC", 4: "NHWC"}
DTYPES = ("dtype", "param_dtype")  # fields of a module that fix what it computes or holds
explain = None
mend = None
trainer = None
__all__ = ["precision"]


@dataclass(eq=False)
class Held:
    """A module and its variables, which can be changed, as `Pair.after_loading` gets it.

    `kinds` are the modules by path, known after the first run.
    """

    module: linen.Module
    variables: dict[str, Any]
    kinds: dict[str, linen.Module] = field(default_factory=dict)


def copied(model: linen.Module, dtype: str) -> Held:
    """Module and variables of a bound module, to compute in `dtype`; InputError for another."""
    if model.scope is None:
        raise InputError(
            f"the {type(model).__name__} of Flax linen has no variables",
            "a module of linen is given together with them",
            "give `module.bind(variables)`, or a function that returns it",
        )
    module, variables = model.unbind()
    fixed = {name: dtype for name in DTYPES if is_float(getattr(module, name, None))}
    with computing_in(dtype):
        held = jax.tree.map(
            lambda array: array.astype(dtype) if is_float(array.dtype) else array,
            _plain(variables),
        )
    # The kinds of modules that a run of the copy finds are those of the model that was given.
    kinds = vars(model).get("_parity_kinds", {})
    object.__setattr__(model, "_parity_kinds", kinds)
    return Held(module.clone(**fixed), held, kinds)


converted = copied


def in_training(model: Held) -> bool:
    """Never: whether a layer trains is an argument of its call, or a field that its caller sets."""
    return False


def modules(model: Held) -> dict[str, Any]:
    """Every module by path: those of the last run, before any those that hold variables."""
    paths = {part for path in _flat(model.variables) for part in _above(path[1:-1])}
    return {**dict.fromkeys(["", *sorted(paths)], model.module), **model.kinds}


def variables(model: Held | linen.Module) -> dict[str, Variable]:
    """Every float variable by path, such as `blocks_0.Dense_1.kernel`."""
    if isinstance(model, linen.Module):
        model = Held(model, model.unbind()[1], vars(model).get("_parity_kinds", {}))
    return {
        ".".join(path[1:]): _variable(model, path)
        for path, array in _flat(model.variables).items()
        if is_float(array.dtype)
    }


def _variable(model: Held, path: tuple[str, ...]) -> Variable:
    def place() -> dict[str, Any]:
        found = model.variables
        for part in path[:-1]:
            found = found[part]
        return found

    def write(array: Any) -> None:
        place()[path[-1]] = array

    owner = ".".join(path[1:-1])
    layer = model.kinds.get(owner, model.module if not owner else None)
    return variable(layer, owner, path[-1], lambda: place()[path[-1]], write)


def _plain(tree: Any) -> Any:
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _flat(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    return traverse_util.flatten_dict(_plain(tree))


def _above(path: tuple[str, ...]) -> Iterator[str]:
    yield from (".".join(path[: index + 1]) for index in range(len(path)))


def recorder(
    model: Held,
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
    """The recorder of `parity.frameworks.jax`, of modules of `flax.linen`.

    A module is known by its path, since linen makes it anew in each run. Calls are those of
    `__call__`; other methods belong to the module that calls them.
    """

    call_signature = staticmethod(call_signature)
    variables = staticmethod(variables)

    def _found(self, inputs: tuple | dict) -> dict[str, linen.Module]:
        if not self.model.kinds:
            kinds = self.model.kinds

            def note(proceed: Any, args: tuple, kwargs: dict, context: Any) -> Any:
                path = ".".join(context.module.path)
                if context.method_name == "__call__" and path not in kinds:
                    kinds[path] = context.module.clone(parent=None)
                return proceed(*args, **kwargs)

            args, kwargs = calls.split_inputs(to_tensors(inputs))
            with linen.intercept_methods(note):
                jax.eval_shape(lambda: self._apply(self.model.module, (), args, kwargs))
        found = dict(self.model.kinds)
        self._own = {id(module): path for path, module in found.items()}
        self._own[id(self.model)] = ""
        return found

    def _state(self) -> Any:
        return self.model.variables

    def _applied(
        self, watch: Watch | None, state: Any, module: Any, args: tuple, kwargs: dict
    ) -> Any:
        own = self._own[id(module)]
        root = tuple(own.split(".")) if own else ()
        module = self.model.module if not own else module
        if watch is None:
            return self._apply(module, root, args, kwargs, state)
        paths = {self._own[identity]: path for identity, path in self._paths.items()}
        watch.paths = {}
        alive = []

        def watched(proceed: Any, args: tuple, kwargs: dict, context: Any) -> Any:
            path = paths.get(".".join((*root, *context.module.path)))
            if context.method_name != "__call__" or path is None:
                return proceed(*args, **kwargs)
            alive.append(context.module)
            watch.paths[id(context.module)] = path
            return watch(lambda _, *a, **k: proceed(*a, **k), context.module, args, kwargs)

        with linen.intercept_methods(watched):
            return self._apply(module, root, args, kwargs, state)

    def _apply(
        self,
        module: linen.Module,
        root: tuple[str, ...],
        args: tuple,
        kwargs: dict,
        state: Any = None,
    ) -> Any:
        """What `module`, found at `root`, returns; what it writes is dropped."""
        held = {}
        for collection, tree in (self.model.variables if state is None else state).items():
            for part in root:
                tree = tree.get(part, {})
            held[collection] = tree
        written = linen.DenyList(tuple(name for name in held if name == "params"))
        rngs = {"dropout": jax.random.key(0)}
        return module.apply(held, *args, rngs=rngs, mutable=written, **kwargs)[0]

"""Modules, variables and taps of a model of `flax.linen`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from flax import linen, traverse_util

from parity import calls
from parity.calls import Watch
from parity.frameworks.flax.calls import call_signature
from parity.frameworks.flax.weights import variable
from parity.frameworks.jax import capture
from parity.frameworks.jax.capture import to_tensors
from parity.frameworks.jax.precision import is_float
from parity.weights import Variable


@dataclass(eq=False)
class Held:
    """A module and its variables, which can be changed, as `Pair.after_loading` gets it.

    `kinds` are the modules by path, known after the first run.
    """

    module: linen.Module
    variables: dict[str, Any]
    kinds: dict[str, linen.Module] = field(default_factory=dict)


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
    owner = ".".join(path[1:-1])
    layer = model.kinds.get(owner, model.module if not owner else None)
    return variable(
        layer,
        owner,
        path[-1],
        partial(taken, model.variables, path),
        partial(put, model.variables, path),
        path,
    )


def plain(tree: Any) -> Any:
    return {k: plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _flat(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    return traverse_util.flatten_dict(plain(tree))


def _above(path: tuple[str, ...]) -> Iterator[str]:
    yield from (".".join(path[: index + 1]) for index in range(len(path)))


def _given(inputs: Any, *args: Any, **kwargs: Any) -> Any:
    return inputs


def taken(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree[part]
    tree[path[-1]] = value


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
            if self.drops_nothing and isinstance(context.module, linen.Dropout):
                proceed = _given
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
        outputs, changed = module.apply(held, *args, rngs=rngs, mutable=written, **kwargs)
        known = variables(self.model)
        self.changed = [
            (partial(put, self.model.variables, one.tensor), value)
            for path, value in _flat(changed).items()
            for one in known.values()
            if not root and one.tensor == path
        ]
        return outputs

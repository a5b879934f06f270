"""Ways to plant a fault in the TensorFlow models of a bench."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from parity.faults import Fault, Plant
from parity.planting import changed_method, edited, replaced, rewritten


def maker(order: str, **usual: str) -> Callable[..., Fault]:
    """A function that makes faults of arguments in this order; `usual` are those not given."""
    names = order.split()

    def make(*given: Any, **more: Any) -> Fault:
        told = dict(zip(names[: len(given)], given, strict=True))
        return Fault(**{**usual, **told, **more})

    return make


class Models(Protocol):
    """What planting needs of a bench: its models, and their modules and variables by name."""

    @property
    def modules(self) -> list[Mapping[str, Any]]: ...

    @property
    def variables(self) -> list[Mapping[str, tuple[Any, Any]]]: ...


def line(path: str, old: str, new: str, method: str = "call") -> Plant:
    """`new` instead of `old` in a method of the module at `path` alone."""

    @contextmanager
    def plant(bench: Models) -> Iterator[None]:
        with ExitStack() as stack:
            for modules in bench.modules:
                stack.enter_context(changed_method(modules[path], method, old, new))
            yield

    return plant


def call(path: str, wrong: Callable[[Callable, Any], Callable]) -> Plant:
    """`wrong(call, module)` instead of the call of the module at `path` alone."""

    @contextmanager
    def plant(bench: Models) -> Iterator[None]:
        with ExitStack() as stack:
            for modules in bench.modules:
                module = modules[path]
                changed = wraps(module.call)(wrong(module.call, module))
                stack.enter_context(replaced(module, "call", changed))
            yield

    return plant


def attribute(path: str, name: str, change: Callable[[Any], Any]) -> Plant:
    """Another value of one attribute of the module at `path`, made of its own."""

    @contextmanager
    def plant(bench: Models) -> Iterator[None]:
        with ExitStack() as stack:
            for modules in bench.modules:
                value = change(getattr(modules[path], name))
                stack.enter_context(replaced(modules[path], name, value))
            yield

    return plant


def function(owner: ModuleType, name: str, old: str, new: str) -> Plant:
    """`new` instead of `old` in a function, as the module `owner` sees it."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        with replaced(owner, name, rewritten(getattr(owner, name), old, new)):
            yield

    return plant


def constant(owner: ModuleType, name: str, value: Any) -> Plant:
    """Another value of a module's constant or function."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        with replaced(owner, name, value):
            yield

    return plant


def weights(change: Callable[..., np.ndarray], key: str, *others: str) -> Plant:
    """`key` is loaded with change(own, *others) of arrays in torch's layout."""
    return assigned(lambda arrays: {key: change(arrays[key], *(arrays[one] for one in others))})


def assigned(changes: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> Plant:
    """Variables are loaded with the arrays that `changes` makes of all, in torch's layout."""

    @contextmanager
    def plant(bench: Models) -> Iterator[None]:
        with ExitStack() as stack:
            for variables in bench.variables:
                arrays = _Arrays(variables)
                for key, array in changes(arrays).items():
                    variable, layout = variables[key]
                    stack.callback(variable.assign, variable.numpy())
                    variable.assign(layout.to_tf(array.astype(variable.dtype.as_numpy_dtype)))
            yield

    return plant


class _Arrays(Mapping[str, np.ndarray]):
    """The values of variables in torch's layout, read when asked for."""

    def __init__(self, variables: Mapping[str, tuple[Any, Any]]) -> None:
        self._variables = variables

    def __getitem__(self, key: str) -> np.ndarray:
        variable, layout = self._variables[key]
        return layout.to_torch(variable.numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def together(*plants: Plant) -> Plant:
    """Several faults at once."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        with ExitStack() as stack:
            for one in plants:
                stack.enter_context(one(bench))
            yield

    return plant


def method(owner: type, name: str, old: str, new: str) -> Plant:
    """`new` instead of `old` in a method of a class, for all its instances."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        with replaced(owner, name, rewritten(getattr(owner, name), old, new)):
            yield

    return plant


def inside(name: str, prepare: Callable[[], None]) -> Plant:
    """The bench has `prepare` as attribute `name`: what its own processes call first."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        with replaced(bench, name, prepare):
            yield

    return plant


def copied(module: ModuleType, old: str, new: str, *users: ModuleType) -> Plant:
    """`users` import an edited copy of `module`, in which `new` stands for `old`."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        with edited(module, old, new, *users):
            yield

    return plant


def copied_beneath(
    module: ModuleType, old: str, new: str, between: ModuleType, user: ModuleType
) -> Plant:
    """`user` imports a copy of `between`; both import an edited copy of `module`."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        title = between.__doc__
        with edited(between, title, title, user) as copy, edited(module, old, new, user, copy):
            yield

    return plant


def settings(name: str, **values: Any) -> Plant:
    """The port's settings called `name` have other values."""

    @contextmanager
    def plant(bench: Any) -> Iterator[None]:
        before = bench.settings[name]
        bench.settings[name] = dataclasses.replace(before, **values)
        try:
            yield
        finally:
            bench.settings[name] = before

    return plant

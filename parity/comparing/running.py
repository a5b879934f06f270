"""Runs a function of any framework on NumPy arrays, in one precision."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.calls import fill, flatten, is_array, split_inputs
from parity.errors import InputError
from parity.frameworks import registry
from parity.frameworks.framework import Framework

Inputs = tuple | dict[str, Any]
NUMPY = "NumPy"
PACKAGES = {"tf_keras": "tensorflow"}  # what is a part of another framework
DEPTH = 4  # functions that call functions, before one is found that names its framework


@dataclass(frozen=True)
class Refusal:
    """What stands for the results of a run that raised."""

    text: str


@dataclass(frozen=True)
class Function:
    """A function, the framework that it uses, None where it uses none, and its side.

    `tensors` says whether it is given those of its framework, or NumPy arrays.
    """

    call: Callable[..., Any]
    framework: Framework | None
    side: str
    tensors: bool = True

    def run(self, inputs: Inputs, dtype: str) -> dict[str, np.ndarray] | Refusal:
        """The results by name as arrays; floats of the inputs are given in `dtype`.

        Numbers are arrays without axes; what is neither is left out. The inputs stay as they are.
        """
        template, arrays = flatten(inputs, is_array)
        given = {name: _cast(array, dtype) for name, array in arrays}
        called = _in(self.framework, self.call, dtype)
        try:
            with self.framework.precision(dtype) if self.framework else nullcontext():
                tensors = fill(template, lambda slot: self._tensor(given[slot.name]))
                args, kwargs = split_inputs(tensors)
                return arrays_of(called(*args, **kwargs))
        except Exception as error:  # whatever the user's function raises
            lines = [line for line in str(error).splitlines() if line.strip()]
            return Refusal(f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": "))

    def _tensor(self, array: np.ndarray) -> Any:
        trainer = getattr(self.framework, "trainer", None) if self.tensors else None
        return array if trainer is None else trainer.tensor(array)

    def settled(self, inputs: Inputs) -> "Function":
        """With NumPy arrays where it takes these and no tensors: a function that converts them."""
        if self.framework is None or not isinstance(self.run(inputs, "float64"), Refusal):
            return self
        other = replace(self, tensors=False)
        return self if isinstance(other.run(inputs, "float64"), Refusal) else other


def function_of(call: Callable[..., Any], side: str, framework: str | None) -> Function:
    """The function with its framework: as named, else as its code names it.

    Raises InputError for what cannot be called, and for the name of no framework.
    """
    if not callable(call):
        raise InputError(
            f"the {side} is a {type(call).__name__}, which cannot be called",
            "it has no `__call__`",
            "give a function, or an object that is called like one",
        )
    known = {one.name: one for one in registry.ENTRIES.values()}
    if framework is None:
        entry = registry.entry_of(call) or _named_by(call)
    elif framework in known:
        entry = known[framework]
    elif framework == NUMPY:
        entry = None
    else:
        raise InputError(
            f"`{framework}` is no framework",
            f"known: {', '.join((*known, NUMPY))}",
            "mend `frameworks`",
        )
    return Function(call, entry and entry.open(), side)


def arrays_of(value: Any) -> dict[str, np.ndarray]:
    """The arrays of a result by name; `result` is that of a result that is one array."""
    return {name or "result": as_array(one) for name, one in values_of(value)}


def values_of(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers, tensors, arrays and texts of a structure by their dotted names."""
    if is_value(value):
        yield name, value
        return
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return
    for key, item in items:
        yield from values_of(item, f"{name}.{key}" if name else str(key))


def _in(framework: Framework | None, call: Callable, dtype: str) -> Callable:
    """The function with its own tensors in `dtype`, where it is a module that can be copied."""
    if framework is None or registry.entry_of(call) is None:
        return call
    try:
        return framework.copied(call, dtype)
    except InputError:  # one that fixes its precision when it is built is run as it is
        return call


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return np.array(array, dtype if array.dtype.kind == "f" else array.dtype)


def is_value(value: Any) -> bool:
    """Whether a value is a number, a text, a tensor or an array."""
    if isinstance(value, bool | int | float | str | bytes | np.generic | np.ndarray):
        return True
    return hasattr(value, "__array__") and hasattr(value, "dtype")


def as_array(value: Any) -> np.ndarray:
    """A value as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def _named_by(call: Any) -> registry.Entry | None:
    """The framework whose package the code of a function names first, or a function it calls."""
    by_package = {one.package: one for one in reversed(registry.ENTRIES.values())}
    for package in _packages(call, DEPTH, set()):
        entry = by_package.get(PACKAGES.get(package, package))
        if entry is not None:
            return entry
    return None


def _packages(value: Any, depth: int, met: set[int]) -> Iterator[str]:
    if depth == 0 or id(value) in met:
        return
    met.add(id(value))
    if isinstance(value, types.ModuleType):
        yield value.__name__.partition(".")[0]
        return
    yield from (one.__module__.partition(".")[0] for one in type(value).__mro__)
    yield str(getattr(value, "__module__", "")).partition(".")[0]
    if isinstance(value, functools.partial):
        yield from _packages(value.func, depth, met)
        return
    function = _code_of(value)
    if function is None:
        return
    for used in _used(function):
        yield from _packages(used, depth - 1, met)


def _code_of(value: Any) -> Any:
    """The Python function that is run where `value` is called; None where it is none."""
    value = inspect.unwrap(getattr(value, "__func__", value))
    if not inspect.isfunction(value):
        value = inspect.unwrap(type(value).__call__)
    return value if inspect.isfunction(value) else None


def _used(function: types.FunctionType) -> Iterator[Any]:
    """What the code of a function names: of its module, and of the functions around it."""
    code: list[types.CodeType] = [function.__code__]
    while code:
        one = code.pop()
        code += [const for const in one.co_consts if isinstance(const, types.CodeType)]
        yield from (function.__globals__[n] for n in one.co_names if n in function.__globals__)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue


def named(cases: Any) -> dict[str, Inputs]:
    """The cases by name; those of a list are numbered from 0.

    Raises InputError where there is none, and for one that is neither a tuple nor a dictionary.
    """
    found = (
        dict(cases) if isinstance(cases, Mapping) else {str(i): one for i, one in enumerate(cases)}
    )
    wrong = [name for name, one in found.items() if not isinstance(one, tuple | dict)]
    if wrong or not found:
        raise InputError(
            f"case {wrong[0]} is a {type(found[wrong[0]]).__name__}"
            if wrong
            else "there are no cases",
            "a case is what the function is given",
            "give a list of tuples of positional or dictionaries of named arguments",
        )
    return found

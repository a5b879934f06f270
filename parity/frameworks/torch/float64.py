"""Keeps PyTorch models in float64 that cast to float32 inside: rotary tables, norms, softmax."""

import functools
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from parity.frameworks.shared.interceptions import note

FLOAT32_TYPES = ("torch.FloatTensor", torch.FloatTensor)
GROUPED = (torch._grouped_mm, torch.nn.functional.grouped_mm)
REMEMBERING = ("torch", "tensorflow", "tf_keras", "keras", "jax", "jaxlib", "numpy", "parity")
ROUNDED = 32 * torch.finfo(torch.float32).eps  # two computations of one constant in float32


@contextmanager
def kept_in(dtype: str) -> Iterator[None]:
    """Inside it a model in float64 stays there, whatever it casts to float32; others do as they do.

    Numbers that become tensors are float64 as well, and what functions remember of runs in another
    precision is computed again.
    """
    if dtype != "float64":
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    _forget()
    try:
        with _Kept():
            yield
    finally:
        torch.set_default_dtype(before)
        _forget()


def _forget() -> None:
    """Empties the caches (`functools.lru_cache`) of functions and methods in modules that compute
    with PyTorch, all but those of frameworks: they may hold tensors."""
    for one in _remembering(len(sys.modules)):
        one.cache_clear()


@functools.lru_cache(maxsize=1)
def _remembering(modules: int) -> list[Any]:
    """These functions, looked for again when there are more `modules`."""
    found = []
    for name, module in sys.modules.copy().items():
        own = getattr(module, "__dict__", {})
        if name.partition(".")[0] in REMEMBERING or own.get("torch") is not torch:
            continue
        for value in list(own.values()):
            held = list(vars(value).values()) if isinstance(value, type) else [value]
            held += [one for each in held for one in _enclosed(each)]
            found += [one for one in held if type(one) is functools._lru_cache_wrapper]
    return found


def _enclosed(function: Any) -> Iterator[Any]:
    """What a function holds in its closure, as a decorator that calls a cache does."""
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # it may be empty still
            yield cell.cell_contents


class _Kept(TorchFunctionMode):
    """Gives every operation that is asked for float32 float64 instead."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.float:
            note(".float() keeps float64")
            return args[0].double()
        if function in GROUPED and args[0].dtype == torch.float64 and args[0].dim() == 2:
            note("grouped_mm is computed in float64")
            return _grouped(*args[:2], kwargs["offs"])
        if any(_asks(one) for one in (*args, *kwargs.values())):
            name = getattr(function, "__name__", str(function))
            note(f"{name}(float32) keeps float64")
            args = tuple(map(_kept, args))
            kwargs = {key: _kept(value) for key, value in kwargs.items()}
        return function(*args, **kwargs)


def _grouped(rows: torch.Tensor, matrices: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    """Each group of rows, which end at `offs`, times its own matrix; PyTorch has no such kernel."""
    ends = [0, *map(int, offs)]
    found = [
        rows[start:end] @ matrix
        for start, end, matrix in zip(ends[:-1], ends[1:], matrices, strict=True)
    ]
    return torch.cat([*found, rows.new_zeros(len(rows) - ends[-1], matrices.shape[-1])])


def _asks(value: Any) -> bool:
    if isinstance(value, torch.dtype):
        return value is torch.float32
    return isinstance(value, str | type) and value in FLOAT32_TYPES


def _kept(value: Any) -> Any:
    return torch.float64 if _asks(value) else value


def rebuild_constants(model: torch.nn.Module) -> None:
    """Tables that modules computed in float32 when they were built, computed again in float64.

    Those are buffers that are not in the state dict. A module is built again where it holds the
    arguments of its constructor under their names, and its tables count only where they are the
    same to float32's rounding.
    """
    for path, module in model.named_modules():
        names = [
            name
            for name in module._non_persistent_buffers_set
            if module._buffers.get(name) is not None and module._buffers[name].is_floating_point()
        ]
        again = _built_again(module) if names else None
        for name in names if again is not None else ():
            old, new = module._buffers[name], again._buffers.get(name)
            if new is None or new.shape != old.shape or new.dtype != torch.float64:
                continue
            size = float(torch.linalg.vector_norm(old))
            if float(torch.linalg.vector_norm(new - old)) <= ROUNDED * size:
                note(f"{path}.{name} is computed in float64")
                module._buffers[name] = new


def _as_given(module: torch.nn.Module, value: Any) -> Any:
    """An argument of a constructor; a number of which the module made a tensor is still held as one
    beside it where the two are the same to float32's rounding."""
    if not isinstance(value, torch.Tensor) or value.dim():
        return value
    held = (one for one in vars(module).values() if isinstance(one, float))
    return next((one for one in held if np.float32(one) == np.float32(value.item())), value)


def _built_again(module: torch.nn.Module) -> torch.nn.Module | None:
    """A new module of the same class and settings, in float64; None where it cannot be built."""
    arguments = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in ("self", "device"):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if hasattr(module, name):
            arguments[name] = _as_given(module, getattr(module, name))
        elif parameter.default is parameter.empty:
            return None
    if any(isinstance(one, torch.nn.Module) for one in arguments.values()):
        return None
    try:
        with torch.random.fork_rng(devices=()), kept_in("float64"):
            return type(module)(**arguments)
    except Exception:  # whatever a constructor needs that the module does not hold
        return None

"""What a fault may leave behind: code and settings that were changed, weights, and what is cached.

A bench must be the same after a fault as before it, or one fault's mistake is found in the next.
"""

import functools
import sys
import zlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

PACKAGES = ("maskformer", "torch_reference", "tf_impl", "weight_conversion")
PLAIN = (int, float, str, bytes, bool, tuple, frozenset, type(None))


def forget() -> None:
    """Empties every cache of the packages that faults are planted in.

    What was computed with other code must not be taken for what this code computes.
    """
    for module in _modules():
        for value in list(vars(module).values()):
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()


def snapshot(bench: Any) -> dict[str, Any]:
    """What a fault of this bench can change, by name: functions and constants of the packages,
    attributes of the port's modules, checksums of its variables, settings."""
    found: dict[str, Any] = {}
    for module in _modules():
        found |= _code(module)
    for index, modules in enumerate(getattr(bench, "modules", ())):
        for path, one in modules.items():
            found |= {
                f"model {index}, {path}.{name}": _told(value) for name, value in vars(one).items()
            }
    for index, variables in enumerate(getattr(bench, "variables", ())):
        for key, (variable, _) in variables.items():
            array = np.ascontiguousarray(variable.numpy())
            found[f"model {index}, {key}"] = zlib.crc32(array)
    settings = getattr(bench, "settings", {})
    found |= {f"settings {name}": repr(value) for name, value in settings.items()}
    return found


def changed(before: Mapping[str, Any], bench: Any) -> list[str]:
    """The names of what is other than in `before`; of what is new, only what replaces code."""
    after = snapshot(bench)
    return [
        name
        for name in {**before, **after}
        if before.get(name, _NEW) != after.get(name, _NEW)
        and (name in before or callable(after[name]))
    ]


_NEW = object()


def _modules() -> list[ModuleType]:
    return [
        module
        for name, module in sys.modules.copy().items()
        if name.partition(".")[0] in PACKAGES and isinstance(module, ModuleType)
    ]


def _code(module: ModuleType) -> dict[str, Any]:
    found = {}
    for name, value in vars(module).items():
        if name.startswith("__"):
            continue
        found[f"{module.__name__}.{name}"] = _told(value)
        if isinstance(value, type) and value.__module__ == module.__name__:
            found |= {
                f"{module.__name__}.{name}.{own}": _told(one)
                for own, one in vars(value).items()
                if callable(one) and own not in ("__doc__", "__dict__", "__weakref__")
            }
    return found


def _told(value: Any) -> Any:
    """What tells a value from another that takes its place; None of what may change by itself."""
    if isinstance(value, PLAIN) or callable(value):
        return value
    return None

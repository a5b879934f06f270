"""How data is written and read: dataclasses as strict JSON, with a line for each small value."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from parity.files import replacing

WIDTH = 240  # letters: one tensor's measurements with the longest names fit


def json_text(result: Any) -> str:
    """The result as strict JSON that ends with a newline; what fits on a line stands on one.

    Numbers that JSON cannot hold are written as `parity.records.strict` does.
    """
    return _text(strict(result), "") + "\n"


def _text(value: Any, indent: str) -> str:
    flat = json.dumps(value, allow_nan=False)
    if len(flat) <= WIDTH or not isinstance(value, Mapping | list):
        return flat
    inner = indent + " "
    if isinstance(value, Mapping):
        lines = [f"{json.dumps(str(key))}: {_text(one, inner)}" for key, one in value.items()]
        start, end = "{}"
    else:
        lines = [_text(one, inner) for one in value]
        start, end = "[]"
    return f"{start}\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}{end}"


def strict(value: Any) -> Any:
    """`value` without numbers that JSON cannot hold: infinite and NaN ones become strings."""
    if isinstance(value, Mapping):
        return {str(key): strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [strict(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: Any) -> float:
    """A float from strict JSON, where infinite and NaN numbers are strings."""
    return float(value)


def plain(value: Any) -> Any:
    """`value` as JSON has it: dataclasses as objects, tuples as lists.

    A class with `to_json` of its own is written by that, another one by its `parts`.
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return parts(value)
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def parts(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them.

    One that has its default is left out; properties that a class names in `derived` are added.
    """
    own = {one.name: (one, getattr(value, one.name)) for one in fields(value)}
    kept = {name: part for name, (one, part) in own.items() if not _is_default(one, part)}
    kept |= {name: getattr(value, name) for name in _derived(type(value))}
    return {name: plain(part) for name, part in kept.items()}


def _is_default(one: Field, value: Any) -> bool:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    return default is not MISSING and value == default


def typed(kind: Any, value: Any, place: str = "") -> Any:
    """The inverse of `plain`: JSON as what the annotation `kind` says, infinite numbers as numbers.

    Raises ValueError, which names the place, where a part lacks, is unknown, or is something else.
    """
    origin, within = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _one_of(within, value, place)
    if origin is tuple:
        _must(isinstance(value, list | tuple), value, place, "a list")
        if within[-1] is Ellipsis:
            return tuple(typed(within[0], one, f"{place}[{i}]") for i, one in enumerate(value))
        _must(len(value) == len(within), value, place, f"a list of {len(within)}")
        return tuple(
            typed(part, one, f"{place}[{i}]")
            for i, (part, one) in enumerate(zip(within, value, strict=True))
        )
    if kind is float:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        _must(real or value in ("nan", "inf", "-inf"), value, place, "a number")
        return value if real else float(value)
    if kind in (str, int, bool, NoneType):
        _must(type(value) is kind, value, place, f"a {kind.__name__}")
        return value
    _must(isinstance(value, Mapping), value, place, "an object")
    if origin is not None:
        return {name: typed(within[1], one, f"{place}.{name}") for name, one in value.items()}
    if hasattr(kind, "from_json") and place:
        try:
            return kind.from_json(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
    return _object(kind, value, place)


def _object(kind: type, value: Mapping[str, Any], place: str) -> Any:
    own = {one.name: one for one in fields(kind)}
    lacking = [
        name
        for name, one in own.items()
        if name not in value and one.default is MISSING and one.default_factory is MISSING
    ]
    unknown = [name for name in value if name not in own and name not in _derived(kind)]
    for names, words in ((lacking, "lacks"), (unknown, "has an unknown")):
        if names:
            raise ValueError(f"{place or 'it'} {words} {', '.join(names)}")
    hints, dot = _hints(kind), f"{place}." if place else ""
    given = [name for name in own if name in value]
    return kind(**{name: typed(hints[name], value[name], dot + name) for name in given})


def _one_of(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    """The first of a union's kinds that `value` is; the error is that of the last."""
    if value is None and NoneType in kinds:
        return None
    known = [kind for kind in kinds if kind is not NoneType]
    for kind in known[:-1]:
        try:
            return typed(kind, value, place)
        except ValueError:
            continue
    return typed(known[-1], value, place)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _derived(kind: type) -> tuple[str, ...]:
    return getattr(kind, "derived", ())


def _must(right: bool, value: Any, place: str, words: str) -> None:
    if not right:
        raise ValueError(f"{place or 'it'} is {value!r:.60}, but should be {words}")


def write_json(result: Mapping[str, Any], folder: Path, name: str = "audit.json") -> Path:
    """Writes `result` to `folder`/`name`, whole or not at all; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) as temporary:
        temporary.write_text(json_text(result), encoding="utf-8")
    return folder / name

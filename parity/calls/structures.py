"""Structures of tensors taken apart and put together: the names of tensors, and their places."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.metrics import gap


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in a structure, with the tensor's name and dtype."""

    name: str
    dtype: Any


STACKED, PART = "␟", "␞"  # in names of tensors that the other side has in several, or in one


def joined(names: Sequence[str]) -> str:
    """The name of a tensor whose parts along the first axis the other side has under `names`."""
    return STACKED.join(names)


def part(name: str, index: int, count: int) -> str:
    """The name of one of `count` tensors that the other side has stacked as `name`."""
    return f"{name}{PART}{index}/{count}"


def whole(name: str) -> tuple[str, int, int] | None:
    """The inverse of `part`; None for a name that is none of a part."""
    stem, found, rest = name.rpartition(PART)
    index, _, count = rest.partition("/")
    return (stem, int(index), int(count)) if found else None


def needed(name: str) -> list[str]:
    """The names on the other side that a tensor called `name` is made of."""
    one = whole(name)
    return [one[0]] if one else name.split(STACKED)


@dataclass(frozen=True)
class Record:
    """A dataclass, such as the outputs of `transformers`, taken apart."""

    kind: type
    parts: dict[str, Any]


@dataclass(frozen=True)
class State:
    """An object that a call may change, such as a cache of keys and values, as it was before."""

    before: Any


def held(template: Any) -> Any:
    """A structure with a `State` for each object in it that a call may change."""
    if isinstance(template, Record):
        return Record(template.kind, held(template.parts))
    if isinstance(template, dict):
        return {key: held(part) for key, part in template.items()}
    if type(template) in (list, tuple):
        return type(template)(held(part) for part in template)
    return State(_unshared(template, {})) if _is_state(template) else template


def _is_state(value: Any) -> bool:
    """Whether a value is an object with attributes that are its own; modules and functions, which
    can be called, are none."""
    return (
        hasattr(value, "__dict__")
        and not callable(value)
        and not isinstance(value, Slot | Record | State)
        and not hasattr(value, "shape")
    )


def _unshared(value: Any, made: dict[int, Any]) -> Any:
    """A copy down to the tensors, which are shared; `made` are the copies by `id` of what they are
    of. What cannot be copied is shared as well."""
    if id(value) in made:
        return made[id(value)]
    if type(value) is list:
        made[id(value)] = copied = []
        copied += [_unshared(one, made) for one in value]
    elif type(value) is dict:
        made[id(value)] = copied = {}
        copied.update({key: _unshared(one, made) for key, one in value.items()})
    elif _is_state(value):
        try:
            copied = copy.copy(value)
        except TypeError:
            return value
        made[id(value)] = copied
        vars(copied).update({key: _unshared(one, made) for key, one in vars(value).items()})
    else:
        return value
    return copied


def flatten(
    value: Any, is_tensor: Callable[[Any], bool], name: str = "", *, records: bool = False
) -> tuple[Any, list[tuple[str, Any]]]:
    """`value` with a `Slot` for each tensor, and the tensors with their dotted names, in order.

    Mappings and dataclasses become dictionaries; with `records`, dataclasses become a `Record`, of
    which `fill` makes one of the same class.
    """
    if is_tensor(value):
        return Slot(name, value.dtype), [(name, value)]
    record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if isinstance(value, Mapping):
        items = list(value.items())
    elif record:
        items = [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return value, []
    parts, tensors = [], []
    for key, item in items:
        place = f"{name}.{key}" if name else str(key)
        part, found = flatten(item, is_tensor, place, records=records)
        parts.append((key, part))
        tensors += found
    if record and not tensors and not isinstance(value, Mapping):
        return value, []
    if isinstance(value, Mapping) or record:
        taken = dict(parts)
        return Record(type(value), taken) if records and record else taken, tensors
    values = [part for _, part in parts]
    if hasattr(value, "_fields"):
        return type(value)(*values), tensors
    return type(value)(values) if type(value) in (list, tuple) else values, tensors


def fill(template: Any, tensor: Callable[[Slot], Any]) -> Any:
    """The structure `template` with `tensor(slot)` in place of each slot."""
    if isinstance(template, Slot):
        return tensor(template)
    if isinstance(template, Record):
        return template.kind(**fill(template.parts, tensor))
    if isinstance(template, State):
        return _unshared(template.before, {})
    if isinstance(template, dict):
        return {key: fill(part, tensor) for key, part in template.items()}
    if isinstance(template, list):
        return [fill(part, tensor) for part in template]
    if isinstance(template, tuple):
        parts = [fill(part, tensor) for part in template]
        return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
    return template


def is_array(value: Any) -> bool:
    """Whether a value is a NumPy array."""
    return isinstance(value, np.ndarray)


def each_array(value: Any, change: Callable[[np.ndarray], Any]) -> Any:
    """The structure `value` with `change(array)` in place of each array; all else as it is."""
    template, arrays = flatten(value, is_array, records=True)
    changed = {name: change(array) for name, array in arrays}
    return fill(template, lambda slot: changed[slot.name])


def largest_gap(found: Any, expected: Any) -> float:
    """The largest l2 gap of any array of one structure from that of the same name in another."""
    ours, theirs = (dict(flatten(one, is_array)[1]) for one in (found, expected))
    return max(gap(ours[name], array).l2 for name, array in theirs.items())


def slots(template: Any) -> list[Slot]:
    """The slots of a structure, in order."""
    if isinstance(template, Slot):
        return [template]
    if isinstance(template, Record):
        return slots(template.parts)
    if isinstance(template, dict):
        return [slot for part in template.values() for slot in slots(part)]
    if isinstance(template, list | tuple):
        return [slot for part in template for slot in slots(part)]
    return []


def flatten_result(
    value: Any, is_tensor: Callable[[Any], bool]
) -> tuple[Any, list[tuple[str, Any]]]:
    """Like `flatten`; the one tensor of a tuple such as (output, None) has no name of its own."""
    template, tensors = flatten(value, is_tensor, records=True)
    if isinstance(template, list | tuple) and len(tensors) == 1:
        lone = [isinstance(part, Slot) for part in template]
        if any(lone):
            parts = [Slot("", p.dtype) if isinstance(p, Slot) else p for p in template]
            return type(template)(parts), [("", tensors[0][1])]
    return template, tensors

"""Edits of recordings: every value of a JSON document by its place, and other values for it."""

import copy
import math
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]


def leaves(content: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every value that holds no other; empty lists and objects are such."""
    parts = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    below = [one for name, part in parts for one in leaves(part, (*place, name))]
    yield from below or [place]


def at(content: Any, place: Place) -> Any:
    """What stands at a place."""
    for name in place:
        content = content[name]
    return content


def edited(content: Any, place: Place, how: int) -> Any:
    """A copy with another value at a place; `how` chooses among those that there are."""
    content = copy.deepcopy(content)
    holder, name = at(content, place[:-1]), place[-1]
    others = list(_others(holder[name]))
    holder[name] = others[how % len(others)]
    return content


def _others(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        more = value + max(1, abs(value))  # a large number plus one is the same, but for rounding
        yield from (more, value * 1000 + 1, -value - 1, math.nan, math.inf)
    elif isinstance(value, str):
        words = {"holds": "fails", "fails": "holds", "equal": "different", "different": "equal"}
        yield from (words.get(value, f"{value}x"), f"{value}.another", "head")
    elif value is None:
        yield from ("head", 1)
    else:
        yield ["head"]

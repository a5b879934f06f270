"""What a report takes as it was recorded, since it follows from nothing else in the recording.

A place in a recording is a sequence of names, an index in a list being one. A pattern is names with
dots between, in which `*` stands for any name or index; it covers all that is below it.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

CLAIMS = {
    "claims.*.id": "the words of claims",
    "claims.*.title": "the words of claims",
    "claims.*.derivation": "the words of claims",
    "claims.*.command": "commands",
    **dict.fromkeys(
        (f"claims.*.{part}" for part in ("place", "part", "inherited", "cause", "causes", "step")),
        "the places and causes that claims name",
    ),
}
"""Of claims; what they measured is known by its digest."""

COMMON = {
    "schema": "the format's version",
    "title": "titles",
    "command": "commands",
    "provenance": "versions, machine and hashes of what was compared",
}


def is_given(patterns: Iterable[str], place: Sequence[str | int]) -> bool:
    """Whether one of the patterns covers the place."""
    return any(_covers(pattern.split("."), place) for pattern in patterns)


def _covers(pattern: Sequence[str], place: Sequence[str | int]) -> bool:
    return len(pattern) <= len(place) and all(
        fnmatchcase(str(name), wanted) for wanted, name in zip(pattern, place, strict=False)
    )


def told(found: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """What is taken as it was recorded, in words, each once."""
    return tuple(dict.fromkeys(text for patterns in found for text in patterns.values()))

"""How weights that a port has itself stand beside the reference's: by kind, grouped by pattern."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

MISSING, EXTRA, PACKED = "missing in the port", "in the port only", "packed otherwise"
SHAPE, OTHER = "another shape", "other values"
ORDER = "the same numbers in another order"
ROUNDED = "rounded to {}"
FLOAT16_DIGITS, BFLOAT16_DIGITS = 2.0**-10, 2.0**-7  # one unit in the last place, relative
FLOAT16_LEAST = 2.0**-24
NUMBERS = re.compile(r"(?<![\w.])\d+(?=\.[A-Za-z_])|(?<=\w\.)\d+(?!\w)")  # in dotted names


def condensed(texts: Iterable[str]) -> list[str]:
    """Texts that differ only in the numbers that are parts of dotted names: each such group once,
    with a star for each number, and how many it has."""
    found: dict[str, list[str]] = {}
    for text in texts:
        found.setdefault(NUMBERS.sub("*", text), []).append(text)
    return [
        f"{len(group)} \N{MULTIPLICATION SIGN} {pattern}" if len(group) > 1 else group[0]
        for pattern, group in found.items()
    ]


def by_pattern(kinds: Mapping[str, str]) -> list[str]:
    """A line for each group of weights of one kind; `kinds` by name."""
    return condensed(f"{name}: {kind}" for name, kind in kinds.items())


def kind_of(theirs: np.ndarray, ours: np.ndarray) -> str | None:
    """What a port's tensor is beside the reference's, of the same layout; None where they are
    equal bit for bit.

    It is rounded where every number is one that float16 or bfloat16 holds, and within one of its
    last places of the reference's.
    """
    if theirs.shape != ours.shape:
        return SHAPE
    ours = np.ascontiguousarray(ours.astype(theirs.dtype))
    if ours.tobytes() == np.ascontiguousarray(theirs).tobytes():
        return None
    numbers = ours.astype(np.float32)
    off = np.abs(numbers.astype(np.float64) - theirs)
    size = np.abs(theirs.astype(np.float64))
    with np.errstate(over="ignore"):
        is_half = np.array_equal(numbers.astype(np.float16).astype(np.float32), numbers)
    if is_half and (off <= FLOAT16_DIGITS * size + FLOAT16_LEAST).all():
        return ROUNDED.format("float16")
    is_brain = not (np.ascontiguousarray(numbers).view(np.uint32) & 0xFFFF).any()
    if is_brain and (off <= BFLOAT16_DIGITS * size).all():
        return ROUNDED.format("bfloat16")
    if np.array_equal(np.sort(numbers, axis=None), np.sort(theirs.astype(np.float32), axis=None)):
        return ORDER
    return OTHER


def kinds_of(state: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, str]:
    """What of `found` is not as in `state`, bit for bit: the kind of each, by name."""
    kinds = ((name, kind_of(array, found[name])) for name, array in state.items())
    return {name: kind for name, kind in kinds if kind is not None}

"""Pieces of what checks a recorded result against its own measurements."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from parity.claims import verdict_of
from parity.records import plain
from parity.results import Result

Difference = tuple[str, Any, Any]
"""A place in a result, what should be there by its measurements, and what is."""


ROUNDING = 1e-12  # relative: another machine may round the last places of a quotient otherwise


def same(expected: Any, found: Any) -> bool:
    """Whether two values are the same, numbers up to rounding; NaN is the same as NaN."""
    if isinstance(expected, Mapping):
        return (
            isinstance(found, Mapping)
            and expected.keys() == found.keys()
            and all(same(value, found[name]) for name, value in expected.items())
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(expected) == len(found)
            and all(map(same, expected, found))
        )
    if any(isinstance(value, bool) or value is None for value in (expected, found)):
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        if math.isnan(expected) or math.isnan(found):
            return math.isnan(expected) and math.isnan(found)
        return expected == found or math.isclose(expected, found, rel_tol=ROUNDING)
    return bool(expected == found)


def differ(place: str, expected: Any, found: Any) -> Iterator[Difference]:
    """The places below `place` where `found` lacks or changes what `expected` has."""
    expected, found = plain(expected), plain(found)
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name, value in expected.items():
            yield from differ(f"{place}.{name}", value, found.get(name))
    elif not same(expected, found):
        yield place, expected, found


def near(place: str, expected: float, found: float) -> Iterator[Difference]:
    """Whether a difference of two scores is another than was recorded, beyond their rounding."""
    if not abs(expected - found) <= ROUNDINGS * EPSILON:
        yield place, expected, found


def differing_verdict(result: Result, holds: str, fails: str) -> Iterator[Difference]:
    """Whether the verdict is not that of the claims."""
    yield from differ("verdict", verdict_of(result.claims, holds, fails), result.verdict)


def equal(result: Result) -> Iterator[Difference]:
    """The same of a verdict that is "equal" or "different"."""
    yield from differing_verdict(result, "equal", "different")


EPSILON = 2.0**-52


ROUNDINGS = 2048  # of a mean over some hundred classes, each a quotient of sums; generous

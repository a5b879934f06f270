"""Which taps of two runs belong together, and the gap of each pair."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from parity.metrics import Gap, failed, gap
from parity.trace import Tap


@dataclass(frozen=True)
class Pairing:
    """The keys found in both runs, in the order of the second, and those found in one only."""

    both: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def pair(
    keys_a: Iterable[str], keys_b: Iterable[str], rename: Callable[[str], str] | None = None
) -> Pairing:
    """Pair keys by identity, every key exactly once; `rename` turns a key of `a` into one of `b`.

    Raises ValueError where `rename` gives two keys of `a` the same name.
    """
    named: dict[str, str] = {}
    for key in keys_a:
        name = rename(key) if rename else key
        if name in named:
            raise ValueError(f"{named[name]} and {key} are both renamed to {name}")
        named[name] = key
    theirs = list(dict.fromkeys(keys_b))
    found = set(theirs)
    return Pairing(
        both=tuple(key for key in theirs if key in named),
        only_a=tuple(key for name, key in named.items() if name not in found),
        only_b=tuple(key for key in theirs if key not in named),
    )


def align(tap: Tap, axes: str) -> np.ndarray | None:
    """A view of the tap's array with its axes in the order `axes`; None if the names differ."""
    if tap.axes == axes:
        return tap.array
    if sorted(tap.axes) != sorted(axes):
        return None
    return tap.array.transpose([tap.axes.index(axis) for axis in axes])


def tap_gap(tap: Tap, reference: Tap, *, ulps: bool = False) -> Gap:
    """The gap of `tap` from `reference`, axes matched by name and in no other way."""
    array = align(tap, reference.axes)
    if array is None:
        ours, theirs = tuple(tap.array.shape), tuple(reference.array.shape)
        if len(theirs) == len(ours) + 1 and sorted(theirs[1:]) == sorted(ours):
            text = f"a leading axis is missing: shape {ours} instead of {theirs}"
            return failed(text, theirs)
        if len(ours) == len(theirs) + 1 and sorted(ours[1:]) == sorted(theirs):
            return failed(f"a leading axis too many: shape {ours} instead of {theirs}", theirs)
        return failed(f"axes {tap.axes} instead of {reference.axes}", tuple(reference.array.shape))
    return gap(array, reference.array, ulps=ulps)


class Comparison:
    """A sink for taps: measures each against the reference's tap of the same key, keeps numbers.

    `gaps` holds the gap of each key that both have, `unpaired` the keys the reference lacks;
    `missing()` those that only the reference has. Arrays are dropped at once.

    Args:
        reference: the reference's taps by key.
        ulps: whether to count float32 steps for a key, none by default.
    """

    def __init__(
        self, reference: Mapping[str, Tap], ulps: Callable[[str], bool] = lambda key: False
    ) -> None:
        self.gaps: dict[str, Gap] = {}
        self.unpaired: list[str] = []
        self._reference = reference
        self._ulps = ulps

    def __call__(self, tap: Tap) -> None:
        theirs = self._reference.get(tap.key)
        if theirs is None:
            self.unpaired.append(tap.key)
            return
        earlier = self._reference.get(tap.same_as or "")
        if (
            earlier is not None
            and tap.same_as in self.gaps
            and earlier.array is theirs.array
            and earlier.axes == theirs.axes
            and self.gaps[tap.same_as].problem is None
            and not self._ulps(tap.key)
        ):
            self.gaps[tap.key] = self.gaps[tap.same_as]
            return
        self.gaps[tap.key] = tap_gap(tap, theirs, ulps=self._ulps(tap.key))

    def missing(self) -> list[str]:
        """Keys of the reference that have not come, in its order."""
        return [key for key in self._reference if key not in self.gaps]


def compare(
    port: Mapping[str, Tap],
    reference: Mapping[str, Tap],
    ulps: Callable[[str], bool] = lambda key: False,
) -> dict[str, Gap]:
    """The gap of every tap that both traces have, by key."""
    comparison = Comparison(reference, ulps)
    for tap in port.values():
        comparison(tap)
    return comparison.gaps

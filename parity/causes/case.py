"""A module of the port that differs, and what an explanation of it must remove."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from parity.calls import Call
from parity.judge import function_verdict
from parity.metrics import Gap
from parity.pairing import tap_gap
from parity.trace import Tap

FACTORS = (0.5, 2.0, 0.25, 4.0, math.sqrt(0.5), math.sqrt(2.0), 0.125, 8.0, -1.0)
PARTIAL = 0.5  # what removes less than half of a difference is no explanation


@dataclass(frozen=True)
class Explanation:
    """One candidate and what it explains.

    Args:
        text: what the port seems to do, in words.
        before: gap of the port from the reference where they differ first, l2.
        after: the same from the reference with this mistake; 0 to rounding where it is the cause.
        exact: whether that tensor agrees to rounding once the mistake is made.
        complete: whether all others of the module are known to do as well.
    """

    text: str
    before: float
    after: float
    exact: bool
    complete: bool = False
    derived: ClassVar[tuple[str, ...]] = ("removed",)

    @property
    def removed(self) -> float:
        """The part of the gap that the explanation removes, 1 for all of it."""
        return 1.0 - self.after / self.before if 0.0 < self.before < np.inf else float(self.exact)

    @property
    def generic(self) -> str:
        """The text without the line of source, which is another at another place."""
        return "; and ".join(one.rpartition(": ")[2] for one in self.text.split("; and "))

    def __str__(self) -> str:
        return f"{self.text} (removes {self.removed:.0%} of the gap)"


@dataclass(frozen=True)
class Case:
    """A module of the port that differs, run alone on the reference's tensors.

    Args:
        call: the reference's call of the module.
        key: key of the tap that differs first, as in `port` and `expected`.
        port: the port's taps of the isolated run.
        expected: the reference's.
        floors: how far rounding moves the reference's, by key.
        feeds: the reference's tensors that the module is given, by name.
        results: the reference's tensors that stand in for what the module calls, by path and
            ordinal, by name.
        run: runs the reference's module in the same way, and returns its taps; takes other feeds
            and results.
        again: runs the port's module once more, as `run`.
        trace: the reference's whole trace.
        called: paths of the modules that the port's call calls, in order.
        through: paths of modules that are judged as a part of this one.
        hints: what explained places of the same kind, the last first; tried before all else.
        over: whether the time for the search is spent.
        ours: the port's call.
    """

    call: Call
    key: str
    port: Mapping[str, Tap]
    expected: Mapping[str, Tap]
    floors: Mapping[str, Gap]
    feeds: Mapping[str, Tap]
    results: Mapping[tuple[str, int], Mapping[str, Tap]]
    run: Callable[..., Mapping[str, Tap]]
    again: Callable[..., Mapping[str, Tap]]
    trace: Mapping[str, Tap]
    called: tuple[str, ...] = ()
    through: frozenset[str] = frozenset()
    hints: tuple[str, ...] = ()
    over: Callable[[], bool] = lambda: False
    ours: Call | None = None

    @property
    def children(self) -> list[Call]:
        """The calls that the module makes, for which the reference's results stand in."""
        return [one for one in self.call.made(self.through) if one.path not in self.through]

    def exchanged(self) -> "Case":
        """The same with the sides exchanged: the reference beside the port."""
        return replace(
            self,
            call=self.ours,
            ours=self.call,
            port={key: tap for key, tap in self.expected.items() if key in self.port},
            expected=self.port,
            run=self.again,
            again=self.run,
        )


class Judge:
    """How far the port is from the reference, with and without a mistake."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.before = tap_gap(case.port[case.key], case.expected[case.key])

    def explanation(
        self, text: str, taps: Mapping[str, Tap], *, in_part: bool = False
    ) -> Explanation | None:
        """What a reference whose taps are `taps` explains, or None where it explains too little.

        With `in_part` the mistake may be made for some of what the module does: what is as in the
        reference needs no explanation.
        """
        key = self.case.key
        if key not in taps:
            return None
        found = tap_gap(self.case.port[key], taps[key])
        if found.problem is not None or not found.l2 < (1 - PARTIAL) * self.before.l2:
            return None
        keys = [one for one in self.case.port if not (in_part and self._is_right(one))]
        complete = self._agree(taps, keys)
        return Explanation(text, self.before.l2, found.l2, self.passes(key, found), complete)

    def _is_right(self, key: str) -> bool:
        return self._agree(self.case.expected, [key])

    def fact(self, text: str, complete: bool) -> Explanation:
        """What the port's run shows by itself."""
        return Explanation(text, self.before.l2, 0.0, True, complete)

    def _agree(self, taps: Mapping[str, Tap], keys: Iterable[str]) -> bool:
        """Whether the port's taps of `keys` are those of `taps`, where the reference has any."""
        return all(
            key in taps and self.passes(key, tap_gap(self.case.port[key], taps[key]))
            for key in keys
            if key in self.case.expected
        )

    def observation(self, text: str, array: np.ndarray) -> Explanation | None:
        """What is explained by the port's tensor being `array`, in the reference's axes."""
        expected = self.case.expected[self.case.key]
        tap = Tap(expected.path, expected.kind, expected.name, expected.call, expected.axes, array)
        found = tap_gap(self.case.port[self.case.key], tap)
        if found.problem is not None or not self.passes(self.case.key, found):
            return None
        others = [key for key in self.case.port if key != self.case.key]
        complete = self._agree(self.case.expected, others)
        return Explanation(text, self.before.l2, found.l2, True, complete)

    def passes(self, key: str, found: Gap) -> bool:
        """Whether rounding explains a gap at the tap `key`."""
        floor = self.case.floors.get(key, Gap(0.0, 0.0))
        return function_verdict(key, found, floor).passed


def ran(run: Callable[[], Mapping[str, Tap]]) -> Mapping[str, Tap]:
    """The reference's taps; none where what was changed breaks the module."""
    try:
        return run()
    except Exception:  # a mistake that breaks the module is none that the port has made
        return {}

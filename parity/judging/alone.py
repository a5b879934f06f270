"""Modules of a port in bfloat16, each alone, on inputs that both sides hold exactly.

In place every layer inherits the roundings of all before it, which hide what it does itself. Alone
it has its own, and of these one may be that of its result.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.calls import Call, slots
from parity.judge import DEFAULT, METRICS, Verdict, describe, judge_again, least_floor
from parity.judging.calls import children_of, expected_of, feeds_of
from parity.metrics import Gap, gap, widened, worst
from parity.pairing import align, tap_gap
from parity.trace import Tap, Trace, shown

IDENTITY = "isolated_precision_bfloat16"  # of the claim on them
SEEDS = (0, 1, 2, 3)  # of runs with moved roundings, by which what is above its limit is judged
HALF = 2.0**-9  # of a unit in the last place of bfloat16, relative, at most
Taps = Mapping[str, Tap]
Place = tuple[str, int]


@dataclass(frozen=True)
class Side:
    """A recorder in one precision, after a run, and what gives the context that it runs in."""

    recorder: Any
    precision: Callable[[], AbstractContextManager]

    def calls(self) -> dict[Place, Call]:
        """The calls of that run by path and number."""
        return {(call.path, call.call): call for call in self.recorder.calls}


@dataclass(frozen=True)
class Sides:
    """The reference in float64, float32 and bfloat16, the port in float64 and bfloat16."""

    double: Side
    single: Side
    half: Side
    port: Side
    port_half: Side

    def all(self) -> tuple[Side, ...]:
        """Every one, in this order."""
        return self.double, self.single, self.half, self.port, self.port_half


@dataclass(frozen=True)
class Found:
    """One module of the port alone: its path, the verdicts on what it returns and hands on, and
    what the first result that fails tells of the cause, None where none fails or it tells none."""

    path: str
    verdicts: tuple[Verdict, ...]
    cause: str | None = None

    @property
    def failing(self) -> list[Verdict]:
        """Those that fail."""
        return [one for one in self.verdicts if one.fails]


def judged_in_bfloat16(sides: Sides, trace: Trace) -> Iterator[Found]:
    """Every module that all sides run alone, in the reference's order of execution.

    What modules and their stand-ins are given are the floats of the reference's float64 `trace`
    rounded to bfloat16, so that no side rounds them further.

    The error of a result is that from what the reference computes in float64; of a result in
    bfloat16 the one rounding that this makes is taken off. Its limit is 4 x the reference's own
    such error in bfloat16, or its error in float32 where that is larger; of a module without
    weights that works element by element, as an activation or a residual sum, one rounding to
    bfloat16 at least. What differs in float64 is not judged here.
    """
    calls = [one.calls() for one in sides.all()]
    through = frozenset(
        call.path
        for each in calls
        for call in each.values()
        if call.children and not slots(call.results)
    )
    for place in calls[0]:
        if place[0] not in through and all(place in each for each in calls):
            found = _Module(sides, tuple(each[place] for each in calls), through).judged(trace)
            if found is not None:
                yield found


@dataclass(frozen=True)
class _Module:
    """One call of a module on every side, as `Sides.all` has them."""

    sides: Sides
    calls: tuple[Call, ...]
    through: frozenset[str]

    def judged(self, trace: Trace) -> Found | None:
        """What is found; None where a side cannot run it alone, or nothing is computed."""
        theirs = self.calls[0]
        given = (
            {name: rounded(tap) for name, tap in feeds_of(trace, theirs).items()},
            {
                place: {name: rounded(tap) for name, tap in taps.items()}
                for place, taps in children_of(trace, theirs, self.through).items()
            },
        )
        sides = self.sides
        exact = self._run(sides.double, given)
        made = self._run(sides.port_half, given)
        own = self._run(sides.half, given)
        single = self._run(sides.single, given)
        named = {key: one.tap.key for key, one in expected_of(trace, theirs, self.through).items()}
        keys = [
            key
            for key in named
            if all(key in run for run in (exact, made, own, single))
            and exact[key].array.dtype.kind == "f"
        ]
        if not keys:
            return None
        errors = {key: beyond_one_rounding(made[key], exact[key]) for key in keys}
        bases = {
            key: worst(
                (beyond_one_rounding(own[key], exact[key]), tap_gap(single[key], exact[key]))
            )
            for key in keys
        }
        verdicts = {key: verdict_alone(named[key], errors[key], bases[key]) for key in keys}
        if any(one.fails for one in verdicts.values()):
            bases = widened(bases, self._moved(given, exact, keys))
            verdicts = {key: verdict_alone(named[key], errors[key], bases[key]) for key in keys}
        wrong = [key for key in keys if verdicts[key].fails]
        if wrong:
            stepwise = self._stepwise(given, exact, own)
            bases |= {
                key: worst((bases[key], once(exact[key]))) for key in wrong if key in stepwise
            }
            verdicts = {key: verdict_alone(named[key], errors[key], bases[key]) for key in keys}
            double = self._run(sides.port, given)
            for key in wrong:
                if key not in double or tap_gap(double[key], exact[key]).l2 > DEFAULT.cap:
                    del verdicts[key]
        wrong = [key for key, one in verdicts.items() if one.fails]
        cause = next((cause_alone(made[key], exact[key], bases[key]) for key in wrong), None)
        return Found(shown(theirs.path), tuple(verdicts.values()), cause)

    def _run(self, side: Side, given: tuple[Taps, Any], **how: Any) -> Taps:
        """What one side's module makes; nothing where it cannot run alone."""
        index = next(i for i, one in enumerate(self.sides.all()) if one is side)
        recorder = side.recorder
        try:
            with side.precision(), recorder.looking_through(self.through):
                return recorder.isolate(self.calls[index], *given, **how)
        except Exception:  # whatever a module raises on tensors that are not its own
            return {}

    def _stepwise(self, given: tuple[Taps, Any], exact: Taps, own: Taps) -> set[str]:
        """The results of a module without weights that are an elementwise function of what it is
        given, step by step: of several tensors, as a sum along a residual stream, or of one whose
        result is in bfloat16 in the reference too, as an activation's."""
        feeds, children = given
        recorder, path = self.sides.double.recorder, self.calls[0].path
        if any(one.owner == path for one in recorder.variables(recorder.model).values()):
            return set()
        changed = [({**feeds, name: _pushed(tap)}, children) for name, tap in feeds.items()]
        for place, taps in children.items():
            for name, tap in taps.items():
                changed.append((feeds, {**children, place: {**taps, name: _pushed(tap)}}))
        counts: dict[str, list[int]] = {key: [] for key in exact}
        for one in changed:
            run = self._run(self.sides.double, one)
            for key in counts.keys() & run.keys():
                if run[key].array.shape == exact[key].array.shape:
                    moved = int(np.count_nonzero(run[key].array != exact[key].array))
                    counts[key] += [moved] if moved else []
        return {
            key
            for key, found in counts.items()
            if found
            and max(found) == 1
            and (len(found) > 1 or (key in own and in_bfloat16(own[key].array)))
        }

    def _moved(self, given: tuple[Taps, Any], exact: Taps, keys: list[str]) -> dict[str, Gap]:
        """The reference's errors in bfloat16 when roundings are moved: of weights, and of sums."""
        side, path = self.sides.half, self.calls[0].path
        runs = []
        for seed in SEEDS:
            with side.recorder.moved(path, seed):
                runs.append(self._run(side, given))
        with side.recorder.reordered():
            runs.append(self._run(side, given))
        return {
            key: worst(beyond_one_rounding(run[key], exact[key]) for run in runs if key in run)
            for key in keys
        }


def rounded(tap: Tap) -> Tap:
    """The tap with its floats rounded to bfloat16; other numbers as they are."""
    return replace(tap, array=narrowed(tap.array)) if tap.array.dtype.kind == "f" else tap


def narrowed(array: np.ndarray) -> np.ndarray:
    """Floats rounded to bfloat16, ties to even, in the dtype that they have; what would overflow is
    rounded down, and what is not finite stays."""
    exact = np.array(array, np.float32, order="C")
    bits = exact.view(np.uint32)
    with np.errstate(over="ignore"):
        near = ((bits + (0x7FFF + ((bits >> 16) & 1))) & 0xFFFF0000).view(np.float32)
    down = (bits & 0xFFFF0000).view(np.float32)
    near = np.where(np.isfinite(near), near, down)
    return np.where(np.isfinite(exact), near, exact).astype(array.dtype)


def _pushed(tap: Tap) -> Tap:
    """The tap with its largest number half as large again."""
    if tap.array.dtype.kind != "f" or not tap.array.size:
        return tap
    array = np.array(tap.array, order="C")
    array.reshape(-1)[int(np.abs(array).argmax())] *= 1.5
    return replace(tap, array=array)


def once(exact: Tap) -> Gap:
    """What one rounding to bfloat16 makes of a result."""
    return tap_gap(rounded(exact), exact)


def beyond_one_rounding(tap: Tap, exact: Tap) -> Gap:
    """The gap of a tap from the exact one; of numbers in bfloat16, what is left of it once each is
    moved towards the exact one by at most half a unit in its last place."""
    array = align(tap, exact.axes)
    if array is None or array.shape != exact.array.shape or not in_bfloat16(array):
        return tap_gap(tap, exact)
    wide = exact.array.astype(np.float64)
    with np.errstate(all="ignore"):
        off = array.astype(np.float64) - wide
        # Of a number m * 2^e with m from 0.5 to 1, eight digits have steps of 2^(e - 8).
        half = np.ldexp(1.0, np.frexp(wide)[1] - 9)
        left = wide + np.sign(off) * np.maximum(np.abs(off) - half, 0.0)
    left = np.where(np.isfinite(off), left, array)
    return replace(gap(left, wide), **_values(tap_gap(tap, exact)))


def _values(found: Gap) -> dict[str, Any]:
    return {"where": found.where, "value": found.value, "reference": found.reference}


def in_bfloat16(array: np.ndarray) -> bool:
    """Whether all are numbers of bfloat16."""
    if array.dtype.kind != "f":
        return False
    narrow = array.astype(np.float32)
    return bool((narrow == array).all()) and not (narrow.view(np.uint32) & 0xFFFF).any()


def verdict_alone(key: str, error: Gap, base: Gap) -> Verdict:
    """That an error beyond one rounding is at most 4 x `base`, or the floor of float32."""
    least = least_floor(error, base, "float32")
    measured = {metric: (getattr(error, metric), least[metric]) for metric in METRICS}
    problem = error.problem or base.problem
    return judge_again(key, "same_precision", measured, problem, DEFAULT, describe(error))


def cause_alone(made: Tap, exact: Tap, base: Gap) -> str | None:
    """What numbers tell that the reference does not have so."""
    ours = align(made, exact.axes)
    found = tap_gap(made, exact)
    if ours is None or found.problem is not None:
        return None
    theirs = exact.array.astype(np.float64)
    factor = float(np.vdot(ours, theirs) / (np.vdot(theirs, theirs) or 1.0))
    most = max(2 * HALF, DEFAULT.float32_ratio * base.l2)
    if abs(factor - 1) > 2 * most and gap(factor * theirs, ours.astype(np.float64)).l2 <= most:
        return f"in bfloat16 alone the result is multiplied by {factor:.3g}"
    if base.l2 > HALF**2:
        return (
            f"in bfloat16 alone its error is {found.l2:.2g}, where the reference's is {base.l2:.2g}"
        )
    return (
        f"computed in bfloat16: its error, {found.l2:.2g}, is not that of one rounding, while the "
        f"reference's is {base.l2:.2g}, as of numbers in float32"
    )

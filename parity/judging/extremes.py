"""Modules of a port, each alone, on extreme inputs made from those that the reference gives it.

Numbers of a usual size hide what only large, constant or far ones show: probabilities that are
clipped, exponentials that overflow, a variance that cancels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.calls import Call, IsolationError
from parity.judge import MARGINAL, Verdict, function_verdict, precision_verdict
from parity.judging.calls import NO_FLOOR, feeds_of
from parity.metrics import Gap, failed, worst
from parity.pairing import align, tap_gap
from parity.trace import Tap, Trace

LARGEST = float(np.finfo(np.float32).max)
HEIGHT = 2  # of modules within modules: what is larger is judged by its parts
SEEDS = tuple(range(8))  # of the moved runs by which a gap beyond one rounding is judged


def _peak(most: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array * (most / (float(np.abs(array).max(initial=0.0)) or 1.0))


def _far(array: np.ndarray) -> np.ndarray:
    spread = float(array.std()) or 1.0
    return (array - array.mean()) / spread + 1e4


KINDS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "up to 30": _peak(30.0),
    "up to 100": _peak(100.0),
    "up to 1000": _peak(1000.0),
    "beyond 65504": _peak(1e5),
    "next to overflow": _peak(LARGEST / 4),
    "around a mean of 10000": _far,
    "all 3": lambda array: np.full_like(array, 3.0),
}
"""How an array of floats is made extreme; all are exact in float32."""


USUAL = "as they are"
"""The kind of inputs that are as the reference gives them, but for their rounding."""


def extreme(tap: Tap, kind: str, dtype: type = np.float32) -> Tap:
    """The tap with other floats, rounded to `dtype`; masks of 0 and 1, and what is not finite, stay
    as they are."""
    change = np.copy if kind == USUAL else KINDS[kind]
    array = tap.array
    finite = np.isfinite(array) if array.dtype.kind == "f" else None
    if finite is None or not finite.any() or np.isin(array, (0.0, 1.0)).all():
        return tap
    with np.errstate(over="ignore"):
        made = change(array[finite].astype(np.float64)).astype(dtype)
    found = array.copy()
    found[finite] = made
    return replace(tap, array=found)


@dataclass(frozen=True)
class Side:
    """Both recorders of a pair in one precision, after a run each, and what gives the context that
    both run in; `known` keeps what the reference's modules return, for other ports."""

    reference: Any
    port: Any
    precision: Callable[[], AbstractContextManager]
    known: dict[tuple[str, int, str], dict[str, Tap]] = field(default_factory=dict)

    def exact(self, theirs: Call, kind: str, feeds: Mapping[str, Tap]) -> dict[str, Tap]:
        """The finite results of one of the reference's modules on one kind of inputs."""
        place = (theirs.path, theirs.call, kind)
        if place not in self.known:
            self.known[place] = _finite(self.of_reference(theirs, feeds))
        return self.known[place]

    def of_reference(self, call: Call, feeds: Mapping[str, Tap]) -> dict[str, Tap]:
        """What one of the reference's modules returns; nothing where it cannot run alone."""
        with self.precision():
            return _results_of(self.reference, call, feeds)

    def of_port(self, call: Call, feeds: Mapping[str, Tap]) -> dict[str, Tap]:
        """What one of the port's modules returns; nothing where it cannot run alone."""
        with self.precision():
            return _results_of(self.port, call, feeds)

    def made(self, call: Call, feeds: Mapping[str, Tap]) -> dict[str, Tap] | str:
        """All taps of one of the port's modules, or why it cannot run."""
        with self.precision():
            return _of_port(self.port, call, feeds)

    def floors(self, call: Call, feeds: Mapping[str, Tap], exact: Mapping[str, Tap]) -> Any:
        """How far moved roundings of one of the reference's modules are from `exact`."""
        with self.precision():
            return self.reference.isolated_floors(call, feeds, {}, exact, SEEDS)


@dataclass(frozen=True)
class Run:
    """One module of both sides, run alone: the calls, what both were given and returned, by key,
    and how far rounding moves that."""

    theirs: Call
    ours: Call
    feeds: Mapping[str, Tap]
    exact: Mapping[str, Tap]
    made: Mapping[str, Tap]
    floors: Mapping[str, Gap]

    @property
    def key(self) -> str:
        """The first result that differs, of those that both have."""
        shared = [key for key in self.exact if key in self.made]
        gaps = {key: tap_gap(self.made[key], self.exact[key]) for key in shared}
        wrong = [k for k, one in gaps.items() if function_verdict(k, one, self.floors[k]).fails]
        return next(iter(wrong), "")


@dataclass(frozen=True)
class Extreme:
    """One module on one kind of inputs: the verdicts on its results, and what the port gave."""

    path: str
    kind: str
    verdicts: tuple[Verdict, ...]
    results: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    run: Run | None = None

    @property
    def fails(self) -> bool:
        """Whether any result is further away than rounding explains."""
        return any(one.fails for one in self.verdicts)


def judged_in_float64(side: Side, trace: Trace) -> list[Extreme]:
    """Every module of at most `HEIGHT` floors on every kind of extreme inputs, in float64.

    The floor of a result is the rounding of one number, or where it is beyond that the reference's
    own gap when roundings of that module are moved.
    """
    found = []
    # Of numbers that float32 holds, float64 rounds no square.
    for theirs, ours, kind, feeds in _cases(side, trace, np.float64):
        exact = side.exact(theirs, kind, feeds)
        if not exact:
            continue
        made = side.made(ours, feeds)
        gaps = {key: _gap(made, key, tap) for key, tap in exact.items()}
        verdicts = {k: function_verdict(_named(k, kind), g, NO_FLOOR) for k, g in gaps.items()}
        if any(one.fails for one in verdicts.values()):
            floors = side.floors(theirs, feeds, exact)
            verdicts = {k: function_verdict(_named(k, kind), g, floors[k]) for k, g in gaps.items()}
        one = _extreme(theirs, kind, verdicts, exact, made)
        if one.fails and not isinstance(made, str):
            one = replace(one, run=Run(theirs, ours, feeds, exact, made, floors))
        found.append(one)
    return found


def judged_in_float32(single: Side, double: Side, trace: Trace) -> list[Extreme]:
    """The same in float32, held to the reference in float64 on the same inputs.

    What is up to `MARGINAL` times beyond its limit is judged again: its limit is also 4 x the
    port's own error on inputs of the usual size, which is judged elsewhere. Sums in another order
    have other errors, whatever the inputs; here is judged what extreme ones add.
    """
    found = []
    known = {(one.path, one.call): one for one in double.reference.calls}
    for theirs, ours, kind, feeds in _cases(single, trace, np.float32):
        wide = known.get((theirs.path, theirs.call))
        if wide is None:
            continue
        given = _narrow(feeds)
        own = single.exact(theirs, kind, given)
        exact = double.exact(wide, f"{kind}, float32", feeds) if own else {}
        exact = {key: tap for key, tap in exact.items() if key in own}
        if not exact:
            continue
        made = single.made(ours, given)
        gaps = {key: _gap(made, key, tap) for key, tap in exact.items()}
        errors = {key: tap_gap(own[key], tap) for key, tap in exact.items()}

        def verdicts_with(
            floors: Mapping[str, Any], gaps=gaps, errors=errors, kind=kind
        ) -> dict[str, Verdict]:
            return {
                key: precision_verdict(
                    _named(key, kind), one, errors[key], floors.get(key, NO_FLOOR)
                )
                for key, one in gaps.items()
            }

        verdicts = verdicts_with({})
        if any(one.fails for one in verdicts.values()):
            floors = single.floors(theirs, given, exact)
            verdicts = verdicts_with(floors)
            if 1.0 < max(one.margin for one in verdicts.values()) <= MARGINAL:
                usual = _usual_errors(single, double, (theirs, wide, ours), trace)
                wider = {key: worst((one, usual.get(key, NO_FLOOR))) for key, one in errors.items()}
                verdicts = verdicts_with(floors, errors=wider)
        found.append(_extreme(theirs, kind, verdicts, exact, made))
    return found


def _narrow(feeds: Mapping[str, Tap]) -> dict[str, Tap]:
    """The same with floats as float32, as a module in float32 takes them."""
    return {
        name: replace(tap, array=tap.array.astype(np.float32))
        if tap.array.dtype.kind == "f"
        else tap
        for name, tap in feeds.items()
    }


def _usual_errors(
    single: Side, double: Side, calls: tuple[Call, Call, Call], trace: Trace
) -> dict[str, Gap]:
    """The port's errors in float32 on inputs of the usual size, by key, of one call in the
    reference in float32 and float64, and in the port."""
    theirs, wide, ours = calls
    feeds = {name: extreme(tap, USUAL) for name, tap in feeds_of(trace, theirs).items()}
    exact = double.exact(wide, f"{USUAL}, float32", feeds)
    made = single.made(ours, _narrow(feeds))
    gaps = {key: _gap(made, key, tap) for key, tap in exact.items()}
    return {key: one for key, one in gaps.items() if one.problem is None}


def places(found: Sequence[Extreme]) -> list[tuple[str, list[Extreme]]]:
    """The innermost modules that fail, each with the kinds of inputs on which it does."""
    failing: dict[str, list[Extreme]] = {}
    for one in found:
        if one.fails:
            failing.setdefault(one.path, []).append(one)
    return [
        (path, own)
        for path, own in failing.items()
        if not any(other != path and _below(other, path) for other in failing)
    ]


def cause(own: Sequence[Extreme], explain: Callable[[Run], Sequence[Any]]) -> str | None:
    """What one module makes of inputs on which it fails: what its values tell by themselves, else
    the mistake with which the reference makes the same (`explain`), else what the kinds tell."""
    kinds = {one.kind for one in own}
    if kinds <= {"around a mean of 10000", "all 3"}:
        return (
            "the variance is the mean of squares less the square of the mean, which cancels where "
            "the mean is large beside the spread"
        )
    for one in own:
        for ours, theirs in one.results:
            if (text := of_values(ours, theirs)) is not None:
                return text
    for one in own:
        found = explain(one.run) if one.run is not None and one.run.key else []
        if found and found[0].exact:
            return found[0].text
    return None


def of_values(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    """The mistake that an array of results shows by itself."""
    if ours.shape != theirs.shape or ours.dtype.kind != "f":
        return None
    return not_finite(ours, theirs) or _clipped(ours, theirs)


def not_finite(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    """What made numbers that are not finite, where the reference's are."""
    broken = ~np.isfinite(ours) & np.isfinite(theirs)
    if not broken.any():
        return None
    if ours.ndim == 0:
        return (
            "the logarithm of a probability that is rounded to 0, or an exponential that overflows"
        )
    if np.isnan(ours[broken]).all():
        return "an exponential overflows, and infinity is divided by infinity: NaN"
    if (ours[broken] == -np.inf).all():
        return "the logarithm of a probability that is rounded to 0, in place of its own form"
    return "an exponential overflows"


def _clipped(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    """The bound that all numbers which differ are at, beyond which the reference's are."""
    scale = np.abs(theirs).max(initial=0.0) or 1.0
    differs = np.abs(ours - theirs) > 1e-6 * np.maximum(np.abs(theirs), 1e-12 * scale)
    if not differs.any():
        return None
    for bound in np.unique(ours[differs])[[0, -1]]:
        at = differs & (ours == bound)
        beyond = theirs[at] > bound if (theirs[at] > bound).all() else theirs[at] < bound
        most = at.sum() >= 0.5 * differs.sum() or at.sum() > 8
        if beyond.all() and most and at.sum() > 1:
            side = "above" if (theirs[at] > bound).all() else "below"
            return f"values {side} {float(np.float32(bound)):.6g} are clipped to it"
    return None


def _cases(
    side: Side, trace: Trace, dtype: type
) -> Iterator[tuple[Call, Call, str, dict[str, Tap]]]:
    """The first call of each module that can run alone, with every kind of extreme inputs."""
    ours = {(call.path, call.call): call for call in side.port.calls}
    seen: set[str] = set()
    for theirs in side.reference.calls:
        call = ours.get((theirs.path, theirs.call))
        if call is None or theirs.path in seen or theirs.parent is None:
            continue
        seen.add(theirs.path)
        if _height(theirs) > HEIGHT or _height(call) > HEIGHT:
            continue
        feeds = feeds_of(trace, theirs)
        for kind in KINDS:
            made = {name: extreme(tap, kind, dtype) for name, tap in feeds.items()}
            if any(made[name] is not tap for name, tap in feeds.items()):
                yield theirs, call, kind, made


def _height(call: Call) -> int:
    return 1 + max(map(_height, call.children)) if call.children else 0


def _results_of(recorder: Any, call: Call, feeds: Mapping[str, Tap]) -> dict[str, Tap]:
    """What the module returns; nothing where it cannot run alone on them."""
    try:
        with np.errstate(all="ignore"):
            run = recorder.isolate(call, feeds)
    except Exception:  # whatever a module of the user raises; the port is asked only where it runs
        return {}
    return {key: tap for key, tap in run.items() if tap.path == call.path and tap.kind == "output"}


def _finite(taps: Mapping[str, Tap]) -> dict[str, Tap]:
    """Those that are finite: where the reference overflows, nothing is decided."""
    return {
        key: tap
        for key, tap in taps.items()
        if tap.array.dtype.kind == "f" and np.isfinite(tap.array).all()
    }


def _of_port(recorder: Any, call: Call, feeds: Mapping[str, Tap]) -> dict[str, Tap] | str:
    """What the port's module returns, or why it cannot run."""
    try:
        run = recorder.isolate(call, feeds)
    except IsolationError:
        return {}
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return dict(run.items())


def _gap(made: "dict[str, Tap] | str", key: str, tap: Tap) -> Any:
    if isinstance(made, str):
        return failed(f"cannot be run on these inputs: {made}")
    return tap_gap(made[key], tap) if key in made else NO_FLOOR


def _extreme(
    theirs: Call,
    kind: str,
    verdicts: Mapping[str, Verdict],
    exact: Mapping[str, Tap],
    made: "dict[str, Tap] | str",
) -> Extreme:
    results = ()
    if any(one.fails for one in verdicts.values()) and not isinstance(made, str):
        pairs = (
            (align(made[key], tap.axes), tap.array) for key, tap in exact.items() if key in made
        )
        results = tuple((ours, array) for ours, array in pairs if ours is not None)
    return Extreme(theirs.path, kind, tuple(verdicts.values()), results)


def _named(key: str, kind: str) -> str:
    return f"{key} given inputs {kind}"


def _below(path: str, other: str) -> bool:
    return path.startswith(f"{other}.") if other else bool(path)

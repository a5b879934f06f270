"""Judges the calls of a port apart from all others, on the reference's tensors."""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from parity.calls import Call, IsolationError, Slot, flatten, slots
from parity.judge import Verdict, function_verdict
from parity.metrics import Gap, failed
from parity.pairing import tap_gap
from parity.trace import Tap, Trace, module_of, shown, tap_key

Observe = Callable[[Sequence[Verdict]], None]
Children = Mapping[tuple[str, int], Mapping[str, Tap]]
NO_FLOOR = Gap(0.0, 0.0)
NEAR = 3  # modules at fault that may have their border elsewhere, tried at one place


class Recorder(Protocol):
    """What localising needs of the port; see `parity.calls.Recorder`."""

    calls: list[Call]
    modules: Mapping[str, Any]

    def __call__(self, inputs: tuple | dict, sink: Callable[[Tap], None] | None = None) -> Any: ...

    def isolate(self, call: Call, feeds: Mapping[str, Tap], children: Children) -> Trace: ...

    def looking_through(self, paths: Collection[str]) -> AbstractContextManager: ...


class ReferenceRecorder(Recorder, Protocol):
    """What localising needs of the reference besides."""

    def isolated_floors(
        self,
        call: Call,
        feeds: Mapping[str, Tap],
        children: Children,
        expected: Mapping[str, Tap],
    ) -> dict[str, Gap]: ...

    def owns_parameters(self, path: str) -> bool: ...


@dataclass(frozen=True)
class _Expected:
    """What the reference returned, or handed to the module called in `child`."""

    tap: Tap
    child: Call | None


@dataclass(frozen=True)
class Fault:
    """One call of a module of the port that differs when run on the reference's tensors.

    `edge` is the tap that differs, `child` the module it is handed to, `named` false where the
    difference is in which tensors are handed on, not in their values. Where values differ, `run`
    are the port's taps, `key` that of the first that differs, and `floors` the reference's.
    `through` are the modules that were looked through, of these `across` those whose borders lie
    elsewhere in the port. `behind` is the same fault seen with one more of these, if a cause is
    found there.
    """

    theirs: Call
    call: Call
    edge: str
    verdict: Verdict
    verdicts: tuple[Verdict, ...]
    child: str | None = None
    named: bool = True
    run: Trace | None = None
    key: str = ""
    floors: Mapping[str, Gap] = field(default_factory=dict)
    through: frozenset[str] = frozenset()
    across: frozenset[str] = frozenset()
    behind: "tuple[Fault, ...]" = ()

    @property
    def gap(self) -> float:
        """How far the tap is off; infinite where it cannot be compared."""
        return math.inf if self.verdict.problem is not None else self.verdict.value


@dataclass(frozen=True)
class _Outcome:
    """What running one call alone gave: its fault, if any, and the verdicts on all its taps."""

    fault: Fault | None
    verdicts: tuple[Verdict, ...]


class Judging:
    """Judges calls one by one, those that a call makes before itself.

    A module that cannot be run alone, one whose results are not recorded, and one whose border lies
    elsewhere in the port, is looked through: it is a part of those that call it.
    """

    def __init__(
        self,
        reference: ReferenceRecorder,
        port: Recorder,
        trace: Trace,
        in_place: Mapping[str, Verdict],
    ) -> None:
        self._reference, self._port = reference, port
        self._trace, self._in_place = trace, in_place
        self._order = {key: index for index, key in enumerate(trace)}
        self._outcomes: dict[int, tuple[Call, _Outcome]] = {}
        self._failures: dict[int, tuple[Call, str]] = {}
        self._borders: dict[int, tuple[Call, Call]] = {}
        self._unrecorded = frozenset(
            call.path
            for side in (reference, port)
            for call in side.calls
            if call.children and not slots(call.results)
        )

    def suspects(self, theirs: Call, call: Call) -> bool:
        """Whether a tap that this call makes, or hands to a module it calls, differs in place.

        Or one that it is given, though what it returns is right.
        """
        results, given = _result_keys(theirs), argument_keys(theirs)
        keys = list(results)
        for child in theirs.made(self._unrecorded):
            keys += argument_keys(child) + _result_keys(child)
        lost = set(results) != set(_result_keys(call))
        return lost or self._differs(keys) or (self._differs(given) and not self._differs(results))

    def _differs(self, keys: Sequence[str]) -> bool:
        return any(not self._in_place[key].passed for key in keys if key in self._in_place)

    def judge(self, theirs: Call, call: Call) -> None:
        """Runs the port's call alone, and keeps what it gave."""
        if _is_unfed(theirs) or _is_unfed(call):
            self._failures[id(theirs)] = (theirs, "what it is given is compared on neither side")
            return
        through = self._unrecorded
        while True:
            made = {one.path for one in theirs.made(through) if id(one) in self._failures}
            if made <= through:
                break
            through |= made
        outcome = self._alone(theirs, call, through)
        if isinstance(outcome, str):
            self._failures[id(theirs)] = (theirs, outcome)
        else:
            outcome = self._across_borders(theirs, call, through, outcome)
            self._outcomes[id(theirs)] = (theirs, outcome)

    def in_order(self) -> list[Fault]:
        """The faults of all calls, in the reference's order of execution."""
        found = [one.fault for _, one in reversed(self._outcomes.values()) if one.fault]
        made = {(fault.theirs.path, fault.edge) for fault in found}
        return [
            fault
            for fault in found
            if not self.is_border(fault.theirs)
            # What a module that is looked through makes wrong, it is named for itself.
            and not any((path, fault.edge) in made for path in fault.through - {fault.theirs.path})
        ]

    def is_border(self, theirs: Call) -> bool:
        """Whether the call begins or ends elsewhere in the port."""
        return id(theirs) in self._borders

    def set_borders(self, fault: Fault) -> None:
        """The calls that a fault looks through have their borders elsewhere."""
        for child in fault.theirs.made(fault.through):
            if child.path in fault.across:
                self._borders[id(child)] = (child, fault.theirs)

    def dissolved(self) -> set[str]:
        """The modules of which no call has its border where the reference has it."""
        every = {child.path for child, _ in self._borders.values()}
        return every - {one.theirs.path for one in self.in_order()}

    def borders(self) -> dict[str, str]:
        """See `Located`."""
        return {
            key: f"the border of {shown(child.path)} lies elsewhere in the port; with "
            f"{shown(around.path)} around it, both compute the same"
            for child, around in self._borders.values()
            for key in argument_keys(child) + _result_keys(child)
            if key in self._in_place and not self._in_place[key].passed
        }

    def unjudged(self) -> dict[str, str]:
        """See `Located`."""
        return {shown(call.path): text for call, text in self._failures.values()}

    def note(self, fault: Fault) -> str:
        """Which modules are judged as a part of a place at fault, for people."""
        failed = {call.path for call, _ in self._failures.values()}
        parts = sorted({one.path for one in fault.theirs.made(fault.through)} & failed)
        return f"{', '.join(parts)} cannot run alone and is judged with it" if parts else ""

    def show(self, observe: Observe | None) -> None:
        """Hands on the verdicts on all calls that were judged."""
        for theirs, outcome in reversed(self._outcomes.values()):
            if not self.is_border(theirs):
                _observed(observe, theirs.path, outcome.verdicts)

    def _alone(self, theirs: Call, call: Call, through: frozenset[str]) -> _Outcome | str:
        """The outcome of a call, given the reference's inputs and its children's results.

        What prevents it from being run, in words, where it cannot.
        """
        reference, port, trace = self._reference, self._port, self._trace
        feeds, children = feeds_of(trace, theirs), children_of(trace, theirs, through)
        expected = expected_of(trace, theirs, through)
        with port.looking_through(through), reference.looking_through(through):
            try:
                run = port.isolate(call, feeds, children)
            except Exception as error:  # whatever the module raises on the reference's tensors
                return str(error) if isinstance(error, IsolationError) else _failure(error)
            gaps = {k: tap_gap(tap, expected[k].tap) for k, tap in run.items() if k in expected}
            verdicts = _verdicts(gaps, expected, dict.fromkeys(gaps, NO_FLOOR))
            measured: dict[str, Gap] = {}
            if not all(verdict.passed for verdict in verdicts.values()):
                taps = {key: one.tap for key, one in expected.items()}
                measured = reference.isolated_floors(theirs, feeds, children, taps)
                verdicts = _verdicts(gaps, expected, measured)
        kept = tuple(verdicts.values())
        for key, one in verdicts.items():
            if one.fails:
                child = expected[key].child
                path = None if child is None else child.path
                fault = Fault(
                    theirs, call, one.key, one, kept, path, True, run, key, measured, through
                )
                return _Outcome(fault, kept)
        fault = _mismatched(theirs, call, run, expected, kept, self._in_place, through)
        return _Outcome(fault, kept if fault is None else fault.verdicts)

    def _across_borders(
        self, theirs: Call, call: Call, through: frozenset[str], outcome: _Outcome
    ) -> _Outcome:
        """The outcome once modules are looked through whose borders lie elsewhere in the port.

        One that differs alone and so does the module around it, but not both together.
        """
        if outcome.fault is None:
            return self._exchanged(theirs, call, through, outcome)
        inside = through
        behind: list[Fault] = []
        moved = True
        while moved and outcome.fault is not None:
            moved, behind = False, []
            for path in self._near(theirs, inside, outcome.fault)[:NEAR]:
                tried = self._alone(theirs, call, inside | {path})
                if isinstance(tried, str):
                    continue
                fault = outcome.fault
                later = tried.fault and self._place(tried.fault) > self._place(fault)
                if tried.fault is None or (later and fault.named):
                    outcome, inside, moved = tried, inside | {path}, True
                    break
                same = self._place(tried.fault) >= self._place(fault)
                if fault.named and same and tried.fault.gap < fault.gap:
                    across = (inside | {path}) - through
                    behind.append(replace(tried.fault, across=across))
        across = inside - through
        if outcome.fault is not None:
            fault = replace(outcome.fault, across=across, behind=tuple(behind))
            outcome = replace(outcome, fault=fault)
            later = self._later(theirs, call, inside, outcome)
            self._cross(theirs, inside | later, later)
        self._cross(theirs, inside, across)
        return outcome

    def _later(
        self, theirs: Call, call: Call, inside: frozenset[str], outcome: _Outcome
    ) -> frozenset[str]:
        """The modules at fault after a fault that remains whose borders lie elsewhere too.

        One of these, looked through, takes what differs away and adds nothing. The last comes
        first, so that what one makes wrong itself is not hidden by the border of the next.
        """
        found: frozenset[str] = frozenset()
        differing = _failed(outcome)
        for path in reversed(self._faulty(theirs, inside)):
            tried = self._alone(theirs, call, inside | found | {path})
            if not isinstance(tried, str) and _failed(tried) < differing:
                found, differing = found | {path}, _failed(tried)
        return found

    def _exchanged(
        self, theirs: Call, call: Call, through: frozenset[str], outcome: _Outcome
    ) -> _Outcome:
        """Two or more modules that differ alone, but not together: what one leaves to the next."""
        faulty = self._faulty(theirs, through)
        groups = [faulty, *map(list, itertools.pairwise(faulty))]
        for group in groups if len(faulty) > 1 else ():
            inside = through | set(group)
            tried = self._alone(theirs, call, inside)
            if not isinstance(tried, str) and tried.fault is None:
                self._cross(theirs, inside, frozenset(group))
                return tried
        return outcome

    def _cross(self, theirs: Call, inside: frozenset[str], across: frozenset[str]) -> None:
        for child in theirs.made(inside):
            if child.path in across:
                self._borders[id(child)] = (child, theirs)

    def _faulty(self, theirs: Call, through: frozenset[str]) -> list[str]:
        """The modules at fault that a call makes, in order."""
        faulty = (
            one.path
            for one in theirs.made(through)
            if id(one) in self._outcomes
            and self._outcomes[id(one)][1].fault is not None
            and one.path not in through
            and not self.is_border(one)
        )
        return list(dict.fromkeys(faulty))

    def _near(self, theirs: Call, through: frozenset[str], fault: Fault) -> list[str]:
        """The modules at fault that are called up to where a fault shows, the last first."""
        faulty = set(self._faulty(theirs, through))
        starts: dict[str, int] = {}
        for child in theirs.made(through):
            keys = argument_keys(child) + _result_keys(child)
            start = min((self._order[key] for key in keys if key in self._order), default=0)
            if child.path in faulty and start <= self._place(fault):
                starts[child.path] = start
        return sorted(starts, key=lambda path: -starts[path])

    def _place(self, fault: Fault) -> int:
        return self._order.get(fault.edge, len(self._order))


def _failed(outcome: _Outcome) -> set[str]:
    """Keys of the taps that differ."""
    return {one.key for one in outcome.verdicts if one.fails}


def _observed(observe: Observe | None, path: str, verdicts: Sequence[Verdict]) -> None:
    """Hands on the verdicts, what the module hands to others under a key of its own."""
    if observe is None:
        return
    observe(
        [
            one
            if module_of(one.key) == shown(path)
            else replace(one, key=f"{shown(path)}:handed to {one.key}")
            for one in verdicts
        ]
    )


def _mismatched(
    theirs: Call,
    call: Call,
    run: Trace,
    expected: Mapping[str, _Expected],
    kept: tuple[Verdict, ...],
    in_place: Mapping[str, Verdict],
    through: frozenset[str],
) -> Fault | None:
    """The fault of handing on or returning another set of tensors than the reference, or None.

    Handing a module more or fewer tensors counts only where its results differ in place.
    """
    called = {(tap.path, tap.call) for tap in run.values() if tap.kind == "input"}
    differences: list[tuple[str, str, Call | None]] = []
    for key, one in expected.items():
        if key in run:
            continue
        if one.child is None:
            differences.append((one.tap.key, "is not returned", None))
        elif (one.tap.path, _ordinal(theirs, one.child, through)) in called:
            differences.append((one.tap.key, "is not handed on", one.child))
    for key, tap in run.items():
        siblings = theirs.siblings(tap.path, through)
        if tap.path in through:
            continue
        if tap.kind == "input" and key not in expected and tap.call < len(siblings):
            child = siblings[tap.call]
            extra = tap_key(tap.path, tap.kind, tap.name, child.call)
            differences.append((extra, "is handed on, though not in the reference", child))
    for key, text, child in differences:
        harmed = child is None or any(
            not in_place[name].passed for name in _result_keys(child) if name in in_place
        )
        if harmed:
            verdict = _unmeasured(key, text)
            path = None if child is None else child.path
            verdicts = (*kept, verdict)
            return Fault(theirs, call, key, verdict, verdicts, path, named=False, through=through)
    return None


def expected_of(trace: Trace, theirs: Call, through: frozenset[str]) -> dict[str, _Expected]:
    """What the call hands on and returns in the reference, by the keys of an isolated run."""
    found = {}
    for child in theirs.made(through):
        for slot in _argument_slots(child) if child.path not in through else ():
            key = tap_key(child.path, "input", slot.name, _ordinal(theirs, child, through))
            tap = trace[tap_key(child.path, "input", slot.name, child.call)]
            found[key] = _Expected(tap, child)
    for slot in slots(theirs.results):
        tap = trace[tap_key(theirs.path, "output", slot.name, theirs.call)]
        found[tap_key(theirs.path, "output", slot.name)] = _Expected(tap, None)
    return found


def feeds_of(trace: Trace, theirs: Call) -> dict[str, Tap]:
    """The tensors of the call's arguments in the reference, by name."""
    return {
        slot.name: trace[tap_key(theirs.path, "input", slot.name, theirs.call)]
        for slot in _argument_slots(theirs)
    }


def children_of(
    trace: Trace, theirs: Call, through: frozenset[str]
) -> dict[tuple[str, int], dict[str, Tap]]:
    """The tensors of the results of each module that the call makes use of, by name."""
    return {
        (child.path, _ordinal(theirs, child, through)): {
            slot.name: trace[tap_key(child.path, "output", slot.name, child.call)]
            for slot in slots(child.results)
        }
        for child in theirs.made(through)
        if child.path not in through
    }


def _ordinal(parent: Call, child: Call, through: frozenset[str]) -> int:
    return next(i for i, one in enumerate(parent.siblings(child.path, through)) if one is child)


def _argument_slots(call: Call) -> list[Slot]:
    return [slot for part in call.arguments.values.values() for slot in slots(part)]


def _is_unfed(call: Call) -> bool:
    """Whether a module is given tensors, but none that has a counterpart: alone it would run on
    those of its own side, and inherit what differs."""
    if call.parent is None or _argument_slots(call):
        return False
    return bool(flatten(call.arguments.values, _is_tensor)[1])


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def argument_keys(call: Call) -> list[str]:
    return [tap_key(call.path, "input", slot.name, call.call) for slot in _argument_slots(call)]


def _result_keys(call: Call) -> list[str]:
    return [tap_key(call.path, "output", slot.name, call.call) for slot in slots(call.results)]


def _verdicts(
    gaps: Mapping[str, Gap], expected: Mapping[str, _Expected], floors: Mapping[str, Gap]
) -> dict[str, Verdict]:
    """Verdicts by the keys of an isolated run; each names the tap by its key in the trace."""
    return {
        key: function_verdict(expected[key].tap.key, found, floors[key])
        for key, found in gaps.items()
    }


def _unmeasured(key: str, text: str) -> Verdict:
    return function_verdict(key, failed(text), NO_FLOOR)


def _failure(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"cannot be run on the reference's inputs: {type(error).__name__}: {lines[0]}"

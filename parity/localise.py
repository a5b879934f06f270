"""Which module makes a difference itself, and which merely passes one on."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from parity.calls import Call, IsolationError, Slot, slots
from parity.causes.explain import Case, Explanation
from parity.judge import Verdict, function_verdict
from parity.metrics import Gap, failed
from parity.pairing import Comparison, tap_gap
from parity.trace import Tap, Trace, module_of, shown, tap_key

Explain = Callable[[Any, Case], list[Explanation]]
Observe = Callable[[Sequence[Verdict]], None]
Children = Mapping[tuple[str, int], Mapping[str, Tap]]
NO_FLOOR = Gap(0.0, 0.0)


class Recorder(Protocol):
    """What localising needs of the port; see `parity.calls.Recorder`."""

    calls: list[Call]
    modules: Mapping[str, Any]

    def __call__(self, inputs: tuple | dict, sink: Callable[[Tap], None] | None = None) -> Any: ...

    def isolate(self, call: Call, feeds: Mapping[str, Tap], children: Children) -> Trace: ...


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
class Localisation:
    """One place that computes something else than the reference, given the reference's inputs.

    Args:
        path: the module at fault, `model` for the root.
        kind: `own` where the module itself computes something else, `wiring` where it connects
            modules, all of which may be right, in another way.
        edge: key of the first tap that differs while everything before it is the reference's.
        evidence: what was measured, for people, in two or three lines.
        cause: the explanation that removes the difference, or None.
        verdicts: the isolated verdicts on what the module returns and hands to others.
        explanations: the best that were found, the cause first.
    """

    path: str
    kind: str
    edge: str
    evidence: str
    cause: str | None
    verdicts: tuple[Verdict, ...]
    explanations: tuple[Explanation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A dictionary of strict JSON."""
        return {
            "path": self.path,
            "kind": self.kind,
            "edge": self.edge,
            "evidence": self.evidence,
            "cause": self.cause,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "explanations": [one.to_json() for one in self.explanations],
        }


def localise(
    reference: ReferenceRecorder,
    port: Recorder,
    trace: Trace,
    inputs: tuple | dict,
    floors: Mapping[str, Gap],
    explain: Explain | None = None,
    *,
    everywhere: bool = False,
    observe: Observe | None = None,
) -> list[Localisation]:
    """Every place at fault, in the reference's order of execution; empty where there is none.

    A module is judged apart from all others: it is given the reference's inputs, the modules it
    calls are replaced by their results in the reference, and what it hands to them and returns is
    compared. So no fault hides another, and no module is blamed for a difference it inherited.
    Only modules around taps that are beyond their limits in place are run, unless `everywhere`.

    Args:
        reference: recorder of the float64 reference, whose last run made `trace`.
        port: recorder of the float64 port, in eager execution.
        trace: the reference's float64 trace, with all taps.
        inputs: the port's inputs.
        floors: the reference's floors in place, by key (`Framework.measure_floors`).
        explain: gives the likely causes of what one module does; see `parity.causes.explain`.
        everywhere: run every module that both models call.
        observe: receives the verdicts on each call that was run alone, keys beginning with the
            module's path.
    """
    comparison = Comparison(trace)
    port(inputs, comparison)
    in_place = {
        key: function_verdict(key, found, floors[key]) for key, found in comparison.gaps.items()
    }
    ours = {(call.path, call.call): call for call in port.calls}
    faults: dict[str, list[_Fault]] = defaultdict(list)
    for theirs in reference.calls:
        call = ours.get((theirs.path, theirs.call))
        if call is not None and (everywhere or _suspicious(theirs, call, in_place)):
            fault = _judge_alone(reference, port, trace, theirs, call, in_place, observe)
            if fault is not None:
                faults[theirs.path].append(fault)
    order = {key: index for index, key in enumerate(trace)}
    found = [_wrong_inputs(reference.calls[0], in_place)]
    for path, same in faults.items():
        # A module that is wrong itself explains why it seems to lack an input.
        believed = [fault for fault in same if fault.named or fault.child not in faults]
        if believed:
            calls = sum(call.path == path for call in reference.calls)
            causes = _explanations(reference, port, trace, believed[0], explain)
            found.append(_report(reference, believed, calls, in_place, causes))
    return sorted((one for one in found if one), key=lambda one: order.get(one.edge, len(order)))


@dataclass(frozen=True)
class _Expected:
    """What the reference returned, or handed to the module called in `child`."""

    tap: Tap
    child: Call | None


@dataclass(frozen=True)
class _Fault:
    """One call of a module of the port that differs when run on the reference's tensors.

    `edge` is the tap that differs, `child` the module it is handed to, `named` false where the
    difference is in which tensors are handed on, not in their values. Where values differ, `run`
    are the port's taps, `key` that of the first that differs, and `floors` the reference's.
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


def _suspicious(theirs: Call, call: Call, in_place: Mapping[str, Verdict]) -> bool:
    """Whether a tap that this call makes, or hands to a module it calls, differs in place."""
    keys = _result_keys(theirs)
    for child in theirs.children:
        keys += _argument_keys(child) + _result_keys(child)
    lost = set(_result_keys(theirs)) != set(_result_keys(call))
    return lost or any(not in_place[key].passed for key in keys if key in in_place)


def _judge_alone(
    reference: ReferenceRecorder,
    port: Recorder,
    trace: Trace,
    theirs: Call,
    call: Call,
    in_place: Mapping[str, Verdict],
    observe: Observe | None,
) -> _Fault | None:
    """The fault of one call, given the reference's inputs and its children's results, or None."""
    feeds, children = _feeds(trace, theirs), _children(trace, theirs)
    expected = _expected(trace, theirs)
    try:
        run = port.isolate(call, feeds, children)
    except Exception as error:  # whatever the module raises on the reference's tensors is evidence
        text = str(error) if isinstance(error, IsolationError) else _failure(error)
        key = (_result_keys(theirs) or [tap_key(theirs.path, "output", "", theirs.call)])[0]
        verdict = _unmeasured(key, text)
        _observed(observe, theirs.path, [verdict])
        return _Fault(theirs, call, key, verdict, (verdict,))
    gaps = {key: tap_gap(tap, expected[key].tap) for key, tap in run.items() if key in expected}
    verdicts = _verdicts(gaps, expected, dict.fromkeys(gaps, NO_FLOOR))
    measured: dict[str, Gap] = {}
    if not all(verdict.passed for verdict in verdicts.values()):
        taps = {key: one.tap for key, one in expected.items()}
        measured = reference.isolated_floors(theirs, feeds, children, taps)
        verdicts = _verdicts(gaps, expected, measured)
    kept = tuple(verdicts.values())
    _observed(observe, theirs.path, kept)
    for key, verdict in verdicts.items():
        if not verdict.passed:
            child = expected[key].child
            path = None if child is None else child.path
            return _Fault(theirs, call, verdict.key, verdict, kept, path, True, run, key, measured)
    fault = _mismatched(theirs, call, run, expected, kept, in_place)
    if fault is not None:
        _observed(observe, theirs.path, [fault.verdict])
    return fault


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
) -> _Fault | None:
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
        elif (one.tap.path, _ordinal(theirs, one.child)) in called:
            differences.append((one.tap.key, "is not handed on", one.child))
    for key, tap in run.items():
        siblings = theirs.siblings(tap.path)
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
            return _Fault(theirs, call, key, verdict, (*kept, verdict), path, named=False)
    return None


def _expected(trace: Trace, theirs: Call) -> dict[str, _Expected]:
    """What the call hands on and returns in the reference, by the keys of an isolated run."""
    found = {}
    for child in theirs.children:
        for slot in _argument_slots(child):
            key = tap_key(child.path, "input", slot.name, _ordinal(theirs, child))
            tap = trace[tap_key(child.path, "input", slot.name, child.call)]
            found[key] = _Expected(tap, child)
    for slot in slots(theirs.results):
        tap = trace[tap_key(theirs.path, "output", slot.name, theirs.call)]
        found[tap_key(theirs.path, "output", slot.name)] = _Expected(tap, None)
    return found


def _feeds(trace: Trace, theirs: Call) -> dict[str, Tap]:
    """The tensors of the call's arguments in the reference, by name."""
    return {
        slot.name: trace[tap_key(theirs.path, "input", slot.name, theirs.call)]
        for slot in _argument_slots(theirs)
    }


def _children(trace: Trace, theirs: Call) -> dict[tuple[str, int], dict[str, Tap]]:
    """The tensors of the results of each module that the call makes use of, by name."""
    return {
        (child.path, _ordinal(theirs, child)): {
            slot.name: trace[tap_key(child.path, "output", slot.name, child.call)]
            for slot in slots(child.results)
        }
        for child in theirs.children
    }


def _ordinal(parent: Call, child: Call) -> int:
    return next(i for i, one in enumerate(parent.siblings(child.path)) if one is child)


def _argument_slots(call: Call) -> list[Slot]:
    return [slot for part in call.arguments.values.values() for slot in slots(part)]


def _argument_keys(call: Call) -> list[str]:
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


def _wrong_inputs(root: Call, in_place: Mapping[str, Verdict]) -> Localisation | None:
    """The localisation that says the two models were given different inputs, or None."""
    verdicts = tuple(in_place[key] for key in _argument_keys(root) if key in in_place)
    wrong = [verdict for verdict in verdicts if not verdict.passed]
    if not wrong:
        return None
    evidence = f"model: the two models were given different inputs\n  {wrong[0]}"
    return Localisation("model", "wiring", wrong[0].key, evidence, None, verdicts)


def _explanations(
    reference: ReferenceRecorder,
    port: Recorder,
    trace: Trace,
    fault: _Fault,
    explain: Explain | None,
) -> list[Explanation]:
    """What may have caused a fault, the likeliest first; nothing where no values were compared."""
    if explain is None or fault.run is None:
        return []
    feeds, children = _feeds(trace, fault.theirs), _children(trace, fault.theirs)
    case = Case(
        fault.theirs,
        fault.key,
        fault.run,
        {key: one.tap for key, one in _expected(trace, fault.theirs).items()},
        fault.floors,
        feeds,
        lambda given=feeds: reference.isolate(fault.theirs, given, children),
        lambda given=feeds: port.isolate(fault.call, given, children),
        trace,
        tuple(child.path for child in fault.call.children),
        fault.call,
    )
    return explain(reference, case)


def _report(
    reference: ReferenceRecorder,
    faults: list[_Fault],
    calls: int,
    in_place: Mapping[str, Verdict],
    explanations: list[Explanation],
) -> Localisation:
    first = faults[0]
    path, verdict = first.theirs.path, first.verdict
    own = not first.theirs.children or (first.named and reference.owns_parameters(path))
    inputs = [in_place[key] for key in _argument_keys(first.theirs) if key in in_place]
    times = f" in {len(faults)} of {calls} calls" if calls > 1 else ""
    limit = verdict.threshold.value / verdict.threshold.floor
    if verdict.problem is not None:
        head = f"{first.edge} {verdict.problem}"
    else:
        head = (
            f"{'own error' if own else f'{first.edge} is off by'} {verdict.value:.2g} "
            f"({verdict.metric}), {verdict.ratio:.2g}x the reference's rounding error, "
            f"limit {limit:.3g}x"
        )
    facts = [verdict.detail] if verdict.detail else []
    if not own and first.named:
        facts.append("all modules it calls return the reference's results")
    if all(one.passed for one in inputs):
        most = max((one.ratio for one in inputs), default=0.0)
        facts.append(f"its inputs agree (worst {most:.2g}x)")
    else:
        facts.append("in place its inputs differ as well, which other modules are to blame for")
    lines = [f"{shown(path)}: {head}{times} [float64]", "; ".join(facts)]
    cause = explanations[0].text if explanations and explanations[0].exact else None
    if explanations:
        lines.append(f"likely: {explanations[0]}")
    text = "\n  ".join(lines)
    kind = "own" if own else "wiring"
    return Localisation(
        shown(path), kind, first.edge, text, cause, first.verdicts, tuple(explanations)
    )

"""Which module makes a difference itself, and which merely passes one on."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.calls import Call
from parity.causes.case import Case, Explanation
from parity.judge import Verdict, function_verdict
from parity.judging.calls import (
    Fault,
    Judging,
    Observe,
    Recorder,
    argument_keys,
    children_of,
    expected_of,
    feeds_of,
)
from parity.judging.calls import ReferenceRecorder as ReferenceRecorder
from parity.metrics import Gap
from parity.pairing import Comparison
from parity.steps import IN_SILENCE, Telling
from parity.trace import Tap, Trace, shown

Explain = Callable[[Any, Case], list[Explanation]]


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

    @property
    def headline(self) -> str:
        """One line: where, and why if that is known."""
        return f"{self.path}: {self.cause or f'differs, first at {self.edge}'}"


@dataclass(frozen=True)
class Located:
    """What judging every module apart from all others found.

    Args:
        places: those at fault, in the reference's order of execution.
        borders: keys of taps that have no counterpart, because a module begins or ends elsewhere
            in the port, to the reason: with the module around it, both compute the same.
        unjudged: modules that cannot be run alone, to what prevents it; they are judged as a part
            of those that call them.
    """

    places: tuple[Localisation, ...] = ()
    borders: Mapping[str, str] = field(default_factory=dict)
    unjudged: Mapping[str, str] = field(default_factory=dict)


def localise(*args: Any, **kwargs: Any) -> list[Localisation]:
    """The places of `locate`; empty where there is none."""
    return list(locate(*args, **kwargs).places)


def locate(
    reference: ReferenceRecorder,
    port: Recorder,
    trace: Trace,
    inputs: tuple | dict,
    floors: Mapping[str, Gap],
    explain: Explain | None = None,
    *,
    everywhere: bool = False,
    observe: Observe | None = None,
    telling: Telling = IN_SILENCE,
) -> Located:
    """Every place at fault, and what is none.

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
        telling: how long causes are searched for, and who is told of each place when it is found.
    """
    comparison = Comparison(trace)
    port(inputs, comparison)
    in_place = {
        key: function_verdict(key, found, floors[key]) for key, found in comparison.gaps.items()
    }
    ours = {(call.path, call.call): call for call in port.calls}
    judging = Judging(reference, port, trace, in_place)
    for theirs in reversed(reference.calls):  # what a module calls is judged before itself
        call = ours.get((theirs.path, theirs.call))
        if call is not None and (everywhere or judging.suspects(theirs, call)):
            judging.judge(theirs, call)
    judging.show(observe)
    faults: dict[str, list[Fault]] = defaultdict(list)
    for fault in judging.in_order():
        faults[fault.theirs.path].append(fault)
    order = {key: index for index, key in enumerate(trace)}
    found = [_wrong_inputs(reference.calls[0], in_place)]
    search = _Search(reference, port, trace, explain, telling)
    for path, same in faults.items():
        # A module that is wrong itself explains why it seems to lack an input.
        believed = [
            fault
            for fault in same
            if (fault.named or fault.child not in faults) and not judging.is_border(fault.theirs)
        ]
        if believed:
            calls = sum(call.path == path for call in reference.calls)
            chosen, causes = search.causes(believed[0])
            if chosen is not believed[0]:
                believed = [chosen, *believed[1:]]
                judging.set_borders(chosen)
            note = judging.note(chosen)
            found.append(
                _report(reference, believed, calls, in_place, causes, (note, search.ended))
            )
            telling.tell(found[-1])
    places = sorted((one for one in found if one), key=lambda one: order.get(one.edge, len(order)))
    places = [one for one in places if one.path not in judging.dissolved()]
    return Located(tuple(places), judging.borders(), judging.unjudged())


def _wrong_inputs(root: Call, in_place: Mapping[str, Verdict]) -> Localisation | None:
    """The localisation that says the two models were given different inputs, or None."""
    verdicts = tuple(in_place[key] for key in argument_keys(root) if key in in_place)
    wrong = [verdict for verdict in verdicts if verdict.fails]
    if not wrong:
        return None
    evidence = f"model: the two models were given different inputs\n  {wrong[0]}"
    return Localisation("model", "wiring", wrong[0].key, evidence, None, verdicts)


class _Search:
    """Searches for the causes of faults, one after the other; `ended` says why one was given up."""

    def __init__(
        self,
        reference: ReferenceRecorder,
        port: Recorder,
        trace: Trace,
        explain: Explain | None,
        telling: Telling,
    ) -> None:
        self.ended = ""
        self._reference, self._port, self._trace = reference, port, trace
        self._explain, self._telling = explain, telling
        self._spent = telling.budget.clock()
        self._known: dict[type, list[str]] = defaultdict(list)

    def causes(self, fault: Fault) -> tuple[Fault, list[Explanation]]:
        """What may have caused a fault, the likeliest first, and the fault as it is then seen.

        Nothing where no values were compared, and where the time is spent.
        """
        self.ended = ""
        for one in (*fault.behind, fault):
            found = self._found(one)
            if found and found[0].exact:
                kind = type(self._reference.modules[one.theirs.path])
                self._known[kind].insert(0, found[0].generic)
                return one, found
        return fault, found

    def _found(self, fault: Fault) -> list[Explanation]:
        if self._explain is None or fault.run is None:
            return []
        over = self._spent.at_place()
        if over():
            self.ended = "no cause was searched for here: the time for it was spent"
            return []
        reference, port, theirs = self._reference, self._port, fault.theirs
        through = fault.through
        feeds = feeds_of(self._trace, theirs)
        children = children_of(self._trace, theirs, through)

        def run(given: Mapping[str, Tap] = feeds, results: Any = children) -> Trace:
            with reference.looking_through(through):
                return reference.isolate(theirs, given, results)

        def again(given: Mapping[str, Tap] = feeds) -> Trace:
            with port.looking_through(through):
                return port.isolate(fault.call, given, children)

        expected = expected_of(self._trace, theirs, through)
        case = Case(
            theirs,
            fault.key,
            fault.run,
            {key: one.tap for key, one in expected.items()},
            fault.floors,
            feeds,
            children,
            run,
            again,
            self._trace,
            tuple(one.path for one in fault.call.made(through) if one.path not in through),
            through,
            tuple(dict.fromkeys(self._known[type(reference.modules[theirs.path])])),
            over,
            fault.call,
        )
        try:
            found = self._explain(reference, case)
        except KeyboardInterrupt:
            self._spent.stop()
            found = []
        if over() and not (found and found[0].exact):
            self.ended = "the search for a cause ended here: the time for it was spent"
        return found


def _report(
    reference: ReferenceRecorder,
    faults: list[Fault],
    calls: int,
    in_place: Mapping[str, Verdict],
    explanations: list[Explanation],
    notes: Sequence[str] = (),
) -> Localisation:
    first = faults[0]
    path, verdict = first.theirs.path, first.verdict
    own = not first.theirs.children or (first.named and reference.owns_parameters(path))
    inputs = [in_place[key] for key in argument_keys(first.theirs) if key in in_place]
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
    if first.across:
        facts.append(f"seen together with {', '.join(sorted(first.across))}, which ends elsewhere")
    facts += [note for note in notes if note]
    lines = [f"{shown(path)}: {head}{times} [float64]", "; ".join(facts)]
    cause = explanations[0].text if explanations and explanations[0].exact else None
    if explanations:
        lines.append(f"likely: {explanations[0]}")
    text = "\n  ".join(lines)
    kind = "own" if own else "wiring"
    return Localisation(
        shown(path), kind, first.edge, text, cause, first.verdicts, tuple(explanations)
    )

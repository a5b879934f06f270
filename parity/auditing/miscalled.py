"""Declared calls of a module that are others of the reference's calls than the map says."""

from collections.abc import Mapping
from dataclasses import replace

from parity.auditing.port import Port, recorder_of, usable
from parity.auditing.reference import Reference
from parity.judge import Verdict, function_verdict
from parity.localise import Localisation
from parity.names import Names
from parity.pairing import tap_gap
from parity.trace import Tap, shown

Calls = dict[int, list[Tap]]


def miscalled(reference: Reference, port: Port) -> list[Localisation]:
    """A place for each module of which the map's `calls` lead to the wrong ones.

    The port runs once more, its calls counted as they come. One that has nothing in common with the
    call of the reference that it is declared to be, but all with exactly one other, is told.
    """
    names = reference.pair.names
    if not isinstance(names, Names) or not names.calls:
        return []
    counted = replace(reference.pair, names=replace(names, calls={}))
    met: dict[str, Calls] = {path: {} for path in names.calls}

    def keep(tap: Tap) -> None:
        if tap.path in met:
            met[tap.path].setdefault(tap.call, []).append(replace(tap, array=tap.array.copy()))

    execution = port.float64.framework.EXECUTIONS[0]
    recorder, inputs = recorder_of(replace(reference, pair=counted), port.float64, execution, None)
    with usable(port.float64, execution):
        recorder(inputs, keep)
    found = (_place(reference, path, names.calls[path], calls) for path, calls in met.items())
    return [one for one in found if one is not None]


def _place(
    reference: Reference, path: str, declared: Mapping[int, int], calls: Calls
) -> Localisation | None:
    count = sum(call.path == path for call in reference.recorder.calls)
    told = []
    failed: list[Verdict] = []
    for ours, theirs in declared.items():
        verdicts = {n: _verdicts(reference, calls.get(ours, []), n) for n in range(count)}
        right = [n for n, some in verdicts.items() if some and all(one.passed for one in some)]
        if len(right) == 1 and theirs not in right:
            told.append(f"the port's call {ours} is the reference's {right[0]}, not {theirs}")
            failed += [one for one in verdicts.get(theirs, []) if one.fails]
    if not told:
        return None
    cause = f"`calls` says otherwise: {', '.join(told)}"
    edge = failed[0].key if failed else shown(path)
    evidence = f"{shown(path)}: its calls are declared in another order than that of their tensors"
    return Localisation(shown(path), "wiring", edge, evidence, cause, tuple(failed))


def _verdicts(reference: Reference, taps: list[Tap], call: int) -> list[Verdict]:
    """Whether the taps of one call are those of the reference's `call`."""
    found = []
    for tap in taps:
        key = replace(tap, call=call).key
        if key in reference.trace:
            gap = tap_gap(tap, reference.trace[key])
            found.append(function_verdict(key, gap, reference.floors[key]))
    return found

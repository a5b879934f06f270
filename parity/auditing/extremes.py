"""The claims on modules that run alone on extreme inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from parity.auditing.options import Options
from parity.auditing.pair import Built, cast
from parity.auditing.port import Port, recorder_of, usable
from parity.auditing.reference import Reference
from parity.calls import Call
from parity.causes.case import Case
from parity.claims import Claim, Place, margin_claim
from parity.judge import Verdict
from parity.judging.extremes import (
    Extreme,
    Run,
    Side,
    cause,
    judged_in_float32,
    judged_in_float64,
    places,
)
from parity.trace import Tap, shown


def extreme_claims(
    reference: Reference,
    port: Port,
    options: Options,
    known: Mapping[str, dict] | None = None,
) -> list[Claim]:
    """That every module alone computes the same on extreme inputs, in float64, and where it does is
    as exact in float32 as the reference's own; where not, the innermost such module, and why.

    `known` keeps by dtype what the reference's modules return, where several ports are judged.
    """
    known = {"float64": {}, "float32": {}} if known is None else known
    double = replace(_side(reference, port.float64, "float64"), known=known["float64"])
    found = judged_in_float64(double, reference.trace)
    explain = reference.framework.explain
    said = partial(_explained, explain, double) if explain is not None else lambda run: ()
    claims = _claim(
        "extreme_function",
        "On extreme inputs every module alone computes the same in float64",
        (found, said),
        "largest gap in units of its limit, min(32 x floor, 1e-9); the floor is the rounding of "
        "one number, or where a module is beyond that, the reference's own gap when that module's "
        "roundings are moved",
        options.command,
    )
    if port.float32 is None or not options.float32 or any(one.fails for one in claims):
        return claims
    single = replace(_side(reference, port.float32, "float32"), known=known["float32"])
    found = judged_in_float32(single, double, reference.trace)
    return claims + _claim(
        "extreme_precision",
        "On extreme inputs no module alone is less exact in float32 than the reference's own",
        (found, lambda run: ()),
        "largest error in units of its limit; the limit is 4 x the error of the float32 reference "
        "against its own float64 run, or its rounding floor where larger; what is up to 8 times "
        "beyond that is held to 4 x the port's own error on inputs of the usual size as well",
        options.command,
    )


def _side(reference: Reference, built: Built, dtype: str) -> Side:
    """Both recorders in one precision, after a run each."""
    execution = built.framework.EXECUTIONS[0]
    port, inputs = recorder_of(reference, built, execution, None)
    with usable(built, execution):
        port(inputs, lambda tap: None)
    own = replace(reference.built, dtype=dtype)

    @contextmanager
    def both() -> Iterator[None]:
        with own.precision(), built.precision():
            yield

    if dtype == "float64":
        return Side(reference.recorder, port, both)
    theirs = reference.recorder_in(dtype)
    with own.precision():
        theirs(cast(reference.pair.inputs, dtype), lambda tap: None)
    return Side(theirs, port, both)


def _claim(
    identity: str,
    title: str,
    judged: tuple[Sequence[Extreme], Callable[[Run], Sequence[Any]]],
    derivation: str,
    command: str,
) -> list[Claim]:
    found, explain = judged
    verdicts: Mapping[str, Verdict] = {one.key: one for each in found for one in each.verdicts}
    if not verdicts:
        return []
    one = margin_claim(identity, title, verdicts, derivation, command)
    wrong = places(found)
    if not wrong:
        return [one]
    path, own = wrong[0]
    kinds = ", ".join(dict.fromkeys(each.kind for each in own))
    place = Place(shown(path), f"{shown(path)}: given inputs {kinds}")
    return [one.located(place, cause(own, explain))]


def _explained(explain: Callable[..., Sequence[Any]], side: Side, run: Run) -> Sequence[Any]:
    """What explains the first result that differs; the module runs whole."""

    def again(given: Mapping[str, Tap] = run.feeds, results: Any = None) -> Mapping[str, Tap]:
        return side.of_reference(run.theirs, given)

    case = Case(
        run.theirs,
        run.key,
        {key: tap for key, tap in run.made.items() if key in run.exact},
        run.exact,
        run.floors,
        run.feeds,
        {},
        again,
        lambda given=run.feeds: side.of_port(run.ours, given),
        run.exact,
        through=frozenset(_paths(run.theirs)),
        ours=run.ours,
    )
    return explain(side.reference, case)


def _paths(call: Call) -> Iterator[str]:
    for child in call.children:
        yield child.path
        yield from _paths(child)

"""Two captured sides, judged by NumPy alone, as `parity.audits` judges two that run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from parity.auditing.result import (
    About,
    AuditResult,
    Measured,
    Precision,
    build_result,
    score_error,
)
from parity.captures.kept import Capture, Run, both_trained, check_partners, read
from parity.captures.stored import Entry, StoredTaps
from parity.captures.training import LOSS
from parity.claims import Claim, Place, claim, margin_claim
from parity.errors import InputError
from parity.gradients import unpaired_parameters
from parity.judge import Verdict, function_verdict, gradient_verdict, same_decisions
from parity.localise import Localisation
from parity.measurements import Findings
from parity.pairing import Comparison
from parity.provenance import provenance
from parity.steps import Steps
from parity.trace import Tap, shown

NOT_VERIFIED = (
    "losses, gradients and weight updates",
    "each module alone on the reference's inputs: a captured side does not run",
    "inputs other than these",
    "data pipelines, and what is made of the outputs",
)


STEP = {
    "losses": "Every loss is the same in float64",
    "gradients": "Every gradient between modules and of every parameter agrees in float64",
    "update": "Given the same gradients, both optimizers make the same update in float64",
}
STEP_LIMIT = (
    "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
    "reference's own gap when what it is given moves by one unit in the last place; a gradient "
    "that is zero in theory must be as small in the port"
)


@dataclass(frozen=True)
class Folder:
    """A captured side and where it is."""

    place: Path
    capture: Capture

    def run(self, precision: str) -> list[Run]:
        """Its runs in one precision."""
        return [one for one in self.capture.runs if one.precision == precision]


def opened(place: Path, side: str) -> Folder:
    """A captured side, each of whose files is there and is one of taps.

    Raises TraceError where it is no capture of that side or was changed, and InputError where it
    has no float64 run.
    """
    found = Folder(place, read(place, side))
    if not found.run("float64"):
        raise InputError(
            f"{place} has no float64 run",
            "every other precision is held to it",
            "capture with --precision float64,float32",
        )
    step = found.capture.step
    for run in (*found.capture.runs, *([step] if step else [])):
        run.stored(place)
    return found


def judge_captured(reference: Path, port: Path, command: str, steps: Steps) -> AuditResult:
    """The audit of two captured sides; both frameworks may be missing.

    Raises TraceError for folders that are no captures or were changed, and InputError for two that
    are not of one pair.
    """
    return judged(opened(reference, "reference"), opened(port, "port"), command, steps)


def judged(theirs: Folder, ours: Folder, command: str, steps: Steps) -> AuditResult:
    """The audit of a captured reference and a captured port, as `judge_captured` makes it."""
    check_partners(theirs.capture, ours.capture)
    (exact,) = theirs.run("float64")
    trace = exact.stored(theirs.place)
    back = ours.capture.returned
    measured = Measured(
        trace.places(),
        theirs.capture.floors,
        reference32=theirs.capture.errors32,
        floors32=theirs.capture.floors32,
        tensors_converted=back.count,
        tensors_changed=back.changed,
        returned_sha256=back.sha256,
    )
    with steps("port, float64"):
        comparison = Comparison(trace)
        for tap in _paired(ours.run("float64")[0].stored(ours.place), trace):
            comparison(tap)
        measured.function = comparison.gaps
        measured.unpaired, measured.missing = comparison.unpaired, comparison.missing()
    if not measured.function:
        raise InputError(
            "no tensor of the captured port has a counterpart in the captured reference",
            f"the port's begin with {next(iter(measured.unpaired), 'none')}",
            "capture both with the same names of modules",
        )
    for run in ours.run("float32") if theirs.capture.errors32 else ():
        with steps(f"port, float32, {run.execution}, on {run.device}"):
            measured.executions[run.execution] = _precise(run, ours, theirs, trace, measured)
    place = _first_place(measured)
    with steps("training step"):
        trained = step_claims(theirs, ours, command)
    about = About(
        command,
        theirs.capture.inputs,
        provenance(
            models={
                "reference": theirs.capture.provenance.get("model"),
                "port": ours.capture.provenance.get("model"),
            },
            captured={"reference": _made(theirs), "port": _made(ours)},
            weights_sha256=theirs.capture.weights_sha256,
            **theirs.capture.facts,
        ),
        (*(NOT_VERIFIED[1:] if trained else NOT_VERIFIED), *_not_judged(theirs, ours)),
        steps.timings,
        lambda path: theirs.capture.stages.get(path, path.partition(".")[0] or "outputs"),
        theirs.capture.pairing,
    )
    result = build_result(measured, [place] if place else [], about, trained)
    return replace(result, title=theirs.capture.title)


def step_claims(theirs: Folder, ours: Folder, command: str) -> list[Claim]:
    """The claims on a training step, where both sides have one.

    Raises InputError where one side alone has one.
    """
    if not both_trained(*(one.capture.step is not None for one in (theirs, ours))):
        return []
    trace = theirs.capture.step.stored(theirs.place)
    comparison, floors = Comparison(trace), theirs.capture.step_floors
    for tap in ours.capture.step.stored(ours.place).values():
        comparison(tap)
    kinds: dict[str, dict[str, Verdict]] = {"losses": {}, "gradients": {}, "update": {}}
    for key, found in comparison.gaps.items():
        place = trace.places()[key]
        kind = "update" if place.kind == "update" else "gradients"
        kind = "losses" if place.path == LOSS else kind
        judged = gradient_verdict if kind == "gradients" else function_verdict
        kinds[kind][key] = judged(key, found, floors[key])
    alone = [key for key in comparison.unpaired if ":update" in key or key.startswith(f"{LOSS}:")]
    lost = [*comparison.missing(), *unpaired_parameters(comparison), *alone]
    claims = [
        claim(
            "train_gradients_pairing",
            "Every loss, gradient and update has its counterpart",
            Findings(len(trace), lost),
            "what one side alone has of a training step",
            command,
        )
    ]
    for kind, verdicts in kinds.items():
        if verdicts:
            one = margin_claim(f"train_{kind}", STEP[kind], verdicts, STEP_LIMIT, command)
            wrong = [key for key, verdict in verdicts.items() if not verdict.passed]
            claims.append(one if one.holds else one.located(Place.at(wrong[0])))
    return claims


def _not_judged(theirs: Folder, ours: Folder) -> list[str]:
    """What one side was captured in alone, or neither."""
    lacking = [one.capture.side for one in (theirs, ours) if not one.capture.has_float32]
    return [f"float32, in which no {' and no '.join(lacking)} was captured"] if lacking else []


def _made(folder: Folder) -> dict:
    """Where a side was captured."""
    kept = ("date", "platform", "packages", "cpu", "device")
    told = folder.capture.provenance
    return {name: told[name] for name in kept if name in told} | {"sha256": folder.capture.sha256}


def _precise(
    run: Run, ours: Folder, theirs: Folder, trace: StoredTaps, measured: Measured
) -> Precision:
    comparison = Comparison(trace, ulps=lambda key: True)
    decisions = []
    for tap in _paired(run.stored(ours.place), trace):
        comparison(tap)
        if tap.key in theirs.capture.decided:
            error = score_error(tap.key, measured, run.execution)
            decisions.append(same_decisions(tap.key, tap.array, trace[tap.key].array, error))
    return Precision(comparison.gaps, decisions)


def _paired(port: StoredTaps, trace: StoredTaps) -> Iterator[Tap]:
    """The port's taps under the reference's names, one at a time: of a call, one tensor that is
    left on either side belongs to the one on the other."""
    free, left = _left(trace, port), _left(port, trace)
    names = {
        found[0].key: free[place][0].name
        for place, found in left.items()
        if len(found) == 1 and len(free.get(place, ())) == 1
    }
    for key in port:
        tap = port[key]
        yield replace(tap, name=names[key]) if key in names else tap


def _left(taps: StoredTaps, others: StoredTaps) -> dict[tuple[str, str, int], list[Entry]]:
    """What has no counterpart, by call and kind."""
    found: dict[tuple[str, str, int], list[Entry]] = {}
    for one in taps.entries:
        if one.key not in others:
            found.setdefault((one.path, one.kind, one.call), []).append(one)
    return found


def _first_place(measured: Measured) -> Localisation | None:
    """Where the first difference is made: at the first tap that is beyond its limit, all before it
    being within theirs.

    A module is given its inputs by the one around it, and makes its outputs itself.
    """
    verdicts = {
        key: function_verdict(key, found, measured.floors[key])
        for key, found in measured.function.items()
    }
    first = next(
        (key for key in measured.places if key in verdicts and not verdicts[key].passed), None
    )
    if first is None:
        return None
    place, verdict = measured.places[first], verdicts[first]
    wiring = place.kind == "input" and place.path != ""
    path = place.path.rpartition(".")[0] if wiring else place.path
    said = (
        f"{shown(path)}: what it hands to {shown(place.path)} differs, and all before it agrees"
        if wiring
        else f"{shown(path)}: what it returns differs, and all before it agrees, its inputs too"
    )
    return Localisation(
        shown(path),
        "wiring" if wiring else "own",
        first,
        f"{said}\n  {verdict}",
        None,
        (verdict,),
    )

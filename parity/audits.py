"""Any model beside its port: from the two to a result, in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parity.auditing.advice import easy
from parity.auditing.alone import bfloat16_claims
from parity.auditing.extremes import extreme_claims
from parity.auditing.hard_inputs import with_hard_inputs
from parity.auditing.miscalled import miscalled
from parity.auditing.options import NOT_VERIFIED, Options, Runs
from parity.auditing.pair import Built, InDtype, described
from parity.auditing.pair import Pair as Pair
from parity.auditing.port import Port, build_port, recorder_of, usable, weights_told
from parity.auditing.reference import Reference, given_reference, measure_reference
from parity.auditing.result import (
    About,
    AuditResult,
    Measured,
    Precision,
    build_result,
    isolated_claim,
    score_error,
)
from parity.auditing.state import others_by_default, put_back, state_before
from parity.auditing.training import Training as Training
from parity.calls import Call, Recorder
from parity.errors import InputError
from parity.frameworks.shared.interceptions import noting
from parity.judge import BFLOAT16, Verdict, same_decisions
from parity.localise import Localisation, locate
from parity.matching.search import completed
from parity.metrics import Gap
from parity.pairing import Comparison
from parity.provenance import provenance
from parity.records import write_json
from parity.results import Result
from parity.steps import ENDLESS, Budget, Steps, Telling, give_back
from parity.trace import Tap, module_of, shown, tap_key
from parity.training.step import training_claims
from parity.weights import Loaded, state_digest

NO_CAUSES = "causes of differences: mistakes are planted in PyTorch, and neither model is of it"


def audit(
    pair: Pair,
    *,
    training: Training | None = None,
    executions: Sequence[str] | None = None,
    isolate: bool = False,
    search: str | None = None,
    title: str = "Audit",
    command: str = Options.command,
    quiet: bool = False,
) -> AuditResult:
    """Compare every paired tensor, find the places at fault, and say why: a result for `save`.

    Args:
        training: how both are trained; losses, gradients and updates are compared as well.
        executions: how the port is run in float32, by default in every way that its framework has;
            without any, only float64 is compared.
        isolate: run every module alone on the reference's inputs, even where nothing differs.
        search: how long causes are searched for, such as `60s` in all or `60s,5s` with at most 5 s
            at one place; by default as long as it takes.
        title, command: what the report calls it, and what measures it again.
        quiet: print no progress.
    Raises: InputError where the pair cannot be compared: the reference in training mode, an unknown
        name in the map, weights that do not match, a port that cannot run in float64.

    Example:
        >>> import numpy, tf_keras, torch
        >>> reference, images = torch.nn.Linear(4, 2).eval(), numpy.ones((3, 4), "float32")
        >>> pair = parity.Pair(reference, lambda: tf_keras.layers.Dense(2), (images,))
        >>> result = parity.audit(pair, executions=["graph"], quiet=True)
        >>> result.verdict
        'equal'
    """
    budget = ENDLESS if search is None else Budget.of_text(search)
    left = NOT_VERIFIED if training is None else NOT_VERIFIED[1:]
    options = Options(
        executions,
        isolate,
        search=budget,
        command=command,
        training=training,
        not_verified=left,
    )
    return replace(audit_with(pair, options, Steps(quiet=quiet)), title=title)


def audit_with(pair: Pair, options: Options, steps: Steps) -> AuditResult:
    """The result of one audit; models and tensors are let go as soon as nothing needs them."""
    if pair.hard_inputs:
        with steps("harder inputs"):
            found = with_hard_inputs(pair)
        pair = found.pair
        _tell(found.told, options, steps)
    declared = pair.weights is not None
    pair, first, told = completed(pair, steps, trained=options.training is not None)
    _tell(told, options, steps)
    if not isinstance(pair.reference, InDtype):
        hiding = easy(pair.inputs)
        if hiding and not pair.hard_inputs:
            hiding.append(
                "`--hard-inputs`, or `Pair(hard_inputs=True)`, makes others that hide less"
            )
        _tell(hiding, options, steps)
        if first is None:
            pair, first = given_reference(pair)
        if declared:
            with steps("weights"):
                told = weights_told(pair, first)
            _tell([f"weights: {text}" for text in told], options, steps)
    reference = measure_reference(pair, options, steps, first)
    port = build_port(reference, options, steps)
    return judge_port(reference, port, options, steps, once=True)


def judge_port(
    reference: Reference, port: Port, options: Options, steps: Steps, *, once: bool = False
) -> AuditResult:
    """The audit's result for one port; its models are run as they are found.

    With `once`, both sides lose their models and tensors as soon as nothing needs them, and serve
    for no other audit.
    """
    pair = reference.pair
    measured = Measured(
        reference.trace.places(),
        reference.floors,
        reference32=reference.errors32,
        floors32=reference.floors32,
        reference16=reference.errors16,
        floors16=reference.floors16,
    )
    runs = Runs(reference.outputs, reference.moved, reference.outputs32)
    models = {"reference": _called(reference.built), "port": _called(port.float64)}
    unexplained = reference.framework.explain is None and port.float64.framework.mend is None
    ran = _measure_float64(reference, port, options, (measured, runs), steps)
    if options.first is not None and not measured.differing:
        for execution in _in_float32(port, options)[:1]:
            _judge_execution(reference, port.float32, options, (measured, runs), execution, steps)
            about = About(options.command, (), {}, (), {}, pair.stage, pair.names.pairing)
            options.first(build_result(measured, (), about))
    localisations, alone = _places(reference, port, options, (measured, runs), ran, steps)
    trained = []
    if options.training is not None:
        trained = training_claims(reference, port, options.training, options, steps)
    extremes = []
    if pair.extreme_inputs and options.only is None:
        with steps("extreme inputs"):
            extremes = extreme_claims(reference, port, options)
    halves = []
    if port.bfloat16 is not None and options.only is None and options.places is None:
        with steps("modules alone, bfloat16"):
            halves = bfloat16_claims(reference, port, options)
    if once:
        port.release64()
        reference.release64()
        give_back()
    _judge_less_exact(reference, port, options, (measured, runs), steps)
    if measured.marginal:
        with steps("more roundings of the reference, float32"):
            measured.floors32 = reference.more_floors32(options)
    if once:
        reference.release()
        port.float32 = port.bfloat16 = None
        give_back()
    claims = [*extremes, *halves, *trained]
    if alone and (options.isolate or measured.undecided):
        claims.append(isolated_claim(alone, localisations, options.command))
    if options.claims is not None:
        claims += options.claims(runs)
    left = (*options.not_verified, *((NO_CAUSES,) if unexplained else ()))
    declared = [*pair.names.reasons, *(pair.weights.reasons if pair.weights else ())]
    declared += port.reasons
    known = options.provenance or {"weights_sha256": state_digest(reference.state)}
    about = About(
        options.command,
        described(pair.inputs) if options.inputs is None else options.inputs,
        provenance(models=models, **known),
        (*left, *declared, *measured.remarks),
        steps.timings,
        pair.stage,
        pair.names.pairing,
    )
    return build_result(measured, localisations, about, claims)


def _called(built: Built) -> str:
    """A model as people tell it from others: its class, and its framework."""
    return f"{type(built.model).__name__} ({built.framework.NAME})"


def save(result: Result, folder: str | Path) -> Path:
    """Write the result to `folder`, whole or not at all, in a file called after its kind, such as
    audit.json; returns the path.

    `parity report` and `parity explain` read it.

    Example:
        >>> import numpy, tempfile, tf_keras, torch
        >>> reference, images = torch.nn.Linear(4, 2).eval(), numpy.ones((3, 4), "float32")
        >>> pair = parity.Pair(reference, lambda: tf_keras.layers.Dense(2), (images,))
        >>> result = parity.audit(pair, executions=(), quiet=True)
        >>> parity.save(result, tempfile.mkdtemp()).name
        'audit.json'
    """
    try:
        return write_json(
            result.to_json(),
            Path(folder),
            f"{result.schema.rpartition('/')[0].rpartition('/')[2]}.json",
        )
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written",
            f"{type(error).__name__}: {error.strerror or error}",
            "choose another folder, or free some space",
        ) from None


def _measure_float64(
    reference: Reference, port: Port, options: Options, found: tuple[Measured, Runs], steps: Steps
) -> tuple[Recorder, Any]:
    """Measures the float64 port; returns what recorded it, and its inputs."""
    (measured, runs), built, trace = found, port.float64, reference.trace
    execution = built.framework.EXECUTIONS[0]
    recorder, inputs = recorder_of(reference, built, execution, options.only)
    with steps("port, float64"):
        comparison = Comparison(trace)
        with usable(built, execution), noting() as kept:
            recorder.modules_of(inputs)
            before = state_before(built)
            runs.port, _ = recorder(inputs, comparison)
            measured.changed_by_running = put_back(built, before)
            measured.by_default = others_by_default(built, recorder, inputs, runs.port)
        measured.kept = {"reference": reference.kept, "port": {**port.kept, **kept}}
        measured.assumed = dict(getattr(recorder.naming, "assumed", {}))
        measured.function = comparison.gaps
        measured.unpaired, measured.missing = comparison.unpaired, comparison.missing()
    if not measured.function:
        raise InputError(
            "no tensor of the port has a counterpart in the reference",
            f"the port's: {_few(measured.unpaired)}",
            f"the reference's: {_few(measured.missing)}",
            "declare in `Names` which modules and tensors belong together",
        )
    measured.not_finite = _not_finite(reference.recorder.calls, recorder.calls, comparison.gaps)
    _measure_weights(reference, port, measured)
    if options.so_far is not None:
        options.so_far.measured(measured.differing)
    return recorder, inputs


def _places(
    reference: Reference,
    port: Port,
    options: Options,
    found: tuple[Measured, Runs],
    ran: tuple[Recorder, Any],
    steps: Steps,
) -> tuple[list[Localisation], dict[str, Verdict]]:
    """The places at fault, and the verdicts on modules that were run alone, by key.

    `ran` recorded the float64 port, and its inputs.
    """
    (measured, runs), (recorder, inputs) = found, ran
    built, trace = port.float64, reference.trace
    if options.only is not None:
        return [], {}
    if options.places is not None:
        with steps("localise"):
            return options.places(reference, runs.port, measured), {}
    if not (measured.differing or options.isolate):
        return [], {}
    alone: dict[str, Verdict] = {}
    with steps("localise"), reference.built.precision(), built.precision():
        located = locate(
            reference.recorder,
            recorder,
            trace,
            inputs,
            measured.floors,
            _explain(reference, port, recorder, measured),
            everywhere=options.isolate,
            observe=lambda verdicts: alone.update({one.key: one for one in verdicts}),
            telling=Telling(options.search, partial(_found, options, steps)),
        )
        places = [*miscalled(reference, port), *located.places]
    measured.borders, measured.unjudged = located.borders, located.unjudged
    measured.function = _within(measured, measured.function)
    for name, run in measured.executions.items():
        measured.executions[name] = replace(run, gaps=_within(measured, run.gaps))
    return places, alone


def _tell(texts: Sequence[str], options: Options, steps: Steps) -> None:
    """Says something of the pair before it is measured, and keeps it."""
    for text in texts:
        steps.note(text)
        if options.so_far is not None:
            options.so_far.tell(text)


def _found(options: Options, steps: Steps, place: Localisation) -> None:
    """Says and keeps a place as soon as it is found."""
    steps.note(place.headline)
    if options.so_far is not None:
        options.so_far.found(place)


def _within(measured: Measured, gaps: Mapping[str, Gap]) -> dict[str, Gap]:
    """The gaps of taps that are no borders of a module that lie elsewhere on the other side."""
    return {key: one for key, one in gaps.items() if key not in measured.borders}


def _not_finite(
    theirs: Sequence[Call], ours: Sequence[Call], gaps: Mapping[str, Gap]
) -> dict[str, Any]:
    """Which module makes the first NaN or infinite numbers that both have, and at how many tensors.

    Empty where there are none.
    """
    met = [key for key in gaps if gaps[key].same_not_finite]
    if not met:
        return {}
    return {
        "tensors": len(met),
        "first": met[0],
        "reference": _maker(theirs, met[0]),
        "port": _maker(ours, met[0]),
    }


def _maker(calls: Sequence[Call], key: str) -> str:
    """The module that computes a tensor: one that returns it, or hands it to another."""
    for call in calls:
        place = tap_key(call.path, "input", "", call.call)
        if key == place or key.startswith(f"{place}."):
            return "the inputs" if call.parent is None else shown(call.parent.path)
    return module_of(key)


def _measure_weights(reference: Reference, port: Port, measured: Measured) -> None:
    """What came back from the port's variables, compared with what was given."""
    back = port.conversion(reference)
    measured.tensors_converted = back.count
    measured.returned_sha256, measured.tensors_changed = back.sha256, back.changed
    measured.tensors_lacking = port.lacking
    if isinstance(reference.pair.weights, Loaded):
        measured.port_source = reference.pair.weights.source
        measured.tensors_lacking = reference.pair.weights.lacking


def _explain(reference: Reference, port: Port, recorder: Recorder, measured: Measured) -> Any:
    """What explains differences of the port; None where neither side's framework can."""
    explain, mend = reference.framework.explain, port.float64.framework.mend
    if explain is None:
        return mend and (lambda _, case: mend(recorder, case.exchanged()))
    if not measured.tensors_changed:
        return explain
    back = port.read_back(reference)
    return partial(explain, weights={key: back[key] for key in measured.tensors_changed})


def _judge_less_exact(
    reference: Reference, port: Port, options: Options, found: tuple[Measured, Runs], steps: Steps
) -> None:
    """Measures what is left of the port's executions in float32, and the one in bfloat16."""
    for how in _in_float32(port, options):
        if how[1] not in found[0].executions:
            _judge_execution(reference, port.float32, options, found, how, steps)
    if port.bfloat16 is not None:
        how = ("port, bfloat16", BFLOAT16, port.bfloat16.framework.EXECUTIONS[0])
        _judge_execution(reference, port.bfloat16, options, found, how, steps)


def _in_float32(port: Port, options: Options) -> list[tuple[str, str, str]]:
    """How the port runs in float32, for `_judge_execution`."""
    if port.float32 is None or not options.float32:
        return []
    every = port.float32.framework.EXECUTIONS
    asked = every if options.executions is None else options.executions
    return [(f"port, float32, {one}", one, one) for one in asked if one != BFLOAT16]


def _judge_execution(
    reference: Reference,
    built: Built,
    options: Options,
    found: tuple[Measured, Runs],
    how: tuple[str, str, str],
    steps: Steps,
) -> None:
    """Measures one execution; `how` are its title, its name and how the recorder runs it."""
    (measured, runs), trace = found, reference.trace
    title, name, execution = how
    with steps(title):
        recorder, inputs = recorder_of(reference, built, execution, options.only)
        comparison = Comparison(trace, ulps=lambda key: True)
        decided = _Decided(comparison, reference, options)
        with usable(built, execution):
            outputs, _ = recorder(inputs, decided)
        if name != BFLOAT16:
            runs.port32[name] = outputs
        decisions = [
            same_decisions(key, array, trace[key].array, score_error(key, measured, name))
            for key, array in decided.scores.items()
        ]
        gaps = _within(measured, comparison.gaps)
        measured.executions[name] = Precision(gaps, decisions)
        if options.capture_effect:
            measured.effects[name] = built.framework.capture_effects(recorder, inputs, outputs)
        del recorder, comparison, decided, outputs
    give_back()  # a program and its compiled form, before the next one is made


class _Decided:
    """A sink that passes taps on to a comparison and keeps those that are decided by."""

    def __init__(self, comparison: Comparison, reference: Reference, options: Options) -> None:
        self.scores: dict[str, np.ndarray] = {}
        self._comparison, self._trace = comparison, reference.trace
        self._decided = options.decided or (lambda tap: False)

    def __call__(self, tap: Tap) -> None:
        self._comparison(tap)
        if tap.key in self._trace and self._decided(tap):
            self.scores[tap.key] = tap.array.copy()


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")

"""All claims on the training of a pair, from both models as an audit has them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from parity.auditing.options import Options
from parity.auditing.port import Port
from parity.auditing.reference import Reference
from parity.auditing.training import Training
from parity.claims import Claim, Place, all_hold
from parity.gradients import parameter_key
from parity.masks import Masks
from parity.metrics import perturb_ulp
from parity.pairing import Comparison
from parity.steps import Steps
from parity.training.backward import Backward, gradient_claims, isolated_gradients_claim
from parity.training.buffers import buffers_claim
from parity.training.dropout import Replayed, dropout_claim
from parity.training.extremes import extreme_loss_claim, extreme_precision_claim
from parity.training.losses import LOSS, decisions_claim, loss_claims, with_decisions
from parity.training.measured import NOTHING_DROPPED, ReferenceStep, decided_by, measure_step
from parity.training.precision import measure_float32, precision_claims
from parity.training.rates import begins_otherwise, rate_claims
from parity.training.sides import Arrays, Side, port_side, reference_side
from parity.training.trajectory import SideRun, followed, twin_claims, with_wider_twin
from parity.training.trajectory_causes import Prepare, place_and_causes
from parity.training.updates import (
    LENGTHS,
    STEP,
    given_gradients,
    measure_update32,
    measure_updates,
    update_claim,
    update_precision_claim,
)

# Rounding moves one twin by chance as little as not at all: where the port fails beside one, it is
# measured beside the farthest of four.
TWINS = 4
SEED = 0  # of the dropout masks that both sides are fed


def training_claims(
    reference: Reference, port: Port, training: Training, options: Options, steps: Steps
) -> list[Claim]:
    """The claims on losses, gradients, dropout, statistics, updates, rates, and several steps.

    A model keeps its weights. Raises InputError where a side cannot be trained.
    """
    command = options.command
    with steps("training step of the reference, float64"):
        theirs = reference_side(reference, training, "float64")
        step = measure_step(theirs)
    ours = port_side(reference, port, training, "float64")
    with steps("training step of the port, float64"):
        dropout = _dropout(reference, theirs, ours, command)
        claims = _step_claims(step, ours, options, reference.pair.extreme_inputs)
        other = begins_otherwise(step, ours, len(LENGTHS))
        exact = measure_updates(theirs, given_gradients(step), step.before, ours.seen)
        update = update_claim(exact, ours, command, other_rates=other)
        rates = rate_claims(training, step, ours, update, command)
    claims = [*claims, *([dropout] if dropout is not None else []), update, *rates]
    with steps(f"{training.steps} updates of both sides and of the reference's twin"):
        fed = dropout is not None and dropout.holds
        twin = partial(reference_side, reference, training, "float64")
        claims += _steps_claims(training, (theirs, ours), twin, claims, fed, command)
    if options.float32 and port.float32 is not None:
        single = _float32_claims(reference, port, training, step, options, steps)
        claims += [_inherited(one, claims) for one in single]
    return claims


def _inherited(single: Claim, claims: Sequence[Claim]) -> Claim:
    """A float32 claim, of which a difference in float64 is the source where there is one."""
    source = single.id.rpartition("_float32_")[0]
    wrong = next((one for one in claims if one.id == source and one.fails), None)
    if wrong is None or wrong.place is None:
        return single
    return single.located(Place.inherits(f"{wrong.place.part} in float64"), *wrong.causes)


def _step_claims(step: ReferenceStep, port: Side, options: Options, extreme: bool) -> list[Claim]:
    """Losses, gradients and buffers of one step in training mode; nothing is dropped."""
    forward = port.recorder("eager", NOTHING_DROPPED)
    buffers = buffers_claim(step, port, forward, options.command)
    recorder = port.gradient_recorder("eager", NOTHING_DROPPED)
    hidden = {parameter_key(key) for key in port.hidden()}
    exact = step.gradients.values.without(hidden)
    comparison = Comparison(exact)
    with step.side.training(), port.training() as port_inputs:
        recorder(port_inputs, comparison)
        claims = loss_claims(step, port, forward, recorder.terms, options.command)
        if step.side.decisions is not None:
            decided = decided_by(port, forward, step.outputs)
            claims = with_decisions(claims, decisions_claim(step, decided, options.command))
        backward = Backward(
            lambda: step.taps,
            step.backward,
            recorder,
            port_inputs,
            exact,
            step.gradients.floors,
            comparison,
            LOSS,
        )
        gradients = gradient_claims(backward, claims, options.command)
        wrong = next((one for one in claims[1:] if one.fails), None)
        if wrong is not None:  # the loss alone is wrong: what it passes on is inherited
            gradients = [
                one.located(Place.inherits("the loss"), *wrong.causes) for one in gradients
            ]
        claims += gradients
        if extreme:
            claims += extreme_loss_claim(step, port, forward, options.command)
        if options.isolate:
            claims.append(isolated_gradients_claim(backward, options.command))
    claims.append(buffers)
    return claims


def _dropout(reference: Reference, theirs: Side, ours: Side, command: str) -> Claim | None:
    framework = reference.framework
    one = theirs.recorder("eager", Masks(SEED, _by_order))
    other = ours.recorder("eager", _replayed(theirs, ours, SEED))
    with theirs.training() as inputs, ours.training() as port_inputs:
        found, _ = dropout_claim(
            one,
            other,
            (inputs, port_inputs),
            framework.measure_floors,
            framework.explain,
            command,
        )
    return found


def _replayed(theirs: Side, ours: Side, seed: int) -> Replayed:
    return Replayed(seed, ours.axes, {}, theirs.axes)


def _by_order(path: str, kind: str, name: str, rank: int) -> str:
    return ""


def _steps_claims(
    training: Training,
    sides: tuple[Side, Side],
    twin: Callable[[], Side],
    earlier: Sequence[Claim],
    fed: bool,
    command: str,
) -> list[Claim]:
    """Several updates, each side by its own gradients, fed the same masks where they can be."""
    theirs, ours = sides

    def masks(number: int) -> Any:
        return Masks(number, _by_order) if fed else NOTHING_DROPPED

    def twin_run(first_seed: int) -> SideRun:
        side = twin()
        moved = side.state(side.parameters())
        side.assign(
            {key: perturb_ulp(one, first_seed + i) for i, (key, one) in enumerate(moved.items())}
        )
        return SideRun(side, masks, ours)

    with ours.restored(), theirs.restored():
        drawn: dict[int, Replayed] = {}

        def replayed(number: int) -> Any:
            if not fed:
                return NOTHING_DROPPED
            if number not in drawn:
                drawn[number] = _replayed(theirs, ours, number)
                drawn[number].drawn.update(_drawn(theirs, number))
            return drawn[number]

        runs = {
            "reference": SideRun(theirs, masks, ours),
            "twin": twin_run(0),
            "port": SideRun(ours, replayed, ours),
        }
        rows = followed(runs, training.steps)
        ended = runs["port"].weights()
    claims = twin_claims(rows, command, "train_steps")
    # Statistics have no influence on steps in training mode.
    wrong = next((one for one in earlier if one.fails and one.id != "train_buffers"), None)
    if wrong is not None:
        source = wrong.place.part if wrong.place is not None else wrong.id
        return [one.located(Place.inherits(source), *wrong.causes) for one in claims]
    for more in range(1, TWINS):
        if all_hold(claims):
            return claims
        with theirs.restored():
            runs = {
                "reference": SideRun(theirs, masks, ours),
                "port": twin_run(more * len(theirs.parameters())),
            }
            rows = with_wider_twin(rows, followed(runs, training.steps))
        claims = twin_claims(rows, command, "train_steps")
    if all_hold(claims):
        return claims

    def again(prepare: Prepare) -> Arrays:
        with theirs.restored():
            run = SideRun(theirs, masks, ours)
            for number in range(training.steps):
                prepare(run.optimizer, number)
                run.step(number)
            return run.weights()

    changeable = hasattr(theirs.optimizer(), "param_groups")
    begun = ours.seen(theirs.state(theirs.parameters()))
    place, causes = place_and_causes(rows, (begun, ended), again if changeable else None)
    return [one.located(Place.at(STEP, f"{place[0]}, {place[1]}"), *causes) for one in claims]


def _drawn(side: Side, number: int) -> dict[str, Any]:
    """What the reference draws in update `number`, shapes and all."""
    recorder = side.recorder("eager", Masks(number, _by_order))
    with side.training() as inputs:
        recorder(inputs, lambda tap: None)
    return recorder.drawn


def _float32_claims(
    reference: Reference,
    port: Port,
    training: Training,
    step: ReferenceStep,
    options: Options,
    steps: Steps,
) -> list[Claim]:
    ours = port_side(reference, port, training, "float32")
    with steps("training step of the reference, float32"):
        single = reference_side(reference, training, "float32")
        measured = measure_float32(step, single)
        update = measure_update32(step, single, ours.seen)
    known = ours.built.framework.EXECUTIONS
    claims = []
    for execution in known if options.executions is None else options.executions:
        if execution not in known:  # one of the forward pass alone
            continue
        with steps(f"training step of the port, float32, {execution}"):
            claims += precision_claims(step, measured, ours, execution, options.command)
            if reference.pair.extreme_inputs:
                claims += extreme_precision_claim(step, (single, ours), execution, options.command)
            claims.append(update_precision_claim(update, ours, execution, options.command))
    return claims

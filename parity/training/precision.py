"""The claims on a training step in float32: as exact as the reference's own."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity.claims import Claim, Place, margin_claim
from parity.judge import PRECISION_FACTOR, precision_verdict, same_precision
from parity.metrics import Gap, gap, worst
from parity.pairing import Comparison
from parity.training.measured import NOTHING_DROPPED, ReferenceStep
from parity.training.sides import Side


@dataclass(frozen=True)
class Reference32:
    """The reference's float32 step: errors from float64, and those of its twins, by key."""

    side: Side
    gradients: Mapping[str, Gap]
    floors: Mapping[str, Gap]
    losses: Mapping[str, Gap]
    loss_floors: Mapping[str, Gap]


def measure_float32(step: ReferenceStep, side: Side) -> Reference32:
    """Runs the reference in float32 beside its own float64 step."""
    recorder = side.gradient_recorder("eager", NOTHING_DROPPED)
    comparison = Comparison(step.gradients.values)
    twins = []
    with side.training() as inputs:
        recorder(inputs, comparison)
        losses = _gaps(step, recorder.terms)
        floors = side.built.framework.measure_floors(
            recorder,
            inputs,
            step.gradients.values,
            observe=lambda total: twins.append(_gaps(step, recorder.terms)),
        )
    return Reference32(
        side,
        comparison.gaps,
        floors,
        losses,
        {name: worst(one[name] for one in twins) for name in losses},
    )


def precision_claims(
    step: ReferenceStep, reference: Reference32, port: Side, execution: str, command: str
) -> list[Claim]:
    """Losses and gradients of the port's float32 step in one execution."""
    recorder = port.gradient_recorder(execution, NOTHING_DROPPED)
    comparison = Comparison(step.gradients.values)
    with port.training() as inputs:
        recorder(inputs, comparison)
    gaps = {key: one for key, one in comparison.gaps.items() if key in reference.gradients}
    gradients = {
        one.key: one for one in same_precision(gaps, reference.gradients, reference.floors)
    }
    losses = {
        name: precision_verdict(name, found, reference.losses[name], reference.loss_floors[name])
        for name, found in _gaps(step, recorder.terms).items()
        if name in reference.losses
    }
    text = (
        f"largest error in units of its limit; the limit is {PRECISION_FACTOR:g} x the error of "
        "the float32 reference against its own float64 step, or its rounding floor where larger"
    )
    claims = []
    if losses:
        claims.append(
            margin_claim(
                f"train_losses_float32_{execution}",
                f"In float32 ({execution}) no term of the loss is less exact than the reference's",
                losses,
                text,
                command,
            )
        )
    if gradients:
        claims.append(
            margin_claim(
                f"train_gradients_float32_{execution}",
                f"In float32 ({execution}) no gradient is less exact than the reference's own",
                gradients,
                text,
                command,
            )
        )
    return [_placed(one) for one in claims]


def _placed(one: Claim) -> Claim:
    wrong = [key for key, verdict in one.measured.verdicts().items() if not verdict.passed]
    return one.located(Place(wrong[0].partition(":")[0], ", ".join(wrong[:3]))) if wrong else one


def _gaps(step: ReferenceStep, terms: Mapping[str, float]) -> dict[str, Gap]:
    return {
        name: gap(np.asarray(value, np.float64), step.losses.values[name])
        for name, value in terms.items()
        if name in step.losses.values
    }

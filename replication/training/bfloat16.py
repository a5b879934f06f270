"""The claims on a training step in bfloat16: each side against the reference's float64 step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from parity.captures.training import Trained
from parity.claims import Claim, Place, margin_claim
from parity.judge import BFLOAT16, MIXED, PRECISION_FACTOR, Verdict, precision_verdict
from parity.metrics import Gap, gap, worst
from parity.pairing import Comparison
from parity.steps import Steps
from parity.training.bfloat16 import loss_alone_claim
from parity.training.measured import ReferenceStep as EngineStep
from parity.training.sides import Side
from parity.training.updates import Update32, measure_update32, update_precision_claim
from replication.sides.tf_side import TENSORFLOW
from replication.sides.torch_side import TORCH
from replication.training import precision
from replication.training.captured import StepCase
from replication.training.reference import ReferenceStep


@dataclass(frozen=True)
class Held:
    """What a port's step in bfloat16 is held to.

    Args:
        reference, step: the reference's float64 step, and the same as the engine judges it.
        single, half: the reference's in float32, and under autocast.
    """

    reference: ReferenceStep
    step: EngineStep
    single: Side
    half: Trained

    @property
    def case(self) -> StepCase:
        """What both sides train on."""
        return _case(self.reference)

    @cached_property
    def update(self) -> Update32:
        """One update of the reference in float32."""
        return measure_update32(self.step, self.single)


def measured(reference: ReferenceStep, step: EngineStep, weights: Any) -> Held:
    """Builds the reference with its weights in float32 and in bfloat16; nothing is run yet."""
    model = TORCH.build(reference.config, weights, MIXED)
    half = _case(reference).of("reference", TORCH, MIXED)(model)
    return Held(reference, step, precision.reference32(reference, weights), half)


def bfloat16_claims(given: Held, port_weights: Any, command: str, steps: Steps) -> list[Claim]:
    """Costs, losses, gradients and the update in bfloat16, where the reference runs under autocast
    and the port under its mixed policy: in place as near to float64 as the reference's own; alone,
    as exact but for one rounding of what is handed on."""
    model = TENSORFLOW.build(given.reference.config, port_weights, MIXED)
    with steps("training step, bfloat16"):
        claims = _in_place(given, model, command)
    with steps("training step alone, bfloat16"):
        return [*claims, *alone_claims(given, model, command)]


def _in_place(given: Held, model: Any, command: str) -> list[Claim]:
    reference, theirs = given.reference, given.half
    recorder = theirs.side.gradient_recorder("eager", None)
    own, twins = Comparison(reference.gradients), []
    recorder(theirs.side.inputs, own)
    exact = reference.losses
    losses = _gaps(theirs.losses(), exact)
    floors = theirs.side.built.framework.measure_floors(
        recorder,
        theirs.side.inputs,
        reference.gradients,
        observe=lambda total: twins.append(_gaps(theirs.losses(), exact)),
    )
    ours = given.case.of("port", TENSORFLOW, MIXED)(model)
    comparison = Comparison(reference.gradients)
    ours.side.gradient_recorder("eager", None)(ours.side.inputs, comparison)
    found = _gaps(ours.losses(), exact)
    loss_floors = {name: worst(twin[name] for twin in twins) for name in losses}
    return [
        _claim("losses", "loss", _verdicts(found, losses, loss_floors), command),
        _claim("gradients", "gradient", _verdicts(comparison.gaps, own.gaps, floors), command),
    ]


def alone_claims(given: Held, model: Any, command: str) -> list[Claim]:
    """What each part of the step of the port `model`, under its mixed policy, does alone."""
    reference = given.reference
    side, targets = precision.port_side32(reference, model)
    claims = []
    if reference.pairs is not None:
        costs = reference, given.single.model, targets, BFLOAT16, command
        claims.append(precision.cost_claim(*costs))
    half = replace(side, loss=_as_returned(side.loss, model.compute_dtype))
    claims += loss_alone_claim(given.step, given.single, half, command)
    claims = [precision.of_the_criterion(one) for one in claims]
    claims.append(update_precision_claim(given.update, side, BFLOAT16, command))
    return claims


def _case(reference: ReferenceStep) -> StepCase:
    return StepCase(reference.config, reference.solver, reference.images, reference.sizes)


def _as_returned(loss: Callable[[Any], Any], dtype: Any) -> Callable[[Any], Any]:
    """The same loss of outputs in the dtype in which a model returns them."""
    import tensorflow as tf

    def narrow(one: Any) -> Any:
        return tf.cast(one, dtype) if one.dtype.is_floating else one

    return lambda outputs: loss(tf.nest.map_structure(narrow, outputs))


def _gaps(losses: Mapping[str, float], exact: Mapping[str, float]) -> dict[str, Gap]:
    return {name: gap(np.float64(losses[name]), np.float64(value)) for name, value in exact.items()}


def _verdicts(
    found: Mapping[str, Gap], own: Mapping[str, Gap], floors: Mapping[str, Gap]
) -> dict[str, Verdict]:
    return {
        key: precision_verdict(key, one, own[key], floors[key], dtype=BFLOAT16)
        for key, one in found.items()
        if key in own and key in floors
    }


def _claim(kind: str, one: str, verdicts: Mapping[str, Verdict], command: str) -> Claim:
    made = margin_claim(
        f"train_{kind}_bfloat16",
        f"In bfloat16 no {one} is less exact than the reference's own under autocast",
        verdicts,
        f"largest error in units of its limit; the limit is {PRECISION_FACTOR:g} x the error of "
        "the reference under autocast against its own float64 step, or its rounding floor where "
        "larger",
        command,
    )
    wrong = [key for key, verdict in verdicts.items() if not verdict.passed]
    if made.holds:
        return made
    return made.located(Place(wrong[0].partition(":")[0], ", ".join(wrong[:3])))

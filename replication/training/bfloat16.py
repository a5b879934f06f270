"""The claims on a training step in bfloat16: each side against the reference's float64 step."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.claims import Claim, Place, margin_claim
from parity.judge import BFLOAT16, MIXED, PRECISION_FACTOR, Verdict, precision_verdict
from parity.metrics import Gap, gap, worst
from parity.pairing import Comparison
from parity.steps import Steps
from replication.sides.tf_side import TENSORFLOW
from replication.sides.torch_side import TORCH
from replication.training.captured import StepCase
from replication.training.reference import ReferenceStep


def bfloat16_claims(
    reference: ReferenceStep, weights: Any, port_weights: Any, command: str, steps: Steps
) -> list[Claim]:
    """Losses and gradients in bfloat16, where the reference runs under autocast and the port under
    its mixed policy, are as near to float64 as the reference's own."""
    case = StepCase(reference.config, reference.solver, reference.images, reference.sizes)
    with steps("training step of the reference, bfloat16"):
        model = TORCH.build(reference.config, weights, MIXED)
        theirs = case.of("reference", TORCH, MIXED)(model)
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
    with steps("training step of the port, bfloat16"):
        model = TENSORFLOW.build(reference.config, port_weights or weights, MIXED)
        ours = case.of("port", TENSORFLOW, MIXED)(model)
        comparison = Comparison(reference.gradients)
        ours.side.gradient_recorder("eager", None)(ours.side.inputs, comparison)
        found = _gaps(ours.losses(), exact)
    loss_floors = {name: worst(twin[name] for twin in twins) for name in losses}
    return [
        _claim("losses", "loss", _verdicts(found, losses, loss_floors), command),
        _claim("gradients", "gradient", _verdicts(comparison.gaps, own.gaps, floors), command),
    ]


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

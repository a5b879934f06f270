"""Gradients of a training step: in place, and of every module alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.claims import NOWHERE, Claim, Place, claim, margin_claim
from parity.judge import DEFAULT
from parity.measurements import Findings
from replication.training.port import PortStep
from replication.training.reference import ReferenceStep


def gradient_claims(
    reference: ReferenceStep, port: PortStep, earlier: Sequence[Claim], command: str
) -> list[Claim]:
    """That no gradient is lost, and that all agree; the module at fault where they do not.

    Where the `earlier` claims, on what is differentiated, hold, the loss may be at fault itself.
    """
    from parity.gradients import gradient_verdicts, unpaired_parameters

    comparison = port.comparison
    verdicts = {v.key: v for v in gradient_verdicts(comparison.gaps, reference.floors)}
    lost = [*comparison.missing(), *unpaired_parameters(comparison)]
    claims = [
        claim(
            "train_gradients_pairing",
            "Every gradient between modules and of every parameter has its counterpart",
            Findings(len(reference.gradients), lost),
            "a tensor whose gradient is lost in one framework is learnt from in one only",
            command,
        ),
        margin_claim(
            "train_gradients",
            "Every gradient between modules and of every parameter agrees to rounding in float64",
            verdicts,
            "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
            "reference's own gap when inputs and weights move by one unit in the last place and "
            "sums are reordered; where that leaves not one digit, the gradient is zero in theory "
            "and must be as small in the port",
            command,
        ),
    ]
    if all(one.holds for one in claims):
        return claims
    wrong = [*lost, *(key for key, verdict in verdicts.items() if not verdict.passed)]
    sound = all(one.holds for one in earlier)
    place, cause = _gradient_place(reference, port, wrong, sound)
    return [one.located(place, cause) for one in claims]


def _factor(reference: ReferenceStep, port: PortStep, keys: Sequence[str]) -> str | None:
    """The one number that all these gradients of the port are multiplied by."""
    from parity.pairing import align

    taps = {}
    port.recorder(port.inputs, lambda tap: taps.update({tap.key: tap}))
    factors = set()
    for key in keys:
        theirs = reference.gradients[key].array
        ours = align(taps[key], reference.gradients[key].axes) if key in taps else None
        if ours is None or ours.shape != theirs.shape:
            return None
        factor = float(np.vdot(ours, theirs) / np.vdot(theirs, theirs))
        if np.linalg.norm(ours - factor * theirs) > DEFAULT.cap * np.linalg.norm(ours):
            return None
        factors.add(f"{factor:.6g}")
    return f"the gradient is multiplied by {factors.pop()}" if len(factors) == 1 else None


def isolated_gradients_claim(reference: ReferenceStep, port: PortStep, command: str) -> Claim:
    """That the backward pass of every module, run alone, has no error of its own."""
    verdicts: dict[str, Any] = {}
    found = _judge_backward(
        reference,
        port,
        everywhere=True,
        observe=lambda judged: verdicts.update({one.key: one for one in judged}),
    )
    one = margin_claim(
        "train_gradients_isolated",
        "Given the reference's inputs and gradients, every module alone passes the same back",
        verdicts,
        "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
        "rounding of one number, or where a module is beyond that, the reference's own gap when "
        "that module's roundings are moved",
        command,
    )
    return one.located(Place.at(found[0].path), found[0].cause) if found else one


def _judge_backward(reference: ReferenceStep, port: PortStep, **how: Any) -> list[Any]:
    """`backward_places` of this step."""
    from parity.frameworks.torch import capture as capture_torch
    from parity.gradients import backward_places
    from replication.sides.torch_side import REFERENCE_AXES

    forward = capture_torch.Recorder(reference.model, REFERENCE_AXES)
    _, values = forward(reference.inputs)
    _, gradients = reference.recorder(reference.inputs)
    return backward_places(
        reference.recorder,
        port.recorder,
        values,
        gradients,
        port.inputs,
        reference.floors,
        **how,
    )


def _gradient_place(
    reference: ReferenceStep, port: PortStep, wrong: Sequence[str], sound: bool
) -> tuple[Place, str | None]:
    """The loss where its own gradient differs, else the first module whose backward pass does."""
    of_loss = [key for key in wrong if key.startswith("model:grad_output")]
    if of_loss and sound:
        place = Place.at("criterion", f"gradient of {', '.join(of_loss[:3])}")
        return place, _factor(reference, port, of_loss)
    if of_loss:
        source = f"the loss or the predictions: {', '.join(of_loss[:3])}"
        return Place.inherits(source), None
    found = _judge_backward(reference, port)
    if not found:
        return NOWHERE, None
    return Place.edge(found[0].path, found[0].edge), found[0].cause

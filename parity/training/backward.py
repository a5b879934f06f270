"""Gradients of a training step: in place, and of every module alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.claims import NOWHERE, Claim, Place, claim, margin_claim
from parity.gradients import (
    backward_places,
    gradient_verdicts,
    parameter_key,
    unpaired_parameters,
)
from parity.judge import DEFAULT, gradient_verdict
from parity.localise import Localisation
from parity.measurements import Findings
from parity.metrics import Gap, gap
from parity.pairing import Comparison, align
from parity.trace import Tap, module_of


@dataclass(frozen=True)
class Backward:
    """The backward passes of both sides, in float64.

    Args:
        values: gives the trace of the reference's forward pass.
        reference, port: recorders of gradients, whose last runs made what follows.
        port_inputs: what the port is given.
        gradients, floors: the reference's, by key.
        comparison: the port's gradients in place, compared with them.
        loss: what the loss is called in a place, such as `criterion`.
    """

    values: Callable[[], Mapping[str, Tap]]
    reference: Any
    port: Any
    port_inputs: Any
    gradients: Mapping[str, Tap]
    floors: Mapping[str, Gap]
    comparison: Comparison
    loss: str


def gradient_claims(step: Backward, earlier: Sequence[Claim], command: str) -> list[Claim]:
    """That no gradient is lost, and that all agree; the module at fault where they do not.

    Where the `earlier` claims, on what is differentiated, hold, the loss may be at fault itself.
    """
    gaps = step.comparison.gaps
    in_order = {key: gaps[key] for key in step.gradients if key in gaps}
    verdicts = {v.key: v for v in gradient_verdicts(in_order, step.floors)}
    lost = [*step.comparison.missing(), *unpaired_parameters(step.comparison)]
    claims = [
        claim(
            "train_gradients_pairing",
            "Every gradient between modules and of every parameter has its counterpart",
            Findings(len(step.gradients), lost),
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
    if not any(one.fails for one in claims):
        return claims
    wrong = [*lost, *(key for key, verdict in verdicts.items() if verdict.fails)]
    place, cause = _place(step, wrong, not any(one.fails for one in earlier))
    return [one.located(place, cause) for one in claims]


def handed_claim(
    given: Mapping[str, np.ndarray | None],
    ours: Mapping[str, np.ndarray],
    floors: Mapping[str, Gap],
    command: str,
) -> Claim:
    """That a port's own step hands the gradient of every parameter to its optimizer.

    Args:
        given: the reference's gradient of each parameter by key, None where it has none.
        ours: those that the step hands over.
        floors: of the claim on gradients, by the gradient's key.
    """
    verdicts, lost = {}, []
    for name, exact in given.items():
        key = parameter_key(name)
        if (exact is None) != (name not in ours):
            lost.append(key)
        elif exact is not None:
            verdicts[key] = gradient_verdict(key, gap(ours[name], exact), floors[key])
    return margin_claim(
        "train_step_gradients",
        "The step hands the gradient of every parameter to its optimizer",
        verdicts,
        "largest gap in units of its limit, min(32 x floor, 1e-9), with the floors of the claim "
        "on gradients; a step may differentiate another sum than its losses'",
        command,
        lost,
    )


def isolated_gradients_claim(step: Backward, command: str) -> Claim:
    """That the backward pass of every module, run alone, has no error of its own."""
    verdicts: dict[str, Any] = {}
    found = _judged(
        step,
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
    if not found:
        return one
    return one.located(Place.at(found[0].path), found[0].cause)


def _judged(step: Backward, **how: Any) -> list[Localisation]:
    """`backward_places` of this step."""
    return backward_places(
        step.reference,
        step.port,
        step.values(),
        step.gradients,
        step.comparison,
        step.floors,
        **how,
    )


def _place(step: Backward, wrong: Sequence[str], sound: bool) -> tuple[Place, str | None]:
    """The loss where its own gradient differs, else the first module whose backward pass does."""
    of_loss = [key for key in wrong if key.startswith("model:grad_output")]
    if of_loss and sound:
        place = Place.at(step.loss, f"gradient of {', '.join(of_loss[:3])}")
        return place, _factor(step, of_loss)
    if of_loss:
        source = f"the loss or the predictions: {', '.join(of_loss[:3])}"
        return Place.inherits(source), None
    found = _judged(step)
    if not found:
        return _untrained(step, wrong)
    return Place.edge(found[0].path, found[0].edge), found[0].cause


def _untrained(step: Backward, wrong: Sequence[str]) -> tuple[Place, str | None]:
    """Parameters with a gradient in the port only, where no module passes another one back."""
    only = unpaired_parameters(step.comparison)
    if not only or {*wrong} != {*only}:
        return NOWHERE, None
    several = "parameter is" if len(only) == 1 else "parameters are"
    cause = f"{len(only)} {several} trained in the port, but not in the reference"
    return Place.at(module_of(only[0]), f"such as {only[0]}"), cause


def _factor(step: Backward, keys: Sequence[str]) -> str | None:
    """The one number that all these gradients of the port are multiplied by."""
    taps: dict[str, Tap] = {}

    def keep(tap: Tap) -> None:
        if tap.key in keys:
            taps[tap.key] = replace(tap, array=tap.array.copy())

    step.port(step.port_inputs, keep)
    factors = set()
    for key in keys:
        theirs = step.gradients[key].array
        ours = align(taps[key], step.gradients[key].axes) if key in taps else None
        if ours is None or ours.shape != theirs.shape or np.count_nonzero(theirs) < 2:
            return None
        factor = float(np.vdot(ours, theirs) / np.vdot(theirs, theirs))
        if np.linalg.norm(ours - factor * theirs) > DEFAULT.cap * np.linalg.norm(ours):
            return None
        factors.add(f"{factor:.6g}")
    return f"the gradient is multiplied by {factors.pop()}" if len(factors) == 1 else None

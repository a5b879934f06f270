"""The claim on the loss of a training step in bfloat16, alone on outputs that it holds."""

from collections.abc import Mapping
from typing import Any

from parity.claims import Claim, Place, margin_claim
from parity.judge import BFLOAT16, Verdict, precision_verdict
from parity.judging.alone import beyond_one_rounding, rounded
from parity.metrics import Gap, failed, gap
from parity.trace import Tap
from parity.training.extremes import NO_FLOOR, moved_gaps, on_outputs, recorded
from parity.training.measured import ReferenceStep
from parity.training.precision import fewer_digits
from parity.training.sides import Side


def loss_alone_claim(step: ReferenceStep, single: Side, half: Side, command: str) -> list[Claim]:
    """That of outputs in bfloat16 every term of the loss, and what it passes back, is as exact as
    the reference's in float32, but for one rounding of what is passed back.

    `single` is the reference in float32, `half` the port in bfloat16, whose loss is given float32
    numbers that bfloat16 holds. No claim where the reference has no loss of them.
    """
    taps = {key: rounded(tap) for key, tap in step.outputs.items()}
    exact = on_outputs(step.side, step.forward, taps, "eager")
    recorders = recorded(single), recorded(half)
    own = on_outputs(single, recorders[0], taps, "eager")
    ours = on_outputs(half, recorders[1], taps, "eager")
    if isinstance(exact, str) or isinstance(own, str):
        return []
    floors = moved_gaps(single, recorders[0], taps, exact)
    verdicts: dict[str, Verdict] = {}
    for key, one in exact.items():
        error = _error(ours, key, one)
        theirs = _error(own, key, one)
        verdicts[key] = precision_verdict(key, error, theirs, floors.get(key, NO_FLOOR))
    made = margin_claim(
        "train_losses_alone_bfloat16",
        "Of outputs in bfloat16 no term of the loss is less exact than the reference's in float32",
        verdicts,
        "largest error in units of its limit, of gradients in bfloat16 without the one rounding "
        "that they take; the limit is 4 x the error of the reference's loss in float32 on the same "
        "outputs, or its rounding floor where larger",
        command,
    )
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
    place = Place.at("loss", f"in bfloat16, {', '.join(wrong[:2])}")
    return [made.located(place, fewer_digits(made, BFLOAT16))]


def _error(found: "Mapping[str, Any] | str", key: str, exact: Any) -> Gap:
    """How far a term, or a gradient of them, is off."""
    if isinstance(found, str) or key not in found:
        return failed(found if isinstance(found, str) else "is not computed")
    if isinstance(exact, Tap):
        return beyond_one_rounding(found[key], exact)
    return gap(found[key], exact)

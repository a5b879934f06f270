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
    errors = {key: _error(ours, key, one) for key, one in exact.items()}
    theirs = {key: _error(own, key, one) for key, one in exact.items()}

    def judged(floors: Mapping[str, Gap]) -> dict[str, Verdict]:
        return {
            key: precision_verdict(key, one, theirs[key], floors.get(key, NO_FLOOR))
            for key, one in errors.items()
        }

    verdicts = judged({})
    if any(one.fails for one in verdicts.values()):
        verdicts = judged(moved_gaps(single, recorders[0], taps, exact))
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
    """How far a term, or a gradient of them, is off; one that is zero may be none."""
    if isinstance(found, str):
        return failed(f"cannot be computed: {found}")
    if not isinstance(exact, Tap):
        return gap(found[key], exact) if key in found else failed("is not computed")
    if key not in found:
        return failed("has no gradient") if exact.array.any() else NO_FLOOR
    return beyond_one_rounding(found[key], exact)

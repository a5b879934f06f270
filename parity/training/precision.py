"""The claims on a training step in float32: as exact as the reference's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from parity.claims import Claim, Place, margin_claim
from parity.judge import (
    BFLOAT16,
    DECISIONS,
    EPSILONS,
    MARGINAL,
    MORE,
    PRECISION_FACTOR,
    narrower,
    precision_verdict,
    same_precision,
)
from parity.metrics import Gap, gap, widened, worst
from parity.pairing import Comparison
from parity.trace import Tap
from parity.training.kinks import Kinks, judged_behind, most_of
from parity.training.measured import NOTHING_DROPPED, ReferenceStep
from parity.training.sides import Side


@dataclass(frozen=True)
class Reference32:
    """The reference's float32 step: errors from float64, and those of its twins, by key.

    `decisions` has of each gradient how many elements are zero in a run and not in float64, or the
    other way round, at most; of further runs only.
    """

    side: Side
    gradients: Mapping[str, Gap]
    floors: Mapping[str, Gap]
    losses: Mapping[str, Gap]
    loss_floors: Mapping[str, Gap]
    decisions: Mapping[str, int]
    more: Callable[[], "Reference32"]

    def with_more(self) -> "Reference32":
        """The same with `MORE` further runs whose roundings are moved: of an error above its
        limit they tell whether that is all that rounding may make."""
        return self.more()


def measure_float32(step: ReferenceStep, side: Side) -> Reference32:
    """Runs the reference in float32 beside its own float64 step."""
    recorder = side.gradient_recorder("eager", NOTHING_DROPPED)
    comparison = Comparison(step.gradients.values)
    with side.training() as inputs:
        recorder(inputs, comparison)
        losses = _gaps(step, recorder.terms)

    def floors(**how: Any) -> tuple[dict[str, Gap], dict[str, Gap]]:
        twins = []
        with side.training() as inputs:
            found = side.built.framework.measure_floors(
                recorder,
                inputs,
                step.gradients.values,
                observe=lambda total: twins.append(_gaps(step, recorder.terms)),
                **how,
            )
        return found, {name: worst(one[name] for one in twins) for name in losses}

    first = floors()

    @cache
    def more() -> Reference32:
        runs: list[Kinks] = []

        def counting(reference: Mapping[str, Tap]) -> Kinks:
            runs.append(Kinks(reference))
            return runs[-1]

        again = floors(seeds=range(1, 1 + MORE), reorder=False, compare=counting)
        both = [widened(*each) for each in zip(first, again, strict=True)]
        return Reference32(side, comparison.gaps, both[0], losses, both[1], most_of(runs), more)

    return Reference32(side, comparison.gaps, first[0], losses, first[1], {}, more)


def precision_claims(
    step: ReferenceStep, reference: Reference32, port: Side, execution: str, command: str
) -> list[Claim]:
    """Losses and gradients of the port's float32 step in one execution."""
    recorder = port.gradient_recorder(execution, NOTHING_DROPPED)

    def measured(comparison: Comparison) -> tuple[dict[str, Gap], Comparison]:
        with port.training() as inputs:
            recorder(inputs, comparison)
        return _gaps(step, recorder.terms), comparison

    found = measured(Comparison(step.gradients.values))
    claims = _claims(reference, *found, execution, command)
    failing = [one for one in claims if one.fails]
    # A number next to zero that is rounded to the other side of a ReLU makes all of the gradient
    # behind it another, by how much has no bound; a loss has no such steps.
    in_gradients = all("gradients" in one.id for one in failing)
    if not failing or not (in_gradients or max(one.value for one in failing) <= MARGINAL):
        return claims
    claims = _claims(reference.with_more(), *found, execution, command)
    if in_gradients and any(one.fails for one in claims):
        found = measured(Kinks(step.gradients.values))
        return _claims(reference.with_more(), *found, execution, command)
    return claims


def _claims(
    reference: Reference32,
    terms: Mapping[str, Gap],
    found: Comparison,
    execution: str,
    command: str,
) -> list[Claim]:
    gaps = {key: one for key, one in found.gaps.items() if key in reference.gradients}
    own = reference.gradients, reference.floors
    gradients = {one.key: one for one in same_precision(gaps, *own)}
    if isinstance(found, Kinks):
        gradients = judged_behind(gradients, found, reference.decisions, *own)
    losses = {
        name: precision_verdict(
            name, found, reference.losses[name], reference.loss_floors[name], dtype="float32"
        )
        for name, found in terms.items()
        if name in reference.losses
    }
    text = (
        f"largest error in units of its limit; the limit is {PRECISION_FACTOR:g} x the error of "
        "the float32 reference against its own float64 step, or its rounding floor where larger"
    )
    behind = any(DECISIONS in one.measured for one in gradients.values())
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
                f"{text}; behind a ReLU or a maximum that lets other elements through than in "
                "float64, no more than in the reference's own runs, nothing is decided"
                if behind
                else text,
                command,
            )
        )
    return [_placed(one) for one in claims]


def how(execution: str) -> tuple[str, str, str]:
    """Of an execution: how ids of its claims end, what they call it, and how a recorder runs it;
    in bfloat16 that is eagerly."""
    if execution == BFLOAT16:
        return BFLOAT16, BFLOAT16, "eager"
    return f"float32_{execution}", f"float32 ({execution})", execution


def fewer_digits(one: Claim, execution: str = "") -> str | None:
    """Of a float32 claim that fails, the type whose rounding makes errors as large as the
    largest; of one on what is float32 in an execution in bfloat16, that it is not."""
    failing = [verdict for verdict in one.measured.verdicts().values() if verdict.fails]
    errors = [verdict.measured["l2"][0] for verdict in failing if verdict.problem is None]
    largest = max(errors, default=0.0)
    if execution == BFLOAT16:
        # Eight digits, of which sums that grow one by one lose two more.
        few = 0.0 < largest <= 4 * EPSILONS[BFLOAT16]
        text = f"computed in bfloat16, not in float32: its largest error is {largest:.2g}"
        return text if few else None
    name = narrower(largest)
    return name and f"its largest error, {largest:.2g}, is that of numbers in {name}"


def _placed(one: Claim) -> Claim:
    wrong = [key for key, verdict in one.measured.verdicts().items() if verdict.fails]
    return one.located(Place(wrong[0].partition(":")[0], ", ".join(wrong[:3]))) if wrong else one


def _gaps(step: ReferenceStep, terms: Mapping[str, float]) -> dict[str, Gap]:
    return {
        name: gap(np.asarray(value, np.float64), step.losses.values[name])
        for name, value in terms.items()
        if name in step.losses.values
    }

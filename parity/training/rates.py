"""The claims on learning rates: what a schedule says, and what the optimizer makes of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.auditing.training import Training
from parity.causes.source import explained
from parity.claims import Claim, Place, claim, margin_claim
from parity.gradients import gradient_verdict
from parity.judge import FUNCTION_FACTOR
from parity.measurements import Largest, Multiple
from parity.metrics import Gap, gap, perturb_ulp, worst
from parity.trace import module_of, tap_key
from parity.training.measured import TWINS, ReferenceStep
from parity.training.sides import Side
from parity.training.updates import given_gradients

EXPLAINED = 1e-12  # of the largest rate
EPSILON = float(np.finfo(np.float64).eps)
SINGLE = 4 * float(np.finfo(np.float32).eps)
Rates = dict[int, float]


def turns_of(training: Training) -> list[int]:
    """The updates around those at which the schedule changes, and the first and last of a run."""
    places = {0, training.steps - 1, *training.turns}
    return sorted({place + step for place in places for step in (-1, 0, 1) if place + step >= 0})


def rate_claims(
    training: Training, step: ReferenceStep, port: Side, update: Claim, command: str
) -> list[Claim]:
    """The schedule itself, and its rates applied; nothing where neither side has a schedule."""
    turns = turns_of(training)
    theirs, ours = _rates(step.side, turns), _rates(port, turns)
    claims = []
    if ours is not None and theirs is not None:
        claims.append(_schedule_claim(step.side, ours, theirs, command))
    changing = training.schedule is not None or bool(training.turns)
    if changing:
        applied = _applied_claim(step, port, turns, command)
        if claims and not claims[0].holds:
            applied = applied.located(Place.inherits("the schedule"), claims[0].cause)
        elif not update.holds:
            applied = applied.located(Place.inherits("the optimizer"), update.cause)
        claims.append(applied)
    return claims


def begins_otherwise(step: ReferenceStep, port: Side, count: int) -> bool:
    """Whether the first `count` rates of the port are others, beyond the digits of float32."""
    theirs, ours = _rates(step.side, range(count)), _rates(port, range(count))
    if theirs is None or ours is None:
        return False
    most = max(map(abs, theirs.values())) or 1.0
    return any(abs(ours[at] - rate) > SINGLE * most for at, rate in theirs.items())


def schedule_causes(theirs: Rates, ours: Rates, every: Rates) -> Iterator[str]:
    """Why rates differ, from `every` rate of the reference by update; also where they have the
    digits of float32 alone."""
    for within, beside in (
        (FUNCTION_FACTOR * EPSILON, ""),
        (SINGLE, "; it is computed in float32"),
    ):

        def alike(wanted: Rates, places: Iterable[int] = ours, within: float = within) -> bool:
            most = max(abs(rate) for rate in every.values()) or 1.0
            return all(
                at in wanted and abs(ours[at] - wanted[at]) <= within * most for at in places
            )

        if beside and alike(theirs):
            yield "the rate is computed in float32"
        wrong = [at for at in ours if not alike(theirs, [at])]
        for shift, text, late in ((1, "after", "early"), (-1, "before", "late")):
            moved = {at: every[max(at + shift, 0)] for at in ours if max(at + shift, 0) in every}
            if alike(moved, [at for at in ours if at + shift >= 0]):
                yield f"the rate is that of the update {text}{beside}"
            elif wrong and alike(moved, wrong):
                yield f"a change acts one update {late}{beside}"
        if alike(dict.fromkeys(ours, every[0])):
            yield f"the schedule does not reach the optimizer{beside}"
        last = max(ours)
        factor = ours[last] / theirs[last] if theirs[last] else 1.0
        if len(ours) > 1 and alike({at: factor * rate for at, rate in theirs.items()}):
            yield f"the rate is {factor:.6g} times as large{beside}"
        if len(ours) > 2 and theirs[last] != every[0]:
            end = (ours[last] - theirs[last]) / (1 - theirs[last] / every[0])
            if end and alike({at: end + (1 - end / every[0]) * own for at, own in theirs.items()}):
                yield f"the rate ends {end:.6g} higher{beside}"


def far(one: float, other: float, most: float) -> bool:
    """Whether two rates differ by more than rounding, in units of the largest."""
    return not abs(one - other) <= FUNCTION_FACTOR * EPSILON * most


def _schedule_claim(side: Side, ours: Rates, theirs: Rates, command: str) -> Claim:
    most = max(abs(rate) for rate in theirs.values()) or 1.0
    one = claim(
        "train_schedule",
        "The learning rate is the same at and around every turn of the schedule",
        Largest(
            {str(at): abs(ours[at] - theirs[at]) / most for at in ours},
            Multiple("floor_factor", EPSILON),
            beside_it={"rates": {str(at): [ours[at], theirs[at]] for at in ours}},
        ),
        f"largest gap in units of the largest rate; the limit is {FUNCTION_FACTOR:g} x the "
        "rounding of one number",
        command,
    )
    if one.holds:
        return one
    wrong = [at for at in ours if far(ours[at], theirs[at], most)]
    text = ", ".join(f"{at} ({ours[at]:.6g} instead of {theirs[at]:.6g})" for at in wrong[:4])
    every = _rates(side, range(max(ours) + 2))
    found = next(schedule_causes(theirs, ours, every), None)
    return one.located(Place.at("schedule", f"update {text}"), found or _edited(side, ours, most))


def _edited(side: Side, ours: Rates, most: float) -> str | None:
    """The edit of the schedule's own functions with which it has the port's rates."""
    if side.schedule is None:
        return None
    scheduler = side.schedule(side.optimizer())
    functions = [side.schedule, *getattr(scheduler, "lr_lambdas", ())]
    functions = [one for one in functions if hasattr(one, "__code__")]
    found = explained(
        lambda: _rates(side, ours),
        lambda rates: all(not far(ours[at], rates[at], most) for at in ours),
        functions,
    )
    return found[0] if found else None


def _rates(side: Side, turns: Iterable[int]) -> Rates | None:
    """The rate of the first group before each of these updates; None where it cannot be asked."""
    optimizer = side.optimizer()
    advance, wanted, found = side.scheduled(optimizer), set(turns), {}
    with side.built.precision():
        for at in range(max(wanted) + 1):
            if at in wanted:
                rates = side.trainer.rates(optimizer, at)
                if not rates:
                    return None
                found[at] = rates[0]
            advance()
    return found


def _applied_claim(step: ReferenceStep, port: Side, turns: Sequence[int], command: str) -> Claim:
    """From every turn on, two updates move each parameter as the reference's optimizer does."""
    verdicts, moves = {}, {}
    gradients = given_gradients(step)[1:]
    twins = [
        [
            {
                key: None if one is None else perturb_ulp(one, seed + index)
                for index, (key, one) in enumerate(each.items())
            }
            for each in gradients
        ]
        for seed in TWINS
    ]
    for at in turns:
        exact = port.seen(moved_from(step.side, at, gradients))
        ours = moved_from(port, at, gradients)
        floors: Mapping[str, list[Gap]] = {key: [] for key in exact}
        for twin in twins:
            for key, value in port.seen(moved_from(step.side, at, twin)).items():
                floors[key].append(gap(value, exact[key]))
        moves[at] = (ours, exact)
        for key, value in exact.items():
            if key in ours:
                path, _, own = key.rpartition(".")
                name = tap_key(path, "update", own, at)
                verdicts[name] = gradient_verdict(name, gap(ours[key], value), worst(floors[key]))
    one = margin_claim(
        "train_applied",
        "At and around every turn of the schedule the optimizer moves by its rate",
        verdicts,
        f"largest gap of a weight, zero before, after two updates in units of its limit, "
        f"min({FUNCTION_FACTOR:g} x floor, 1e-9); the floor is the reference's own gap when "
        "gradients move by one unit in the last place",
        command,
    )
    if one.holds:
        return one
    failed = [key for key, verdict in verdicts.items() if not verdict.passed]
    wrong = list(dict.fromkeys(map(module_of, failed)))
    return one.located(
        Place.at("optimizer", f"around turns of the schedule, {', '.join(wrong[:3])}"),
        _applied_cause(step, moves, gradients),
    )


def _applied_cause(step: ReferenceStep, moves: Mapping[int, Any], gradients: Any) -> str | None:
    """The update whose rate the port's optimizer moves by, instead of its own."""

    def close(ours: Any, theirs: Any) -> bool:
        size = sum(float(np.sum(one**2)) for one in theirs.values())
        shared = {key: one for key, one in theirs.items() if key in ours}
        left = sum(float(np.sum((ours[key] - one) ** 2)) for key, one in shared.items())
        return left <= EXPLAINED * size

    for shift, text in ((1, "after"), (-1, "before")):
        if all(
            close(ours, moved_from(step.side, at, gradients, shift))
            for at, (ours, _) in moves.items()
        ):
            return f"the rate is that of the update {text}"
    constant = replace(step.side, schedule=None)
    if all(close(ours, moved_from(constant, at, gradients)) for at, (ours, _) in moves.items()):
        return "the schedule does not reach the optimizer"
    return None


def moved_from(
    side: Side, at: int, gradients: Sequence[Mapping[str, Any]], shift: int = 0
) -> dict[str, np.ndarray]:
    """Parameters, zero before, after some updates from update `at` on, moments zero before.

    `shift` lets the schedule be so many updates ahead.
    """
    keys = side.parameters()
    with side.restored():
        zeros = {key: np.zeros_like(value) for key, value in side.state(side.tensors).items()}
        side.assign(zeros)
        optimizer = side.optimizer()
        advance = side.scheduled(optimizer)
        side.update(
            optimizer,
            {key: None if gradients[0].get(key) is None else zeros[key] for key in keys},
        )
        side.trainer.arrive(optimizer, at)
        for _ in range(max(0, at + shift)):
            advance()
        for one in gradients:
            side.update(optimizer, one)
            advance()
        return side.state(side.tensors)

"""The claims on learning rates: what a schedule says, and what the optimizer makes of it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from parity.auditing.training import Training
from parity.causes.source import explained, reached, setting_mistakes
from parity.claims import Claim, Place, claim, margin_claim
from parity.gradients import gradient_verdict
from parity.judge import FUNCTION_FACTOR, PRECISION_FACTOR, Verdict
from parity.measurements import Largest, Multiple
from parity.metrics import gap, worst
from parity.on_disk import ArraysOnDisk
from parity.trace import module_of, tap_key
from parity.training.measured import TWINS, ReferenceStep
from parity.training.sides import Arrays, Side
from parity.training.update_causes import causes, chosen
from parity.training.updates import (
    Gradients,
    clipped_as,
    given_gradients,
    in_dtype,
    perturbed,
    rule_of,
)

EXPLAINED = 1e-12  # of the largest rate
EPSILON = float(np.finfo(np.float64).eps)
ONCE = float(np.finfo(np.float32).eps)
SINGLE = 4 * ONCE
Rates = dict[int, float]


@dataclasses.dataclass(frozen=True)
class Turning:
    """A schedule on both sides, and where it is looked at.

    Args:
        reference, port: both sides in float64.
        turns: the updates, counted from 0, that are looked at.
        changes: those of them at which the schedule changes its rule.
        gradients: those of the updates that are made from each of these on.
        single: both sides in float32, where that is looked at.
        rates: the port's schedule by itself in float64 and in float32, each a rate by update; by
            default its optimizer is asked.
    """

    reference: Side
    port: Side
    turns: Sequence[int]
    changes: Sequence[int]
    gradients: Sequence[Gradients]
    single: tuple[Side, Side] | None = None
    rates: tuple[Callable[[int], float], Callable[[int], float]] | None = None


def turns_of(training: Training) -> list[int]:
    """The updates around those at which the schedule changes, and the first and last of a run."""
    return around({0, training.steps - 1, *training.turns})


def around(places: Iterable[int]) -> list[int]:
    """These updates, and those beside them."""
    return sorted({place + step for place in places for step in (-1, 0, 1) if place + step >= 0})


def rate_claims(
    training: Training, step: ReferenceStep, port: Side, update: Claim, command: str
) -> list[Claim]:
    """The schedule itself, and its rates applied; nothing where neither side has a schedule."""
    turning = Turning(
        step.side, port, turns_of(training), training.turns, given_gradients(step)[1:]
    )
    if training.schedule is None and not training.turns:
        schedule = schedule_claim(turning, command)
        return [] if schedule is None else [schedule]
    schedule, source, cause = schedule_claim(turning, command), None, None
    if schedule is not None and schedule.fails:
        source, cause = "the schedule", schedule.cause
    elif update.fails:
        source, cause = "the optimizer", update.cause
    applied = applied_claim(turning, command, source, cause)
    return [applied] if schedule is None else [schedule, applied]


def turning_claims(turning: Turning, command: str) -> list[Claim]:
    """The claims on a schedule, on its rates applied, and on these in float32, where one side in
    `turning.single` is given for each; what is inherited says so."""
    schedule = schedule_claim(turning, command)
    source = None if schedule is None or not schedule.fails else "the schedule"
    applied = applied_claim(turning, command, source)
    single = applied_float32_claim(turning, command)
    if source or applied.fails:
        single = single.located(Place.inherits(source or "the optimizer in float64"))
    return [one for one in (schedule, applied, single) if one is not None]


def begins_otherwise(step: ReferenceStep, port: Side, count: int) -> bool:
    """Whether the first `count` rates of the port are others, beyond the digits of float32."""
    theirs, ours = _rates(step.side, range(count)), _rates(port, range(count))
    if theirs is None or ours is None:
        return False
    most = max(map(abs, theirs.values())) or 1.0
    return any(abs(ours[at] - rate) > SINGLE * most for at, rate in theirs.items())


def schedule_causes(
    theirs: Rates,
    ours: Rates,
    every: Rates,
    changes: Sequence[int] = (),
    edited: Callable[[], str | None] = lambda: None,
) -> Iterator[str]:
    """Why rates differ, also where they have the digits of float32 alone.

    Args:
        theirs, ours: rates by update, the reference's and the port's.
        every: the reference's at and around these, and the first.
        changes: the updates at which the schedule changes its rule.
        edited: another setting or an edit of the schedule that gives the port's rates, which says
            more than that the rate is one of before.
    """
    again: list[str] = []
    for within, beside in ((EXPLAINED, ""), (SINGLE, "; it is computed in float32")):

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
            milestones = not changes or {at + max(shift, 0) for at in wrong} <= {*changes}
            told = f"a milestone acts one update {late}"
            if alike(moved, [at for at in ours if at + shift >= 0]):
                more = f": {told}" if changes and wrong and milestones else ""
                yield f"the rate is that of the update {text}{more}{beside}"
            elif wrong and milestones and alike(moved, wrong):
                yield f"{told}{beside}"
        if alike(dict.fromkeys(ours, every[0])):
            yield f"the schedule does not reach the optimizer{beside}"
        for text, says_why in _of_the_end(ours, every, wrong, alike):
            if says_why:
                yield f"{text}{beside}"
            else:
                again.append(f"{text}{beside}")
        last = max((at for at in ours if theirs[at]), default=max(ours))
        factor = ours[last] / theirs[last] if theirs[last] else 1.0
        if len(ours) > 1 and alike({at: factor * rate for at, rate in theirs.items()}):
            yield f"the rate is {factor:.6g} times as large{beside}"
        # Any two rates are in a line with any others.
        if len({*theirs.values()}) > 2 and theirs[last] != every[0]:
            end = (ours[last] - theirs[last]) / (1 - theirs[last] / every[0])
            if end and alike({at: end + (1 - end / every[0]) * own for at, own in theirs.items()}):
                yield f"the rate ends at {end:.6g} instead of 0{beside}"
    if (text := edited()) is not None:
        yield text
    yield from again[:1]


def _of_the_end(
    ours: Rates, every: Rates, wrong: Sequence[int], alike: Callable[..., bool]
) -> Iterator[tuple[str, bool]]:
    """What rates do from some update on, where all before are right, and whether that says why."""
    if not wrong or wrong != [at for at in ours if at >= wrong[0]] or wrong[0] == min(ours):
        return
    first, rate = wrong[0], ours[wrong[0]]
    odd = [at for at in wrong if not ours[at] >= 0]
    if odd:
        yield f"the rate is not held at its end: it is {ours[odd[0]]:.6g} in update {odd[0]}", True
        return
    anew = {at: every[at % first] for at in wrong if at % first in every}
    if len(anew) == len(wrong) and alike(anew, wrong):
        yield f"from update {first} on the schedule begins anew", True
        return
    known = [at for at in every if at < first and alike(dict.fromkeys(wrong, every[at]), wrong)]
    if known:
        again = f"the rate is that of update {max(known)} again, {rate:.6g}"
        yield f"from update {first} on {again}", False


def far(one: float, other: float, most: float) -> bool:
    """Whether two rates differ by more than rounding, in units of the largest."""
    return not abs(one - other) <= FUNCTION_FACTOR * EPSILON * most


def schedule_claim(turning: Turning, command: str) -> Claim | None:
    """The rates at and around every turn; None where a side's cannot be asked."""
    side, turns = turning.reference, turning.turns
    theirs = _rates(side, turns)
    if turning.rates is not None:
        ours, single = ({at: rate(at) for at in turns} for rate in turning.rates)
    else:
        ours, single = _rates(turning.port, turns), {}
    if ours is None or theirs is None:
        return None
    most = max(abs(rate) for rate in theirs.values()) or 1.0
    rounded = {
        at: max(0.0, abs(rate - theirs[at]) - ONCE * abs(theirs[at])) for at, rate in single.items()
    }
    one = claim(
        "train_schedule",
        "The learning rate is the same at and around every turn of the schedule",
        Largest(
            {
                **{str(at): abs(ours[at] - theirs[at]) / most for at in ours},
                **{f"{at}, float32": left / most for at, left in rounded.items()},
            },
            Multiple("floor_factor", EPSILON),
            beside_it={"rates": {str(at): [ours[at], theirs[at]] for at in ours}},
        ),
        f"largest gap in units of the largest rate; the limit is {FUNCTION_FACTOR:g} x the "
        "rounding of one number; in float32 what is left beyond one rounding",
        command,
    )
    if not one.fails:
        return one
    wrong = [at for at in ours if far(ours[at], theirs[at], most)]
    alone = not wrong
    wrong = wrong or [at for at, left in rounded.items() if far(left, 0.0, most)]
    found = single if alone else ours
    text = ", ".join(f"{at} ({found[at]:.6g} instead of {theirs[at]:.6g})" for at in wrong[:4])
    if alone:
        cause = "in float32 alone the rate is another"
    else:
        every = _rates(side, {0, *(at + step for at in ours for step in (-1, 0, 1))})
        edited = partial(_edited, side, ours, most)
        cause = next(schedule_causes(theirs, ours, every, turning.changes, edited), None)
    return one.located(Place.at("schedule", f"update {text}"), cause)


def _edited(side: Side, ours: Rates, most: float) -> str | None:
    """The other setting of the schedule, or the edit of its functions, that gives the port's
    rates."""
    if side.schedule is None:
        return None
    scheduler = side.schedule(side.optimizer())
    functions = [side.schedule, *getattr(scheduler, "lr_lambdas", ()), type(scheduler).get_lr]
    settings = [one for one in vars(scheduler).values() if dataclasses.is_dataclass(one)]
    found = explained(
        lambda: _rates(side, ours),
        lambda rates: all(not far(ours[at], rates[at], most) for at in ours),
        reached(one for one in functions if hasattr(one, "__code__")),
        others=[mistake for one in settings for mistake in setting_mistakes(one)],
    )
    return found[0] if found else None


def _rates(side: Side, turns: Iterable[int]) -> Rates | None:
    """The rate of the first group before each of these updates, none before the first; None where
    it cannot be asked."""
    optimizer = side.optimizer()
    arrive, found = side.scheduled(optimizer), {}
    with side.built.precision():
        for at in sorted(at for at in turns if at >= 0):
            arrive(at)
            rates = side.trainer.rates(optimizer, at)
            if not rates:
                return None
            found[at] = rates[0]
    return found


def applied_claim(
    turning: Turning, command: str, source: str | None = None, cause: str | None = None
) -> Claim:
    """From every turn on, some updates move each parameter as the reference's optimizer does.

    Where a difference has a known `source`, no cause is looked for.
    """
    side, port, gradients = turning.reference, turning.port, turning.gradients
    verdicts: dict[str, Verdict] = {}
    moves, begun = {}, {}
    twins = [[ArraysOnDisk(perturbed(one, seed)) for one in gradients] for seed in TWINS]
    magnified = _magnified(turning)
    for at in turning.turns:
        exact, ours = _last(side, port, at, gradients), moved_from(port, at, gradients)
        moved = [_last(side, port, at, twin) for twin in twins]
        rounding = EPSILON * magnified[at]
        moved.append(ArraysOnDisk((key, (1 + rounding) * one) for key, one in exact.items()))
        moves[at] = ours
        for key, value in exact.items():
            if key in ours[-1]:
                path, _, own = key.rpartition(".")
                name = tap_key(path, "update", own, at)
                begun[name] = at
                floor = worst(gap(twin[key], value) for twin in moved)
                verdicts[name] = gradient_verdict(name, gap(ours[-1][key], value), floor)
    one = margin_claim(
        "train_applied",
        "At and around every turn of the schedule the optimizer moves by its rate",
        verdicts,
        f"largest gap of a weight, zero before, after {len(gradients)} updates in units of its "
        f"limit, min({FUNCTION_FACTOR:g} x floor, 1e-9); the floor is the reference's own gap when "
        "gradients move by one unit in the last place, and the rate and the bias correction by one "
        "rounding of what they are subtracted from",
        command,
    )
    if not one.fails or source is not None:
        return one if source is None else one.located(Place.inherits(source), cause)
    failed = [key for key, verdict in verdicts.items() if verdict.fails]
    wrong = list(dict.fromkeys(map(module_of, failed)))
    first = ", ".join(map(str, sorted({begun[key] for key in failed})[:3]))
    place = f"from update {first}: {', '.join(wrong[:3])}"
    return one.located(Place.at("optimizer", place), _applied_cause(turning, moves))


def applied_float32_claim(turning: Turning, command: str) -> Claim:
    """The same updates in float32 are as exact as the reference's; `turning.single` is needed."""
    side, port, (theirs, ours) = turning.reference, turning.port, turning.single
    single = [in_dtype(one, np.float32) for one in turning.gradients]
    exactly = [in_dtype(one, np.float64) for one in single]
    ratios = {}
    for at in turning.turns:
        exact = _last(side, port, at, exactly)
        given = (single, *([perturbed(one, seed) for one in single] for seed in TWINS))
        own = [movement_gap(_last(theirs, ours, at, one), exact) for one in given]
        found = movement_gap(moved_from(ours, at, single)[-1], exact)
        ratios[str(at)] = found / max(ONCE, *own)
    one = claim(
        "train_applied_float32",
        "In float32 the optimizer's error is no larger than the reference's own",
        Largest(ratios, Multiple("float32_ratio", 1)),
        f"gap of the movement after {len(single)} updates from the reference's in float64, in "
        "units of the largest that the reference has in float32, also when gradients move by one "
        f"unit in the last place; at most {PRECISION_FACTOR:g}",
        command,
    )
    wrong = [at for at, ratio in ratios.items() if not ratio <= PRECISION_FACTOR]
    return one.located(Place.at("optimizer", f"in float32, from update {', '.join(wrong[:3])}"))


def movement_gap(ours: Arrays, exact: Arrays) -> float:
    """||ours - exact|| / ||exact|| over all arrays together, infinite where it is no number; what
    is lacking counts as zeros."""
    size = float(np.linalg.norm([np.linalg.norm(one) for one in exact.values()])) or 1.0
    left = [np.linalg.norm(ours.get(key, 0.0) - one) for key, one in exact.items()]
    found = float(np.linalg.norm(left)) / size
    return found if np.isfinite(found) else np.inf


def _last(side: Side, port: Side, at: int, gradients: Sequence[Gradients]) -> Arrays:
    return port.seen(moved_from(side, at, gradients)[-1])


def _magnified(turning: Turning) -> dict[int, float]:
    """By how much rounding grows in the rates of the updates from each turn on and in
    1 - beta ** step.

    Near its end a schedule that falls to nothing, such as (1 - x) ** power, has lost the digits
    that 1 - x cancels.
    """
    side, turns = turning.reference, turning.turns
    following = {at: range(at, at + len(turning.gradients)) for at in turns}
    rates = _rates(side, {step for own in following.values() for step in own})
    known, found = rule_of(side, side.optimizer()), {}
    for at, own in following.items():
        seen = {step: abs(rates[step]) for step in {*turns, *own}} if rates else {at: 1.0}
        least = min((seen[step] for step in own if seen.get(step)), default=1.0)
        found[at] = max(seen.values()) / least
        if known is not None and known[0].kind == "adam":
            found[at] += 1 / (1 - max(known[0].betas) ** (at + 1))
    return found


def _applied_cause(turning: Turning, moves: Mapping[int, Sequence[Arrays]]) -> str | None:
    """The update whose rate the port moves by, or the mistake of the rule that it moves by.

    A rate that no schedule sets may be held in float32.
    """
    side, gradients = turning.reference, turning.gradients

    def alike(side: Side, shift: int = 0) -> bool:
        return all(
            movement_gap(ours[-1], moved_from(side, at, gradients, shift)[-1]) <= ONCE
            for at, ours in moves.items()
        )

    for shift, text in ((1, "after"), (-1, "before")):
        if alike(side, shift):
            return f"the rate is that of the update {text}"
    if alike(dataclasses.replace(side, schedule=None)):
        return "the schedule does not reach the optimizer"
    at, ours = next(iter(moves.items()))
    return _of_the_rule(turning, at, ours)


def _of_the_rule(turning: Turning, at: int, ours: Sequence[Arrays]) -> str | None:
    """The mistakes of the optimizer's rule with which it moves from update `at` on as the port."""
    side, gradients = turning.reference, turning.gradients
    zeros = {key: np.zeros_like(one) for key, one in ours[0].items()}
    with side.restored():
        optimizer = side.optimizer()
        arrive, rates = side.scheduled(optimizer), []
        for number in range(len(gradients)):
            arrive(at + number)
            known = rule_of(side, optimizer)
            if known is None:
                return None
            rates.append(max(rate for rate, _ in known[1].values()))
            left = side.update(optimizer, gradients[number])
            if number == 0:
                (rule, groups), first = known, left
    rule = dataclasses.replace(clipped_as(rule, gradients[0], first), counted_from=at + 1)
    shared = {key: group for key, group in groups.items() if key in ours[0]}
    units = [rate / rates[0] for rate in rates] if rates[0] else [1.0] * len(rates)
    return "; ".join(causes(chosen(rule, shared, zeros, gradients, ours, units))) or None


def moved_from(side: Side, at: int, gradients: Sequence[Gradients], shift: int = 0) -> list[Arrays]:
    """Parameters, zero before, after each of some updates from update `at` on, moments zero before;
    on disk. `shift` lets the schedule be so many updates ahead.
    """
    keys, found = side.parameters(), []
    with side.restored():
        zeros = {key: np.zeros_like(value) for key, value in side.state(side.tensors).items()}
        side.assign(zeros)
        optimizer = side.optimizer()
        arrive = side.scheduled(optimizer)
        side.update(
            optimizer,
            {key: None if gradients[0].get(key) is None else zeros[key] for key in keys},
        )
        side.trainer.arrive(optimizer, at)
        for number, one in enumerate(gradients, start=at):
            arrive(max(0, number + shift))
            side.update(optimizer, one)
            found.append(ArraysOnDisk(side.state(side.tensors)))
    return found

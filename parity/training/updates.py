"""The claim on what an optimizer makes of given gradients, the same on both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.claims import Claim, Place, margin_claim
from parity.frameworks.shared.recipes import CLIP_EPSILON, Recipe
from parity.gradients import gradient_verdict
from parity.judge import PRECISION_FACTOR, precision_verdict
from parity.metrics import Gap, gap, perturb_ulp, worst
from parity.trace import module_of, tap_key
from parity.training.measured import TWINS, ReferenceStep
from parity.training.sides import Side
from parity.training.update_causes import causes, chosen

LENGTHS = (1.0, 0.01, 100.0)  # of the gradients of each update, in units of the step's own
Gradients = Mapping[str, np.ndarray | None]
State = Mapping[str, np.ndarray]


def given_gradients(step: ReferenceStep) -> list[dict[str, np.ndarray | None]]:
    """The gradients of each update: the step's own, then drawn ones, shorter and longer.

    One update tells nothing of what an optimizer keeps, and gradients of one length nothing of
    what it clips.
    """
    first = {key: step.gradient(key) for key in step.side.parameters()}
    found: list[dict[str, np.ndarray | None]] = [first]
    for number, length in enumerate(LENGTHS[1:]):
        rng = np.random.default_rng(number)
        drawn: dict[str, np.ndarray | None] = {}
        for key, one in first.items():
            if one is None:
                drawn[key] = None
                continue
            size = float(np.linalg.norm(one)) / max(1.0, np.sqrt(one.size))
            drawn[key] = length * size * rng.normal(size=one.shape)
        found.append(drawn)
    return found


def updated(
    side: Side, gradients: Sequence[Gradients], start: State, execution: str = "eager"
) -> tuple[list[dict[str, np.ndarray]], Gradients, list[Any]]:
    """The side's tensors after each update from `start`, what clipping left of the first
    gradients, and the optimizer's rule at each where it is known; the weights come back."""
    after, left, told = [], {}, []
    with side.restored():
        side.assign(start)
        optimizer = side.optimizer()
        arrive = side.scheduled(optimizer)
        for number, one in enumerate(gradients):
            arrive(number)
            told.append(side.trainer.recipe(optimizer, side.model))
            found = side.update(optimizer, one, execution)
            left = found if number == 0 else left
            after.append(side.state(side.tensors))
    return after, left, told


def update_claim(step: ReferenceStep, port: Side, other_rates: bool, command: str) -> Claim:
    """The weights after each of some updates by the same gradients, float64.

    With `other_rates` the schedule is at fault, whatever else is.
    """
    gradients, trained = given_gradients(step), set(step.side.parameters())
    found, left, told = updated(step.side, gradients, step.before)
    exact, before = [port.seen(one) for one in found], port.seen(step.before)
    ours, _, _ = updated(port, gradients, before)
    floors = _floors(step, port, gradients, exact)
    verdicts = {
        _key(key, number): gradient_verdict(
            _key(key, number), gap(ours[number][key], value), floors[number][key]
        )
        for number, after in enumerate(exact)
        for key, value in after.items()
        if key in ours[number] and key in trained
    }
    missing = [_key(key, 0) for key in exact[0] if key in trained and key not in ours[0]]
    one = margin_claim(
        "train_update",
        "By the same gradients the optimizer makes the same of every parameter in float64",
        verdicts,
        f"largest gap of a weight after each of {len(gradients)} updates in units of its limit, "
        "min(32 x floor, 1e-9); the first gradients are the step's, the next a hundredth of their "
        "length, the last a hundred times; the floor is the reference's own gap when gradients and "
        "weights move by one unit in the last place",
        command,
        missing,
    )
    if one.holds:
        return one
    if other_rates:
        return one.located(Place.inherits("the schedule"))
    wrong = [key for key, verdict in verdicts.items() if not verdict.passed] or missing
    names = list(dict.fromkeys(map(module_of, wrong)))
    count = f"{len(names)} modules, such as {names[0]}" if len(names) > 1 else names[0]
    texts: tuple[str, ...] = ()
    if told[0] is not None:
        recipe, groups = told[0]
        rule = clipped_as(recipe, gradients[0], left)
        rates = [_largest(groups_then) / (_largest(groups) or 1.0) for _, groups_then in told]
        shared = {key: group for key, group in groups.items() if key in ours[0]}
        update = chosen(rule, shared, before, gradients, ours, rates)
        texts = causes(update)
        both = trained & port.hidden()
        if both and update.explains(update.recipe):
            texts = (
                f"{', '.join(sorted(both))} and what it is added to are both trained, where the "
                "port has one tensor, which learns half as fast",
            )
    place = Place.at("optimizer", count)
    return one.located(place, "; ".join(texts) or None)


def _largest(groups: Mapping[str, tuple[float, float]]) -> float:
    return max(rate for rate, _ in groups.values())


def clipped_as(recipe: Recipe, given: Gradients, left: Gradients) -> Recipe:
    """The rule with the clip that its first update shows, where clipping left shorter gradients."""
    keys = [key for key, one in given.items() if one is not None and key in left]
    sizes = {key: float(np.linalg.norm(given[key])) for key in keys}
    kept = {key: float(np.linalg.norm(left[key])) for key in keys}
    norm, after = (float(np.linalg.norm(list(one.values()))) for one in (sizes, kept))
    if not after < norm * (1 - 1e-9):
        return recipe
    if all(abs(kept[key] * norm - sizes[key] * after) <= 1e-9 * sizes[key] * norm for key in keys):
        return replace(recipe, clip=after / norm * (norm + CLIP_EPSILON))
    return recipe


def update_precision_claim(
    step: ReferenceStep, reference32: Side, port32: Side, execution: str, command: str
) -> Claim:
    """How far weights move in float32, beside how far the reference's move."""
    gradients = given_gradients(step)[:1]
    start = {key: value.astype(np.float32) for key, value in step.before.items()}

    def seen(side: Side, given: Sequence[Gradients]) -> dict[str, np.ndarray]:
        return port32.seen(_moves(updated(side, given, start)[0][0], start))

    exact = seen(step.side, gradients)
    single = [
        {key: None if one is None else one.astype(np.float32) for key, one in gradients[0].items()}
    ]
    twins = [
        [
            {
                key: None if one is None else perturb_ulp(one, seed + index)
                for index, (key, one) in enumerate(single[0].items())
            }
        ]
        for seed in TWINS
    ]
    own = seen(reference32, single)
    moved = [seen(reference32, twin) for twin in twins]
    begun = port32.seen(start)
    ours = _moves(updated(port32, single, begun, execution)[0][0], begun)
    verdicts = {}
    for key, value in exact.items():
        if not np.any(value) or key not in ours:
            continue
        name = _key(key, 0)
        floor = worst(gap(twin[key], value) for twin in moved)
        verdicts[name] = precision_verdict(name, gap(ours[key], value), gap(own[key], value), floor)
    one = margin_claim(
        f"train_update_float32_{execution}",
        f"In float32 ({execution}) no parameter's update is less exact than the reference's own",
        verdicts,
        "largest error of a movement in units of its limit; the limit is "
        f"{PRECISION_FACTOR:g} x the error of the reference's float32 update against its own in "
        "float64, or the gap of its twins where larger",
        command,
    )
    wrong = [key for key, verdict in verdicts.items() if not verdict.passed]
    return one.located(Place.at("optimizer", f"in float32, {', '.join(wrong[:3])}"))


def _moves(after: State, before: State) -> dict[str, np.ndarray]:
    return {key: value.astype(np.float64) - before[key] for key, value in after.items()}


def _floors(
    step: ReferenceStep, port: Side, gradients: Sequence[Gradients], exact: Sequence[State]
) -> list[dict[str, Gap]]:
    found: list[dict[str, list[Gap]]] = [{key: [] for key in after} for after in exact]
    for seed in TWINS:
        moved = [
            {
                key: None if one is None else perturb_ulp(one, seed + index)
                for index, (key, one) in enumerate(each.items())
            }
            for each in gradients
        ]
        start = {
            key: perturb_ulp(value, seed + index)
            for index, (key, value) in enumerate(step.before.items())
        }
        for number, after in enumerate(updated(step.side, moved, start)[0]):
            for key, value in port.seen(after).items():
                found[number][key].append(gap(value, exact[number][key]))
    return [{key: worst(gaps) for key, gaps in one.items()} for one in found]


def _key(name: str, number: int) -> str:
    path, _, own = name.rpartition(".")
    return tap_key(path, "update", own, number)

"""The claim on what an optimizer makes of given gradients, the same on both sides."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.claims import Claim, Place, margin_claim
from parity.frameworks.shared.recipes import CLIP_EPSILON, Recipe
from parity.gradients import gradient_verdict
from parity.judge import PRECISION_FACTOR, Verdict, precision_verdict
from parity.metrics import Gap, gap, perturb_ulp, worst
from parity.on_disk import ArraysOnDisk
from parity.steps import give_back
from parity.trace import tap_key
from parity.training.measured import TWINS, ReferenceStep
from parity.training.precision import fewer_digits, how
from parity.training.sides import NORM, Side
from parity.training.update_causes import Update, causes, chosen

STEP = "train step"  # the place of what a step does between model, loss and optimizer
LENGTHS = (1.0, 0.01, 100.0)  # of the gradients of each update, in units of the step's own
Gradients = Mapping[str, np.ndarray | None]
State = Mapping[str, np.ndarray]
Groups = Mapping[str, tuple[float, float]]  # rate and decay by key


def given_gradients(step: ReferenceStep) -> list[Gradients]:
    """The gradients of each update, on disk: the step's own, then drawn ones, shorter and longer.

    One update tells nothing of what an optimizer keeps, and gradients of one length nothing of
    what it clips.
    """
    first = own_gradients(step)
    found: list[Gradients] = [first]
    for number, length in enumerate(LENGTHS[1:]):
        rng = np.random.default_rng(number)
        drawn = ArraysOnDisk()
        for key, one in first.items():
            if one is None:
                drawn[key] = None
                continue
            size = float(np.linalg.norm(one)) / max(1.0, np.sqrt(one.size))
            drawn[key] = length * size * rng.normal(size=one.shape)
        found.append(drawn)
    return found


def own_gradients(step: ReferenceStep) -> Gradients:
    """The step's own gradients by parameter, on disk."""
    return ArraysOnDisk((key, step.gradient(key)) for key in step.side.parameters())


@dataclass(frozen=True)
class Updates:
    """What updates by given gradients make of the reference, as a port could have it.

    Args:
        gradients: those of each update.
        before, after: its tensors before, and after each; `after` has the norm of the gradients
            under `NORM`.
        floors: how far rounding alone moves each.
        trained: the keys of what is trained.
        left: what clipping left of the first gradients; `told` the optimizer's rule at each update.
    """

    gradients: Sequence[Gradients]
    before: State
    after: Sequence[State]
    floors: Sequence[Mapping[str, Gap]]
    trained: frozenset[str]
    left: Gradients
    told: Sequence[Any]


def measure_updates(
    side: Side,
    gradients: Sequence[Gradients],
    before: State,
    seen: Callable[[State], State] = lambda state: state,
) -> Updates:
    """Runs the reference's updates and their twins; `seen` gives tensors as a port has them."""
    after, left, told = updated(side, gradients, before, seen=seen)
    exact = [
        ArraysOnDisk({**state, NORM: norm_of(given)})
        for state, given in zip(after, gradients, strict=True)
    ]
    floors = _floors(side, seen, (gradients, before), exact)
    trained = frozenset(side.parameters())
    return Updates(gradients, seen(before), exact, floors, trained, left, told)


def perturbed(arrays: Gradients, seed: int) -> dict[str, np.ndarray | None]:
    """All arrays moved by up to one unit in the last place."""
    return {
        key: None if one is None else perturb_ulp(one, seed + index)
        for index, (key, one) in enumerate(arrays.items())
    }


def updated(
    side: Side,
    gradients: Iterable[Gradients],
    start: State,
    execution: str = "eager",
    seen: Callable[[State], State] = lambda state: state,
) -> tuple[list[State], Gradients, list[Any]]:
    """The side's tensors after each update from `start`, what clipping left of the first
    gradients, all on disk, and the optimizer's rule at each where it is known; the weights come
    back.

    What its own step says of the norm before clipping is under `NORM`.
    """
    after, left, told = [], {}, []
    for number, (state, found, rule) in enumerate(_each(side, gradients, start, execution)):
        after.append(ArraysOnDisk(seen(state)))
        left = left if number else ArraysOnDisk(found)
        told.append(rule)
    give_back()  # the moments of the optimizer
    return after, left, told


def _each(
    side: Side, gradients: Iterable[Gradients], start: State, execution: str
) -> Iterator[tuple[State, Gradients, Any]]:
    """After each update what `updated` gives of it."""
    with side.restored():
        side.assign(start)
        del start  # which may be in memory, as may each of the gradients
        optimizer = side.optimizer()
        arrive = side.scheduled(optimizer)
        for number, one in enumerate(gradients):
            arrive(number)
            told = rule_of(side, optimizer)
            left = dict(side.update(optimizer, one, execution))
            del one
            norm = {NORM: left.pop(NORM)} if NORM in left else {}
            yield {**side.state(side.tensors), **norm}, left, told


def rule_of(side: Side, optimizer: Any) -> tuple[Recipe, Groups] | None:
    """The optimizer's rule now, with the rate and decay of each of the reference's tensors."""
    found = side.trainer.recipe(optimizer, side.model)
    if found is None:
        return None
    rule, groups = found
    return rule, {
        key: groups[one.paths[0]]
        for one in side.holdings
        for key in one.keys
        if one.paths[0] in groups
    }


def update_verdicts(exact: Updates, ours: Sequence[State]) -> dict[str, Verdict]:
    """The verdict on every parameter after each update, and on each norm that the port tells."""
    verdicts = {}
    for number, after in enumerate(exact.after[: len(ours)]):
        for key, value in after.items():
            if key in ours[number] and (key in exact.trained or key == NORM):
                name, floor = _key(key, number), exact.floors[number][key]
                verdicts[name] = gradient_verdict(name, gap(ours[number][key], value), floor)
    return verdicts


def update_claim(exact: Updates, port: Side, command: str, *, other_rates: bool = False) -> Claim:
    """The weights after each of some updates by the same gradients, float64.

    With `other_rates` the schedule is at fault, whatever else is.
    """
    ours, left, told = updated(port, exact.gradients, exact.before)
    verdicts = update_verdicts(exact, ours)
    known = exact.trained & {*exact.after[0]}
    missing = [_key(key, 0) for key in exact.after[0] if key in known and key not in ours[0]]
    several = (
        "; the first gradients are the step's, the next a hundredth of their length, the last a "
        "hundred times"
    )
    one = margin_claim(
        "train_update",
        "By the same gradients the optimizer makes the same of every parameter in float64",
        verdicts,
        f"largest gap of a weight, or of a norm before clipping, after each of {len(ours)} updates "
        f"in units of its limit, min(32 x floor, 1e-9){several if len(ours) > 1 else ''}; the "
        "floor is the reference's own gap when gradients and weights move by one unit in the last "
        "place and sums are reordered",
        command,
        missing,
    )
    if not one.fails:
        return one
    if other_rates:
        return one.located(Place.inherits("the schedule"))
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
    if port.updating is not None:
        alone = updated(replace(port, updating=None), exact.gradients, exact.before)[0]
        if not any(verdict.fails for verdict in update_verdicts(exact, alone).values()):
            return one.located(*_of_the_step(exact, ours, wrong))
        ours = alone
        wrong = [key for key, one in update_verdicts(exact, alone).items() if one.fails]
    names = list(dict.fromkeys(re.sub("@[0-9]+:", ":", key) for key in wrong or missing))
    place = Place.at("optimizer", f"{len(names)} of {len(known)} parameters, such as {names[0]}")
    cause = update_cause(exact, port, ours)
    if cause is None and exact.told[0] is None and told[0] is not None:
        theirs = _known(replace(exact, left=left, told=told), exact.after)
        found = "; ".join(causes(theirs))
        cause = f"mended in the port by {found}" if found else None
    return one.located(place, cause)


def update_cause(exact: Updates, port: Side, ours: Sequence[State]) -> str | None:
    """The mistakes of the optimizer's rule that give the port's weights after each update."""
    known = _known(exact, ours)
    if known is None:
        return None
    both = exact.trained & port.hidden()
    if both and known.explains(known.recipe):
        added = "what it is added to" if len(both) == 1 else "what they are added to"
        return (
            f"{', '.join(sorted(both))} and {added} are both trained, where the port has one "
            "tensor, which learns half as fast"
        )
    return "; ".join(causes(known)) or None


def _known(exact: Updates, ours: Sequence[State]) -> Update | None:
    """The rule of the reference beside what the port made of the gradients."""
    if exact.told[0] is None:
        return None
    recipe, groups = exact.told[0]
    rule = clipped_as(recipe, exact.gradients[0], exact.left)
    rates = [_largest(then) / (_largest(groups) or 1.0) for _, then in exact.told[: len(ours)]]
    shared = {key: group for key, group in groups.items() if key in ours[0]}
    return chosen(rule, shared, exact.before, exact.gradients[: len(ours)], ours, rates)


def _of_the_step(
    exact: Updates, ours: Sequence[State], wrong: Sequence[str]
) -> tuple[Place, str | None]:
    """Where a step errs whose optimizer is right, and why."""
    known = _known(exact, ours)
    if all(key.startswith(NORM) for key in wrong):
        clip = None if known is None else known.recipe.clip
        clipped = clip is not None and abs(float(ours[0][NORM]) - clip) <= CLIP_EPSILON
        cause = "the norm is that of the clipped gradients" if clipped else None
        return Place.at(STEP, NORM), cause
    twice = known is not None and known.explains(replace(known.recipe, repeated=2))
    return Place.at(STEP, "update"), "the step updates twice" if twice else None


def _largest(groups: Groups) -> float:
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


@dataclass(frozen=True)
class Update32:
    """One float32 update of the reference by its step's own gradients, as a port could have it.

    `gradients` and `start` are float32; `moves` is what the same makes of each tensor in float64,
    `own` how far the reference's float32 update is from that, `floors` those of its twins.
    """

    gradients: Gradients
    start: State
    moves: State
    own: Mapping[str, Gap]
    floors: Mapping[str, Gap]


def measure_update32(
    step: ReferenceStep,
    reference32: Side,
    seen: Callable[[State], State] = lambda state: state,
) -> Update32:
    """Runs the reference's update in float64 and float32, and its twins; `seen` as of
    `measure_updates`."""
    gradients = own_gradients(step)
    start = in_dtype(step.before, np.float32)

    def moves(side: Side, given: Gradients) -> State:
        return seen(_moves(updated(side, [given], start)[0][0], start))

    exact = moves(step.side, gradients)
    single = in_dtype(gradients, np.float32)

    def gaps(given: Gradients) -> dict[str, Gap]:
        found = moves(reference32, given)
        return {key: gap(found[key], value) for key, value in exact.items()}

    twins = [gaps(perturbed(single, seed)) for seed in TWINS]
    floors = {key: worst(one[key] for one in twins) for key in exact}
    return Update32(single, start, exact, gaps(single), floors)


def update_precision_claim(measured: Update32, port32: Side, execution: str, command: str) -> Claim:
    """How far weights move in float32, beside how far the reference's move; in bfloat16, whose
    weights and update are float32, as far."""
    ending, called, run = how(execution)
    begun = port32.seen(measured.start)
    ours = _moves(updated(port32, [measured.gradients], begun, run)[0][0], begun)
    verdicts = {}
    for key, value in measured.moves.items():
        if not np.any(value) or key not in ours:
            continue
        name, known = _key(key, 0), (measured.own[key], measured.floors[key])
        verdicts[name] = precision_verdict(name, gap(ours[key], value), *known)
    one = margin_claim(
        f"train_update_{ending}",
        f"In {called} no parameter's update is less exact than the reference's own",
        verdicts,
        "largest error of a movement in units of its limit; the limit is "
        f"{PRECISION_FACTOR:g} x the error of the reference's float32 update against its own in "
        "float64, or the gap of its twins where larger",
        command,
    )
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
    place = Place.at("optimizer", f"in {called.split()[0]}, {', '.join(wrong[:3])}")
    return one.located(place, fewer_digits(one, execution))


def in_dtype(arrays: Gradients, dtype: type) -> Gradients:
    """The arrays rounded to a dtype, on disk."""
    return ArraysOnDisk(
        (key, None if one is None else one.astype(dtype)) for key, one in arrays.items()
    )


def _moves(after: State, before: State) -> State:
    return ArraysOnDisk(
        (key, value.astype(np.float64) - before[key]) for key, value in after.items()
    )


def norm_of(gradients: Gradients) -> np.ndarray:
    """The norm of all gradients together."""
    return np.linalg.norm([np.linalg.norm(one) for one in gradients.values() if one is not None])


def _floors(
    side: Side,
    seen: Callable[[State], State],
    given: tuple[Sequence[Gradients], State],
    exact: Sequence[State],
) -> list[dict[str, Gap]]:
    found: list[dict[str, list[Gap]]] = [{key: [] for key in after} for after in exact]
    gradients, before = given
    for seed in TWINS:
        norms = []

        def moved(seed: int = seed, norms: list = norms) -> Iterator[Gradients]:
            for each in gradients:
                one = perturbed(each, seed)
                norms.append(norm_of(one))
                yield one

        after = _each(side, moved(), perturbed(before, seed), "eager")
        for number, (state, *_) in enumerate(after):
            for key, value in {**seen(state), NORM: norms[number]}.items():
                found[number][key].append(gap(value, exact[number][key]))
        give_back()
    for number, each in enumerate(gradients):
        squares = [np.cumsum(one.ravel() ** 2)[-1] for one in each.values() if one is not None]
        found[number][NORM].append(gap(np.sqrt(np.cumsum(squares)[-1]), exact[number][NORM]))
    return [{key: worst(gaps) for key, gaps in one.items()} for one in found]


def _key(name: str, number: int) -> str:
    if name == NORM:
        return f"{NORM}, update {number}" if number else NORM
    path, _, own = name.rpartition(".")
    return tap_key(path, "update", own, number)

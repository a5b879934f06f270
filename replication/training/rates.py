"""The claims on learning rates: the schedule itself, and what the optimizer makes of it."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.claims import Claim, Place, claim
from parity.judge import FUNCTION_FACTOR, PRECISION_FACTOR
from parity.measurements import Largest, Multiple, relative_gap
from replication.training.movements import movement_gap, reference_movement

if TYPE_CHECKING:
    from maskformer.model.solver import SolverConfig

SIZE = 64
LENGTHS = (30.0, 0.5)  # of the gradients of two updates, in units of the clip
EXPLAINED = 1e-7  # relative; a rate without a schedule is held in float32


def turns(solver: "SolverConfig") -> list[int]:
    """The iterations at and around which a schedule changes its rule, and its middle."""
    places = {0, solver.warmup_iters, *solver.steps, solver.max_iter // 2, solver.max_iter}
    around = {place + step for place in places for step in (-1, 0, 1)}
    return sorted(place for place in around if 0 <= place < solver.max_iter)


def rate_condition(solver: "SolverConfig", step: int) -> float:
    """By how much the rate magnifies a relative error of step / max_iter: near its end, the
    polynomial (1 - x) ** power loses the digits that 1 - x cancels."""
    if solver.schedule != "WarmupPolyLR":
        return 1.0
    return 1.0 + solver.power * step / (solver.max_iter - step)


def rate_claims(solver: "SolverConfig", command: str) -> list[Claim]:
    """The three claims; where the schedule is wrong, the optimizer inherits it."""
    schedule, applied = schedule_claim(solver, command), applied_claim(solver, command)
    single = applied_float32_claim(solver, command)
    if not schedule.holds:
        applied, single = (one.located(Place.inherits("the schedule")) for one in (applied, single))
    elif not applied.holds:
        single = single.located(Place.inherits("the optimizer in float64"))
    return [schedule, applied, single]


def schedule_claim(solver: "SolverConfig", command: str) -> Claim:
    """The learning rate around every iteration at which the schedule changes its rule."""
    import tensorflow as tf
    import torch

    from replication.training import causes as training_causes
    from tf_impl.schedule import SolverSchedule as PortSchedule
    from torch_reference.schedule import SolverSchedule

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=solver.base_lr)
    reference, port = SolverSchedule(optimizer, solver), PortSchedule(solver, "float64")
    single = PortSchedule(solver, "float32")
    rates, rounded = {}, {}
    for place in turns(solver):
        reference.last_epoch = place
        rate, step = reference.get_lr()[0], tf.constant(place, tf.int64)
        rates[place] = (float(port(step)), rate)
        rounded[place] = (float(single(step)), rate)
    limit = 4 * float(np.finfo(np.float64).eps)
    gaps = {
        place: relative_gap(*pair) / rate_condition(solver, place) for place, pair in rates.items()
    }
    wrong = {place: rates[place] for place, gap in gaps.items() if gap > limit}
    # The rate that training runs by is that of float64, rounded once.
    once = float(np.finfo(np.float32).eps)
    beyond = {
        place: max(0.0, relative_gap(*pair) - once) / rate_condition(solver, place)
        for place, pair in rounded.items()
    }
    wrong = wrong or {place: rounded[place] for place, gap in beyond.items() if gap > limit}
    one = claim(
        "train_schedule",
        "The learning rate is the same at and around every milestone",
        Largest(
            {
                **{str(place): gap for place, gap in gaps.items()},
                **{f"{place}, float32": gap for place, gap in beyond.items()},
            },
            limit,
            beside_it={"rates": {str(place): list(pair) for place, pair in rates.items()}},
        ),
        "largest relative gap; a rate is four roundings of products and a power, where "
        "1 - step / steps of a polynomial multiplies them by how many digits it cancels; in "
        "float32 what is left beyond one rounding",
        command,
    )
    text = ", ".join(
        f"{place} ({ours:.6g} instead of {theirs:.6g})" for place, (ours, theirs) in wrong.items()
    )
    if one.holds:
        return one
    late = set(wrong) <= set(solver.steps)
    in_float32 = all(gap <= limit for gap in gaps.values())
    if in_float32:
        return one.located(
            Place.at("schedule", f"iteration {text}"), "in float32 alone the rate is another"
        )
    causes = [] if late else training_causes.of_schedule(solver, rates)
    cause = "a milestone acts one iteration late" if late else next(iter(causes), None)
    return one.located(Place.at("schedule", f"iteration {text}"), cause)


def applied_claim(solver: "SolverConfig", command: str) -> Claim:
    """From every turn on, two updates move a parameter as the reference's optimizer does.

    The first gradient is longer than the clip, the second shorter. A schedule that is right in
    itself may not reach the optimizer, and one update tells nothing of later rates.
    """
    from parity.metrics import perturb_ulp

    gradients = _gradients(solver)
    gaps, floor, moves = {}, float(np.finfo(np.float64).eps), {}
    for place in turns(solver):
        exact = reference_movement(solver, place, gradients)
        moves[place] = (_port(solver, place, gradients), exact)
        scale = _condition(solver, place)
        gaps[place] = movement_gap(*moves[place]) / scale
        for seed in (0, 1):
            moved = reference_movement(solver, place, perturb_ulp(gradients, seed))
            floor = max(floor, movement_gap(moved, exact) / scale)
    one = claim(
        "train_applied",
        "At and around every milestone the optimizer moves by the schedule's rate, and clips only "
        "what is longer than the clip",
        Largest({str(place): gap for place, gap in gaps.items()}, Multiple("floor_factor", floor)),
        f"gap of the movement after two updates; the limit is {FUNCTION_FACTOR:g} x the "
        "reference's own gap when the gradients move by one unit in the last place, in units of "
        "the digits that the rate and the bias correction cancel",
        command,
    )
    wrong = [place for place, gap in gaps.items() if not gap <= FUNCTION_FACTOR * floor]
    where = ", ".join(map(str, wrong[:3]))
    return one.located(
        Place.at("optimizer", f"from iteration {where}"), _cause(solver, gradients, moves)
    )


def applied_float32_claim(solver: "SolverConfig", command: str) -> Claim:
    """The same updates in float32, in which training runs, are as exact as the reference's."""
    from parity.metrics import perturb_ulp

    gradients = _gradients(solver).astype(np.float32)
    least, ratios = float(np.finfo(np.float32).eps), {}
    for place in turns(solver):
        exact = reference_movement(solver, place, gradients.astype(np.float64))
        own = [
            movement_gap(reference_movement(solver, place, one), exact)
            for one in (gradients, *(perturb_ulp(gradients, seed) for seed in (0, 1)))
        ]
        ratios[place] = movement_gap(_port(solver, place, gradients), exact) / max(least, *own)
    one = claim(
        "train_applied_float32",
        "In float32 the optimizer's error is no larger than the reference's own",
        Largest(
            {str(place): ratio for place, ratio in ratios.items()}, Multiple("float32_ratio", 1)
        ),
        f"gap of the movement after two updates from the reference's in float64, in units of the "
        f"largest that the reference has in float32, also when gradients move by one unit in the "
        f"last place; at most {PRECISION_FACTOR:g}",
        command,
    )
    wrong = [place for place, ratio in ratios.items() if not ratio <= PRECISION_FACTOR]
    where = ", ".join(map(str, wrong[:3]))
    return one.located(Place.at("optimizer", f"in float32, from iteration {where}"))


def _gradients(solver: "SolverConfig") -> np.ndarray:
    """float64 [updates,SIZE] of the lengths `LENGTHS`."""
    drawn = np.random.default_rng(4).normal(size=(len(LENGTHS), SIZE))
    lengths = solver.clip_value * np.array(LENGTHS)[:, None]
    return lengths * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _condition(solver: "SolverConfig", place: int) -> float:
    """By how much rounding grows in the rate and in 1 - beta ** step."""
    last = place + len(LENGTHS) - 1
    corrected = 1 - max(solver.betas) ** (place + 1) if solver.optimizer == "ADAMW" else 1.0
    return rate_condition(solver, min(last, solver.max_iter - 1)) / corrected


def _port(solver: "SolverConfig", place: int, gradients: np.ndarray) -> np.ndarray:
    """What `reference_movement` gives, of the port's optimizer."""
    import tensorflow as tf

    from tf_impl import train_step
    from tf_impl.optimizer import build_optimizer

    module = tf.Module()
    module.weight = tf.Variable(np.zeros(SIZE, gradients.dtype))
    optimizer = build_optimizer(module, solver, gradients.dtype.name)
    optimizer.build(module.trainable_variables)
    optimizer.iterations.assign(place)
    for gradient in gradients:
        train_step.update(module, optimizer, [tf.constant(gradient)])
    return module.weight.numpy()


def _cause(solver: "SolverConfig", gradients: np.ndarray, moves: Any) -> str | None:
    """The mistake with which the reference moves as the port does at every turn."""
    for text, changed, how in _mistakes(solver):
        expected = (reference_movement(changed, place, gradients, **how) for place in moves)
        if all(
            movement_gap(ours, wrong) <= EXPLAINED
            for (ours, _), wrong in zip(moves.values(), expected, strict=True)
        ):
            return text
    return None


def _mistakes(solver: "SolverConfig") -> Iterator[tuple[str, "SolverConfig", dict[str, Any]]]:
    constant = dataclasses.replace(solver, schedule="WarmupMultiStepLR", steps=(), warmup_iters=0)
    yield "the schedule does not reach the optimizer", constant, {}
    yield "the rate is that of the iteration after", solver, {"late": -1}
    yield "the rate is that of the iteration before", solver, {"late": 1}
    yield "gradients shorter than the clip are scaled up to it", solver, {"clip": False}
    if solver.optimizer == "SGD":
        yield "the momentum is Nesterov's", solver, {"nesterov": True}

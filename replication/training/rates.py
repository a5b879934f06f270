"""The claims on learning rates: the schedule itself, and what the optimizer makes of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from parity.claims import Claim
from parity.training import rates as engine
from replication.training.sides import port_alone, reference_alone

if TYPE_CHECKING:
    from maskformer.model.solver import SolverConfig

SIZE = 64
LENGTHS = (30.0, 0.5)  # of the gradients of two updates, in units of the clip


def turns(solver: "SolverConfig") -> list[int]:
    """The iterations at and around which a schedule changes its rule, its middle, and one long past
    its end, where a run that goes on is."""
    places = {0, solver.warmup_iters, *solver.steps, solver.max_iter // 2, solver.max_iter}
    return [*engine.around(places), 2 * solver.max_iter]


def rate_claims(solver: "SolverConfig", command: str) -> list[Claim]:
    """The engine's three claims; where the schedule is wrong, the optimizer inherits it."""
    return engine.turning_claims(turning_of(solver), command)


def schedule_claim(solver: "SolverConfig", command: str) -> Claim:
    """The first of them alone."""
    return engine.schedule_claim(turning_of(solver), command)


def turning_of(solver: "SolverConfig") -> engine.Turning:
    """Both optimizers with one parameter, of which the first gradient is longer than the clip.

    A schedule that is right in itself may not reach the optimizer, and one update tells nothing of
    later rates.
    """
    both = [
        [build(solver, dtype, [SIZE]) for build in (reference_alone, port_alone)]
        for dtype in ("float64", "float32")
    ]
    drawn = np.random.default_rng(4).normal(size=(len(LENGTHS), SIZE))
    lengths = solver.clip_value * np.array(LENGTHS)
    gradients = [
        {"part0": length * one / np.linalg.norm(one)}
        for length, one in zip(lengths, drawn, strict=True)
    ]
    rates = tuple(_rate_of(solver, dtype) for dtype in ("float64", "float32"))
    return engine.Turning(*both[0], turns(solver), solver.steps, gradients, tuple(both[1]), rates)


def _rate_of(solver: "SolverConfig", dtype: str) -> Callable[[int], float]:
    """The rate by iteration of the port's schedule alone, which may not reach its optimizer."""
    import tensorflow as tf

    from tf_impl.schedule import SolverSchedule

    schedule = SolverSchedule(solver, dtype)
    return lambda step: float(schedule(tf.constant(step, tf.int64)))

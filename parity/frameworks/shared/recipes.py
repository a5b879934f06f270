"""What well-known optimizers do to a parameter, with the mistakes that ports make of them.

Adam: Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1; decoupled decay: Loshchilov and Hutter,
2019, arXiv:1711.05101, algorithm 2. SGD with momentum as PyTorch documents it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

OUTSIDE, HAT, INSIDE = "outside", "before the correction", "inside the root"
CLIP_EPSILON = 1e-6  # what PyTorch adds to the norm that it divides by


@dataclass(frozen=True)
class Recipe:
    """An optimizer's rule; arrays have one number for each element that it moves.

    Args:
        kind: "adam" or "sgd".
        rate, decay: learning rate and weight decay.
        coupled: whether the decay is added to the gradient.
        betas, epsilon, epsilon_at: Adam's; `epsilon_at` is one of the constants of this module.
        corrected: whether the first and the second moment are corrected for their bias.
        correction_betas: those of the correction, where they differ from `betas`.
        counted_from: the number of the first update in the correction.
        kept: whether moments are kept from one update to the next.
        maximal: whether the second moment never falls (AMSGrad).
        momentum, dampening, nesterov: SGD's.
        clip: the norm of all gradients that they are clipped to.
        clip_value: the size that each element is clipped to.
        clip_each: whether each parameter is clipped by its own norm.
        clip_epsilon: what is added to the norm that is divided by.
        clip_up: whether shorter gradients are brought to the clip's length as well.
        times: what gradients are multiplied by.
        repeated: how many updates are made at once.
        decay_rate: whether the decay is multiplied by the rate.
        decay_late: whether decoupled decay takes the weights after the step.
    """

    kind: str
    rate: Any
    decay: Any
    coupled: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    epsilon_at: str = OUTSIDE
    corrected: tuple[bool, bool] = (True, True)
    correction_betas: tuple[float, float] | None = None
    counted_from: int = 1
    kept: tuple[bool, bool] = (True, True)
    maximal: bool = False
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    clip: float | None = None
    clip_value: float | None = None
    clip_each: bool = False
    clip_epsilon: float = CLIP_EPSILON
    clip_up: bool = False
    times: float = 1.0
    repeated: int = 1
    decay_rate: bool = True
    decay_late: bool = False


@dataclass(frozen=True)
class Given:
    """Gradients of one update: some elements [N], the norm of all, and for each that of its own
    parameter [N]; and the rate of the update, in units of that of the first."""

    elements: np.ndarray
    norm: float
    own: np.ndarray
    rate: float = 1.0


def moved(recipe: Recipe, weights: np.ndarray, updates: Sequence[Given]) -> list[np.ndarray]:
    """The weights [N], float64, after each update."""
    x, state, found = weights.copy(), _State(np.zeros_like(weights), np.zeros_like(weights)), []
    for given in updates:
        gradient = clipped(recipe, given)
        now = replace(recipe, rate=given.rate * recipe.rate)
        for _ in range(recipe.repeated):
            x = _step(now, x, gradient, state)
        found.append(x.copy())
    return found


@dataclass
class _State:
    first: np.ndarray
    second: np.ndarray
    largest: np.ndarray | float = 0.0
    count: int = 0


def clipped(recipe: Recipe, given: Given) -> np.ndarray:
    """The gradients as the rule takes them."""
    gradient = recipe.times * given.elements
    if recipe.clip is not None:
        norm: Any = given.own if recipe.clip_each else given.norm
        scale = recipe.clip / (abs(recipe.times) * norm + recipe.clip_epsilon)
        gradient = gradient * (scale if recipe.clip_up else np.minimum(1.0, scale))
    if recipe.clip_value is not None:
        gradient = np.clip(gradient, -recipe.clip_value, recipe.clip_value)
    return gradient


def _step(recipe: Recipe, x: np.ndarray, gradient: np.ndarray, state: _State) -> np.ndarray:
    if recipe.coupled:
        gradient = gradient + recipe.decay * x
    direction = (_adam if recipe.kind == "adam" else _sgd)(recipe, gradient, state)
    state.count += 1
    if recipe.coupled:
        return x - recipe.rate * direction
    share = recipe.decay * (recipe.rate if recipe.decay_rate else 1.0)
    if recipe.decay_late:
        return (x - recipe.rate * direction) * (1 - share)
    return x * (1 - share) - recipe.rate * direction


def _sgd(recipe: Recipe, gradient: np.ndarray, state: _State) -> np.ndarray:
    if not recipe.momentum:
        return gradient
    before = state.first if recipe.kept[0] else np.zeros_like(gradient)
    damped = gradient if state.count == 0 else (1 - recipe.dampening) * gradient
    state.first = recipe.momentum * before + damped
    return gradient + recipe.momentum * state.first if recipe.nesterov else state.first


def _adam(recipe: Recipe, gradient: np.ndarray, state: _State) -> np.ndarray:
    first, second = recipe.betas
    before = [
        moment if kept else np.zeros_like(gradient)
        for moment, kept in zip((state.first, state.second), recipe.kept, strict=True)
    ]
    state.first = first * before[0] + (1 - first) * gradient
    state.second = second * before[1] + (1 - second) * gradient**2
    kept = state.second
    if recipe.maximal:
        kept = state.largest = np.maximum(state.largest, state.second)
    count = state.count + recipe.counted_from
    betas = recipe.correction_betas or recipe.betas
    one, two = (
        1 - beta**count if corrected else 1.0
        for beta, corrected in zip(betas, recipe.corrected, strict=True)
    )
    if count == 0:
        one = two = 1.0
    root = math.sqrt(two)
    if recipe.epsilon_at == HAT:
        size = (np.sqrt(kept) + recipe.epsilon) / root
    elif recipe.epsilon_at == INSIDE:
        size = np.sqrt(kept / two + recipe.epsilon)
    else:
        size = np.sqrt(kept) / root + recipe.epsilon
    return state.first / one / size

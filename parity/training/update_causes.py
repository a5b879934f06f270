"""Which mistakes of an optimizer explain how the port's weights move by given gradients."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.frameworks.shared.recipes import HAT, INSIDE, OUTSIDE, Given, Recipe, moved

EXPLAINED = 1e-9  # of the movement; what is left of a difference when the mistake is made
ROUNDINGS = 4  # of a weight, which an update may differ by
ELEMENTS = 32  # of each parameter that are looked at
EPSILONS = (1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
FACTORS = (0.1, 10.0, 0.5, 2.0, 0.01, 100.0)
BETAS = (0.0, 0.5, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
CLIPS = (1.0, 0.1, 0.01, 0.5, 5.0, 10.0)
HELPS = 0.8  # what a mistake must leave at most of the distance, to be kept beside others
BEAM = 6  # combinations of mistakes that are followed at once
SHOWN = 3  # parameters that a text names

Mistakes = list[tuple[str, Recipe]]


@dataclass(frozen=True)
class Update:
    """What an optimizer was given and what it made of it, for elements chosen of all parameters.

    Args:
        recipe: the reference's rule, with a rate and a decay for each element.
        keys: the parameter that each element is of.
        before: weights [N].
        given: the gradients of each update.
        ours: the port's weights [N] after each.
    """

    recipe: Recipe
    keys: Sequence[str]
    before: np.ndarray
    given: Sequence[Given]
    ours: Sequence[np.ndarray]

    def explains(self, recipe: Recipe) -> bool:
        """Whether the reference with another rule moves as the port does, at every update."""
        return self.distance(recipe) <= EXPLAINED

    def distance(self, recipe: Recipe) -> float:
        """How far the port's movement is from that of a rule, relative, at the worst update."""
        worst, last = 0.0, (self.before, self.before)
        with np.errstate(all="ignore"):
            for found, ours in zip(moved(recipe, self.before, self.given), self.ours, strict=True):
                wanted, own = found - last[0], ours - last[1]
                size = float(np.linalg.norm(wanted)) or 1.0
                gap = float(np.linalg.norm(own - wanted)) / size
                worst = max(worst, gap if np.isfinite(gap) else np.inf)
                last = found, ours
        return worst


def chosen(
    recipe: Recipe,
    groups: Mapping[str, tuple[float, float]],
    before: Mapping[str, np.ndarray],
    gradients: Sequence[Mapping[str, np.ndarray | None]],
    ours: Sequence[Mapping[str, np.ndarray]],
    rates: Sequence[float] = (),
) -> Update:
    """The `Update` of some elements of every parameter that has gradients.

    Args:
        recipe: the rule; its rate and decay are taken from `groups`, by key.
        before, ours: weights by key, before and after each update.
        gradients: those of each update, before clipping.
        rates: the rate of each update, in units of that of the first.
    """
    keys = [key for key in groups if gradients[0].get(key) is not None]

    def taken(arrays: Mapping[str, Any]) -> np.ndarray:
        return np.concatenate(
            [np.asarray(arrays[key], np.float64).ravel()[:ELEMENTS] for key in keys]
        )

    counts = [min(ELEMENTS, before[key].size) for key in keys]
    given = []
    for one, rate in zip(gradients, rates or [1.0] * len(gradients), strict=True):
        own = [float(np.linalg.norm(one[key])) for key in keys]
        given.append(Given(taken(one), float(np.linalg.norm(own)), np.repeat(own, counts), rate))
    rate, decay = (np.repeat([groups[key][index] for key in keys], counts) for index in (0, 1))
    return Update(
        replace(recipe, rate=rate, decay=decay),
        [key for key, count in zip(keys, counts, strict=True) for _ in range(count)],
        taken(before),
        given,
        [taken(one) for one in ours],
    )


def causes(update: Update) -> tuple[str, ...]:
    """The mistakes with which the reference moves as the port does; none where none is found."""
    if update.explains(update.recipe):
        return ()
    families = list(_families(update))
    for family in families:
        for text, changed in family(update.recipe):
            if update.explains(changed):
                return (text,)
    return _groups(update, families) or _together(update, families) or _two(update, families)


def _together(update: Update, families: Sequence[Any]) -> tuple[str, ...]:
    """Mistakes of several kinds at once: each time those that leave least, while they help."""
    kept = [(update.distance(update.recipe), (), update.recipe, tuple(families))]
    while kept:
        tried = [
            (update.distance(changed), (*texts, text), changed, left, family, free)
            for left, texts, recipe, free in kept
            for family in free
            for text, changed in family(recipe)
        ]
        helping = sorted((one for one in tried if one[0] < one[3] * HELPS), key=lambda one: one[0])
        kept = []
        for distance, texts, recipe, _, family, free in helping[:BEAM]:
            if update.explains(recipe):
                return texts
            kept.append((distance, texts, recipe, tuple(one for one in free if one != family)))
    return ()


def _two(update: Update, families: Sequence[Any]) -> tuple[str, ...]:
    """Two mistakes of different kinds, neither of which need help alone."""
    for first, second in itertools.combinations(families, 2):
        for text, recipe in first(update.recipe):
            for other, changed in second(recipe):
                if update.explains(changed):
                    return text, other
    return ()


def _families(update: Update) -> Iterator[Any]:
    """Functions that give a rule's mistakes of one kind; a port seldom makes two of a kind."""
    yield from (_epsilons, _corrections) if update.recipe.kind == "adam" else ()
    yield from (_moments, _decays(update), _rates, _clips, _others, _clip_epsilons)
    yield from (_rounded_betas,) if update.recipe.kind == "adam" else (_rounded_momentum,)
    yield from (_rounded_decay, _rounded_rate)


def _single(value: Any) -> Any:
    """A constant that a framework holds in float32 even where it computes in float64."""
    return np.asarray(value, np.float32).astype(np.float64)


def _rounded_betas(recipe: Recipe) -> Mistakes:
    betas = tuple(float(_single(beta)) for beta in recipe.betas)
    return [
        (
            "the betas of the bias correction are rounded to float32",
            replace(recipe, correction_betas=betas),
        ),
        ("the betas are rounded to float32", replace(recipe, betas=betas)),
    ]


def _rounded_momentum(recipe: Recipe) -> Mistakes:
    momentum = float(_single(recipe.momentum))
    return [("the momentum is rounded to float32", replace(recipe, momentum=momentum))]


def _rounded_decay(recipe: Recipe) -> Mistakes:
    decay = _single(recipe.decay)
    return [("the decay is rounded to float32", replace(recipe, decay=decay))]


def _rounded_rate(recipe: Recipe) -> Mistakes:
    rate = _single(recipe.rate)
    return [("the rate is rounded to float32", replace(recipe, rate=rate))]


def _clip_epsilons(recipe: Recipe) -> Mistakes:
    if recipe.clip is None:
        return []
    text = f"the clip divides by the norm alone, without adding {recipe.clip_epsilon:g}"
    return [(text, replace(recipe, clip_epsilon=0.0))]


def _epsilons(recipe: Recipe) -> Mistakes:
    own = recipe.epsilon
    found = []
    for epsilon in (own, *(one for one in EPSILONS if one != own)):
        for place, words in (
            (OUTSIDE, ""),
            (HAT, "is added before the bias correction"),
            (INSIDE, "is added under the root"),
        ):
            if epsilon == own and place == recipe.epsilon_at:
                continue
            text = f"epsilon ({epsilon:g}) {words}" if words else f"epsilon is {epsilon:g}"
            if words and epsilon != own:
                text += f" and is not {own:g}"
            elif not words:
                text += f" instead of {own:g}"
            found.append((text, replace(recipe, epsilon=epsilon, epsilon_at=place)))
    return found


def _corrections(recipe: Recipe) -> Mistakes:
    return [
        ("moments are not corrected for their bias", replace(recipe, corrected=(False, False))),
        (
            "the first moment is not corrected for its bias",
            replace(recipe, corrected=(False, True)),
        ),
        (
            "the second moment is not corrected for its bias",
            replace(recipe, corrected=(True, False)),
        ),
        ("the bias correction counts from 0", replace(recipe, counted_from=0)),
        ("the bias correction counts from 2", replace(recipe, counted_from=2)),
    ]


def _moments(recipe: Recipe) -> Mistakes:
    if recipe.kind != "adam":
        own = recipe.momentum
        return [
            *(
                (f"momentum is {beta:g} instead of {own:g}", replace(recipe, momentum=beta))
                for beta in BETAS
                if beta != own
            ),
            (
                "the momentum is plain instead of Nesterov's"
                if recipe.nesterov
                else "the momentum is Nesterov's",
                replace(recipe, nesterov=not recipe.nesterov),
            ),
            ("the momentum is not kept", replace(recipe, kept=(False, False))),
            (f"dampening is {own:g}", replace(recipe, dampening=own)),
        ]
    first, second = recipe.betas
    return [
        *(
            (f"beta_1 is {beta:g} instead of {first:g}", replace(recipe, betas=(beta, second)))
            for beta in BETAS
            if beta != first
        ),
        *(
            (f"beta_2 is {beta:g} instead of {second:g}", replace(recipe, betas=(first, beta)))
            for beta in BETAS[1:]
            if beta != second
        ),
        ("beta_1 and beta_2 are exchanged", replace(recipe, betas=(second, first))),
        ("the first moment is not kept", replace(recipe, kept=(False, True))),
        ("the second moment is not kept", replace(recipe, kept=(True, False))),
        ("no moment is kept", replace(recipe, kept=(False, False))),
        (
            "the second moment may fall (no AMSGrad)"
            if recipe.maximal
            else "the second moment never falls (AMSGrad)",
            replace(recipe, maximal=not recipe.maximal),
        ),
    ]


def _decays(update: Update) -> Any:
    bias = np.array([key.endswith("bias") for key in update.keys])

    def decays(recipe: Recipe) -> Mistakes:
        most = float(np.max(recipe.decay))
        if not most:
            return [
                (
                    f"weights decay by {decay:g} instead of 0",
                    replace(recipe, decay=decay + 0 * bias),
                )
                for decay in (1e-5, 1e-4, 5e-4, 4e-3, 1e-3, 0.01, 0.05, 0.1)
            ]
        zero = np.zeros_like(recipe.decay)
        return [
            ("nothing is decayed", replace(recipe, decay=zero)),
            (
                "what should not decay is decayed too, such as norms and biases",
                replace(recipe, decay=zero + most),
            ),
            ("biases are not decayed", replace(recipe, decay=np.where(bias, 0.0, recipe.decay))),
            (
                "the decay is taken from the weights (decoupled) instead of added to the gradient"
                if recipe.coupled
                else "the decay is added to the gradient",
                replace(recipe, coupled=not recipe.coupled),
            ),
            ("the decay is not multiplied by the rate", replace(recipe, decay_rate=False)),
            (
                "the decay is taken from the weights after the step",
                replace(recipe, decay_late=True),
            ),
            *(
                (
                    f"the decay is {factor:g} times as large",
                    replace(recipe, decay=factor * recipe.decay),
                )
                for factor in FACTORS
            ),
        ]

    return decays


def _rates(recipe: Recipe) -> Mistakes:
    most = float(np.max(recipe.rate))
    found = [
        (f"the rate is {factor:g} times as large", replace(recipe, rate=factor * recipe.rate))
        for factor in FACTORS
    ]
    if np.any(recipe.rate != most):
        all_alike = replace(recipe, rate=np.full_like(recipe.rate, most))
        found.insert(0, ("all parameters learn at the largest rate", all_alike))
    return found


def _clips(recipe: Recipe) -> Mistakes:
    own = recipe.clip
    if own is None:
        found = []
        for clip in CLIPS:
            one = replace(recipe, clip=clip)
            found += [
                (f"gradients are clipped to {clip:g}", one),
                (
                    f"each gradient is clipped to {clip:g} by its own norm",
                    replace(one, clip_each=True),
                ),
                (f"each number is clipped to {clip:g}", replace(recipe, clip_value=clip)),
            ]
        return found
    return [
        ("gradients are not clipped", replace(recipe, clip=None)),
        *(
            (
                f"gradients are clipped to {factor * own:g} instead of {own:g}",
                replace(recipe, clip=factor * own),
            )
            for factor in FACTORS
        ),
        ("every gradient is clipped by its own norm", replace(recipe, clip_each=True)),
        (
            f"each number is clipped to {own:g}, not the norm of all",
            replace(recipe, clip=None, clip_value=own),
        ),
        ("gradients shorter than the clip are scaled up to it", replace(recipe, clip_up=True)),
    ]


def _others(recipe: Recipe) -> Mistakes:
    found = [("the step updates twice", replace(recipe, repeated=2))]
    found += [
        (f"the gradients are multiplied by {factor:g}", replace(recipe, times=factor))
        for factor in (2.0, 0.5, -1.0)
    ]
    if recipe.kind == "adam":
        found.append(("the rule is plain SGD", replace(recipe, kind="sgd")))
    else:
        found.append(("the rule is Adam's", replace(recipe, kind="adam")))
    return found


def _groups(update: Update, families: Sequence[Any]) -> tuple[str, ...] | None:
    """Other rates or decays of some parameters, alone or beside one mistake of the rule.

    Both follow from the first update of a parameter, by least squares, where it has at least two
    elements; the other updates have to agree.
    """
    beside = (_epsilons, _corrections, _rounded_betas, _clip_epsilons)
    singles = [one for family in families if family in beside for one in family(update.recipe)]
    for text, recipe in [("", update.recipe), *singles]:
        if recipe.coupled and recipe.kind == "adam":
            continue
        changed = _fitted(update, recipe)
        if changed is not None and update.explains(changed):
            texts = _described(update, recipe, changed)
            if texts:
                return tuple([*texts, text] if text else texts)
    return None


def _fitted(update: Update, recipe: Recipe) -> Recipe | None:
    """The rule with the rate and the decay of each parameter that its first movement shows.

    What moves by the rule as it is, to the rounding of its weights, shows no other.
    """
    unit = replace(recipe, rate=np.ones_like(recipe.rate), decay=np.zeros_like(recipe.decay))
    direction = update.before - moved(unit, update.before, update.given[:1])[0]
    change = update.before - update.ours[0]
    left = np.abs(moved(recipe, update.before, update.given[:1])[0] - update.ours[0])
    rounded = left <= ROUNDINGS * np.spacing(np.abs(update.before))
    rate, decay = recipe.rate.copy(), recipe.decay.copy()
    keys = np.array(update.keys)
    for key in dict.fromkeys(update.keys):
        rows = keys == key
        if rows.sum() < 2 or rounded[rows].all():
            continue
        columns = np.stack([direction[rows], update.before[rows]], 1)
        found, _, rank, _ = np.linalg.lstsq(columns, change[rows], rcond=None)
        if rank == 2 and found[0] > 0:
            rate[rows], decay[rows] = found[0], found[1] / found[0]
        elif rank == 1 and np.any(direction[rows]):
            wanted = direction[rows]
            rate[rows] = float(np.vdot(wanted, change[rows]) / np.vdot(wanted, wanted))
        elif rank == 1:  # without a gradient, all movement is decay
            weights = recipe.rate[rows] * update.before[rows]
            decay[rows] = float(np.vdot(weights, change[rows]) / np.vdot(weights, weights))
    return replace(recipe, rate=rate, decay=decay)


def _described(update: Update, recipe: Recipe, changed: Recipe) -> list[str]:
    """Which parameters have another rate or decay, those that are alike in one text."""
    rates: dict[str, list[str]] = {}
    decays: dict[str, list[str]] = {}
    starts = {key: index for index, key in reversed(list(enumerate(update.keys)))}
    for key in dict.fromkeys(update.keys):
        at = starts[key]
        factor = float(changed.rate[at] / recipe.rate[at])
        if abs(factor - 1) > 1e-6:
            rates.setdefault(f"{factor:.6g}", []).append(key)
        ours, own = float(changed.decay[at]), float(recipe.decay[at])
        if abs(ours - own) > 1e-6 * max(abs(own), 1e-3):
            decays.setdefault(f"{_round(ours):.4g} instead of {own:.4g}", []).append(key)
    return [
        *(f"the rate of {_few(keys)} is {text} times as large" for text, keys in rates.items()),
        *(f"{_few(keys)} decay by {text}" for text, keys in decays.items()),
    ]


def _round(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else value


def _few(keys: Sequence[str]) -> str:
    kinds = Counter(key.rpartition(".")[2] for key in keys)
    if len(keys) <= SHOWN:
        return ", ".join(keys)
    last = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(SHOWN))
    return f"{len(keys)} parameters ({last}), such as {keys[0]}"

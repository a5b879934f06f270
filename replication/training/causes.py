"""Which well-known mistake explains, to the digit, a training stage that differs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.family import family_of
from parity.causes.source import Mistake
from parity.judging.extremes import not_finite
from parity.planting import replaced
from parity.training.loss_causes import shares

if TYPE_CHECKING:
    from replication.training.reference import ReferenceStep

ELEMENTS = 64  # of each gradient that sums are told apart by
NEAR = 1e-6  # relative; within which a factor is a round one
NO_OBJECT = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4)  # weights that no-object may have by mistake
SWAPPED = "focal alpha and 1 - alpha are swapped"
NOT_SMOOTHED = "dice is not smoothed by 1"
EXPLAINED = 1e-9  # relative; what is left of a difference when the mistake is made on purpose


def of_targets(ours: np.ndarray, target: Any, size: tuple[int, int]) -> str | None:
    """Why the targets [T,h*w] that the port's matcher sees differ."""
    rules = {
        "targets are downsampled by bilinear interpolation": ("bilinear", {"align_corners": False}),
        "targets are downsampled by the half-pixel nearest rule": ("nearest-exact", {}),
        "targets are averaged over areas": ("area", {}),
    }
    for cause, (mode, options) in rules.items():
        if _close(ours, resized(target, size, mode, **options)):
            return cause
    return None


def resized(
    target: Mapping[str, Any], size: tuple[int, int], mode: str = "nearest", **options: Any
) -> np.ndarray:
    """The masks [T,h*w] of one image brought to `size` by a rule of torch, float64."""
    import torch.nn.functional as F

    masks = target["masks"].double()[:, None]
    return F.interpolate(masks, size=size, mode=mode, **options).flatten(1).numpy()


def of_costs(
    part: str, ours: np.ndarray, matcher: Any, predicted: tuple[Any, Any, Any], extreme: bool
) -> str | None:
    """Why one part of the port's costs [Q,T] differs on these predictions, (logits, masks, target);
    of `extreme` ones, on which alone it does, only bounds are thought of."""
    import torch_reference.matcher as module
    from parity.causes.torch_clipping import BOUNDED

    if not ours.any():  # `matcher` has the weight of this part alone
        return f"costs of {part} are left out, or have the weight of another part"
    swapped = partial(replaced, module, "FOCAL_ALPHA", 1 - module.FOCAL_ALPHA)
    known = {
        "mask": [Mistake(SWAPPED, swapped)],
        "dice": [Mistake(NOT_SMOOTHED, partial(replaced, module, "dice_costs", _dice_costs))],
    }

    def costs() -> dict[str, np.ndarray]:
        return {"cost": matcher.costs(*predicted).numpy()}

    if (text := not_finite(ours, costs()["cost"])) is not None:
        return text
    variants = BOUNDED if extreme else None
    return _explained(costs, {"cost": ours}, known.get(part, []), variants)


def _explained(
    run: Callable[[], Mapping[str, Any]],
    ours: Mapping[str, Any],
    known: Sequence[Mistake],
    variants: Mapping[Any, Any] | None = None,
) -> str | None:
    """The first mistake, a known one or one in any operation, that gives the port's values."""
    import torch

    from parity.causes.explain import explain_values

    with torch.no_grad():
        found = explain_values(run, ours, EXPLAINED, known, variants)
    return found[0].text if found else None


def _dice_costs(logits: Any, targets: Any) -> Any:
    probability = logits.sigmoid()
    total = probability.sum(-1)[:, None] + targets.sum(-1)[None, :]
    return 1 - 2 * (probability @ targets.T) / total


def of_losses(reference: "ReferenceStep", ours: Mapping[str, float]) -> str | None:
    """Why losses of the port differ on the reference's predictions and pairs."""
    if reference.pairs is None:
        counted = float((reference.batch.targets != reference.config.ignore_value).double().mean())
        pairs = [(value, reference.losses[name] * counted) for name, value in ours.items()]
        same = all(abs(one - wrong) <= EXPLAINED * abs(wrong) for one, wrong in pairs)
        return "the mean is taken over ignored pixels too" if same else None
    criterion, outputs = reference.model.criterion, reference.outputs
    given = SimpleNamespace(targets=reference.batch.targets)
    pairs = criterion.match(outputs, given.targets)

    def losses() -> dict[str, float]:
        found = criterion.losses(outputs, given.targets, pairs)
        return {name: float(value) for name, value in found.items()}

    queries = family_of(reference.config).matching(reference.config).queries
    return _explained(losses, ours, _known_of_losses(criterion, given, queries))


def _known_of_losses(criterion: Any, given: SimpleNamespace, queries: int) -> list[Mistake]:
    """The well-known mistakes in the criterion, and in the targets that it is `given`."""
    import torch

    import torch_reference.criterion as module

    weights, targets = criterion.empty_weight, given.targets
    rolled = "each target has the label of the one before it"
    padded = [torch.cat([one["labels"].new_zeros(1), one["labels"][:-1]]) for one in targets]
    taken = []
    for one in targets:
        masks = one["masks"].clone()
        masks[:1] |= ~one["masks"].any(dim=0)
        taken.append({**one, "masks": masks})
    known: list[tuple[str, Any, str, Any]] = [
        (SWAPPED, module, "FOCAL_ALPHA", 1 - module.FOCAL_ALPHA),
        ("focal gamma is 1", module, "FOCAL_GAMMA", 1),
        (NOT_SMOOTHED, module, "dice_loss", _dice_loss),
    ]
    of_classes = {
        "the no-object weight is on the first class": weights.roll(1),
        "the no-object class weighs as much as the others": torch.ones_like(weights),
    }
    for one in NO_OBJECT:
        of_classes[f"no-object weighs {one:g}"] = torch.cat(
            [weights[:-1], weights.new_tensor([one])]
        )
    known += [(text, criterion, "empty_weight", wrong) for text, wrong in of_classes.items()]
    paired = max(1, sum(min(len(one["labels"]), queries) for one in targets))
    count = "masks are counted by their pairs, not by the targets"
    known.append((count, criterion, "_num_masks", lambda targets, like: like.new_tensor(paired)))
    of_targets = {
        rolled: [{**one, "labels": one["labels"].roll(1)} for one in targets],
        f"{rolled}, the first that of padding": [
            {**one, "labels": own} for one, own in zip(targets, padded, strict=True)
        ],
        "pixels that belong to no target are the first one's": taken,
    }
    known += [(text, given, "targets", wrong) for text, wrong in of_targets.items()]
    return [Mistake(text, partial(replaced, *where)) for text, *where in known]


def _dice_loss(logits: Any, targets: Any) -> Any:
    probability = logits.sigmoid()
    return 1 - 2 * (probability * targets).sum(1) / (probability.sum(1) + targets.sum(1))


def of_sum(reference: "ReferenceStep", ours: Mapping[str, np.ndarray]) -> str | None:
    """Why gradients, by key, are those of another sum than the weighted one of the losses."""
    theirs = reference.updates.gradients[0]
    lost = [name for name, one in theirs.items() if one is not None and name not in ours]
    if lost:
        more = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        return f"{lost[0]}{more} has no gradient"
    some = {key: one.ravel()[:ELEMENTS] for key, one in ours.items()}
    found = shares(_gradients_of_terms(reference), some) or {}
    weights = {name: _weight(name, reference.config.loss) for name in found}
    if found and all(abs(one * weights[name] - 1) <= NEAR for name, one in found.items()):
        return "the losses are summed without their weights"
    counted = {name: round(one, 6) + 0.0 for name, one in found.items()}
    parts = {
        text: [{one for name, one in counted.items() if (name in names) == own} for own in (1, 0)]
        for text, names in _groups(reference).items()
    }
    for text, (inside, outside) in parts.items():
        if (inside, outside) == ({1.0}, {0.0}):
            return f"only {text} are differentiated"
    for text, (inside, outside) in parts.items():
        if len(inside) == 1 and inside != {1.0} and outside <= {1.0}:
            return f"{text} are multiplied by {inside.pop():.6g}"
    return None


def _groups(reference: "ReferenceStep") -> dict[str, list[str]]:
    """The losses that may be summed otherwise together, and what they are called."""
    every = list(reference.losses)
    last = [name for name in every if not name[-1].isdigit()]
    groups = {
        "all losses": every,
        "auxiliary losses": [name for name in every if name not in last],
        "the losses of the final layer": last,
    }
    for kind in last:
        groups[f"losses called {kind}"] = [name for name in every if name.startswith(kind)]
    for layer in dict.fromkeys(name.rpartition("_")[2] for name in groups["auxiliary losses"]):
        beyond = [name for name in every if name.endswith(f"_{layer}")]
        groups[f"losses of auxiliary layer {layer}"] = beyond
    return groups


def _gradients_of_terms(reference: "ReferenceStep") -> dict[str, dict[str, np.ndarray]]:
    """By loss and key, elements of the gradients of each weighted loss by the parameters."""
    import torch

    from torch_reference.train_step import batch_losses

    model, batch = reference.model, reference.batch
    losses = batch_losses(model, model(batch.images, batch.sizes), batch.targets)
    named = {name: one for name, one in model.named_parameters() if one.requires_grad}
    terms = {}
    for name, loss in losses.items():
        weighted = _weight(name, reference.config.loss) * loss
        found = torch.autograd.grad(
            weighted, [*named.values()], retain_graph=True, allow_unused=True
        )
        pairs = zip(named, found, strict=True)
        terms[name] = {key: one.numpy().ravel()[:ELEMENTS] for key, one in pairs if one is not None}
    return terms


def _weight(name: str, weights: Any) -> float:
    from torch_reference.criterion import weighted_total

    return float(weighted_total({name: 1.0}, weights))


def _close(ours: np.ndarray, expected: np.ndarray) -> bool:
    left = np.linalg.norm(ours - expected) if ours.shape == expected.shape else np.inf
    return bool(left <= EXPLAINED * np.linalg.norm(expected))

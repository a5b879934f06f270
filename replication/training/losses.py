"""Losses of a training step: in place, alone on the reference's outputs, with other targets."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskformer.family import family_of
from parity.claims import Claim, Place, claim
from parity.judge import DEFAULT
from parity.measurements import Multiple, Relative, relative_gap
from parity.metrics import gap, perturb_ulp
from parity.training.measured import TWINS
from parity.training.updates import STEP
from replication.training.causes import of_losses, of_sum
from replication.training.port import PortStep, constants
from replication.training.reference import ReferenceStep, reference_pairs

TOTAL = "total"  # the weighted sum among the losses
GRID = 3, 4  # of cells, each a target; more than the port expands at a time
OVERLAPPING = "with overlapping targets"


def loss_claim(
    reference: ReferenceStep, port: PortStep, earlier: Sequence[Claim], command: str
) -> Claim:
    """Every loss by name, and their weighted sum; alone, on the reference's predictions and pairs,
    where one differs. `earlier` are the claims on the matching."""
    found = port.found
    ours = {name: float(value) for name, value in found.losses.items()}
    ours[TOTAL] = float(found.total)
    theirs = {**reference.losses, TOTAL: reference.total}
    others = {} if reference.pairs is None else _other_pairs(reference, port)
    pairs = {**_loss_pairs(ours, theirs), **others}
    measured = Relative(pairs, Multiple("loss_gap", 1))
    if measured.failing():
        measured = dataclasses.replace(measured, floors=_floors(reference))
    one = claim(
        "train_losses",
        "Every loss of every decoder layer, and their sum, is the same in float64",
        measured,
        "largest relative gap; thousands of float64 roundings of the sums over pixels; also of the "
        "same predictions for images without any target, with many, and with some that overlap; "
        "what the reference's own gap explains, when its roundings move, is not decided",
        command,
    )
    if not one.fails:
        return one
    wrong = measured.failing()
    if set(wrong) <= set(others):
        own = _other_pairs(reference, port, alone=True)
        if all(relative_gap(*own[name]) <= DEFAULT.loss_gap for name in wrong):
            sound = not any(one.fails for one in earlier)
            matcher = Place.at("matcher", ", ".join(wrong[:3]))
            return one.located(matcher if sound else Place.inherits("the matching"))
        infinite = not any(math.isfinite(others[name][0] or 0.0) for name in wrong)
        cause = "masks are divided by their number, which is 0" if infinite else None
        return one.located(Place.at("criterion", ", ".join(wrong[:3])), cause)
    alone = _losses_alone(reference, port.model, port.batch.targets)
    own = [
        name
        for name, pair in _loss_pairs(alone, theirs).items()
        if relative_gap(*pair) > DEFAULT.loss_gap
    ]
    if not own and _predicts_otherwise(port):
        return one.located(Place.at(STEP, "predictions"), "the step calls the model in another way")
    if not own:
        return one.located(Place.inherits("the predictions or the matching"))
    if own == [TOTAL]:
        cause = of_sum(reference, port.gradients())
        return one.located(Place.at("criterion", "the weighted sum of the losses"), cause)
    own = [name for name in own if name != TOTAL]
    missing = [name for name in own if name not in alone]
    if missing:
        return one.located(Place.at("criterion", ", ".join(missing)), "the loss is not computed")
    cause = of_losses(reference, {name: alone[name] for name in own})
    return one.located(Place.at("criterion", ", ".join(own)), cause)


def _floors(reference: ReferenceStep) -> dict[str, float]:
    """How far rounding alone moves the reference's losses in place, by name, relative."""
    import torch

    from torch_reference.criterion import weighted_total
    from torch_reference.train_step import batch_losses

    model, batch, recorder = reference.model, reference.batch, reference.recorder
    exact = {**reference.losses, TOTAL: reference.total}
    floors = dict.fromkeys(exact, 0.0)

    def widen(images: Any) -> None:
        with torch.no_grad():
            losses = batch_losses(model, model(images, batch.sizes), batch.targets)
        losses[TOTAL] = weighted_total(losses, reference.config.loss)
        for name, value in exact.items():
            floors[name] = max(floors[name], relative_gap(float(losses[name]), value))

    for seed in TWINS:
        with recorder.perturbed(seed):
            widen(torch.from_numpy(perturb_ulp(batch.images.numpy(), seed)))
    with recorder.reordered():
        widen(batch.images)
    return floors


def _other_pairs(
    reference: ReferenceStep, port: PortStep, alone: bool = False
) -> dict[str, list[float | None]]:
    """The port's and the reference's losses of the predictions for other targets than the step's:
    none, more than the port expands at a time, and some that overlap.

    None for what the port cannot compute. With `alone` the port is given the reference's pairs.
    """
    import torch

    from tf_impl import train_step as ports
    from tf_impl.matcher import pad_targets
    from torch_reference.train_step import batch_losses

    outputs, criterion, found = constants(reference.outputs), port.model.criterion, {}
    for text, targets in _other_targets(reference).items():
        tensors = [{key: torch.from_numpy(one) for key, one in each.items()} for each in targets]
        theirs = batch_losses(reference.model, reference.outputs, tensors)
        most = max(port.batch.targets.classes.shape[1], *(len(one["labels"]) for one in targets))
        padded = pad_targets(targets, most, overlapping=text == OVERLAPPING)
        try:
            if alone:
                pairs = reference_pairs(reference.model, reference.outputs, tensors)
                ours = criterion.losses(outputs, padded, _matching(pairs, most))
            else:
                ours, _ = ports.batch_losses(port.model, outputs, padded)
        except Exception:  # whatever a port that lacks something raises
            ours = {}
        both = ({key: float(one) for key, one in side.items()} for side in (ours, theirs))
        found |= {f"{name} {text}": pair for name, pair in _loss_pairs(*both).items()}
    return found


def _other_targets(reference: ReferenceStep) -> dict[str, list[dict[str, np.ndarray]]]:
    """For each image no target; cells of a grid, for all images or but one; neighbouring cells."""
    count = min(math.prod(GRID) - 1, reference.pairs.shape[-1])
    height, width = reference.images.shape[1:3]
    rows, columns = np.mgrid[:height, :width]
    cell = rows * GRID[0] // height * GRID[1] + columns * GRID[1] // width
    numbers = np.arange(count)[:, None, None]
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, reference.config.num_classes, count) for _ in reference.images]

    def each(masks: np.ndarray) -> list[dict[str, np.ndarray]]:
        return [{"labels": one[: len(masks)], "masks": masks.copy()} for one in labels]

    none, cells = each(np.zeros((0, height, width), bool)), each(cell == numbers)
    found = {
        "without targets": none,
        f"with {count} targets": cells,
        OVERLAPPING: each((cell == numbers) | (cell == numbers + 1)),
    }
    return found if len(cells) == 1 else {**found, "without targets in one": cells[:-1] + none[:1]}


def _predicts_otherwise(port: PortStep) -> bool:
    """Whether the port's step has other predictions than its model has of the same batch."""
    again = port.model(**port.side.inputs)
    return any(
        gap(port.found.outputs[name].numpy(), value.numpy()).l2 > DEFAULT.loss_gap
        for name, value in family_of(port.model.config).outputs.last(again).items()
    )


def _loss_pairs(
    ours: Mapping[str, float], theirs: Mapping[str, float]
) -> dict[str, list[float | None]]:
    """The port's and the reference's losses by name; None for one that a side does not have."""
    return {name: [ours.get(name), theirs.get(name)] for name in {**theirs, **ours}}


def _losses_alone(reference: ReferenceStep, model: Any, targets: Any) -> dict[str, float]:
    """The port's losses on the reference's predictions and pairs."""
    from tf_impl import train_step

    outputs = constants(reference.outputs)
    if reference.pairs is None:
        losses, _ = train_step.batch_losses(model, outputs, targets)
    else:
        given = _matching(reference.pairs, targets.classes.shape[1])
        losses = model.criterion.losses(outputs, targets, given)
    total = train_step.weighted_total(losses, model.config.loss)
    return {name: float(value) for name, value in {**losses, TOTAL: total}.items()}


def _matching(pairs: np.ndarray, room: int) -> Any:
    """The port's `Matching` of the reference's pairs [L,B,Q], of at most `room` targets."""
    import tensorflow as tf

    from tf_impl.matcher import Matching

    back = np.full((*pairs.shape[:2], room), -1)
    for layer, image, query in np.argwhere(pairs >= 0):
        back[layer, image, pairs[layer, image, query]] = query
    refused = tf.zeros(pairs.shape[:2], tf.int32)
    return Matching(tf.constant(back, tf.int32), tf.constant(pairs, tf.int32), refused)

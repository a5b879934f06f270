"""What `parity audit --train` adds: losses, matchings, gradients and one update, in float64.

Every stage is judged in place, and alone on what the reference hands to it, so that a claim that
fails says where: at a stage with an error of its own, or at an earlier one that it inherits from.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.claims import claim, located, margin_claim
from parity.judge import DEFAULT
from parity.measurements import matching_place, relative_gap, verdicts_of
from replication.console.progress import Steps
from replication.training_port import PortStep, noted_seeds, port_step
from replication.training_reference import (
    ReferenceStep,
    layer_names,
    layers_of,
    reference_pairs,
    reference_step,
)
from replication.training_task import task_claim
from replication.training_update import STEP, step_gradients_claim, update_claim

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from replication.sides.weights import Weights

TOTAL = "total"  # the weighted sum among the losses
REFUSED = "costs that are not finite"  # the case among the costs that no pair follows from
GRID = 3, 4  # of cells, each a target; more than the port expands at a time
OVERLAPPING = "with overlapping targets"
STEPS = 7  # that `training_claims` announces
SCHEMA = "maskformer-replication/training/1"
Claim = dict[str, Any]


def training_claims(
    config: "ModelConfig",
    solver: "SolverConfig",
    weights: "Weights",
    images: np.ndarray,
    sizes: np.ndarray,
    command: str,
    steps: Steps,
    *,
    isolate: bool = False,
    port_weights: "Weights | None" = None,
) -> list[Claim]:
    """The claims on one training step without dropout, on synthetic targets.

    A claim that fails has two more entries: `place`, the part that has an error of its own or that
    the error comes from, and `cause`, a mistake that explains it to the digit, or None.

    Args:
        images: uint8 [N,H,W,3], and their valid `sizes` int32 [N,2].
        solver: gives the optimizer, its groups, the clip norm and the schedule; the update itself
            is compared without warm-up.
        isolate: also run the backward pass of every module alone.
        port_weights: the port's, where it has not the reference's `weights`.
    """
    from replication.sides.tf_side import build_port
    from replication.training_rates import rate_claims
    from replication.training_replica_losses import losses_claim
    from replication.training_replicas import reduction_claim, shares_claim

    reference = reference_step(config, solver, weights, images, sizes, steps)
    with steps("training step of the port, float64"):
        port = port_step(reference, build_port(config, port_weights or weights, "float64"))
    with steps("training claims"):
        claims = step_claims(reference, port, command)
        claims.append(task_claim(reference, port, claims[-1], command))
        if isolate:
            claims.append(_isolated_gradients_claim(reference, port, command))
    with steps("dropout, the same masks on both sides"):
        claims += dropout_claims(reference, port.model, command)
    with steps("schedule, and two replicas"):
        claims += [*rate_claims(solver, command), reduction_claim(solver, command)]
        claims.append(shares_claim(command))
        if not config.is_per_pixel:
            claims.append(losses_claim(config, command))
    return claims


def training_result(
    config: "ModelConfig",
    solver: "SolverConfig",
    size: str,
    command: str,
    steps: Steps,
    *,
    isolate: bool = False,
) -> dict[str, Any]:
    """`training_claims` on one synthetic image of `size` ("HxW") with seeded weights, recorded."""
    from maskformer.data.images import batch_images, parse_size, synthetic_image
    from parity.provenance import provenance
    from replication.sides.weights import load_weights

    known = dict(steps.timings)
    weights = load_weights("seeded:0", config)
    images, sizes = batch_images([synthetic_image(*parse_size(size), 0)], config)
    claims = training_claims(
        config, solver, weights, images, sizes, command, steps, isolate=isolate
    )
    holds = all(one["verdict"] == "holds" for one in claims)
    return {
        "schema": SCHEMA,
        "title": f"One training step of {config.name}",
        "verdict": "equal" if holds else "different",
        "config": config.name,
        "size": size,
        "claims": claims,
        "timings": {
            name: round(seconds, 3) for name, seconds in steps.timings.items() if name not in known
        },
        "not_verified": ["training runs and the PQ or mIoU they reach", "execution on a TPU"],
        "provenance": provenance(
            config=config.name,
            config_sha256=config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
        ),
    }


def summary(result: Mapping[str, Any]) -> list[str]:
    """A training result in lines that a person reads: the nearest to its limit, and what fails."""
    from parity.claims import failure

    claims = result["claims"]
    lines = [
        f"training step of {result['config']}, {result['size']}: {result['verdict']} "
        f"({len(claims)} claims)"
    ]
    return [*lines, *(failure(one) for one in claims if one["verdict"] == "fails")]


def step_claims(reference: ReferenceStep, port: PortStep, command: str) -> list[Claim]:
    """The claims on costs, matching, losses, gradients and the update; no weight changes."""
    targets, found, claims = port.batch.targets, port.found, []
    if not reference.config.is_per_pixel:
        costs = _cost_claim(reference, targets, command)
        pairs = _matching_claim(reference, port.model, targets, found.matching, costs, command)
        claims += [costs, pairs]
    claims.append(_loss_claim(reference, port, claims, command))
    gradients = _gradient_claims(reference, port, claims, command)
    handed = step_gradients_claim(reference, port, gradients, command)
    return [*claims, *gradients, handed, update_claim(reference, port, command)]


def _images(reference: ReferenceStep) -> Iterator[tuple[int, int, Any, Any, Any]]:
    """(layer, image, logits [Q,K+1], masks [Q,h,w], target), tensors of the reference."""
    for layer, outputs in enumerate(layers_of(reference.outputs)):
        for image, target in enumerate(reference.batch.targets):
            yield layer, image, outputs["pred_logits"][image], outputs["pred_masks"][image], target


def _cost_claim(reference: ReferenceStep, targets: Any, command: str) -> Claim:
    """The port's costs on the reference's predictions, part by part, and its small targets."""
    import tensorflow as tf
    import torch

    from parity.judge import function_verdict
    from parity.metrics import gap, perturb_ulp, worst
    from replication import training_causes
    from tf_impl import matcher as port
    from torch_reference.matcher import HungarianMatcher

    weights = reference.config.loss
    off = dataclasses.replace(weights, class_weight=0.0, mask_weight=0.0, dice_weight=0.0)
    parts = {
        part: dataclasses.replace(off, **{f"{part}_weight": getattr(weights, f"{part}_weight")})
        for part in ("class", "mask", "dice")
    }
    names = layer_names(reference.outputs)
    verdicts, causes = {}, []
    size = tuple(reference.outputs["pred_masks"].shape[-2:])
    small = port.downsampled_masks(targets, size, tf.float64).numpy()
    for image, target in enumerate(reference.batch.targets):
        key, wanted = f"downsampled targets, image {image}", training_causes.nearest(target, size)
        ours = small[image, : len(wanted)]
        verdicts[key] = function_verdict(key, gap(ours, wanted), gap(wanted, wanted))
        if not verdicts[key].passed:
            causes.append(training_causes.of_targets(ours, target, size))
    for layer, image, logits, masks, target in _images(reference):
        for part, chosen in parts.items():
            matcher = HungarianMatcher(chosen)
            exact = matcher.costs(logits, masks, target).numpy()
            moved = [
                [torch.from_numpy(perturb_ulp(one.numpy(), seed)) for one in (logits, masks)]
                for seed in (0, 1)
            ]
            floor = worst(gap(matcher.costs(*one, target).numpy(), exact) for one in moved)
            # One image of a batch: its targets, and a batch of one.
            own = port.Targets(*(one[image : image + 1] for one in targets))
            ours = port.matching_costs(
                tf.constant(logits.numpy()[None]), tf.constant(masks.numpy()[None]), own, chosen
            ).numpy()[0][:, : exact.shape[1]]
            key = f"{part} cost, {names[layer]} layer, image {image}"
            verdicts[key] = function_verdict(key, gap(ours, exact), floor)
            if not verdicts[key].passed:
                causes.append(training_causes.of_costs(part, ours, matcher, logits, masks, target))
    key = REFUSED
    ours = _not_finite(reference, targets)
    verdicts[key] = function_verdict(key, gap(ours, np.ones_like(ours)), gap(ours, ours))
    if not verdicts[key].passed:
        causes.append("costs that are not finite are replaced by numbers, and matched")
    wrong = [key for key, verdict in verdicts.items() if not verdict.passed]
    one = margin_claim(
        "train_costs",
        "On the same predictions every matching cost is the same in float64",
        verdicts,
        "largest gap of a class, mask or dice cost in units of its limit, min(32 x floor, 1e-9); "
        "the floor is the reference's own gap when predictions move by one unit in the last place; "
        "targets brought to the size of the predictions must be equal, and an image with a cost "
        "that is not finite must be refused, as the reference's solver refuses it",
        command,
    )
    return located(one, f"matcher: {'; '.join(wrong[:3])}", _first(causes))


def _not_finite(reference: ReferenceStep, targets: Any) -> np.ndarray:
    """1 for each image that the port's matcher refuses when one class logit is no number."""
    import tensorflow as tf

    from tf_impl import matcher as port
    from tf_impl.linear_sum_assignment import NOT_FINITE

    logits, masks = (
        reference.outputs[name].numpy()[None].copy() for name in ("pred_logits", "pred_masks")
    )
    logits[..., 0, 0] = np.nan
    found = port.match(
        tf.constant(logits), tf.constant(masks), targets, reference.config.loss
    ).status.numpy()
    return (found == NOT_FINITE).astype(np.float64)


def _first(causes: Sequence[str | None]) -> str | None:
    return next((cause for cause in causes if cause is not None), None)


def _matching_claim(
    reference: ReferenceStep, model: Any, targets: Any, matching: Any, costs: Claim, command: str
) -> Claim:
    """The port's pairs are the reference's, and optimal by a certificate that trusts no solver."""
    import tensorflow as tf

    from parity.assignment import certify
    from tf_impl.linear_sum_assignment import linear_sum_assignment

    names = layer_names(reference.outputs)
    in_place = _both_ways(matching)
    alone = _both_ways(model.criterion.match(_constants(reference.outputs), targets))
    in_reference = [
        [[(int(q), int(image[q])) for q in np.flatnonzero(image >= 0)] for image in layer]
        for layer in reference.pairs
    ]
    places, own, dearer = [], [], None
    for layer, image, logits, masks, target in _images(reference):
        place = f"{names[layer]} layer, image {image}"
        wanted = in_reference[layer][image]
        cost = reference.model.criterion.matcher.costs(logits, masks, target).numpy()
        solved = linear_sum_assignment(tf.constant(cost[None]), tf.constant([cost.shape[1]]))
        chosen = alone["target_of_query"][layer][image]
        rows, columns = (np.array([one[side] for one in chosen], int) for side in (0, 1))
        duals = solved.row_duals.numpy()[0], solved.column_duals.numpy()[0]
        certificate = certify(cost, rows, columns, *duals)
        differing = {
            f"{way}, {how}": pairs[layer][image]
            for how, both in (("in place", in_place), ("alone", alone))
            for way, pairs in both.items()
            if pairs[layer][image] != wanted
        }
        dearer = dearer or _dearer(cost, chosen, wanted, place)
        ours = [way for way, pairs in alone.items() if pairs[layer][image] != wanted]
        own += [f"{way}, {place}" for way in ours]
        if not certificate.holds:
            own.append(f"{place}: {certificate}")
        places.append(matching_place(place, wanted, differing, certificate))
    one = claim(
        "train_matching",
        "Every target is matched to the same query, and no cheaper matching exists",
        {"rule": "matching", "places": places},
        "pairs compared with the reference's, in both directions, and certified from dual "
        "variables on the reference's own costs: feasible and complementary duals prove the "
        "optimum",
        command,
    )
    if not own:
        return located(one, "inherited from the predictions", None)
    if any(
        not verdict.passed
        for key, verdict in verdicts_of(costs["measured"]).items()
        if key != REFUSED
    ):
        return located(one, "inherited from the matching costs", costs["cause"])
    shuffled = all(text.startswith("query_of_target") for text in own)
    cause = "targets are taken in another order than their queries" if shuffled else None
    layers = alone["target_of_query"]
    if layers[0] == in_reference[0] and all(one == layers[0] for one in layers):
        cause = "all layers have the final layer's pairs"
    return located(one, f"matcher: {'; '.join(own[:3])}", cause or dearer)


def _dearer(
    cost: np.ndarray, ours: Sequence[tuple[int, int]], theirs: Sequence[tuple[int, int]], place: str
) -> str | None:
    """That the port matches every target, but not at the least cost, or None."""
    if sorted(target for _, target in ours) != sorted(target for _, target in theirs):
        return None
    own, least = (math.fsum(cost[query, target] for query, target in one) for one in (ours, theirs))
    if own - least <= DEFAULT.loss_gap * abs(least):
        return None
    return f"the matching is not optimal: {place} costs {own:.6g}, where {least:.6g} is possible"


def _both_ways(matching: Any) -> dict[str, list[list[list[tuple[int, int]]]]]:
    """Pairs (query, target) by layer and image, queries increasing, as each direction has them."""
    of_query, of_target = matching.target_of_query.numpy(), matching.query_of_target.numpy()
    return {
        "target_of_query": [
            [[(int(q), int(image[q])) for q in np.flatnonzero(image >= 0)] for image in layer]
            for layer in of_query
        ],
        "query_of_target": [
            [sorted((int(image[t]), int(t)) for t in np.flatnonzero(image >= 0)) for image in layer]
            for layer in of_target
        ],
    }


def _constants(outputs: Any) -> Any:
    """The port's tensors of the reference's outputs."""
    import tensorflow as tf

    if isinstance(outputs, Mapping):
        return {name: _constants(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return [_constants(value) for value in outputs]
    return tf.constant(outputs.numpy())


def _loss_claim(
    reference: ReferenceStep, port: PortStep, earlier: Sequence[Claim], command: str
) -> Claim:
    """Every loss by name, and their weighted sum; alone, on the reference's predictions and pairs,
    where one differs. `earlier` are the claims on the matching."""
    from replication import training_causes

    found = port.found
    ours = {name: float(value) for name, value in found.losses.items()}
    ours[TOTAL] = float(found.total)
    theirs = {**reference.losses, TOTAL: reference.total}
    others = {} if reference.config.is_per_pixel else _other_pairs(reference, port)
    pairs = {**_loss_pairs(ours, theirs), **others}
    one = claim(
        "train_losses",
        "Every loss of every decoder layer, and their sum, is the same in float64",
        {"rule": "relative", "pairs": pairs, "limit": {"name": "loss_gap", "times": 1}},
        "largest relative gap; thousands of float64 roundings of the sums over pixels; also of the "
        "same predictions for images without any target, with many, and with some that overlap",
        command,
    )
    if one["verdict"] == "holds":
        return one
    wrong = [name for name, pair in pairs.items() if relative_gap(*pair) > DEFAULT.loss_gap]
    if set(wrong) <= set(others):
        own = _other_pairs(reference, port, alone=True)
        if all(relative_gap(*own[name]) <= DEFAULT.loss_gap for name in wrong):
            sound = all(one["verdict"] == "holds" for one in earlier)
            place = f"matcher: {', '.join(wrong[:3])}" if sound else "inherited from the matching"
            return located(one, place, None)
        infinite = not any(math.isfinite(others[name][0] or 0.0) for name in wrong)
        cause = "masks are divided by their number, which is 0" if infinite else None
        return located(one, f"criterion: {', '.join(wrong[:3])}", cause)
    alone = _losses_alone(reference, port.model, port.batch.targets)
    own = [
        name
        for name, pair in _loss_pairs(alone, theirs).items()
        if relative_gap(*pair) > DEFAULT.loss_gap
    ]
    if not own and _predicts_otherwise(port):
        return located(one, f"{STEP}: predictions", "the step calls the model in another way")
    if not own:
        return located(one, "inherited from the predictions or the matching", None)
    if own == [TOTAL]:
        cause = training_causes.of_total(reference, alone[TOTAL])
        return located(one, "criterion: the weighted sum of the losses", cause)
    own = [name for name in own if name != TOTAL]
    missing = [name for name in own if name not in alone]
    if missing:
        return located(one, f"criterion: {', '.join(missing)}", "the loss is not computed")
    cause = training_causes.of_losses(reference, {name: alone[name] for name in own})
    return located(one, f"criterion: {', '.join(own)}", cause)


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

    outputs, criterion, found = _constants(reference.outputs), port.model.criterion, {}
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
    count = min(math.prod(GRID) - 1, reference.config.predictor.num_queries)
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
    from parity.metrics import gap

    again = port.model(**port.inputs)
    return any(
        gap(port.found.outputs[name].numpy(), value.numpy()).l2 > DEFAULT.loss_gap
        for name, value in again.items()
        if name != "aux_outputs"
    )


def _loss_pairs(
    ours: Mapping[str, float], theirs: Mapping[str, float]
) -> dict[str, list[float | None]]:
    """The port's and the reference's losses by name; None for one that a side does not have."""
    return {name: [ours.get(name), theirs.get(name)] for name in {**theirs, **ours}}


def _losses_alone(reference: ReferenceStep, model: Any, targets: Any) -> dict[str, float]:
    """The port's losses on the reference's predictions and pairs."""
    from tf_impl import train_step

    outputs = _constants(reference.outputs)
    if reference.config.is_per_pixel:
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


def _gradient_claims(
    reference: ReferenceStep, port: PortStep, earlier: Sequence[Claim], command: str
) -> list[Claim]:
    """That no gradient is lost, and that all agree; the module at fault where they do not.

    Where the `earlier` claims, on what is differentiated, hold, the loss may be at fault itself.
    """
    from parity.gradients import gradient_verdicts, unpaired_parameters

    comparison = port.comparison
    verdicts = {v.key: v for v in gradient_verdicts(comparison.gaps, reference.floors)}
    lost = [*comparison.missing(), *unpaired_parameters(comparison)]
    claims = [
        claim(
            "train_gradients_pairing",
            "Every gradient between modules and of every parameter has its counterpart",
            {"rule": "none", "of": len(reference.gradients), "found": lost},
            "a tensor whose gradient is lost in one framework is learnt from in one only",
            command,
        ),
        margin_claim(
            "train_gradients",
            "Every gradient between modules and of every parameter agrees to rounding in float64",
            verdicts,
            "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
            "reference's own gap when inputs and weights move by one unit in the last place and "
            "sums are reordered; where that leaves not one digit, the gradient is zero in theory "
            "and must be as small in the port",
            command,
        ),
    ]
    if all(one["verdict"] == "holds" for one in claims):
        return claims
    wrong = [*lost, *(key for key, verdict in verdicts.items() if not verdict.passed)]
    sound = all(one["verdict"] == "holds" for one in earlier)
    place, cause = _gradient_place(reference, port, wrong, sound)
    return [located(one, place, cause) for one in claims]


def _factor(reference: ReferenceStep, port: PortStep, keys: Sequence[str]) -> str | None:
    """The one number that all these gradients of the port are multiplied by."""
    from parity.pairing import align

    taps = {}
    port.recorder(port.inputs, lambda tap: taps.update({tap.key: tap}))
    factors = set()
    for key in keys:
        theirs = reference.gradients[key].array
        ours = align(taps[key], reference.gradients[key].axes) if key in taps else None
        if ours is None or ours.shape != theirs.shape:
            return None
        factor = float(np.vdot(ours, theirs) / np.vdot(theirs, theirs))
        if np.linalg.norm(ours - factor * theirs) > DEFAULT.cap * np.linalg.norm(ours):
            return None
        factors.add(f"{factor:.6g}")
    return f"the gradient is multiplied by {factors.pop()}" if len(factors) == 1 else None


def _isolated_gradients_claim(reference: ReferenceStep, port: PortStep, command: str) -> Claim:
    """That the backward pass of every module, run alone, has no error of its own."""
    verdicts: dict[str, Any] = {}
    found = _judge_backward(
        reference,
        port,
        everywhere=True,
        observe=lambda judged: verdicts.update({one.key: one for one in judged}),
    )
    one = margin_claim(
        "train_gradients_isolated",
        "Given the reference's inputs and gradients, every module alone passes the same back",
        verdicts,
        "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
        "rounding of one number, or where a module is beyond that, the reference's own gap when "
        "that module's roundings are moved",
        command,
    )
    return located(one, found[0].path, found[0].cause) if found else one


def _judge_backward(reference: ReferenceStep, port: PortStep, **how: Any) -> list[Any]:
    """`localise_gradients` of this step."""
    from parity.frameworks.torch import capture as capture_torch
    from parity.gradients import localise_gradients
    from replication.sides.torch_side import REFERENCE_AXES

    forward = capture_torch.Recorder(reference.model, REFERENCE_AXES)
    _, values = forward(reference.inputs)
    _, gradients = reference.recorder(reference.inputs)
    return localise_gradients(
        reference.recorder,
        port.recorder,
        values,
        gradients,
        port.inputs,
        reference.floors,
        **how,
    )


def _gradient_place(
    reference: ReferenceStep, port: PortStep, wrong: Sequence[str], sound: bool
) -> tuple[str, str | None]:
    """The loss where its own gradient differs, else the first module whose backward pass does."""
    of_loss = [key for key in wrong if key.startswith("model:grad_output")]
    if of_loss and sound:
        return f"criterion: gradient of {', '.join(of_loss[:3])}", _factor(reference, port, of_loss)
    if of_loss:
        return f"inherited from the loss or the predictions: {', '.join(of_loss[:3])}", None
    found = _judge_backward(reference, port)
    if not found:
        return "no module differs alone", None
    return f"{found[0].path}, at {found[0].edge}", found[0].cause


def dropout_claims(reference: ReferenceStep, model: Any, command: str) -> list[Claim]:
    """The forward pass in training mode, fed the same masks; nothing for a model without dropout.

    Where a mask is drawn at another place, or between other tensors, a module differs or lacks it.
    """
    from parity.causes.explain import explain
    from parity.frameworks.tensorflow import capture as capture_tf
    from parity.frameworks.torch import capture as capture_torch
    from parity.judge import same_function
    from parity.localise import localise
    from parity.masks import Masks, mask_differences
    from parity.pairing import Comparison
    from replication.sides.tf_side import PORT_AXES, port_inputs
    from replication.sides.torch_side import REFERENCE_AXES

    axes = (REFERENCE_AXES, PORT_AXES)
    theirs = capture_torch.Recorder(reference.model, axes[0], masks=Masks(0, axes[0]))
    ours = capture_tf.Recorder(model, axes[1], "eager", masks=Masks(0, axes[1]))
    inputs = port_inputs(reference.images, reference.sizes, "float64")
    inputs = {**inputs, "training": True}
    reference.model.train()
    try:
        _, trace = theirs(reference.inputs)
        calls, drawn = theirs.calls, dict(theirs.drawn)
        if not drawn:
            return []
        floors = capture_torch.measure_floors(theirs, reference.inputs, trace)
        theirs.calls = calls
        comparison = Comparison(trace)
        ours(inputs, comparison)
        other = [*mask_differences(ours.drawn, drawn), *comparison.missing()]
        verdicts = {one.key: one for one in same_function(comparison.gaps, floors)}
        one = margin_claim(
            "train_dropout",
            "In training mode, fed the same dropout masks, every layer agrees in float64",
            verdicts,
            f"largest gap in units of its limit, min(32 x floor, 1e-9); {len(drawn)} masks, drawn "
            "at the same places, of the same size and probability",
            command,
            other,
        )
        drawn_claim = _draws_claim(reference, model, len(drawn), command)
        if one["verdict"] == "holds":
            return [one, drawn_claim]
        found = localise(theirs, ours, trace, inputs, floors, explain)
    finally:
        reference.model.eval()
    place = f"{found[0].path}, at {found[0].edge}" if found else "no module differs alone"
    if other:
        # Where a mask is drawn otherwise, its module is at fault, whatever differs first.
        path = re.split("[@:]", other[0])[0]
        place = f"{path}, at {other[0]}" if path not in place else place
        return [located(one, place, f"dropout is in another place: {other[0]}"), drawn_claim]
    return [located(one, place, found[0].cause if found else None), drawn_claim]


def _draws_claim(reference: ReferenceStep, model: Any, wanted: int, command: str) -> Claim:
    """That the port's training step draws as many masks as the model has, each by its own seed."""
    seeds = _seeds_of_a_step(reference, model)
    found = [f"{len(seeds)} masks instead of {wanted}"] if len(seeds) < wanted else []
    again = len(seeds) - len(set(seeds))
    found += [f"{again} masks have the seed of another"] if again else []
    one = claim(
        "train_dropout_draws",
        "The training step drops what the model drops, by a mask of its own at every place",
        {"rule": "none", "of": wanted, "found": found},
        "masks that the step draws, and seeds that occur twice; with one seed all masks of a shape "
        "are the same",
        command,
    )
    cause = "several masks are drawn from one seed" if again else None
    if not seeds:
        cause = "the step calls the model without training=True"
    return located(one, f"{STEP}: {'; '.join(found)}", cause)


def _seeds_of_a_step(reference: ReferenceStep, model: Any) -> list[tuple[int, ...]]:
    """The seeds of the masks that one training step of the port draws; nothing is dropped."""
    from unittest.mock import patch

    import tensorflow as tf

    from replication.sides.tf_side import port_batch
    from tf_impl import train_step
    from tf_impl.layers import dropout_seed

    batch = port_batch(
        reference.config, reference.images, reference.sizes, reference.targets, "float64"
    )
    kept = patch.object(train_step, "update", lambda *given: tf.zeros([], tf.float64))
    optimizer = SimpleNamespace(build=lambda variables: None)
    with noted_seeds() as seeds, kept, dropout_seed(tf.constant([1, 2])):
        # Without tracing it: what is drawn is the same.
        train_step.compiled_step(model, optimizer, training=True).python_function(batch)
    return seeds

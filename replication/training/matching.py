"""Costs and matchings of a training step: equal, or certified as equally good."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from maskformer.family import family_of
from parity.claims import Claim, Place, margin_claim
from parity.training import matching as engine
from parity.training.measured import TWINS
from parity.training.updates import perturbed
from replication.training.causes import of_costs, of_targets, resized
from replication.training.port import constants
from replication.training.reference import ReferenceStep, layer_names

PEAKS = (30.0, 100.0, 1000.0)  # of predictions that saturate probabilities
REFUSED = "costs that are not finite"  # the case among the costs that no pair follows from


def _images(reference: ReferenceStep) -> Iterator[tuple[int, int, Any, Any, Any]]:
    """(layer, image, logits [Q,K+1], masks [Q,h,w], target), tensors of the reference."""
    names = family_of(reference.config).outputs
    for layer, outputs in enumerate(names.layers(reference.outputs)):
        logits, masks = outputs[names.classes], outputs[names.masks]
        for image, target in enumerate(reference.batch.targets):
            yield layer, image, logits[image], masks[image], target


def _predictions(reference: ReferenceStep) -> Iterator[tuple[int, int, Any, Any, Any, str]]:
    """Those of `_images`, and those of the final layer with larger numbers, and what is said of
    them."""
    for layer, image, logits, masks, target in _images(reference):
        yield layer, image, logits, masks, target, ""
        for peak in PEAKS if layer == 0 else ():
            large = (peak / one.abs().max() * one for one in (logits, masks))
            yield layer, image, *large, target, f", given predictions up to {peak:g}"


def cost_claim(reference: ReferenceStep, targets: Any, command: str) -> Claim:
    """The port's costs on the reference's predictions, part by part, and its small targets."""
    import tensorflow as tf
    import torch

    from parity.judge import function_verdict
    from parity.metrics import gap, worst
    from tf_impl import matcher as port
    from torch_reference.matcher import HungarianMatcher

    weights = reference.config.loss
    off = dataclasses.replace(weights, class_weight=0.0, mask_weight=0.0, dice_weight=0.0)
    parts = {
        part: dataclasses.replace(off, **{f"{part}_weight": getattr(weights, f"{part}_weight")})
        for part in ("class", "mask", "dice")
    }
    names = layer_names(reference.config, reference.outputs)
    verdicts, causes, by_part = {}, [], {}
    size = tuple(reference.outputs[family_of(reference.config).outputs.masks].shape[-2:])
    small = port.downsampled_masks(targets, size, tf.float64).numpy()
    for image, target in enumerate(reference.batch.targets):
        key, wanted = f"downsampled targets, image {image}", resized(target, size)
        ours = small[image, : len(wanted)]
        verdicts[key] = function_verdict(key, gap(ours, wanted), gap(wanted, wanted))
        if verdicts[key].fails:
            causes.append(partial(of_targets, ours, target, size))
    for layer, image, logits, masks, target, given in _predictions(reference):
        for part, chosen in parts.items():
            matcher = HungarianMatcher(chosen)
            exact = matcher.costs(logits, masks, target).numpy()
            arrays = {"logits": logits.numpy(), "masks": masks.numpy()}
            moved = [map(torch.from_numpy, perturbed(arrays, seed).values()) for seed in TWINS]
            floor = worst(gap(matcher.costs(*one, target).numpy(), exact) for one in moved)
            # One image of a batch: its targets, and a batch of one.
            own = port.Targets(*(one[image : image + 1] for one in targets))
            ours = port.matching_costs(
                tf.constant(logits.numpy()[None]), tf.constant(masks.numpy()[None]), own, chosen
            ).numpy()[0][:, : exact.shape[1]]
            key = f"{part} cost, {names[layer]} layer, image {image}{given}"
            verdicts[key] = function_verdict(key, gap(ours, exact), floor)
            if verdicts[key].fails:
                why = partial(of_costs, part, ours, matcher, (logits, masks, target), bool(given))
                by_part.setdefault(part, why)
    ours = _not_finite(reference, targets)
    verdicts[REFUSED] = function_verdict(REFUSED, gap(ours, np.ones_like(ours)), gap(ours, ours))
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
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
    # One of each part: a search for each image and layer would take minutes.
    found = (cause() for cause in (*causes[:1], *by_part.values()))
    cause = next((text for text in found if text), None)
    if cause is None and verdicts[REFUSED].fails:
        cause = "costs that are not finite are replaced by numbers, and matched"
    return one.located(Place.at("matcher", "; ".join(wrong[:3])), cause)


def _not_finite(reference: ReferenceStep, targets: Any) -> np.ndarray:
    """1 for each image that the port's matcher refuses when one class logit is no number."""
    import tensorflow as tf

    from tf_impl import matcher as port
    from tf_impl.linear_sum_assignment import NOT_FINITE

    names = family_of(reference.config).outputs
    logits, masks = (
        reference.outputs[name].numpy()[None].copy() for name in (names.classes, names.masks)
    )
    logits[..., 0, 0] = np.nan
    found = port.match(
        tf.constant(logits), tf.constant(masks), targets, reference.config.loss
    ).status.numpy()
    return (found == NOT_FINITE).astype(np.float64)


def matching_claim(
    reference: ReferenceStep, model: Any, targets: Any, matching: Any, costs: Claim, command: str
) -> Claim:
    """The engine's claim on the matchings of every layer and image."""
    in_place = _both_ways(matching)
    alone = _both_ways(model.criterion.match(constants(reference.outputs), targets))
    wrong = [key for key, one in costs.measured.verdicts().items() if one.fails]
    inherited = costs if {*wrong} - {REFUSED} else None
    problems = list(_problems(reference, in_place, alone))
    wanted = _by_query(reference.pairs)

    def explain(own: Sequence[str]) -> str | None:
        layers = alone["target_of_query"]
        if layers[0] == wanted[0] and all(one == layers[0] for one in layers):
            return "all layers have the final layer's pairs"
        queries = reference.pairs.shape[-1]
        if _last(layers) < queries <= _last(wanted):
            return "of more targets than queries only the first are matched"
        if all(text.startswith("query_of_target") for text in own):
            return "targets are taken in another order than their queries"
        return None

    return engine.matching_claim(problems, inherited, explain, command)


def _last(layers: Sequence[Sequence[Sequence[tuple[int, int]]]]) -> int:
    """The largest number of a target that has a query; -1 for none."""
    return max((target for one in layers for image in one for _, target in image), default=-1)


def _problems(
    reference: ReferenceStep, in_place: Mapping[str, Any], alone: Mapping[str, Any]
) -> Iterator[engine.Problem]:
    import tensorflow as tf

    from tf_impl.linear_sum_assignment import linear_sum_assignment

    names, wanted = layer_names(reference.config, reference.outputs), _by_query(reference.pairs)
    for layer, image, logits, masks, target in _images(reference):
        cost = reference.model.criterion.matcher.costs(logits, masks, target).numpy()
        solved = linear_sum_assignment(tf.constant(cost[None]), tf.constant([cost.shape[1]]))
        yield engine.Problem(
            f"{names[layer]} layer, image {image}",
            cost,
            wanted[layer][image],
            *({way: one[layer][image] for way, one in both.items()} for both in (in_place, alone)),
            (solved.row_duals.numpy()[0], solved.column_duals.numpy()[0]),
        )


def _both_ways(matching: Any) -> dict[str, list[list[list[tuple[int, int]]]]]:
    """Pairs (query, target) by layer and image, queries increasing, as each direction has them."""
    by_target = _by_query(matching.query_of_target.numpy())
    return {
        "target_of_query": _by_query(matching.target_of_query.numpy()),
        "query_of_target": [
            [sorted((query, target) for target, query in image) for image in layer]
            for layer in by_target
        ],
    }


def _by_query(pairs: np.ndarray) -> list[list[list[tuple[int, int]]]]:
    return [
        [[(int(q), int(image[q])) for q in np.flatnonzero(image >= 0)] for image in layer]
        for layer in pairs
    ]

"""Panoptic images to count: the golden scenarios, random ones, and slow literal counting."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskformer.data.panoptic_format import Category, Segment
from maskformer.metrics.panoptic_quality import PanopticCounts, PanopticPair
from replication.faults.golden import reader as golden

SCENARIOS: dict[str, Any] = golden.read_json("golden_pq.json")
PHOTOGRAPHS = "sample_data_rolled"  # two COCO images, whose licence keeps them out of here
SCORED = tuple(
    name
    for name, scenario in SCENARIOS.items()
    if scenario["error"] is None and name != PHOTOGRAPHS
)
REFUSED = tuple(name for name, scenario in SCENARIOS.items() if scenario["error"])
FAULTS = (
    "iou of one half matches",
    "void stays in the union",
    "void excuses nothing",
    "crowds are missed",
    "crowds match",
    "crowds excuse nothing",
    "crowds excuse every class",
    "classes shifted by one",
    "classes ignored in matching",
)


def categories(scenario: Mapping[str, Any]) -> dict[int, Category]:
    """The categories of a golden scenario by id."""
    return {
        c["id"]: Category(c["id"], c["name"], bool(c["isthing"])) for c in scenario["categories"]
    }


def pairs(name: str) -> list[PanopticPair]:
    """The images of a golden scenario."""
    arrays, _ = golden.load("golden_pq")
    found = []
    for i, image in enumerate(SCENARIOS[name]["images"]):
        truth, predicted = (
            tuple(
                Segment(s["id"], s["category_id"], bool(s.get("iscrowd", 0)), s.get("area"))
                for s in image[key]
            )
            for key in ("gt_segments", "pred_segments")
        )
        found.append(
            PanopticPair(i, arrays[f"{name}_{i}_gt"], truth, arrays[f"{name}_{i}_pred"], predicted)
        )
    return found


def random_pair(seed: int, size: int = 14, classes: int = 3) -> PanopticPair:
    """A truth with void and crowds, and a prediction that is a disturbed copy of it."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((size, size + 3), np.int64)
    for value in generator.choice(1000, 5, replace=False) + 1:
        top, left = generator.integers(0, size - 3, 2)
        height, width = generator.integers(3, 8, 2)
        truth[top : top + height, left : left + width] = value
    predicted = np.roll(truth, generator.integers(-2, 3, 2), axis=(0, 1)) * 7
    predicted[generator.random(truth.shape) < 0.1] = 0
    category = {value: int(generator.integers(1, classes + 1)) for value in np.unique(truth)}

    def segments(ids: np.ndarray, scale: int, crowds: bool) -> tuple[Segment, ...]:
        return tuple(
            Segment(
                value,
                category[value // scale] if generator.random() < 0.8 else 1,
                bool(crowds and generator.random() < 0.4),
                int((ids == value).sum()) if crowds else None,
            )
            for value in np.unique(ids[ids > 0]).tolist()
        )

    return PanopticPair(
        seed, truth, segments(truth, 1, True), predicted, segments(predicted, 7, False)
    )


def count_literally(pair: PanopticPair, class_ids: list[int], fault: str = "") -> PanopticCounts:
    """The counts of one image from boolean masks, pair by pair; `fault` is one of `FAULTS`."""
    counts = PanopticCounts.zeros(len(class_ids))

    def index(category_id: int) -> int:
        shift = fault == "classes shifted by one"
        return (class_ids.index(category_id) + shift) % len(class_ids)

    void = pair.truth_ids == 0
    matched_truths, matched_predictions = set(), set()
    for true in pair.truth:
        for predicted in pair.predicted:
            if true.iscrowd and fault != "crowds match":
                continue
            if true.category_id != predicted.category_id and fault != "classes ignored in matching":
                continue
            a, b = pair.truth_ids == true.id, pair.predicted_ids == predicted.id
            intersection = (a & b).sum()
            union = true.area + b.sum() - intersection
            if fault != "void stays in the union":
                union -= (b & void).sum()
            iou = intersection / union
            if iou > 0.5 or (fault == "iou of one half matches" and iou == 0.5):
                counts.tp[index(true.category_id)] += 1
                counts.iou[index(true.category_id)] += iou
                matched_truths.add(true.id)
                matched_predictions.add(predicted.id)
    crowds = {}
    for true in pair.truth:
        if true.id in matched_truths:
            continue
        if true.iscrowd:
            crowds[true.category_id] = true.id
            if fault != "crowds are missed":
                continue
        counts.fn[index(true.category_id)] += 1
    for predicted in pair.predicted:
        if predicted.id in matched_predictions:
            continue
        b = pair.predicted_ids == predicted.id
        excused = np.zeros_like(void) if fault == "void excuses nothing" else b & void
        for category_id, crowd in crowds.items():
            if fault != "crowds excuse nothing" and (
                category_id == predicted.category_id or fault == "crowds excuse every class"
            ):
                excused |= b & (pair.truth_ids == crowd)
        if excused.sum() / b.sum() <= 0.5:
            counts.fp[index(predicted.category_id)] += 1
    return counts

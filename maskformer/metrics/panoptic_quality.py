"""Panoptic quality, counted exactly as cocodataset/panopticapi counts it (`evaluation.py`).

Kirillov et al., "Panoptic Segmentation" (CVPR 2019), section 4: PQ = SQ x RQ, where a predicted and
a true segment of one class match when their IoU is above one half.

The counts of an image are its sufficient statistics: they add up over images, so that a data set is
evaluated in a stream and resampled without its images.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from maskformer.data.panoptic_format import (
    VOID,
    Category,
    PanopticDataset,
    Segment,
    count_equal,
    image_name,
)
from maskformer.metrics.statistics import Sample
from parity.errors import InputError

GROUPS = ("All", "Things", "Stuff")


@dataclass(frozen=True)
class PanopticCounts:
    """Matched, spurious and missed segments per class, and the IoU summed over the matched ones.

    Each array is [..., K], classes in the order of the categories they were counted with; a leading
    axis is images. `tp`, `fp`, `fn` are int64, `iou` is float64.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou: np.ndarray

    @classmethod
    def zeros(cls, num_classes: int) -> "PanopticCounts":
        """The counts of no image."""
        return cls(
            *(np.zeros(num_classes, np.int64) for _ in range(3)), np.zeros(num_classes, np.float64)
        )

    @classmethod
    def stack(cls, counts: Sequence["PanopticCounts"]) -> "PanopticCounts":
        """One row per image: [N,K] arrays from N counts of [K]."""
        if not counts:
            raise InputError("no image was counted", "expected: at least one image")
        return cls(*(np.stack(column) for column in zip(*map(_arrays, counts), strict=True)))

    def __add__(self, other: "PanopticCounts") -> "PanopticCounts":
        return PanopticCounts(
            *(a + b for a, b in zip(_arrays(self), _arrays(other), strict=True)),
        )

    def total(self) -> "PanopticCounts":
        """The counts of all images together: [K] from [N,K]."""
        return PanopticCounts(*(array.sum(axis=0) for array in _arrays(self)))


@dataclass(frozen=True)
class PanopticScore:
    """Mean panoptic, segmentation and recognition quality (0..1) over `classes` classes."""

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True)
class PanopticResult:
    """Scores of the groups asked for, and of every class that occurs, by category id."""

    groups: Mapping[str, PanopticScore]
    per_class: Mapping[int, PanopticScore]


@dataclass(frozen=True)
class PanopticPair:
    """One image's truth and prediction: ids [H,W] (0 void) and their segments."""

    image_id: int | str
    truth_ids: np.ndarray
    truth: Sequence[Segment]
    predicted_ids: np.ndarray
    predicted: Sequence[Segment]


def count_image(pair: PanopticPair, categories: Mapping[int, Category]) -> PanopticCounts:
    """The counts [K] of one image, K = len(categories), as `pq_compute_single_core` counts them.

    Areas of true segments come from the annotation where it states them, else from the ids. Void
    pixels leave the union; crowd segments match nothing, are not missed, and excuse a prediction of
    their class that lies in void and the class's last crowd segment by more than half.

    Raises InputError naming image and segment for: sizes that differ, a predicted id in the map and
    not listed or the reverse, an unknown category.
    """
    name = image_name(pair.image_id)
    if np.shape(pair.truth_ids) != np.shape(pair.predicted_ids) or np.ndim(pair.truth_ids) != 2:
        raise InputError(
            f"{name}: the prediction is {list(np.shape(pair.predicted_ids))}",
            f"the truth is {list(np.shape(pair.truth_ids))}; expected: equal sizes [H, W]",
            "Resize logits to the image's size before post-processing.",
        )
    index = {category: i for i, category in enumerate(categories)}
    (truths, predictions), pixels = count_equal(
        _unsigned(pair.truth_ids, name), _unsigned(pair.predicted_ids, name)
    )
    shared = {
        (truth, predicted): count
        for truth, predicted, count in zip(
            truths.tolist(), predictions.tolist(), pixels.tolist(), strict=True
        )
    }
    true_areas: dict[int, int] = {}
    predicted_areas: dict[int, int] = {}
    for (truth, predicted), count in shared.items():
        true_areas[truth] = true_areas.get(truth, 0) + count
        predicted_areas[predicted] = predicted_areas.get(predicted, 0) + count

    true_segments = {segment.id: segment for segment in pair.truth}
    predicted_segments = {segment.id: segment for segment in pair.predicted}
    for segment in pair.truth:
        _check_category(segment, index, f"{name}: true")
    _check_prediction(predicted_segments, predicted_areas, index, name)

    counts = PanopticCounts.zeros(len(index))
    matched_truths, matched_predictions = set(), set()
    for (truth, predicted), intersection in shared.items():
        true_segment = true_segments.get(truth)
        predicted_segment = predicted_segments.get(predicted)
        if (
            true_segment is None
            or predicted_segment is None
            or true_segment.iscrowd
            or true_segment.category_id != predicted_segment.category_id
        ):
            continue
        true_area = true_areas[truth] if true_segment.area is None else true_segment.area
        union = (
            true_area + predicted_areas[predicted] - intersection - shared.get((VOID, predicted), 0)
        )
        iou = intersection / union
        if iou > 0.5:
            category = index[true_segment.category_id]
            counts.tp[category] += 1
            counts.iou[category] += iou
            matched_truths.add(truth)
            matched_predictions.add(predicted)

    crowds = {}
    for segment in pair.truth:
        if segment.id in matched_truths:
            continue
        if segment.iscrowd:
            crowds[segment.category_id] = segment.id
        else:
            counts.fn[index[segment.category_id]] += 1

    for predicted, segment in predicted_segments.items():
        if predicted in matched_predictions:
            continue
        ignored = shared.get((VOID, predicted), 0)
        if segment.category_id in crowds:
            ignored += shared.get((crowds[segment.category_id], predicted), 0)
        if ignored / predicted_areas[predicted] <= 0.5:
            counts.fp[index[segment.category_id]] += 1
    return counts


def class_qualities(counts: PanopticCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PQ, SQ and RQ of every class, float64 [..., K]; NaN where a class has no segment at all.

    Kirillov et al. 2019, equation 1. Leading axes (images, resamples) are kept.
    """
    segments = counts.tp + 0.5 * counts.fp + 0.5 * counts.fn
    with np.errstate(invalid="ignore", divide="ignore"):
        pq = np.where(segments > 0, counts.iou / segments, np.nan)
        rq = np.where(segments > 0, counts.tp / segments, np.nan)
        sq = np.where(counts.tp > 0, counts.iou / counts.tp, 0.0)
    return pq, np.where(segments > 0, sq, np.nan), rq


def group_members(categories: Mapping[int, Category], group: str) -> np.ndarray:
    """Which classes belong to "All", "Things" or "Stuff": bool [K]."""
    things = np.array([category.isthing for category in categories.values()], bool)
    return {"All": np.ones_like(things), "Things": things, "Stuff": ~things}[group]


def score(
    counts: PanopticCounts, categories: Mapping[int, Category], groups: Sequence[str] = GROUPS
) -> PanopticResult:
    """The scores panopticapi's `pq_compute` reports, from the counts [K] of all images.

    A group's score is the mean over its classes that occur in the truth or the prediction.
    Raises InputError for a group no class of which occurs: it has no score (panopticapi divides by
    zero there); leave the group out of `groups`.
    """
    if counts.tp.shape != (len(categories),):
        raise InputError(
            f"counts are {list(counts.tp.shape)}",
            f"expected: [{len(categories)}], one per category",
        )
    qualities = class_qualities(counts)
    occurs = ~np.isnan(qualities[0])
    scores = {}
    for group in groups:
        chosen = occurs & group_members(categories, group)
        if not chosen.any():
            raise InputError(
                f"no class of the group {group} occurs, so it has no panoptic quality",
                f"{int(occurs.sum())} classes of other groups occur",
                f"Leave {group} out, or evaluate images that show it.",
            )
        means = (float(quality[chosen].mean()) for quality in qualities)
        scores[group] = PanopticScore(*means, int(chosen.sum()))
    per_class = {
        category: PanopticScore(*(float(quality[i]) for quality in qualities), 1)
        for i, category in enumerate(categories)
        if occurs[i]
    }
    return PanopticResult(scores, per_class)


def as_sample(
    counts: PanopticCounts, categories: Mapping[int, Category], group: str = "All"
) -> Sample:
    """The images of counts [N,K] as a sample of a group's PQ, for intervals and comparisons."""
    members = group_members(categories, group)
    chosen = [array[..., members] for array in _arrays(counts)]
    classes = int(members.sum())

    def metric(totals: np.ndarray) -> np.ndarray:
        parts = (totals[..., i * classes : (i + 1) * classes] for i in range(4))
        pq, _, _ = class_qualities(PanopticCounts(*parts))
        occurs = ~np.isnan(pq)
        with np.errstate(invalid="ignore"):
            return np.where(occurs, pq, 0.0).sum(axis=-1) / occurs.sum(axis=-1)

    return Sample(np.concatenate(chosen, axis=-1).astype(np.float64), metric)


def count_images(
    pairs: Iterable[PanopticPair | Callable[[], PanopticPair]],
    categories: Mapping[int, Category],
    workers: int = 1,
) -> Iterator[tuple[int | str, PanopticCounts]]:
    """Image id and counts [K] of every pair, in order; no more than 2 * workers pairs are held.

    Args: pairs: pairs, or functions that load one (called in a worker); workers: threads, which is
    parallel because decoding and counting pixels happen outside Python's lock.
    """

    def work(pair: PanopticPair | Callable[[], PanopticPair]) -> tuple[int | str, PanopticCounts]:
        loaded = pair() if callable(pair) else pair
        return loaded.image_id, count_image(loaded, categories)

    if workers <= 1:
        yield from map(work, pairs)
        return
    pairs = iter(pairs)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Any]] = deque(
            pool.submit(work, pair) for pair in islice(pairs, 2 * workers)
        )
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, pair) for pair in islice(pairs, 1))
        finally:
            for future in waiting:
                future.cancel()


def pair_datasets(
    truth: PanopticDataset, prediction: PanopticDataset
) -> Iterator[Callable[[], PanopticPair]]:
    """A loader for every annotated image of `truth`, for `count_images`.

    Raises InputError where an image has no prediction, before anything is loaded. Predictions of
    other images are not looked at, as in panopticapi.
    """
    predictions = {annotation.image_id: annotation for annotation in prediction.annotations}
    missing = [a.image_id for a in truth.annotations if a.image_id not in predictions]
    if missing:
        raise InputError(
            f"{image_name(missing[0])} has no prediction",
            f"{len(missing)} of {len(truth.annotations)} images have none",
            "Predict every image; one without segments has an empty segments_info.",
        )
    if truth.categories.keys() != prediction.categories.keys():
        different = sorted(truth.categories.keys() ^ prediction.categories.keys())
        raise InputError(
            f"category {different[0]} is in only one of truth and prediction",
            f"{len(different)} such categories",
        )
    for annotation in truth.annotations:

        def load(annotation=annotation) -> PanopticPair:
            predicted = predictions[annotation.image_id]
            return PanopticPair(
                annotation.image_id,
                truth.ids(annotation),
                annotation.segments,
                prediction.ids(predicted),
                predicted.segments,
            )

        yield load


def _arrays(counts: PanopticCounts) -> tuple[np.ndarray, ...]:
    return counts.tp, counts.fp, counts.fn, counts.iou


def _unsigned(ids: np.ndarray, name: str) -> np.ndarray:
    """The ids as uint32; negative or fractional ids are refused."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise InputError(f"{name}: ids are {ids.dtype}", "expected: an integer type")
    if ids.dtype.kind == "i" and ids.size and ids.min() < 0:
        raise InputError(f"{name}: the id {ids.min()} is negative", "void is 0")
    return ids.astype(np.uint32)


def _check_prediction(
    segments: Mapping[int, Segment],
    areas: Mapping[int, int],
    index: Mapping[int, int],
    name: str,
) -> None:
    for segment_id in areas:
        if segment_id != VOID and segment_id not in segments:
            raise InputError(
                f"{name}: predicted segment {segment_id} is in the map and not listed",
                f"{areas[segment_id]} pixels, {len(segments)} segments listed",
                "List it in segments_info, or set its pixels to 0 (void).",
            )
    for segment in segments.values():
        if segment.id not in areas:
            raise InputError(
                f"{name}: predicted segment {segment.id} is listed and not in the map",
                f"category {segment.category_id}",
                "Remove segments that lost all their pixels.",
            )
        _check_category(segment, index, f"{name}: predicted")


def _check_category(segment: Segment, index: Mapping[int, int], where: str) -> None:
    if segment.category_id not in index:
        raise InputError(
            f"{where} segment {segment.id} has the unknown category {segment.category_id}",
            f"{len(index)} categories are known",
        )

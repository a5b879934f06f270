"""Scores of one side's predictions with intervals, and the paired comparison of two sides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from maskformer.data.evaluation_data import EvaluationData
from maskformer.metrics import panoptic_quality, semantic_iou, statistics
from parity.errors import InputError
from replication.evaluation.predicted import Predicted
from reports.chapters.evaluation_result import ClassScores, ScoreComparison, SideScores


@dataclass(frozen=True)
class Scored:
    """One side's counts per image, and the scores made of them."""

    semantic: semantic_iou.SemanticCounts
    panoptic: panoptic_quality.PanopticCounts | None
    samples: Mapping[str, statistics.Sample]
    result: SideScores


def score(data: EvaluationData, predicted: Predicted, resamples: int, workers: int) -> Scored:
    """Counts every image and scores all of them together; `workers` threads read segments."""
    pairs = ((data.labels(i), predicted.labels(i)) for i in range(data.count))
    semantic = semantic_iou.count_images(pairs, predicted.num_labels, data.ignored)
    found = semantic_iou.score(semantic.total())
    samples = _sample("mIoU", lambda: semantic_iou.as_sample(semantic))
    panoptic = quality = None
    if data.is_panoptic and predicted.panoptic is not None:
        loaders = panoptic_quality.pair_datasets(data.truth, predicted.panoptic)
        counted = panoptic_quality.count_images(loaders, data.by_id, workers)
        panoptic = panoptic_quality.PanopticCounts.stack([counts for _, counts in counted])
        total = panoptic.total()
        occurs = ~np.isnan(panoptic_quality.class_qualities(total)[0])
        groups = [
            group
            for group in panoptic_quality.GROUPS
            if (occurs & panoptic_quality.group_members(data.by_id, group)).any()
        ]
        quality = panoptic_quality.score(total, data.by_id, groups)
        for group in groups:
            samples |= _sample(
                f"PQ {group}",
                lambda group=group: panoptic_quality.as_sample(panoptic, data.by_id, group),
            )
    result = SideScores(
        miou=found.miou,
        miou_2021=semantic_iou.score(semantic.total(), "2021").miou,
        fwiou=found.fwiou,
        macc=found.macc,
        pacc=found.pacc,
        panoptic={} if quality is None else quality.groups,
        intervals={
            name: statistics.known(
                lambda s=sample: statistics.bootstrap_interval(s, resamples=resamples)
            )
            for name, sample in samples.items()
        },
        per_class=tuple(
            ClassScores(
                id=category.id,
                name=category.name,
                isthing=category.isthing,
                iou=_number(found.iou[c]),
                accuracy=_number(found.accuracy[c]),
                **_qualities(quality, category.id),
            )
            for c, category in enumerate(data.categories)
        ),
    )
    return Scored(semantic, panoptic, samples, result)


def _qualities(
    quality: panoptic_quality.PanopticResult | None, category: int
) -> dict[str, float | None]:
    """PQ, SQ and RQ of one class; None where it does not occur."""
    one = None if quality is None else quality.per_class.get(category)
    return {key: getattr(one, key, None) for key in ("pq", "sq", "rq")}


def _sample(name: str, make: Callable[[], statistics.Sample]) -> dict[str, statistics.Sample]:
    """The sample by its name; nothing where there are too few images for one."""
    try:
        return {name: make()}
    except InputError:
        return {}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


NOTHING = "both score 0, which says nothing"


def compare(
    first: Scored, second: Scored, margin: float, resamples: int
) -> dict[str, ScoreComparison]:
    """Paired statistics of (second - first) for every score that both have."""
    scores = {}
    for name in sorted(first.samples.keys() & second.samples.keys()):
        samples = (second.samples[name], first.samples[name])
        if samples[0].value == samples[1].value == 0:
            nothing = statistics.Missing(NOTHING)
            scores[name] = ScoreComparison(nothing, nothing)
            continue
        scores[name] = ScoreComparison(
            statistics.known(lambda s=samples: statistics.compare(*s, resamples=resamples)),
            statistics.known(
                lambda s=samples: statistics.judge_equivalence(
                    *s, margin=margin, resamples=resamples
                )
            ),
        )
    return scores


def agreement(first: Predicted, second: Predicted, workers: int) -> dict[str, float]:
    """How well `second` scores with `first` as the truth, by score; 1 where they are the same.

    Scores against the data set can agree by chance, and are near 0 for a model that is not trained;
    these cannot.
    """
    data = first.data
    pairs = ((first.labels(i), second.labels(i)) for i in range(data.count))
    counts = semantic_iou.count_images(pairs, len(data.categories), data.ignored)
    scores = {"mIoU": semantic_iou.score(counts.total()).miou}
    if first.panoptic is None:
        return scores
    loaders = panoptic_quality.pair_datasets(first.panoptic, second.panoptic)
    total = panoptic_quality.PanopticCounts.zeros(len(data.categories))
    for _, one in panoptic_quality.count_images(loaders, first.panoptic.categories, workers):
        total = total + one
    if (total.tp + total.fp + total.fn).any():
        quality = panoptic_quality.score(total, first.panoptic.categories, ("All",))
        scores["PQ"] = quality.groups["All"].pq
    return scores


def image_scores(scored: Scored) -> np.ndarray:
    """PQ of each image by itself, or its mIoU; NaN where it has none."""
    if scored.panoptic is None:
        return semantic_iou.mean_iou(scored.semantic)
    quality = panoptic_quality.class_qualities(scored.panoptic)[0]
    occurs = ~np.isnan(quality)
    with np.errstate(invalid="ignore"):
        return np.where(occurs, quality, 0).sum(axis=1) / occurs.sum(axis=1)

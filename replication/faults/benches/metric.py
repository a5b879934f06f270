"""The bench of the metrics: what the port's evaluation counts with, against golden numbers."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from maskformer.data.panoptic_format import Category
from maskformer.metrics import panoptic_quality, semantic_iou
from parity.causes.source import Mistake, functions_of
from parity.planting import replaced
from replication.faults.benches import metric_cases as panoptic_cases
from replication.faults.benches.finding import Finding
from replication.faults.benches.host import Part, audited
from replication.faults.golden import reader as golden

Key = tuple[str, str]
COUNTS = ("tp", "iou", "fn", "fp")  # in the order in which they are counted
QUALITIES = {"pq": "panoptic score", "sq": "panoptic sq", "rq": "panoptic rq"}
SCORES = ("mIoU", "fwIoU", "mACC", "pACC")
DRAWN = "drawn images"  # the case beside the golden ones
IMAGES = 40
THREADS = 2
LIMIT = 1e-12  # what the golden numbers are compared to; a handful of float64 roundings


class MetricBench:
    """Panoptic quality and mIoU of the golden scenarios, as panopticapi and detectron2 gave them.

    No scenario has two crowds of one class in an image, or an annotation whose areas are not those
    of its ids. Drawn images have both, and are counted literally besides. The mIoU of 2021 is made
    of the golden IoU of the classes.

    The port counts with the modules that `tf_impl.evaluation` uses.
    """

    def __init__(self) -> None:
        expected = _golden()
        self.part = Part(
            "metric",
            "Panoptic quality and mIoU are counted as panopticapi and detectron2 count them",
            expected,
            self.reference,
            {
                "": [
                    one
                    for one in functions_of(panoptic_quality, semantic_iou)
                    if one is not panoptic_quality.count_images
                ],
                "panoptic images": (),  # an edited loop over threads may never end
            },
            known=_known_mistakes,
            limits=dict.fromkeys(expected, LIMIT),
        )

    def reference(self, keys: Sequence[Key] | None) -> dict[Key, Any]:
        """Counts and scores of these keys at least, by the modules as they are now."""
        wanted = None if keys is None else {case for _, case in keys}
        return _counted(panoptic_quality, semantic_iou, wanted)

    def audit(self) -> Finding:
        """What the claim on the metrics says of the port as it is now."""
        from tf_impl import evaluation

        return audited(
            self.part, lambda: _counted(evaluation.panoptic_quality, evaluation.semantic_iou, None)
        )


def _known_mistakes(place: str) -> list[Mistake]:
    """What ports do with ignored labels, and with images that several threads count."""
    if place == "panoptic images":
        text = "of the images that are being counted, the last begun is given first"
        return [Mistake(text, partial(replaced, panoptic_quality, "deque", _LastFirst))]
    counted = semantic_iou.confusion_matrix

    def with_ignored(truth: np.ndarray, prediction: np.ndarray, classes: int, *more: Any) -> Any:
        return counted(np.minimum(truth, classes - 1), prediction, classes, *more)

    text = "ignored labels are the last class"
    return [Mistake(text, partial(replaced, semantic_iou, "confusion_matrix", with_ignored))]


class _LastFirst(deque):
    """A queue that gives what came last."""

    def popleft(self) -> Any:
        return self.pop()


def _golden() -> dict[Key, Any]:
    """The golden numbers by what they count and their scenario."""
    found: dict[Key, Any] = {}
    for name in panoptic_cases.SCORED:
        scenario = panoptic_cases.SCENARIOS[name]
        classes = panoptic_cases.categories(scenario)
        for key in COUNTS:
            values = [scenario["stats"][str(one)][key] for one in classes]
            found[f"panoptic {key}", name] = np.array(values, np.float64)
        for group, scores in scenario["results"].items():
            if group in panoptic_quality.GROUPS:
                for key, title in QUALITIES.items():
                    found[f"{title}, {group}", name] = scores[key]
                found[f"panoptic sample, {group}", name] = scores["pq"]
        found["panoptic images", name] = tuple(one.image_id for one in panoptic_cases.pairs(name))
        per_class = scenario["results"]["per_class"]
        found["panoptic classes", name] = np.array(
            [[per_class[str(one)][key] for key in QUALITIES] for one in classes]
        )
    found |= _counts(_literally(), DRAWN)
    arrays, texts = golden.load("golden_miou")
    for name, scores in texts["info"].items():
        found["confusion", name] = arrays[f"{name}_conf"]
        found["semantic scores", name] = np.array([scores[key] for key in SCORES])
        found["semantic score, 2021", name] = _miou_2021(arrays[f"{name}_conf"], scores)
        found["semantic sample", name] = scores["mIoU"] / 100
    return found


def _miou_2021(confusion: np.ndarray, scores: Mapping[str, Any]) -> float:
    """The mean of the golden IoUs, with 0 for what is predicted and does not occur in the truth."""
    predicted, true = (confusion[:-1, :-1].sum(axis=axis) for axis in (1, 0))
    ious = [scores[f"IoU-k{i}"] / 100 for i in np.flatnonzero(true)]
    return sum(ious) / int(((predicted > 0) | (true > 0)).sum())


def _counted(panoptic: Any, semantic: Any, wanted: set[str] | None) -> dict[Key, Any]:
    """The same by two modules; of what they refuse to count, the error."""
    found: dict[Key, Any] = {}
    for name in (*panoptic_cases.SCORED, DRAWN):
        if wanted is None or name in wanted:
            try:
                found |= _panoptic(panoptic, name)
            except Exception as error:
                found["panoptic tp", name] = _failure(error)
    arrays, texts = golden.load("golden_miou")
    for name, scores in texts["info"].items():
        if wanted is None or name in wanted:
            try:
                found |= _semantic(semantic, name, arrays, scores)
            except Exception as error:
                found["confusion", name] = _failure(error)
    return found


def _failure(error: Exception) -> tuple[str, str]:
    return type(error).__name__, str(error)


def _drawn() -> tuple[list[Any], dict[int, Any]]:
    """Random images whose annotation states larger areas than their ids have, and the classes."""
    pairs = []
    for seed in range(IMAGES):
        pair = panoptic_cases.random_pair(seed)
        truth = tuple(
            replace(one, area=one.area + index % 3) for index, one in enumerate(pair.truth)
        )
        pairs.append(replace(pair, truth=truth))
    return pairs, {index: Category(index, f"class {index}", True) for index in (1, 2, 3)}


def _literally() -> panoptic_quality.PanopticCounts:
    pairs, classes = _drawn()
    counts = [panoptic_cases.count_literally(pair, list(classes)) for pair in pairs]
    return panoptic_quality.PanopticCounts.stack(counts).total()


def _counts(counts: Any, name: str) -> dict[Key, Any]:
    return {
        (f"panoptic {key}", name): np.asarray(getattr(counts, key), np.float64) for key in COUNTS
    }


def _panoptic(module: Any, name: str) -> dict[Key, Any]:
    if name == DRAWN:
        pairs, classes = _drawn()
        images = [module.count_image(pair, classes) for pair in pairs]
        return _counts(module.PanopticCounts.stack(images).total(), name)
    classes = panoptic_cases.categories(panoptic_cases.SCENARIOS[name])
    pairs = panoptic_cases.pairs(name)
    images = [module.count_image(pair, classes) for pair in pairs]
    counts = module.PanopticCounts.stack(images).total()
    found = _counts(counts, name)
    found["panoptic images", name] = tuple(
        image for image, _ in module.count_images(pairs, classes, THREADS)
    )
    twice = module.PanopticCounts.stack([*images, *images])  # no sample is of one image
    result = module.score(counts, classes)
    for group, score in result.groups.items():
        for key, title in QUALITIES.items():
            found[f"{title}, {group}", name] = getattr(score, key)
        found[f"panoptic sample, {group}", name] = module.as_sample(twice, classes, group).value
    found["panoptic classes", name] = np.array(
        [
            # panopticapi writes 0 for a class that does not occur
            [getattr(result.per_class.get(one), key, 0.0) for key in QUALITIES]
            for one in classes
        ]
    )
    return found


def _semantic(
    module: Any, name: str, arrays: Mapping[str, np.ndarray], scores: Mapping[str, Any]
) -> dict[Key, Any]:
    classes = scores["num_classes"]
    images = [
        module.confusion_matrix(arrays[f"{name}_gt_{i}"], arrays[f"{name}_pred_{i}"], classes)
        for i in range(scores["num_images"])
    ]
    confusion = sum(images)
    counts = module.SemanticCounts.from_confusion(confusion)
    twice = [module.SemanticCounts.from_confusion(one) for one in (*images, *images)]
    values = module.as_mapping(module.score(counts), [f"k{i}" for i in range(classes)])
    return {
        ("confusion", name): confusion,
        ("semantic scores", name): np.array([values[key] for key in SCORES]),
        ("semantic score, 2021", name): module.score(counts, "2021").miou,
        ("semantic sample", name): module.as_sample(module.SemanticCounts.stack(twice)).value,
    }

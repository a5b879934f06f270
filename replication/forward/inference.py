"""The audit's last two stages: post-processing, and the metrics of what it predicts.

Both sides post-process their own outputs for the audited images. Class scores are held to the
float64 claim; labels and segments must be the same but for decisions within rounding; and with
those pixels left out, the port's predictions score exactly 1 with the reference's as the truth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskformer.data.images import Size
from maskformer.data.panoptic_format import VOID, Category, Segment
from maskformer.family import family_of
from maskformer.inference.prediction import Prediction
from maskformer.metrics import panoptic_quality, semantic_iou
from maskformer.model.config import ModelConfig
from parity.claims import Claim, claim, margin_claim
from parity.errors import InputError
from parity.judge import Verdict, function_verdict
from parity.measurements import Findings, Largest, Sum
from parity.metrics import gap, worst
from replication.evaluation.disagreement import Certain, certain_decisions, disagreement
from replication.sides.implementation import Frame
from replication.sides.side import PORT, REFERENCE, implementation

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """The audited batch: its padded size, and each image's own (height, width)."""

    padded: Size
    sizes: Sequence[Size]


@dataclass(frozen=True)
class Compared:
    """One image: how far scores are apart, and how labels and segments differ.

    `differing` and `unexplained` count pixels; `pq` and `miou` are the port's with the reference's
    predictions as the truth and uncertain pixels left out, `pq` None without segments.
    """

    scores: Verdict | None
    differing: int
    unexplained: int
    uncertain: int
    pq: float | None
    miou: float


class _Reference:
    """What the reference predicts of its float64 outputs, image by image, each once."""

    def __init__(self, config: ModelConfig, inputs: Inputs, outputs: Outputs) -> None:
        self.config, self.inputs, self.outputs = config, inputs, outputs
        self._predictions: dict[int, Prediction] = {}
        self._certain: dict[tuple[int, int, type], Certain] = {}

    def prediction(self, index: int) -> Prediction:
        """All that this configuration predicts of an image."""
        if index not in self._predictions:
            results = family_of(self.config).results(self.config)
            found = _predict(self.config, self.inputs, REFERENCE, self.outputs, index, results)
            self._predictions[index] = found
        return self._predictions[index]

    def certain(self, index: int, moved: Outputs, dtype: type) -> Certain:
        """The decisions that a run like `moved`, which outlives this object, may not change."""
        key = index, id(moved), dtype
        if key not in self._certain:
            tensors = (
                _tensors(self.config, REFERENCE, one, index) for one in (self.outputs, moved)
            )
            size = self.inputs.sizes[index]
            self._certain[key] = certain_decisions(
                self.config, *tensors, self.inputs.padded, size, size, dtype
            )
        return self._certain[key]


def inference_claims(
    config: ModelConfig,
    inputs: Inputs,
    reference: Outputs,
    floors: Sequence[Outputs],
    port: Outputs,
    singles: Mapping[str, tuple[Outputs, Outputs]],
    command: str,
) -> list[Claim]:
    """Claims about post-processing ("inference_*") and metrics ("metric_*"), as in an audit result.

    Args: reference: the reference's outputs in float64 for the whole batch; floors: the same with
    its roundings moved, at least one; port: the port's in float64; singles: by execution, the
    float32 reference's and the float32 port's outputs.
    """
    claims, known = [], _Reference(config, inputs, reference)
    for name, moved, theirs in (
        ("float64", floors, port),
        *((name, [own], theirs) for name, (own, theirs) in singles.items()),
    ):
        dtype = np.float64 if name == "float64" else np.float32
        try:
            found = _compare(known, moved, theirs, dtype)
        except InputError as error:
            claims.append(_unusable_claim(name, str(error), command))
            continue
        if dtype is np.float64:
            claims.append(_scores_claim(found, command))
        claims += _decision_claims(name, found, command)
    return claims


def _compare(
    reference: _Reference, moved: Sequence[Outputs], port: Outputs, dtype: type
) -> list[Compared]:
    """Every image of the batch; scores are compared in float64 only."""
    config, inputs = reference.config, reference.inputs
    results = family_of(config).results(config)
    found = []
    for index in range(len(inputs.sizes)):

        def predict(side: str, outputs: Outputs, wanted: tuple[str, ...], index=index):
            return _predict(config, inputs, side, outputs, index, wanted)

        certain = _in_all([reference.certain(index, one, dtype) for one in moved])
        verdict = None
        if dtype is np.float64:
            scores = predict(REFERENCE, reference.outputs, ("scores",)).scores
            floor = worst(gap(predict(REFERENCE, one, ("scores",)).scores, scores) for one in moved)
            ported = gap(predict(PORT, port, ("scores",)).scores, scores)
            verdict = function_verdict(f"image {index}: class scores", ported, floor)
            del scores
        predictions = [reference.prediction(index), predict(PORT, port, results)]
        found.append(_compared(config, verdict, predictions, certain))
    return found


def _predict(
    config: ModelConfig,
    inputs: Inputs,
    side: str,
    outputs: Outputs,
    index: int,
    wanted: tuple[str, ...],
) -> Prediction:
    """What a side makes of its outputs for one image."""
    size = inputs.sizes[index]
    frame = Frame(inputs.padded, size, size, size)
    return implementation(side).predict(
        _tensors(config, side, outputs, index), config, frame, wanted
    )


def _in_all(found: Sequence[Certain]) -> Certain:
    """What is certain by every run whose roundings are moved."""
    panoptic = [one.panoptic for one in found if one.panoptic is not None]
    return Certain(
        np.logical_and.reduce([one.labels for one in found]),
        np.logical_and.reduce(panoptic) if panoptic else None,
    )


def _compared(
    config: ModelConfig,
    scores: Verdict | None,
    predictions: Sequence[Prediction],
    certain: Certain,
) -> Compared:
    labels = [one.labels for one in predictions]
    segments = None
    if predictions[0].panoptic is not None:
        segments = [(one.panoptic.ids, one.panoptic.segments) for one in predictions]
    different = disagreement(labels, segments, lambda: certain)
    ignored = config.num_classes
    truth = np.where(certain.labels, labels[0], ignored)
    miou = 1.0
    if (truth != ignored).any():
        counts = semantic_iou.count_images([(truth, labels[1])], config.num_classes, ignored)
        miou = semantic_iou.score(counts.total()).miou
    uncertain = ~certain.labels
    if segments is not None:
        uncertain = uncertain | ~certain.panoptic
    return Compared(
        scores,
        0 if different is None else int(different.differs.sum()),
        0 if different is None else different.unexplained_pixels,
        int(uncertain.sum()),
        None if segments is None else _quality(config, segments, certain.panoptic),
        miou,
    )


def _quality(
    config: ModelConfig,
    segments: Sequence[tuple[np.ndarray, tuple[Segment, ...]]],
    certain: np.ndarray,
) -> float:
    """PQ of the second side with the first as the truth, whose uncertain pixels are void."""
    things = frozenset(config.inference.thing_ids)
    classes = {c: Category(c, f"class {c}", c in things) for c in range(config.num_classes)}
    (first_ids, first), second = segments
    ids = np.where(certain, first_ids, VOID)
    left = frozenset(np.unique(ids).tolist())
    truth = [segment for segment in first if segment.id in left]
    pair = panoptic_quality.PanopticPair("audited", ids, truth, *second)
    counts = panoptic_quality.count_image(pair, classes)
    if not (counts.tp + counts.fp + counts.fn).any():
        return 1.0  # neither side has a segment
    return panoptic_quality.score(counts, classes, ("All",)).groups["All"].pq


def _scores_claim(found: Sequence[Compared], command: str) -> Claim:
    return margin_claim(
        "inference_scores",
        "In float64 the class scores of every pixel agree to rounding",
        {one.scores.key: one.scores for one in found},
        "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the gap "
        "of the reference's scores when its roundings are moved",
        command,
    )


def _decision_claims(name: str, found: Sequence[Compared], command: str) -> list[Claim]:
    what = "label and segment" if found[0].pq is not None else "label"
    lost = {}
    for index, one in enumerate(found):
        for score, value in (("mIoU", one.miou), ("PQ", one.pq)):
            if value is not None:
                lost[f"image {index}, {score}"] = 1 - value
    metric = "PQ and mIoU are" if found[0].pq is not None else "mIoU is"
    return [
        claim(
            f"inference_{name}",
            f"Every pixel has the same {what} ({name})",
            Sum({f"image {i}": one.unexplained for i, one in enumerate(found)}, 0),
            "pixels that differ although the reference's margin is more than twice what "
            f"{32 if name == 'float64' else 4} x its own error allows a score; "
            f"{sum(one.differing for one in found)} pixels differ, "
            f"{sum(one.uncertain for one in found)} are within that margin",
            command,
        ),
        claim(
            f"metric_{name}",
            f"With the reference's predictions as the truth, {metric} 1 ({name})",
            Largest(lost, 0),
            "the port's loss against the reference's own predictions, pixels within rounding of "
            "another decision left out: equal maps score exactly 1",
            command,
        ),
    ]


def _unusable_claim(name: str, reason: str, command: str) -> Claim:
    title = f"The port's outputs can be turned into predictions ({name})"
    fact = " ".join(reason.split())
    measured = Findings(1, [fact])
    return claim(f"inference_{name}", title, measured, fact, command)


def _tensors(config: ModelConfig, side: str, outputs: Outputs, index: int) -> dict[str, Any]:
    """One image's outputs [1,...] as tensors of a side."""
    return {
        key: implementation(side).tensor(np.ascontiguousarray(value[index : index + 1]))
        for key, value in family_of(config).outputs.last(outputs).items()
    }

"""Semantic segmentation scores, counted as detectron2 counts them (`sem_seg_evaluation.py`).

mIoU has two definitions that published numbers use. Since 2022 ("current") classes absent from the
truth are left out; before ("2021") a class that is predicted and absent from the truth counts as
IoU 0. The other scores are the same in both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskformer.metrics.statistics import Sample
from parity.errors import InputError

DEFINITIONS = ("current", "2021")


@dataclass(frozen=True)
class SemanticCounts:
    """Pixels per class: right ones, true ones, predicted ones; ignored pixels are in none.

    Each array is int64 [..., K]; a leading axis is images.
    """

    right: np.ndarray
    true: np.ndarray
    predicted: np.ndarray

    @classmethod
    def from_confusion(cls, confusion: np.ndarray) -> "SemanticCounts":
        """The counts [K] in a confusion matrix [K+1,K+1] of `confusion_matrix`."""
        valid = confusion[:-1, :-1]
        return cls(valid.diagonal().copy(), valid.sum(axis=0), valid.sum(axis=1))

    @classmethod
    def stack(cls, counts: Sequence["SemanticCounts"]) -> "SemanticCounts":
        """One row per image: [N,K] arrays from N counts of [K]."""
        if not counts:
            raise InputError("no image was counted", "expected: at least one image")
        columns = zip(*((c.right, c.true, c.predicted) for c in counts), strict=True)
        return cls(*(np.stack(column) for column in columns))

    def __add__(self, other: "SemanticCounts") -> "SemanticCounts":
        return SemanticCounts(
            self.right + other.right, self.true + other.true, self.predicted + other.predicted
        )

    def total(self) -> "SemanticCounts":
        """The counts of all images together: [K] from [N,K]."""
        return SemanticCounts(*(a.sum(axis=0) for a in (self.right, self.true, self.predicted)))


@dataclass(frozen=True)
class SemanticResult:
    """Scores in 0..1; `iou` and `accuracy` are float64 [K], NaN where the truth lacks a class."""

    miou: float
    fwiou: float
    macc: float
    pacc: float
    iou: np.ndarray
    accuracy: np.ndarray


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore: int = 255, name: str = ""
) -> np.ndarray:
    """Pixels by (predicted, true) class, int64 [K+1,K+1]; the last true class is "ignored".

    Args: truth, prediction: integers [H,W], classes 0..K-1; truth also `ignore`; name of the image.
    Raises InputError for other sizes, types and labels.
    """
    where = f"{name}: " if name else ""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise InputError(
            f"{where}the prediction is {list(prediction.shape)}",
            f"the truth is {list(truth.shape)}; expected: equal sizes [H, W]",
        )
    # Both may be views whose numbers lie apart; what follows passes over them several times.
    true, prediction = np.array(truth, order="C"), np.ascontiguousarray(prediction)
    ignored = true == ignore
    true[ignored] = 0
    _check_labels(true, num_classes, f"{where}the truth", f", or {ignore} (ignored)")
    _check_labels(prediction, num_classes, f"{where}the prediction", "")
    size = num_classes + 1
    keys = np.multiply(prediction, size, dtype=np.intp, casting="unsafe")
    np.add(keys, true, out=keys, casting="unsafe")
    keys[ignored] += num_classes
    return np.bincount(keys.reshape(-1), minlength=size * size).reshape(size, size)


def count_images(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int, ignore: int = 255
) -> SemanticCounts:
    """The counts [N,K] of N (truth, prediction) pairs [H,W], read one at a time."""
    return SemanticCounts.stack(
        [
            SemanticCounts.from_confusion(
                confusion_matrix(truth, prediction, num_classes, ignore, f"image {i}")
            )
            for i, (truth, prediction) in enumerate(pairs)
        ]
    )


def score(counts: SemanticCounts, definition: str = "current") -> SemanticResult:
    """mIoU, frequency-weighted IoU, mean and pixel accuracy of counts [K].

    Raises InputError for an unknown definition and where no pixel of the truth counts.
    """
    if counts.true.ndim != 1:
        raise InputError(f"counts are {list(counts.true.shape)}", "expected: [K]; use total()")
    if not counts.true.any():
        raise InputError(
            "no pixel of the truth has a class", "every pixel is ignored, so there is no score"
        )
    means = mean_iou(counts, definition)
    iou, accuracy = _class_scores(counts)
    return SemanticResult(
        float(means),
        float(np.nansum(iou * (counts.true / counts.true.sum()))),
        float(np.nanmean(accuracy)),
        float(counts.right.sum() / counts.true.sum()),
        iou,
        accuracy,
    )


def mean_iou(counts: SemanticCounts, definition: str = "current") -> np.ndarray:
    """mIoU [...] of counts [..., K]; NaN where no pixel of the truth counts."""
    if definition not in DEFINITIONS:
        raise InputError(f"the definition is {definition!r}", f"expected: one of {DEFINITIONS}")
    iou, _ = _class_scores(counts)
    occurs = counts.true > 0
    divided_by = occurs if definition == "current" else occurs | (counts.predicted > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(iou, axis=-1) / np.where(
            occurs.any(axis=-1), divided_by.sum(axis=-1), np.nan
        )


def as_sample(counts: SemanticCounts, definition: str = "current") -> Sample:
    """The images of counts [N,K] as a sample of mIoU, for intervals and comparisons."""
    classes = counts.true.shape[-1]

    def metric(totals: np.ndarray) -> np.ndarray:
        parts = (totals[..., i * classes : (i + 1) * classes] for i in range(3))
        return mean_iou(SemanticCounts(*parts), definition)

    rows = np.concatenate([counts.right, counts.true, counts.predicted], axis=-1)
    return Sample(rows.astype(np.float64), metric)


def as_mapping(result: SemanticResult, names: Sequence[str]) -> Mapping[str, float]:
    """The result under detectron2's names, in percent: mIoU, fwIoU, mACC, pACC, IoU-x, ACC-x."""
    scores = {
        "mIoU": result.miou,
        "fwIoU": result.fwiou,
        "mACC": result.macc,
        "pACC": result.pacc,
    }
    scores |= {f"IoU-{name}": float(x) for name, x in zip(names, result.iou, strict=True)}
    scores |= {f"ACC-{name}": float(x) for name, x in zip(names, result.accuracy, strict=True)}
    return {key: 100 * value for key, value in scores.items()}


def _class_scores(counts: SemanticCounts) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy of every class, [..., K]; NaN where the truth does not show the class."""
    union = counts.true + counts.predicted - counts.right
    occurs = counts.true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            np.where(occurs, counts.right / union, np.nan),
            np.where(occurs, counts.right / counts.true, np.nan),
        )


def _check_labels(labels: np.ndarray, num_classes: int, what: str, besides: str) -> None:
    if labels.dtype.kind not in "iu":
        raise InputError(f"{what} is {labels.dtype}", "expected: an integer type")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(
            f"{what} has the label {wrong}",
            f"expected: 0 to {num_classes - 1}{besides}",
            "ADE20K's own PNGs count from 1: subtract 1, and 0 becomes 255.",
        )

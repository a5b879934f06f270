"""Scores of a run's evaluation, counted as images pass by; both trainers use it.

The counts of every image are kept, so that two runs can be compared image by image afterwards
(`maskformer.metrics.statistics`).
"""

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskformer.data.panoptic_format import Category
from maskformer.inference.prediction import Prediction, to_dataset_ids
from maskformer.metrics import panoptic_quality, semantic_iou
from maskformer.metrics.panoptic_quality import PanopticCounts, PanopticPair
from maskformer.metrics.semantic_iou import SemanticCounts
from maskformer.metrics.statistics import Sample
from parity.errors import InputError
from parity.files import replacing
from parity.reading import bounds

if TYPE_CHECKING:
    from maskformer.data.evaluation_data import EvaluationData

COUNTS = "evaluation.npz"
"""The file in a run's folder that holds the counts of its last evaluation."""

_GROUPS = {
    "panoptic_quality": "All",
    "panoptic_quality_things": "Things",
    "panoptic_quality_stuff": "Stuff",
}


class RunScores:
    """Collects one prediction per image of `data`; images may be a part of it, in any order."""

    def __init__(self, data: "EvaluationData") -> None:
        self._data = data
        self._semantic: dict[int, SemanticCounts] = {}
        self._panoptic: dict[int, PanopticCounts] = {}

    def add(self, index: int, prediction: Prediction) -> None:
        """Counts image number `index`: its `labels`, and its `panoptic` segments where it has them.

        Raises InputError naming the image for annotations that cannot be read.
        """
        data = self._data
        matrix = semantic_iou.confusion_matrix(
            data.labels(index),
            prediction.labels,
            len(data.categories),
            data.ignored,
            f"image {data.name(index)}",
        )
        self._semantic[index] = SemanticCounts.from_confusion(matrix)
        if prediction.panoptic is None or not data.is_panoptic:
            return
        annotation = data.truth.annotations[index]
        pair = PanopticPair(
            annotation.image_id,
            data.truth.ids(annotation),
            annotation.segments,
            prediction.panoptic.ids,
            to_dataset_ids(prediction.panoptic, [c.id for c in data.categories]),
        )
        self._panoptic[index] = panoptic_quality.count_image(pair, data.by_id)

    def update(self, other: "RunScores") -> None:
        """Takes over the images that `other`, of the same data, has counted."""
        self._semantic |= other._semantic
        self._panoptic |= other._panoptic

    def __getstate__(self) -> dict[str, object]:
        """Between processes only the counts travel."""
        return {"_data": None, "_semantic": self._semantic, "_panoptic": self._panoptic}

    @property
    def counts(self) -> "ImageCounts":
        """The counts of the images so far, by image number. Raises InputError without any."""
        indices = sorted(self._semantic)
        semantic = SemanticCounts.stack([self._semantic[i] for i in indices])
        panoptic = None
        if self._panoptic:
            panoptic = PanopticCounts.stack([self._panoptic[i] for i in indices])
        names = tuple(self._data.name(i) for i in indices)
        things = np.array([c.isthing for c in self._data.categories], bool)
        return ImageCounts(names, things, semantic, panoptic)


class ImageCounts:
    """Counts per image, one row each: what scores, intervals and comparisons are made of."""

    def __init__(
        self,
        names: tuple[str, ...],
        things: np.ndarray,
        semantic: SemanticCounts,
        panoptic: PanopticCounts | None,
    ) -> None:
        """Image ids [N], whether each class is a thing bool [K], and counts [N,K]."""
        self.names, self.things = names, things
        self.semantic, self.panoptic = semantic, panoptic
        self._categories = {i: Category(i, "", bool(thing)) for i, thing in enumerate(things)}

    def values(self) -> dict[str, float]:
        """Scores in percent by the names of `maskformer.runs.run_record`.

        NaN for a group of which no class occurs in truth or prediction.
        """
        found = {"mean_iou": 100 * float(semantic_iou.mean_iou(self.semantic.total()))}
        for name, group in _GROUPS.items() if self.panoptic is not None else ():
            pq = panoptic_quality.class_qualities(self.panoptic.total())[0]
            members = pq[panoptic_quality.group_members(self._categories, group)]
            occurs = members[~np.isnan(members)]
            found[name] = 100 * float(occurs.mean()) if occurs.size else float("nan")
        return found

    def samples(self) -> dict[str, Sample]:
        """Samples in 0..1 by the same names, of what was counted: `mean_iou` and the qualities."""
        samples = {"mean_iou": semantic_iou.as_sample(self.semantic)}
        for name, group in _GROUPS.items() if self.panoptic is not None else ():
            samples[name] = panoptic_quality.as_sample(self.panoptic, self._categories, group)
        return samples

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the counts to one .npz file, all at once."""
        arrays = {"names": np.array(self.names), "things": self.things}
        arrays |= {f"semantic_{key}": value for key, value in vars(self.semantic).items()}
        if self.panoptic is not None:
            arrays |= {f"panoptic_{key}": value for key, value in vars(self.panoptic).items()}
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)


def _check_sizes(path: Path) -> None:
    """Raises InputError where the arrays of an archive would take more than is read of one."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > bounds.EXPANDED_BYTES:
        raise InputError(
            f"{path} unpacks to {size:,} bytes", f"at most {bounds.EXPANDED_BYTES:,} are read"
        )


def read_counts(path: str | os.PathLike[str]) -> ImageCounts:
    """The counts that `ImageCounts.save` wrote. Raises InputError for another or broken file."""
    path = Path(path)
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        parts = {
            kind: {
                key.removeprefix(kind): value for key, value in arrays.items() if key[:9] == kind
            }
            for kind in ("semantic_", "panoptic_")
        }
        semantic = SemanticCounts(**parts["semantic_"])
        panoptic = PanopticCounts(**parts["panoptic_"]) if parts["panoptic_"] else None
        return ImageCounts(tuple(map(str, arrays["names"])), arrays["things"], semantic, panoptic)
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no evaluation",
            f"{path} does not exist",
            "A run is evaluated at its end, and at the intervals it is asked for.",
        ) from None
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} holds no counts of an evaluation", f"{type(error).__name__}: {error}"
        ) from None

"""Scores of panoptic predictions that any program wrote: a JSON and PNGs, against a truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from maskformer.data.annotated import Record
from maskformer.data.evaluation_data import EvaluationData
from maskformer.data.panoptic_dataset import PanopticImages
from maskformer.data.panoptic_format import Annotation, PanopticDataset, image_name, read_dataset
from parity.errors import InputError
from parity.results import Result
from replication.evaluation.scores import Scored, compare, image_scores, score
from reports.chapters.evaluation_result import ScoreComparison, SideScores

_UNLABELLED = (255, 65_535)


@dataclass(frozen=True)
class ImageScore:
    """One image's PQ by itself, in 0..1; None where it has none."""

    image: str
    pq: float | None


@dataclass(frozen=True, kw_only=True)
class ScoredFile(SideScores):
    """What one file of predictions scores, image by image as well."""

    per_image: tuple[ImageScore, ...]


@dataclass(frozen=True)
class ScoredPair:
    """Two files of predictions compared; `of` says which is subtracted from which."""

    of: str
    scores: Mapping[str, ScoreComparison]


@dataclass(frozen=True, kw_only=True)
class ScoreResult(Result):
    """The scores of predictions by file, and how two of them compare."""

    schema: ClassVar[str] = "score/1"

    verdict: str = ""
    images: int
    predictions: Mapping[str, ScoredFile]
    comparison: ScoredPair | None = None


@dataclass(frozen=True)
class Submission:
    """Predictions with the truth's images and categories, as `scores.score` reads them.

    A void pixel has the label behind all classes, which is never right.
    """

    data: EvaluationData
    panoptic: PanopticDataset

    @property
    def num_labels(self) -> int:
        """The classes, and the label of void."""
        return len(self.data.categories) + 1

    @cached_property
    def _by_image(self) -> dict[int | str, Annotation]:
        return {annotation.image_id: annotation for annotation in self.panoptic.annotations}

    def labels(self, index: int) -> np.ndarray:
        """Predicted class ids int32 [H,W]."""
        image_id = self.data.truth.annotations[index].image_id
        if image_id not in self._by_image:
            raise InputError(
                f"{image_name(image_id)} has no prediction",
                f"{len(self._by_image)} images have one",
                "Predict every image; one without segments has an empty segments_info.",
            )
        annotation = self._by_image[image_id]
        labels = self.data.labels_of(self.panoptic.ids(annotation), annotation.segments)
        return np.where(labels == self.data.ignored, len(self.data.categories), labels)


def folder_of(json_path: Path, folder: Path | None) -> Path:
    """Where the PNGs of a panoptic JSON are: beside it, in a folder of its name, unless it is said.

    Raises InputError where there is none.
    """
    if folder is not None:
        return folder
    beside = json_path.with_suffix("")
    above = json_path.parent.parent / json_path.stem  # as COCO's annotations/ has it
    for candidate in (beside, above):
        if candidate.is_dir():
            return candidate
    raise InputError(
        f"{json_path} has no folder of PNGs",
        f"looked for {beside} and {above}",
        "name it: --truth-folder, --folder",
    )


def open_truth(json_path: Path, folder: Path | None) -> EvaluationData:
    """The truth; photographs are not needed. Raises InputError as `read_dataset` does."""
    dataset = read_dataset(json_path, folder_of(json_path, folder))
    if not dataset.annotations:
        raise InputError(f"{json_path} annotates no image", "expected: at least one")
    categories = tuple(sorted(dataset.categories.values(), key=lambda one: one.id))
    images = [dataset.images[annotation.image_id] for annotation in dataset.annotations]
    records = tuple(Record(str(i.id), Path(i.file_name), i.height, i.width) for i in images)
    ignored = next(one for one in _UNLABELLED if one > len(categories))
    opened = PanopticImages(dataset, json_path.parent, categories, records)
    return EvaluationData(json_path.parent, "", opened, categories, len(records), ignored)


def score_files(
    truth: EvaluationData,
    predictions: Sequence[tuple[Path, Path | None]],
    *,
    margin: float,
    resamples: int,
    workers: int,
) -> ScoreResult:
    """Scores of one prediction, or of two with their paired comparison.

    Args: predictions: JSON and folder of PNGs of each; margin: that counts as equivalent, in 0..1;
        resamples: of the bootstrap; workers: threads that read segments.
    Raises InputError naming image and segment for whatever cannot be scored.
    """
    scored = []
    for path, folder in predictions:
        found = read_dataset(path, folder_of(path, folder), like=truth.truth)
        one = Submission(truth, replace(found, categories=truth.truth.categories))
        scored.append(score(truth, one, resamples, workers))
    comparison = None
    if len(scored) == 2:
        of = f"{predictions[1][0]} - {predictions[0][0]}"
        comparison = ScoredPair(of, compare(*scored, margin, resamples))
    return ScoreResult(
        images=truth.count,
        predictions={
            str(path): _of(one, truth) for (path, _), one in zip(predictions, scored, strict=True)
        },
        comparison=comparison,
    )


def _of(scored: Scored, truth: EvaluationData) -> ScoredFile:
    return ScoredFile(
        **vars(scored.result),
        per_image=tuple(
            ImageScore(truth.name(i), None if np.isnan(value) else float(value))
            for i, value in enumerate(image_scores(scored))
        ),
    )

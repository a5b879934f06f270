"""One side's predictions for a data set as files: written in one pass, read back strictly."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from maskformer.data.evaluation_data import EvaluationData
from maskformer.data.panoptic_format import (
    ImageInfo,
    PanopticDataset,
    Segment,
    read_dataset,
    write_dataset,
)
from maskformer.family import family_of
from maskformer.inference.prediction import to_dataset_ids
from parity.errors import InputError
from replication.sides.side import Side


@dataclass(frozen=True)
class Predicted:
    """The files that `predict_all` wrote to `folder`."""

    folder: Path
    data: EvaluationData

    @cached_property
    def panoptic(self) -> PanopticDataset | None:
        """The panoptic predictions, None where the config makes none."""
        path = self.folder / "panoptic.json"
        return read_dataset(path, self.folder / "panoptic") if path.is_file() else None

    @property
    def num_labels(self) -> int:
        """How many labels a prediction may have: the classes."""
        return len(self.data.categories)

    def labels(self, index: int) -> np.ndarray:
        """Predicted class ids int32 [H,W]."""
        with Image.open(label_path(self.folder, self.data, index)) as picture:
            return np.asarray(picture).astype(np.int32)

    def segments(self, index: int) -> tuple[np.ndarray, tuple[Segment, ...]]:
        """Predicted segment ids int32 [H,W], and the segments with the data set's categories."""
        annotation = self.panoptic.annotations[index]
        return self.panoptic.ids(annotation), annotation.segments


def label_path(folder: Path, data: EvaluationData, index: int) -> Path:
    """Where the labels of an image are kept."""
    return folder / "labels" / f"{data.images.records[index].image_path.stem}.png"


def predict_all(
    side: Side, data: EvaluationData, folder: Path, augmented: bool, advance: Callable[[], None]
) -> None:
    """Writes labels/*.png, and for panoptic configs panoptic.json with panoptic/*.png."""
    (folder / "labels").mkdir(parents=True)
    results = family_of(side.config).results(side.config)
    dataset_ids = [category.id for category in data.categories]

    def items():
        for index in range(data.count):
            image = data.photograph(index)
            with _naming(data, index):
                found = side.predict(image, results) if not augmented else None
                labels = found.labels if found else side.augmented_labels(image)
            kind = np.uint8 if data.ignored < 256 else np.uint16
            Image.fromarray(labels.astype(kind)).save(label_path(folder, data, index))
            advance()
            if "panoptic" in results:
                segments = to_dataset_ids(found.panoptic, dataset_ids)
                yield _image_info(data, index), found.panoptic.ids, segments

    if "panoptic" in results:
        write_dataset(folder / "panoptic.json", folder / "panoptic", data.categories, items())
    else:
        for _ in items():
            pass


@contextlib.contextmanager
def _naming(data: EvaluationData, index: int):
    """Puts the data set's id of an image in front of an InputError."""
    try:
        yield
    except InputError as error:
        fact, *details = error.args
        raise InputError(f"image {data.name(index)}: {fact}", *details) from None


def _image_info(data: EvaluationData, index: int) -> ImageInfo:
    if data.is_panoptic:
        return data.truth.images[data.truth.annotations[index].image_id]
    record = data.images.records[index]
    return ImageInfo(record.source_id, record.image_path.name, record.height, record.width)

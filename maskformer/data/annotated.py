"""One photograph with its annotation in memory, the common currency of readers and pipelines."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskformer.data.image_files import photograph
from parity.errors import InputError


@dataclass(frozen=True)
class Record:
    """What is known of an image before it is read: data set's id, file, size in pixels."""

    source_id: str
    image_path: Path
    height: int
    width: int


@dataclass(frozen=True)
class Annotated:
    """A photograph and its labels, both at the original size.

    `image` uint8 [H,W,3] RGB, None where only the labels were read. Panoptic data has `segments`
    [H,W] uint16 (0 void, k the k-th segment), `class_ids` [N] int32 and `is_crowd` [N] bool of the
    segments; semantic data has `labels` [H,W] uint8 or uint16 class ids. Data with both annotations
    may have both.
    """

    image: np.ndarray | None
    segments: np.ndarray | None = None
    class_ids: np.ndarray | None = None
    is_crowd: np.ndarray | None = None
    labels: np.ndarray | None = None


def read_photograph(record: Record) -> np.ndarray:
    """The photograph uint8 [H,W,3] RGB of a record.

    Raises InputError as `image_files.photograph` does, and where its size is not the record's.
    """
    name = f"image {record.source_id}"
    pixels = photograph(record.image_path, name)
    if pixels.shape[:2] != (record.height, record.width):
        raise InputError(
            f"{name}: the photograph is {pixels.shape[0]}x{pixels.shape[1]} (height x width)",
            f"the annotation says {record.height}x{record.width}",
            "Annotations belong to the photograph at its original size.",
        )
    return pixels

"""One photograph with its annotation in memory, the common currency of readers and pipelines."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from parity.errors import InputError

_EXIF_ORIENTATION = 274
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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


def open_photograph(path: Path, name: str) -> Image.Image:
    """The decoded picture, turned as its EXIF orientation says (detectron2's `read_image`).

    Raises InputError naming the image where the file is missing, broken or not an image.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            orientation = picture.getexif().get(_EXIF_ORIENTATION)
            transposition = _TRANSPOSITIONS.get(orientation)
            return picture.copy() if transposition is None else picture.transpose(transposition)
    except FileNotFoundError:
        raise InputError(
            f"{name}: the photograph is missing",
            f"{path} does not exist",
            "Put the file there, or remove the image from the annotations.",
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{name}: the photograph cannot be read", f"{path}: {error}", "Fetch the file again."
        ) from None


def read_photograph(record: Record) -> np.ndarray:
    """The photograph uint8 [H,W,3] RGB of a record.

    Raises InputError as `open_photograph` does, and where its size is not the record's.
    """
    name = f"image {record.source_id}"
    picture = open_photograph(record.image_path, name)
    if (picture.height, picture.width) != (record.height, record.width):
        raise InputError(
            f"{name}: the photograph is {picture.height}x{picture.width} (height x width)",
            f"the annotation says {record.height}x{record.width}",
            "Annotations belong to the photograph at its original size.",
        )
    return np.asarray(picture.convert("RGB"))

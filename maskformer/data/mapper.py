"""Applies drawn steps with Pillow and numpy: what the original's dataset mappers compute, exactly.

Source: `mask_former/data/dataset_mappers/` of the original. Masks are not expanded here: an image
carries one map of target indices, and `expand_masks` makes the masks where they are needed.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from maskformer.data.annotated import Annotated
from maskformer.data.augmentation import Color, Crop, Flip, Pad, Resize, Step, source_indices
from maskformer.data.color import apply_color
from maskformer.model.inputs import InputConfig
from parity.errors import InputError

IMAGE_PADDING = 128
"""Level of padded image pixels, before normalisation (`mask_former_semantic_dataset_mapper.py`)."""

VOID = -1


def check_fits(name: str, kind: str, config: InputConfig) -> None:
    """Raises InputError where data of a kind, "panoptic" or "semantic", has another's mapper."""
    if (kind == "semantic") != (config.mapper == "mask_former_semantic"):
        raise InputError(
            f"{name} has {kind} records",
            f"inputs.mapper is {config.mapper!r}",
            "choose the data that fits, or the mapper: INPUT.DATASET_MAPPER_NAME of a YAML",
        )


@dataclass(frozen=True)
class Mapped:
    """A training example. H and W include the mapper's padding, which the model takes as image.

    `image` uint8 [H,W,3] RGB; `target_map` int32 [H,W]: the target of each pixel, -1 where none;
    `class_ids` int32 [N] of all targets, those that were cropped away included; `labels` [H,W]
    class ids where the data has them.
    """

    image: np.ndarray
    target_map: np.ndarray
    class_ids: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class Targets:
    """Targets of static shape, for T targets.

    `target_map` int32 [H,W] (-1 none), `class_ids` int32 [T] (0 where invalid), `valid` bool [T],
    `overflow`: how many targets had no place; their pixels are -1.
    """

    target_map: np.ndarray
    class_ids: np.ndarray
    valid: np.ndarray
    overflow: int


def apply_to_image(image: np.ndarray, steps: tuple[Step, ...]) -> np.ndarray:
    """The photograph after the steps. Args: image uint8 [H,W,3]. Returns uint8 [H',W',3]."""
    for step in steps:
        match step:
            case Flip():
                image = np.take(image, np.arange(image.shape[1])[::-1], axis=1)
            case Resize(height, width):
                picture = Image.fromarray(np.ascontiguousarray(image))
                image = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
            case Crop(top, left, height, width):
                image = image[top : top + height, left : left + width]
            case Color():
                image = apply_color(image, step)
            case Pad(height, width):
                padded = np.full((height, width, 3), IMAGE_PADDING, np.uint8)
                part = image[:height, :width]
                padded[: part.shape[0], : part.shape[1]] = part
                image = padded
    return np.ascontiguousarray(image)


def apply_to_labels(
    labels: np.ndarray, rows: np.ndarray, columns: np.ndarray, fill: int
) -> np.ndarray:
    """`labels[rows][:, columns]`, with `fill` where an index is -1. Args: labels [H,W]."""
    shown = rows[rows >= 0]
    low, high = (int(shown.min()), int(shown.max()) + 1) if len(shown) else (0, 1)
    part, rows_of_part = labels[low:high], np.maximum(rows - low, 0)
    # Columns are picked one by one, rows are copied whole: columns first where rows are repeated.
    if high - low < len(rows):
        result = np.take(np.take(part, columns, axis=1), rows_of_part, axis=0)
    else:
        result = np.take(np.take(part, rows_of_part, axis=0), columns, axis=1)
    if len(rows) and rows[-1] < 0:
        result[rows < 0] = fill
    if len(columns) and columns[-1] < 0:
        result[:, columns < 0] = fill
    return result


def segment_targets(class_ids: np.ndarray, is_crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets of panoptic data: every segment but crowds, in the JSON's order.

    Returns the target [N+1] int32 of each value of a segment map (-1 for void and crowds) and the
    class ids [M] int32 of the targets.
    """
    keep = ~is_crowd
    table = np.full(len(class_ids) + 1, VOID, np.int32)
    table[1:][keep] = np.arange(int(keep.sum()))
    return table, class_ids[keep].astype(np.int32)


def label_targets(labels: np.ndarray, ignored: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets of semantic data: the classes present, ascending.

    Args: labels [H,W] after all steps. Returns the target [max + 1] int32 of each label (-1 where
    ignored) and the class ids [M] int32.
    """
    counts = np.bincount(labels.reshape(-1), minlength=ignored + 1)
    counts[ignored] = 0
    present = np.flatnonzero(counts)
    table = np.full(len(counts), VOID, np.int32)
    table[present] = np.arange(len(present))
    return table, present.astype(np.int32)


def apply_steps(example: Annotated, steps: tuple[Step, ...], ignored: int = 255) -> Mapped:
    """The training example that the steps make of an annotated photograph.

    Panoptic data gives one target per segment that is no crowd, even where the crop has none of its
    pixels; semantic data one per class that is present.
    """
    return Mapped(apply_to_image(example.image, steps), *apply_to_targets(example, steps, ignored))


def apply_to_targets(
    example: Annotated, steps: tuple[Step, ...], ignored: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Target map, class ids and labels of `Mapped`; of the photograph only labels are needed."""
    annotation = example.segments if example.segments is not None else example.labels
    height, width = annotation.shape
    labels = None
    if example.labels is not None:
        labels = apply_to_labels(
            example.labels, *source_indices(steps, height, width, "torch"), ignored
        )
    if example.segments is not None:
        table, class_ids = segment_targets(example.class_ids, example.is_crowd)
        target_map = apply_to_labels(
            np.take(table, example.segments), *source_indices(steps, height, width, "pillow"), VOID
        )
        return target_map, class_ids, labels
    table, class_ids = label_targets(labels, ignored)
    return np.take(table, labels), class_ids, labels


def pad_targets(target_map: np.ndarray, class_ids: np.ndarray, capacity: int) -> Targets:
    """Targets of static shape: the first `capacity` of them; the rest is counted in `overflow`."""
    kept = min(len(class_ids), capacity)
    padded = np.zeros(capacity, np.int32)
    padded[:kept] = class_ids[:kept]
    overflow = len(class_ids) - kept
    if overflow:
        target_map = np.where(target_map < capacity, target_map, VOID).astype(np.int32)
    return Targets(target_map, padded, np.arange(capacity) < kept, overflow)


def expand_masks(target_map: np.ndarray, count: int) -> np.ndarray:
    """One mask per target: bool [count,H,W]."""
    return target_map[None] == np.arange(count, dtype=np.int32)[:, None, None]

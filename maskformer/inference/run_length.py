"""Masks as COCO's compressed run lengths (pycocotools), the form of COCO's result files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskformer.inference.prediction import Instance, PanopticPrediction
from parity.errors import InputError

RunLengths = dict[str, Any]


def encode_mask(mask: np.ndarray) -> RunLengths:
    """{"size": [H, W], "counts": text} of a mask bool [H,W]; `decode_mask` gives it back."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise InputError(f"a mask is {mask.dtype} {list(mask.shape)}", "expected: bool [H, W]")
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def decode_mask(encoded: Mapping[str, Any]) -> np.ndarray:
    """The mask bool [H,W] of `encode_mask`. Raises InputError where the fields are missing."""
    if missing := {"size", "counts"} - encoded.keys():
        raise InputError(
            f"the run lengths have no `{sorted(missing)[0]}`", "expected: size, counts"
        )
    counts = encoded["counts"]
    counts = counts.encode("ascii") if isinstance(counts, str) else counts
    return coco_mask.decode({"size": list(encoded["size"]), "counts": counts}).astype(bool)


def panoptic_results(
    prediction: PanopticPrediction, image_id: int | str, dataset_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One record per segment: image_id, id, category_id (the data set's), segmentation."""
    return [
        {
            "image_id": image_id,
            "id": segment.id,
            "category_id": dataset_ids[segment.category_id],
            "segmentation": encode_mask(prediction.ids == segment.id),
        }
        for segment in prediction.segments
    ]


def semantic_results(
    labels: np.ndarray, image_id: int | str, dataset_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One record per class of a label map [H,W], COCO-Stuff's result format."""
    return [
        {
            "image_id": image_id,
            "category_id": dataset_ids[label],
            "segmentation": encode_mask(labels == label),
        }
        for label in np.unique(labels).tolist()
    ]


def instance_results(
    instances: Sequence[Instance], image_id: int | str, dataset_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One record per instance, COCO's detection result format with masks."""
    return [
        {
            "image_id": image_id,
            "category_id": dataset_ids[instance.category_id],
            "score": instance.score,
            "segmentation": encode_mask(instance.mask),
        }
        for instance in instances
    ]

"""What the bench of input pipelines compares besides single examples: batches, and source pixels.

Also a data set of more classes than a byte holds.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskformer.data import augmentation
from maskformer.data.annotated import Annotated
from maskformer.model.inputs import InputConfig
from parity.causes.source import Mistake
from parity.comparing.examples import MOST_BIAS, bias_of, blocks_of
from parity.planting import replaced

Results = dict[tuple[str, str], Any]
LEVEL = 1  # by which the fast way may differ from Pillow, see docs/data.md
BATCH, BUCKET, RANKS = 4, (208, 208), 2
BEFORE = 1  # batches that a run has made when it is continued
WAYS = {"exact": True, "fast": False}
FIELDS = ("images", "sizes", "target_map", "class_ids", "valid", "overflow")
BATCHES = ("batch", *(f"batch {field.replace('_', ' ')}" for field in FIELDS))
RESIZED = "resized targets"
SIDES = (333, 375, 427, 480, 500, 612, 640)
RESIZED_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800, 1066, 1333)
"""Sides of COCO's photographs before and after: with some pairs, centres of pixels that are summed
up and those that are multiplied out fall into different pixels."""
CLASSES, SPREAD, IGNORED = 847, 50, (255, 65535)  # of ADE20K-Full; ignored in one byte, in two


def write_many_classes(source: Path, folder: Path, split: str) -> None:
    """`folder` has the images of `source`, with labels of two bytes, laid out like ADE20K-Full."""
    shutil.copytree(source / "images" / split, folder / "images_detectron2" / split)
    written = folder / "annotations_detectron2" / split
    written.mkdir(parents=True)
    for path in sorted((source / "annotations_detectron2" / split).iterdir()):
        labels = np.asarray(Image.open(path)).astype(np.uint16)
        spread = np.where(labels == IGNORED[0], IGNORED[1], SPREAD * labels).astype(np.uint16)
        Image.fromarray(spread).save(written / f"{path.stem}.tif")
    categories = [{"id": number, "name": f"class {number}"} for number in range(CLASSES)]
    (folder / "categories.json").write_text(json.dumps(categories), encoding="utf-8")


def fast_level(config: InputConfig) -> int:
    """By how much the fast way may differ: it makes only COCO's last resize without Pillow."""
    return LEVEL if config.mapper == "detr_panoptic" else 0


def unless_within(image: np.ndarray, expected: np.ndarray, level: int) -> np.ndarray:
    """The expected photograph where `image` differs from it by at most `level`, and as often in one
    direction as in the other; else `image`."""
    if image.shape != expected.shape:
        return image
    apart = image.astype(int) - expected.astype(int)
    if np.abs(apart).max() > level:
        return image
    biased = apart.any() and bias_of([blocks_of(apart)]) > MOST_BIAS
    return image if biased else expected


def reference_batches(
    name: str, images: Any, config: InputConfig, seed: int, capacity: int
) -> Results:
    """The second batch of a run in each of two ranks, for every way that the port has."""
    from torch_reference.dataset import TrainingData, training_loader

    found: Results = {}
    data = TrainingData(images, config, seed, capacity)
    for rank in range(RANKS):
        loader = training_loader(
            data,
            batch_size=BATCH,
            buckets=(BUCKET,),
            rank=rank,
            world_size=RANKS,
        )
        batch = next(islice(loader, BEFORE, None))
        arrays = {key: value.numpy() for key, value in batch.items()}
        arrays["images"] = arrays["images"].transpose(0, 2, 3, 1)
        for way in WAYS:
            found |= _fields(f"{name}, rank {rank}, {way}", arrays)
    return found


def port_batches(name: str, data: Any, expected: Mapping[tuple[str, str], Any]) -> Results:
    """The same of two replicas of a port that continues after the first batch.

    Batches that the port cannot make are left out.
    """
    import tensorflow as tf

    from tf_impl import dataset

    found: Results = {}
    how = {"batch_size": BATCH, "buckets": (BUCKET,)}
    for way, exact in WAYS.items():
        chosen = dataclasses.replace(data, exact=exact)
        state = dataset.advance_plan(chosen, **how, steps=1)
        batches = dataset.training_dataset(chosen, **how, state=state, replicas=RANKS)
        level = 0 if exact else fast_level(data.config)
        made = iter(batches.take(RANKS))
        for rank in range(RANKS):
            try:
                arrays = {key: value.numpy() for key, value in next(made).items()}
            except tf.errors.OpError:
                break
            case = f"{name}, rank {rank}, {way}"
            right = expected["batch images", case]
            arrays["images"] = unless_within(arrays["images"], right, level)
            found |= _fields(case, arrays)
    return found


def _fields(case: str, arrays: Mapping[str, np.ndarray]) -> Results:
    index = tuple(arrays["index"].tolist())
    values = (index, *(arrays[field] for field in FIELDS))
    return {(place, case): value for place, value in zip(BATCHES, values, strict=True)}


def resized_sources(apply_to_targets: Callable[..., Any]) -> Results:
    """Which pixel each pixel of a resized map shows, of many sizes, of both kinds of maps."""
    segments, labels = [], []
    for side in SIDES:
        count = np.arange(side, dtype=np.uint16)[None]
        annotated = Annotated(None, count + 1, np.zeros(side, np.int32), np.zeros(side, bool))
        for resized in RESIZED_SIDES:
            steps = (augmentation.Resize(1, resized),)
            segments.append(apply_to_targets(annotated, steps, IGNORED[1])[0][0])
            target_map, class_ids, _ = apply_to_targets(
                Annotated(None, labels=count), steps, IGNORED[1]
            )
            labels.append(class_ids[target_map[0]])
    return {
        (RESIZED, "segments"): np.concatenate(segments),
        (RESIZED, "labels"): np.concatenate(labels),
    }


def known_resizes() -> list[Mistake]:
    """What ports do instead of Pillow's sum."""
    nearest = augmentation.nearest_index

    def multiplied(size_in: int, size_out: int, rule: str) -> np.ndarray:
        if rule == "torch":
            return nearest(size_in, size_out, rule)
        centres = (np.arange(size_out) + 0.5) * (size_in / size_out)
        return np.minimum(centres.astype(np.int64), size_in - 1)

    text = "the centres of pixels are multiplied out, instead of summed up"
    return [Mistake(text, partial(replaced, augmentation, "nearest_index", multiplied))]

"""What ports do wrong with data that is no edit of one expression of the reference."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from maskformer.data import augmentation, mapper
from maskformer.data.annotated import Annotated
from maskformer.model.inputs import InputConfig
from parity.causes.source import Mistake, Planted
from parity.causes.torch_mistakes import every_place
from parity.planting import replaced
from replication.faults.benches import data_cases

FEW_TARGETS = (1, 2, 3, 4, 8, 16, 32, 64)
"""How many targets a port may have room for where images show more."""


def known_mistakes(place: str) -> list[Mistake]:
    """Mistakes of one place of the input pipelines, as the reference would make them."""
    if place == data_cases.RESIZED:
        return data_cases.known_resizes()
    if place == "test sizes":
        return [_squares()]
    if place.startswith("draws"):
        return [_epochs_alike()]
    if place in data_cases.BATCHES:
        return [*_of_batches(), _void_is_first()]
    if place == "photograph":
        return _of_photographs()
    return [*_of_targets(), _void_is_first(), _padding_is_first()]


def _squares() -> Mistake:
    from torch_reference import dataset

    def square(config: InputConfig, height: int, width: int) -> Any:
        return (augmentation.Resize(config.min_size_test, config.min_size_test),)

    planted = [
        partial(replaced, owner, "evaluation_steps", square) for owner in (augmentation, dataset)
    ]
    text = "every test image is a square of its least side"
    return Mistake(text, partial(every_place, planted))


def _epochs_alike() -> Mistake:
    from torch_reference.dataset import TrainingData

    drawn = TrainingData._draw

    def first(data: TrainingData, epoch: int, *given: Any) -> Any:
        return drawn(data, 0, *given)

    return Mistake(
        "every epoch draws what epoch 0 does", partial(replaced, TrainingData, "_draw", first)
    )


def _of_batches() -> list[Mistake]:
    """Other examples in the batches of ranks, and of runs that go on."""
    from torch_reference.dataset import _PositionBatches

    def neighbours(batches: _PositionBatches) -> Iterator[list[Any]]:
        for batch in batches._plan:
            share = len(batch.positions) // batches._world_size
            own = batch.positions[batches._rank * share :][:share]
            yield [(position, batch.shape) for position in own]

    return [
        Mistake(
            "each rank has neighbours of a batch, not every n-th of it",
            partial(replaced, _PositionBatches, "__iter__", neighbours),
        ),
        Mistake(
            "a run that goes on begins its data anew", partial(replaced, data_cases, "BEFORE", 0)
        ),
    ]


def _void_is_first() -> Mistake:
    """Pixels of no target are those of target 0."""

    def filled(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "target_map": item["target_map"].clamp(min=0)}

    return Mistake("pixels of no target are the first one's", _of_items(filled))


def _padding_is_first() -> Mistake:
    """What pads a panoptic example to its batch is of target 0."""

    def filled(item: dict[str, Any]) -> dict[str, Any]:
        (height, width), target_map = item["size"].tolist(), item["target_map"].clone()
        target_map[height:] = target_map[:, width:] = 0
        return {**item, "target_map": target_map}

    text = "pixels that pad a panoptic example are the first target's"
    return Mistake(text, _of_items(filled, "panoptic"))


def _of_items(change: Callable[[dict[str, Any]], Any], kind: str | None = None) -> Planted:
    """Examples of the reference's loader are changed; those of one kind of data, or all."""
    from torch_reference.dataset import TrainingData

    right = TrainingData.__getitem__

    def changed(data: TrainingData, item: Any) -> dict[str, Any]:
        made = right(data, item)
        return change(made) if kind in (None, data.images.kind) else made

    return partial(replaced, TrainingData, "__getitem__", changed)


def _of_photographs() -> list[Mistake]:
    """Flips of the wrong axis, and resizes that look at four pixels however small they make it."""
    right = mapper.apply_to_image

    def instead(kind: type, wrong: Callable[[np.ndarray, Any], np.ndarray]) -> Planted:
        def applied(image: np.ndarray, steps: Sequence[Any]) -> np.ndarray:
            for step in steps:
                image = wrong(image, step) if isinstance(step, kind) else right(image, (step,))
            return np.ascontiguousarray(image)

        return partial(replaced, mapper, "apply_to_image", applied)

    def upside_down(image: np.ndarray, step: Any) -> np.ndarray:
        return image[::-1]

    def sampled(image: np.ndarray, step: augmentation.Resize) -> np.ndarray:
        return four_neighbours(image, step.height, step.width)

    return [
        Mistake("flips turn photographs upside down", instead(augmentation.Flip, upside_down)),
        Mistake(
            "photographs are resized without antialiasing: each pixel is made of four",
            instead(augmentation.Resize, sampled),
        ),
    ]


def four_neighbours(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A photograph resized bilinearly in float32, however small it becomes from four pixels each.

    Args: image uint8 [H,W,C]. Returns uint8 [height,width,C], rounded to even. Centres of pixels
    are at one half, as TensorFlow's `image.resize` has them.
    """
    for axis, size in ((1, width), (0, height)):
        scale = np.float32(image.shape[axis]) / np.float32(size)
        place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        low = np.floor(place)
        share = np.expand_dims(place - low, 1 - axis)[..., None]
        first, second = (
            np.take(image, np.clip(at, 0, image.shape[axis] - 1).astype(int), axis)
            for at in (low, np.ceil(place))
        )
        image = first + (second.astype(np.float32) - first) * share
    return np.rint(image).astype(np.uint8)


def _of_targets() -> list[Mistake]:
    """Segments of which a crop left nothing, ids, labels, targets beyond a number of them."""
    from torch_reference import dataset

    def dropped(target_map: np.ndarray, class_ids: np.ndarray, capacity: int) -> Any:
        left = np.unique(target_map[target_map >= 0])
        table = np.full(len(class_ids) + 1, mapper.VOID, np.int32)
        table[left] = np.arange(len(left))
        return mapper.pad_targets(table[target_map], class_ids[left], capacity)

    def first(target_map: np.ndarray, class_ids: np.ndarray, capacity: int) -> Any:
        gone = ~np.isin(np.arange(len(class_ids)), target_map)
        return mapper.pad_targets(target_map, np.where(gone, 0, class_ids), capacity)

    def cut(example: Annotated, *others: Any) -> Any:
        labels = None if example.labels is None else example.labels & 255
        return mapper.apply_steps(dataclasses.replace(example, labels=labels), *others)

    def shifted(target_map: np.ndarray, class_ids: np.ndarray, capacity: int) -> Any:
        return mapper.pad_targets(target_map, class_ids + 1, capacity)

    def first_of(most: int) -> Callable[..., Any]:
        return lambda target_map, class_ids, capacity: mapper.pad_targets(
            target_map, class_ids[:most], capacity
        )

    targets = mapper.segment_targets

    def shifted_segments(*given: Any) -> Sequence[np.ndarray]:
        table, class_ids = targets(*given)
        return table, class_ids + 1

    return [
        Mistake(text, partial(replaced, owner, name, wrong))
        for text, owner, name, wrong in (
            ("segments that the crop cut away are dropped", dataset, "pad_targets", dropped),
            ("segments that the crop cut away become class 0", dataset, "pad_targets", first),
            ("class ids are larger by 1", dataset, "pad_targets", shifted),
            ("class ids of segments are larger by 1", mapper, "segment_targets", shifted_segments),
            ("labels are cut to one byte", dataset, "apply_steps", cut),
            *(
                (
                    f"classes after the first {most} are lost",
                    dataset,
                    "pad_targets",
                    first_of(most),
                )
                for most in FEW_TARGETS
            ),
        )
    ]

"""What ports do wrong with data that is no edit of one expression of the reference."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from maskformer.data import augmentation, mapper
from maskformer.data.annotated import Annotated
from maskformer.model.inputs import InputConfig
from parity.causes.source import Mistake
from parity.causes.torch_mistakes import every_place
from parity.planting import replaced
from replication.faults.benches import data_cases


def known_mistakes(place: str) -> list[Mistake]:
    """Mistakes of one place of the input pipelines, as the reference would make them."""
    if place == data_cases.RESIZED:
        return data_cases.known_resizes()
    if place == "test sizes":
        return [_squares()]
    if place.startswith("draws"):
        return [_epochs_alike()]
    if place in data_cases.BATCHES:
        return _of_batches()
    return _of_targets()


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


def _of_targets() -> list[Mistake]:
    """Segments of which a crop left nothing, ids, labels."""
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
        )
    ]

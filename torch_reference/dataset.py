"""Training and evaluation data for PyTorch: what the original's mappers give, with Pillow."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from maskformer.data.augmentation import (
    Step,
    draw,
    drawn_shape,
    evaluation_steps,
    example_at,
    example_generator,
)
from maskformer.data.batching import BatchPlan
from maskformer.data.dataset_layout import Images
from maskformer.data.mapper import VOID, apply_steps, apply_to_image, check_fits, pad_targets
from maskformer.model.inputs import InputConfig


class TrainingData(Dataset):
    """Training examples by (position in the run, padded shape): a function of seed and position.

    An item is a dict of `image` uint8 [3,H,W] (zero beyond `size`), `size` int32 [2] (height,
    width), `target_map` int32 [H,W] (target of each pixel, -1 none), `class_ids` int64 [T],
    `valid` bool [T], `overflow` int32 (targets beyond T), `index` int64 of the image.
    """

    def __init__(self, images: Images, config: InputConfig, seed: int, capacity: int) -> None:
        """`capacity` is T, the number of targets an image has room for.

        Raises InputError for a mapper of another kind of data.
        """
        check_fits("the training split", images.kind, config)
        self.images = images
        self.config = config
        self.seed = seed
        self.capacity = capacity
        self.ignored = getattr(images, "ignored", 255)

    def shape_at(self, position: int) -> tuple[int, int]:
        """Height and width of the example after its draws, without reading the image."""
        epoch, index = example_at(self.seed, position, len(self.images))
        record = self.images.records[index]
        rng = example_generator(self.seed, epoch, index)
        return drawn_shape(self.config, rng, record.height, record.width)

    def __getitem__(self, item: tuple[int, tuple[int, int] | None]) -> dict[str, torch.Tensor]:
        position, shape = item
        epoch, index = example_at(self.seed, position, len(self.images))
        example = self.images.load(index)
        mapped = apply_steps(example, self._draw(epoch, index, example.labels), self.ignored)
        height, width = mapped.image.shape[:2]
        shape = shape or (height, width)
        image = np.zeros((3, *shape), np.uint8)
        image[:, :height, :width] = mapped.image.transpose(2, 0, 1)
        target_map = np.full(shape, VOID, np.int32)
        target_map[:height, :width] = mapped.target_map
        targets = pad_targets(target_map, mapped.class_ids, self.capacity)
        return {
            "image": torch.from_numpy(image),
            "size": torch.tensor([height, width], dtype=torch.int32),
            "target_map": torch.from_numpy(targets.target_map),
            "class_ids": torch.from_numpy(targets.class_ids.astype(np.int64)),
            "valid": torch.from_numpy(targets.valid),
            "overflow": torch.tensor(targets.overflow, dtype=torch.int32),
            "index": torch.tensor(index),
        }

    def _draw(self, epoch: int, index: int, labels: np.ndarray | None) -> tuple[Step, ...]:
        record = self.images.records[index]
        rng = example_generator(self.seed, epoch, index)
        return draw(self.config, rng, record.height, record.width, labels, self.ignored)


class _PositionBatches:
    """Batches of (position, shape) for a process: every `world_size`-th example of each batch."""

    def __init__(self, plan: Iterator, rank: int, world_size: int) -> None:
        self._plan, self._rank, self._world_size = plan, rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, int] | None]]]:
        for batch in self._plan:
            yield [(p, batch.shape) for p in batch.positions[self._rank :: self._world_size]]


def training_loader(
    data: TrainingData,
    *,
    batch_size: int,
    buckets: Sequence[tuple[int, int]],
    state: dict[str, Any] | None = None,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Endless batches of `data`, the same examples in the same order as TensorFlow's.

    A batch is a dict of `images` uint8 [B,3,H,W], `sizes` int32 [B,2], `target_map` int32 [B,H,W],
    `class_ids` int64 [B,T], `valid` bool [B,T], `overflow` int32 [B], `index` int64 [B].

    Args: batch_size over all processes; buckets: shapes a batch may have; state: of a `BatchPlan`,
    to continue; rank, world_size: this process's share of a batch.
    """
    plan = BatchPlan(data.shape_at, buckets, batch_size, **(state or {}))
    return DataLoader(
        data,
        batch_sampler=_PositionBatches(plan, rank, world_size),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=False,
    )


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch of examples of one shape; `image` and `size` become `images` and `sizes`."""
    batch = {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
    return {
        {"image": "images", "size": "sizes"}.get(key, key): value for key, value in batch.items()
    }


def evaluation_image(image: np.ndarray, config: InputConfig) -> torch.Tensor:
    """A photograph at the test size: uint8 [3,H',W'] from uint8 [H,W,3] RGB."""
    resized = apply_to_image(image, evaluation_steps(config, *image.shape[:2]))
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

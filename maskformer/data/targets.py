"""Targets of training steps: segments that are drawn, and label maps made of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from maskformer.model.config import ModelConfig

Target = Mapping[str, np.ndarray]


def synthetic_targets(
    config: ModelConfig, sizes: np.ndarray, shape: tuple[int, int], index: int = 0
) -> list[dict[str, np.ndarray]]:
    """Per image 3 to 7 segments that do not overlap: labels int64 [t], masks bool [t,H,W].

    Images that follow each other have different numbers of them.

    Args:
        config: gives the number of classes.
        sizes: valid (height, width) of each image, int [N,2]; padding belongs to no segment.
        shape: H and W of the batch.
        index: number of the batch; another one gives other targets.
    """
    rng = np.random.default_rng([index, *shape, len(sizes)])
    targets = []
    for height, width in sizes:
        count = int(rng.integers(3, 8))
        if targets and count == len(targets[-1]["labels"]):
            count = count + 1 if count < 7 else 3
        centres = rng.uniform(0, 1, (count, 2)) * (height, width)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        distance = (rows - centres[:, 0, None, None]) ** 2 + (
            columns - centres[:, 1, None, None]
        ) ** 2
        owner = np.where((rows < height) & (columns < width), distance.argmin(axis=0), -1)
        targets.append(
            {
                "labels": rng.integers(0, config.num_classes, count),
                "masks": owner == np.arange(count)[:, None, None],
            }
        )
    return targets


def training_targets(
    config: ModelConfig, sizes: np.ndarray, shape: tuple[int, int], index: int = 0
) -> list[dict[str, np.ndarray]] | np.ndarray:
    """The `synthetic_targets` in the form that the configuration's head is trained with.

    That is segments per image, or labels int64 [N,H,W] for a per-pixel head.
    """
    targets = synthetic_targets(config, sizes, shape, index)
    return label_map(targets, config.ignore_value) if config.is_per_pixel else targets


def label_map(targets: Sequence[Target], ignore_value: int) -> np.ndarray:
    """Labels int64 [N,H,W] of a per-pixel head from the segments of `synthetic_targets`."""
    maps = []
    for target in targets:
        labels = np.full(target["masks"].shape[1:], ignore_value, np.int64)
        for label, mask in zip(target["labels"], target["masks"], strict=True):
            labels[mask] = label
        maps.append(labels)
    return np.stack(maps)

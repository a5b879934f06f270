"""What a MaskFormer's state dict says of the model: its constants, and which head it has."""

import math
from collections.abc import Callable

import numpy as np

from maskformer.model.config import ModelConfig

HEAD = "sem_seg_head"


def is_headed(
    config: ModelConfig, shape_of: Callable[[str], tuple[int, ...] | None]
) -> bool | None:
    """Whether one tensor of a head, the first that a file has, is `config`'s; None without any.

    A quick look: `shape_of` gives the shape of a tensor by its key, None where it is not there.
    """
    classes, pixels, queries = (
        shape_of(f"{HEAD}.predictor.{name}")
        for name in ("class_embed.bias", "bias", "query_embed.weight")
    )
    if classes is not None:
        return not config.is_per_pixel and classes == (config.num_classes + 1,)
    if pixels is not None:
        return config.head == "PerPixelBaselineHead" and pixels == (config.num_classes,)
    if queries is not None:
        wanted = config.predictor.num_queries
        return config.head == "PerPixelBaselinePlusHead" and queries[:1] == (wanted,)
    return None


def constant(
    config: ModelConfig, leaf: str, shape: tuple[int, ...]
) -> Callable[[], np.ndarray] | None:
    """What computes a tensor that the configuration fixes, by the last part of its key.

    None for a weight.
    """
    if leaf == "relative_position_index":
        return lambda: relative_position_index(math.isqrt(shape[0]))
    if leaf == "empty_weight":
        return lambda: class_weights(config)
    return None


def relative_position_index(window: int) -> np.ndarray:
    """For each pair of pixels of a window, the row of the bias table, int64 [window², window²].

    Source: Liu et al. 2021, Swin Transformer, section 3.2: offsets run from 1 - M to M - 1 on both
    axes, rows counted in the order (dy, dx).
    """
    rows, columns = np.divmod(np.arange(window * window), window)
    dy = rows[:, None] - rows[None, :] + window - 1
    dx = columns[:, None] - columns[None, :] + window - 1
    return (dy * (2 * window - 1) + dx).astype(np.int64)


def class_weights(config: ModelConfig) -> np.ndarray:
    """The class loss's weights, float32 [num_classes + 1]: ones, the last for no-object."""
    weights = np.ones(config.num_classes + 1, np.float32)
    weights[-1] = config.loss.no_object_weight
    return weights

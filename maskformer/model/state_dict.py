"""What a MaskFormer's state dict says of the model: constants, and the names that tell a head."""

import math
from collections.abc import Callable

import numpy as np

from maskformer.model.config import ModelConfig


def constant(
    config: ModelConfig, leaf: str, shape: tuple[int, ...]
) -> Callable[[], np.ndarray] | None:
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

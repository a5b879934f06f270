"""Both sides of a stored training case: weights, batch and targets as each framework takes them."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from parity_tests import golden_files
from parity_tests.implementations.modeling.golden_runs import weights_of
from replication.sides.tf_side import build_port, port_batch
from replication.sides.torch_side import build_reference, reference_batch
from torch_reference.modeling.position_encoding import PositionEmbeddingSine


@lru_cache(maxsize=1)
def targets_of(case: str) -> Any:
    """Per image {"labels", "masks"} padded to the batch, or labels int64 [B,H,W] (per pixel)."""
    arrays, _ = golden_files.load(case)
    config, _, batch, _ = weights_of(case)
    count, height, width = batch.shape[:3]
    if config.is_per_pixel:
        labels = np.full((count, height, width), config.ignore_value, np.int64)
        for index in range(count):
            given = arrays[f"tgt_sem_seg_{index}"]
            labels[index, : given.shape[0], : given.shape[1]] = given
        return labels
    targets = []
    for index in range(count):
        given = golden_files.unpack_masks(arrays, f"tgt_masks_{index}")
        masks = np.zeros((len(given), height, width), bool)
        masks[:, : given.shape[1], : given.shape[2]] = given
        targets.append({"labels": arrays[f"tgt_labels_{index}"].astype(np.int64), "masks": masks})
    return targets


def torch_case(case: str, dtype: str, positions: str | None = None) -> tuple[Any, Any]:
    """The reference (dropout off) and its batch; position encodings in `positions`, if given."""
    config, weights, batch, sizes = weights_of(case)
    model = build_reference(config, weights, dtype)
    if positions is not None:
        for module in model.modules():
            if isinstance(module, PositionEmbeddingSine):
                module.register_forward_pre_hook(
                    lambda module, args: (args[0].to(getattr(torch, positions)),)
                )
    return model, reference_batch(config, batch, sizes, targets_of(case), dtype)


def tf_case(case: str, dtype: str) -> tuple[Any, Any]:
    """The port (dropout off) and its batch, with one more target slot than is needed."""
    config, weights, batch, sizes = weights_of(case)
    model = build_port(config, weights, dtype)
    targets = targets_of(case)
    most = None if config.is_per_pixel else max(len(t["labels"]) for t in targets) + 1
    return model, port_batch(config, batch, sizes, targets, dtype, most)

"""ImageNet backbones that a training starts from: names of other projects, window sizes.

Known are detectron2's ResNets (`R-50.pkl`, `R-101.pkl`, `R-103.pkl`), torchvision's ResNets, and
the Swin transformers of microsoft/Swin-Transformer.
"""

import math
import re
from collections.abc import Iterable

import numpy as np

from maskformer.family import FAMILIES

_TORCHVISION = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer(\d)\."), lambda found: f"res{int(found[1]) + 1}."),
    (re.compile(r"\bbn(\d)\."), r"conv\1.norm."),
    (re.compile(r"\bdownsample\.0\."), "shortcut."),
    (re.compile(r"\bdownsample\.1\."), "shortcut.norm."),
)

# What an ImageNet classifier has and a backbone does not.
_CLASSIFIER = {
    re.compile(r"(stem\.)?fc\.(weight|bias)|head\.(weight|bias)"): "the classifier",
    re.compile(r"norm\.(weight|bias)"): "the classifier's norm; each output has its own",
    re.compile(r".*\.num_batches_tracked"): "a counter that frozen batch norm does not have",
    re.compile(r".*\.attn_mask"): "a mask computed from the image's size",
}


def is_backbone(names: Iterable[str]) -> bool:
    """Whether the tensors are a backbone alone, under any known naming."""
    names = set(names)
    heads = tuple(f"{family.state.head}." for family in FAMILIES)
    if any(name.startswith(heads) for name in names):
        return False
    marks = ("res2.0.conv1.weight", "layer1.0.conv1.weight", "patch_embed.proj.weight")
    return any(mark in names or f"backbone.{mark}" in names for mark in marks)


def rename(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The state-dict key of each backbone tensor, and the reason for each one without a key.

    The first dict maps key to given name, the second given name to reason.
    """
    keys: dict[str, str] = {}
    left_out: dict[str, str] = {}
    names = list(names)
    is_torchvision = "layer1.0.conv1.weight" in names
    for name in names:
        reason = next((r for pattern, r in _CLASSIFIER.items() if pattern.fullmatch(name)), None)
        if reason:
            left_out[name] = reason
            continue
        key = name.removeprefix("backbone.")
        if is_torchvision:
            for pattern, replacement in _TORCHVISION:
                key = pattern.sub(replacement, key)
        keys[f"backbone.{key}"] = name
    return keys, left_out


def is_another_window(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether `name` is a Swin bias table of the wanted heads for another window size."""
    return (
        name.endswith("relative_position_bias_table")
        and len(shape) == 2
        and shape != wanted
        and shape[1] == wanted[1]
        and math.isqrt(shape[0]) ** 2 == shape[0]
    )


def resize_bias_table(table: np.ndarray, rows: int) -> np.ndarray:
    """A Swin bias table [(2M-1)², heads] for another window: [rows, heads], bicubic in both axes.

    Source: Liu et al. 2021, Swin Transformer, section 3.2: "bi-cubic interpolation" of the table
    when fine-tuning with another window size.
    """
    import torch

    old, new = math.isqrt(table.shape[0]), math.isqrt(rows)
    images = torch.from_numpy(np.ascontiguousarray(table.T)).reshape(1, -1, old, old)
    resized = torch.nn.functional.interpolate(
        images, size=(new, new), mode="bicubic", align_corners=False
    )
    return np.ascontiguousarray(resized.reshape(-1, rows).numpy().T)

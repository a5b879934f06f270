"""The original's stored network outputs, ready for post-processing, and how far results may be."""

import dataclasses
import functools
from typing import Any

import numpy as np

from maskformer.data.images import Size
from maskformer.inference.prediction import PanopticPrediction, padded_size
from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity_tests import golden_files

CASES = tuple(case for case in golden_files.cases() if "pred_masks" in golden_files.load(case)[0])
PANOPTIC_CASES = tuple(case for case in CASES if "panoptic_orig_0" in golden_files.load(case)[0])
PLUS_CASES = tuple(case for case in CASES if "ppplus" in case)
MASK_CASES = tuple(case for case in CASES if case not in PLUS_CASES)


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden case: float32 network outputs, and the sizes that belong to them."""

    name: str
    config: ModelConfig
    outputs: dict[str, np.ndarray]
    padded: Size
    image_sizes: list[Size]
    arrays: golden_files.Arrays
    texts: dict[str, Any]

    @property
    def resized(self) -> list[Size]:
        """The output sizes of the `*_resized_*` arrays."""
        return [(int(1.37 * h), int(1.21 * w)) for h, w in self.image_sizes]

    def at_thresholds(self, level: str) -> ModelConfig:
        """The config with the thresholds of level "orig", "mid" or "low"."""
        threshold, overlap = self.texts["thresholds"][level]
        changes = {"object_mask_threshold": threshold, "overlap_threshold": overlap}
        return self.config.replace(inference=changes)


@functools.lru_cache(maxsize=4)
def read(name: str) -> Case:
    """A golden case by name."""
    arrays, texts = golden_files.load(name)
    config = zoo.model_config(texts["config"])
    images = sum(key.startswith("image_") for key in arrays)
    sizes = [tuple(int(n) for n in arrays[f"image_{i}"].shape[1:]) for i in range(images)]
    keys = [key for key in ("pred_logits", "pred_masks") if key in arrays]
    assert all(int(arrays[f"{key}__stride"]) == 1 for key in keys)
    outputs = {key: arrays[key] for key in keys}
    return Case(
        name, config, outputs, padded_size(sizes, config.size_divisibility), sizes, arrays, texts
    )


def gap(actual: np.ndarray, reference: np.ndarray) -> float:
    """The larger of the relative L2 gap and the largest gap of an element over the tensor's RMS."""
    actual, reference = np.asarray(actual, np.float64), np.asarray(reference, np.float64)
    rms = np.sqrt(np.mean(reference**2))
    difference = actual - reference
    return float(max(np.sqrt(np.mean(difference**2)), np.abs(difference).max()) / rms)


def assert_below(name: str, value: float, limit: float, where: str) -> None:
    """Fails with the harness's one sentence."""
    assert value <= limit, f"{name} is {value:.3g}, but should be below {limit:.3g} [{where}]"


def nudged(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every value moved by one unit in the last place, up or down."""
    up = np.random.default_rng(seed).integers(0, 2, values.shape).astype(bool)
    return np.nextafter(values, np.where(up, np.inf, -np.inf).astype(values.dtype))


def segment_records(prediction: PanopticPrediction, config: ModelConfig) -> list[dict[str, Any]]:
    """Segments as the golden files record them."""
    things = config.inference.thing_ids
    return [
        {"id": s.id, "isthing": s.category_id in things, "category_id": s.category_id}
        for s in prediction.segments
    ]


def unexplained_pixels(
    actual: np.ndarray, expected: np.ndarray, weights: np.ndarray, error: float
) -> tuple[int, int]:
    """How many pixels differ, and how many of them although the decision was clear.

    Args: actual, expected [H,W]; weights [N,H,W], whose argmax decides a pixel: a decision is clear
    where the two largest are more than 2 * error apart.
    """
    differ = actual != expected
    if not differ.any():
        return 0, 0
    top = np.sort(weights[:, differ].astype(np.float64), axis=0)[-2:]
    margin = top[-1] - top[0] if len(top) > 1 else np.full(int(differ.sum()), np.inf)
    return int(differ.sum()), int((margin > 2 * error).sum())

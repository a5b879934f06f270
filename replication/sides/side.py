"""Both sides by name, and either opened as a user has it: a photograph in, predictions out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskformer.data.augmentation import evaluation_steps
from maskformer.data.images import Size, batch_images
from maskformer.inference.prediction import Prediction
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from parity.errors import InputError
from replication.sides.implementation import Frame, Implementation
from replication.sides.tf_side import TENSORFLOW
from replication.sides.torch_side import TORCH
from replication.sides.weights import Weights

IMPLEMENTATIONS = {one.name: one for one in (TORCH, TENSORFLOW)}
SIDES = REFERENCE, PORT = tuple(IMPLEMENTATIONS)


def implementation(name: str) -> Implementation:
    """The side `name`; raises InputError for an unknown one."""
    if name not in SIDES:
        raise InputError(f"--side is {name!r}", f"expected: {', '.join(SIDES)} or both")
    return IMPLEMENTATIONS[name]


def sides_of(option: str) -> tuple[str, ...]:
    """The sides that `--side` names; raises InputError for an unknown one."""
    return SIDES if option == "both" else (implementation(option).name,)


@dataclass(frozen=True)
class Side:
    """One implementation with its weights; `canvas` is at least the largest output size."""

    implementation: Implementation
    model: Any
    config: ModelConfig
    inputs: InputConfig
    dtype: str
    canvas: Size | None = None

    def outputs(self, image: np.ndarray) -> tuple[Mapping[str, Any], Frame]:
        """The network's outputs for one photograph, and where it lies in them.

        Args: image uint8 [H,W,3]; it is resized to the config's test size first.
        """
        batch, sizes = batch_images([self.resized(image)], self.config)
        inputs = self.implementation.inputs(batch, sizes, self.dtype)
        outputs = self.implementation.run(self.model, inputs)
        valid, size = tuple(int(side) for side in sizes[0]), image.shape[:2]
        return outputs, Frame(batch.shape[1:3], valid, size, self.canvas or size)

    def predict(self, image: np.ndarray, results: Sequence[str]) -> Prediction:
        """The results at the photograph's own size. Raises InputError for an unusable one."""
        outputs, frame = self.outputs(image)
        return self.implementation.predict(outputs, self.config, frame, results)

    def augmented_labels(self, image: np.ndarray) -> np.ndarray:
        """Labels int32 [H,W] of multi-scale and mirrored testing, at the photograph's size."""
        scores = self.implementation.predict_augmented(
            self.model, self.resized(image), self.config, self.inputs, image.shape[:2]
        )
        return scores.argmax(axis=0).astype(np.int32)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """The photograph at the config's test size, by Pillow's bilinear filter."""
        from maskformer.data.mapper import apply_to_image

        return apply_to_image(image, evaluation_steps(self.inputs, *image.shape[:2]))


def open_side(
    side: str | Implementation,
    config: ModelConfig,
    inputs: InputConfig,
    weights: Weights,
    canvas: Size | None = None,
    dtype: str = "float32",
) -> Side:
    """An implementation, or that of a name, ready to predict. Raises InputError for no name."""
    side = implementation(side) if isinstance(side, str) else side
    return Side(side, side.build(config, weights, dtype), config, inputs, dtype, canvas)

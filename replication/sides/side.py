"""Runs either implementation as a user would: a photograph in, segments and labels out."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskformer.data.augmentation import evaluation_steps
from maskformer.data.images import Size, batch_images
from maskformer.data.mapper import apply_to_image
from maskformer.inference.prediction import Prediction
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from parity.errors import InputError
from replication.sides import tf_side, torch_side
from replication.sides.weights import Weights

SIDES = ("torch", "tf")


@dataclass(frozen=True)
class Side:
    """One implementation with its weights; `canvas` is at least the largest output size."""

    name: str
    model: Any
    config: ModelConfig
    inputs: InputConfig
    dtype: str
    canvas: Size | None = None

    def outputs(self, image: np.ndarray) -> tuple[Mapping[str, Any], Size, Size]:
        """The network's outputs, the padded size and the valid size of one photograph.

        Args: image uint8 [H,W,3]; it is resized to the config's test size first.
        """
        batch, sizes = batch_images([self.resized(image)], self.config)
        if self.name == "torch":
            import torch

            inputs = torch_side.reference_inputs(batch, sizes, self.dtype)
            with torch.no_grad():
                outputs = self.model(**{key: torch.from_numpy(x) for key, x in inputs.items()})
        else:
            import tensorflow as tf

            inputs = tf_side.port_inputs(batch, sizes, self.dtype)
            outputs = self.model(**{key: tf.constant(x) for key, x in inputs.items()})
        return outputs, batch.shape[1:3], tuple(int(side) for side in sizes[0])

    def predict(self, image: np.ndarray, results: Sequence[str]) -> Prediction:
        """The results at the photograph's own size. Raises InputError for an unusable one."""
        outputs, padded, valid = self.outputs(image)
        size = image.shape[:2]
        return finish(
            self.name, self.config, outputs, padded, valid, size, results, self.canvas or size
        )

    def augmented_labels(self, image: np.ndarray) -> np.ndarray:
        """Labels int32 [H,W] of multi-scale and mirrored testing, at the photograph's size."""
        if self.name == "torch":
            from torch_reference.inference import predict_with_augmentation
        else:
            from tf_impl.inference import predict_with_augmentation
        scores = predict_with_augmentation(
            self.model, self.resized(image), self.config, self.inputs, image.shape[:2]
        )
        return scores.argmax(axis=0).astype(np.int32)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """The photograph at the config's test size, by Pillow's bilinear filter."""
        return apply_to_image(image, evaluation_steps(self.inputs, *image.shape[:2]))


def finish(
    name: str,
    config: ModelConfig,
    outputs: Mapping[str, Any],
    padded: Size,
    valid: Size,
    size: Size,
    results: Sequence[str],
    canvas: Size,
) -> Prediction:
    """The results that a side's post-processing makes of one image's outputs, tensors of its own.

    Args: padded, valid: size of the network's input and of the image in it; size: of the results;
    canvas: at least that large, the same for all images.
    """
    if name == "torch":
        from torch_reference.inference import predict

        return predict(outputs, config, padded, [valid], [size], results)[0]
    from tf_impl.inference import predict

    # Every padded size is another program: compiling each takes longer than running it.
    how = {"canvas": canvas, "jit_compile": False}
    return predict(outputs, config, padded, [valid], [size], results, **how)[0]


def open_side(
    name: str,
    config: ModelConfig,
    inputs: InputConfig,
    weights: Weights,
    canvas: Size | None = None,
    dtype: str = "float32",
) -> Side:
    """The implementation `name`, ready to predict. Raises InputError for an unknown name."""
    check_side(name)
    if name == "tf":
        # Images of many sizes are many programs; TensorFlow's warning is for loops by accident.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    build = torch_side.build_reference if name == "torch" else tf_side.build_port
    return Side(name, build(config, weights, dtype), config, inputs, dtype, canvas)


def sides_of(option: str) -> tuple[str, ...]:
    """The sides that `--side` names; raises InputError for an unknown one."""
    if option == "both":
        return SIDES
    check_side(option)
    return (option,)


def check_side(name: str) -> None:
    """Raises InputError unless `name` is a side."""
    if name not in SIDES:
        raise InputError(f"--side is {name!r}", f"expected: {', '.join(SIDES)} or both")


def results_of(config: ModelConfig) -> tuple[str, ...]:
    """What a config predicts that has a file format: labels, and panoptic segments if it can."""
    return ("labels", "panoptic") if config.inference.panoptic_on else ("labels",)

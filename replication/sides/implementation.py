"""What each side of a comparison brings: one model family in one framework."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maskformer.data.images import Size
from maskformer.inference.prediction import Prediction
from maskformer.model.config import ModelConfig
from maskformer.runs.run_settings import RunSettings


@dataclass(frozen=True)
class Frame:
    """Where an image lies and what is made of it, each as (height, width).

    `padded` is the size of the network's input, `valid` that of the image in it, `size` that of the
    results; `canvas` is at least that large and the same for all images.
    """

    padded: Size
    valid: Size
    size: Size
    canvas: Size


@dataclass(frozen=True)
class TrainerPlace:
    """Where a trainer writes and what it may use.

    `folder` is the run's own, `shared` that of files which both sides may read; `threads` are 0 for
    all cores; `visible` is whether progress is shown.
    """

    folder: Path
    shared: Path
    threads: int
    visible: bool


class Updates(Protocol):
    """A training run, one update at a time; dropout is off."""

    def step(self, images: np.ndarray, sizes: np.ndarray, targets: Any) -> dict[str, Any]:
        """One update: "losses", "total", "norm" as floats, "pairs" int [L,B,Q]."""

    def weights(self) -> dict[str, np.ndarray]:
        """The parameters by state-dict key, in torch's layout."""


@dataclass(frozen=True)
class Implementation:
    """One side; nothing of its framework is imported before one of its functions is called.

    Attributes:
        name: what options and records call it.
        title: what people call its framework.
        package: the framework's package.
        axes: names the axes of every tensor inside, as a recorder asks for them.
        build: model with `Weights` in a dtype: configuration, weights, dtype.
        drawn: the weights that a training without initial ones starts from, float32 by state-dict
            key in torch's layout: configuration, seed.
        inputs: its arguments, arrays: batch uint8 [N,H,W,3], sizes int32 [N,2], dtype.
        tensor: an array as a tensor.
        run: outputs of a model for `inputs`, without gradients; any size follows any other.
        batch: a batch of a training step: configuration, batch, sizes, targets, dtype.
        loss: the loss as a function of outputs: model, targets of a batch.
        updates: a run of updates: configuration, solver, weights, dtype, options of its own.
        predict: results of one image's outputs, tensors: outputs, configuration, frame, results.
        predict_augmented: scores [K,H,W] of multi-scale, mirrored testing: model, image at the test
            size, configuration, inputs, size of the result.
        trainer: module and words of its trainer's command line.
        check_backbone: raises InputError unless initial weights, which may be a backbone's alone,
            fit; None where the trainer takes complete weights only.
        set_threads: lets the framework compute with so many threads.
    """

    name: str
    title: str
    package: str
    axes: Callable[[str, str, str, int], str]
    build: Callable[..., Any]
    drawn: Callable[[ModelConfig, int], Mapping[str, np.ndarray]]
    inputs: Callable[[np.ndarray, np.ndarray, str], dict[str, Any]]
    tensor: Callable[[np.ndarray], Any]
    run: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
    batch: Callable[..., Any]
    loss: Callable[[Any, Any], Callable[[Any], Any]]
    updates: Callable[..., Updates]
    predict: Callable[[Mapping[str, Any], Any, Frame, Any], Prediction]
    predict_augmented: Callable[..., np.ndarray]
    trainer: Callable[[RunSettings, TrainerPlace], list[str]]
    check_backbone: Callable[[str, Any], None] | None
    set_threads: Callable[[int], None]

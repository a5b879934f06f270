"""One training step of a Keras 3 model; see `parity.frameworks.framework.Trainer`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from parity.frameworks.keras.backend import BACKEND
from parity.frameworks.keras.modules import TRAINING
from parity.frameworks.keras.weights import variables

GradientRecorder = BACKEND.GradientRecorder
tensor = BACKEND.tensor
differentiated = BACKEND.differentiated


def trained(model: keras.Model) -> dict[str, Any]:
    """Every trainable float variable by path, as its backend knows it."""
    return {path: BACKEND.held(one) for path, one in _trained(model).items()}


def _trained(model: keras.Model) -> dict[str, keras.Variable]:
    wanted = {id(variable) for variable in model.trainable_variables}
    return {path: one.tensor for path, one in variables(model).items() if id(one.tensor) in wanted}


@contextmanager
def training(model: keras.Model, inputs: tuple | dict) -> Iterator[tuple | dict]:
    """Inside it layers that are called without saying so train."""
    token = TRAINING.set(True)
    try:
        yield inputs
    finally:
        TRAINING.reset(token)


def optimizer(make: Callable[[Any], Any], model: keras.Model) -> keras.optimizers.Optimizer:
    """What `make` makes of the model, built for its trainable variables."""
    made = make(model)
    made.build(list(_trained(model).values()))
    return made


def update(
    optimizer: keras.optimizers.Optimizer,
    model: keras.Model,
    gradients: Mapping[str, np.ndarray | None],
    execution: str = "eager",
) -> dict[str, np.ndarray]:
    """One update by gradients by path, None for a variable that has none; what clipping leaves
    cannot be seen."""
    given = {path: one for path, one in _trained(model).items() if gradients.get(path) is not None}
    BACKEND.applied(optimizer, [*given.values()], [gradients[path] for path in given], execution)
    return {}


def arrive(optimizer: keras.optimizers.Optimizer, step: int) -> None:
    """As after `step` updates, whose moments are those that it holds."""
    optimizer.iterations.assign(step)


def rates(optimizer: keras.optimizers.Optimizer, step: int) -> list[float]:
    """The learning rate at `step`: of a schedule, which Keras asks for it, or of the optimizer."""
    rate = optimizer._learning_rate
    return [float(rate(step) if callable(rate) else optimizer.learning_rate)]


def recipe(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> None:
    """Not told: mistakes are made in the rule of a PyTorch optimizer."""

"""Keras 3, on the backend that this process has, behind
`parity.frameworks.framework.Framework`."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras

from parity.calls import Recorder
from parity.frameworks.keras import backend, training
from parity.frameworks.keras.backend import BACKEND, TITLES
from parity.frameworks.keras.float64 import kept_in as kept_in
from parity.frameworks.keras.modules import TRAINING, named_modules
from parity.frameworks.keras.precision import computing_in
from parity.frameworks.keras.weights import variables as variables
from parity.frameworks.shared.floors import measure_floors as measure_floors
from parity.masks import Masks
from parity.names import Naming
from parity.trace import Axes

NAME = f"Keras 3 on {TITLES[backend.NAME]}"
EXECUTIONS: tuple[str, ...] = BACKEND.EXECUTIONS
IMAGES: Mapping[int, str] = (
    {5: "NDHWC", 4: "NHWC"}
    if keras.config.image_data_format() == "channels_last"
    else {5: "NCDHW", 4: "NCHW"}
)
kept_in_building = kept_in  # layers fix their precision when they are built
explain = None
mend = None
copied = None
trainer = training
capture_effects = BACKEND.capture_effects


def converted(model: keras.Layer, dtype: str) -> keras.Layer:
    """The model as it is: it was built in its precision."""
    return model


def precision(dtype: str) -> AbstractContextManager:
    """Inside it layers are built and run to compute in `dtype`."""
    return computing_in(dtype)


def in_training(model: keras.Layer) -> bool:
    """Never: whether a layer trains is an argument of its call."""
    return False


def by_default(recorder: Recorder, inputs: tuple | dict) -> Any:
    """The outputs where nobody says whether the model trains, as a user calls it."""
    token = TRAINING.set(None)
    try:
        return recorder.forward(inputs)
    finally:
        TRAINING.reset(token)


def modules(model: keras.Layer) -> dict[str, keras.Layer]:
    """Every layer by path, those in private attributes too."""
    return named_modules(model, private=True)


def recorder(
    model: keras.Layer,
    axes: Axes,
    execution: str,
    *,
    only: str | None = None,
    copies: bool = True,
    naming: Naming | None = None,
    masks: Masks | None = None,
) -> Recorder:
    """The recorder of one execution; no tensor changes in place, so none needs a copy."""
    return BACKEND.Recorder(model, axes, execution, only=only, masks=masks, naming=naming)

"""Keras 3, on the backend that this process has, behind
`parity.frameworks.framework.Framework`."""

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager

import keras

from parity.calls import Recorder
from parity.errors import InputError
from parity.frameworks.keras.float64 import kept_in as kept_in
from parity.frameworks.keras.modules import named_modules
from parity.frameworks.keras.precision import computing_in
from parity.frameworks.keras.weights import variables as variables
from parity.names import Naming
from parity.trace import Axes

TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
BACKEND = keras.backend.backend()
if BACKEND not in TITLES:
    raise InputError(
        f"Keras runs on its {BACKEND} backend",
        f"its models can be compared on {', '.join(TITLES)}",
        "set KERAS_BACKEND to one of these before Keras is imported",
    )
_backend = importlib.import_module(f"parity.frameworks.keras.on_{BACKEND}")

NAME = f"Keras 3 on {TITLES[BACKEND]}"
EXECUTIONS: tuple[str, ...] = _backend.EXECUTIONS
IMAGES: Mapping[int, str] = (
    {5: "NDHWC", 4: "NHWC"}
    if keras.config.image_data_format() == "channels_last"
    else {5: "NCDHW", 4: "NCHW"}
)
kept_in_building = kept_in  # layers fix their precision when they are built
measure_floors = None
explain = None
GradientRecorder = _backend.GradientRecorder
capture_effects = _backend.capture_effects


def copied(model: keras.Layer, dtype: str) -> keras.Layer:
    """Raises InputError: what is built computes in the precision that it was built in."""
    raise InputError(
        f"a {type(model).__name__} of Keras was given, not what builds it",
        "its layers cannot change their precision",
        "give a function that builds it, such as `lambda: Model()`",
    )


def converted(model: keras.Layer, dtype: str) -> keras.Layer:
    """The model as it is: it was built in its precision."""
    return model


def precision(dtype: str) -> AbstractContextManager:
    """Inside it layers are built and run to compute in `dtype`."""
    return computing_in(dtype)


def in_training(model: keras.Layer) -> bool:
    """Never: whether a layer trains is an argument of its call."""
    return False


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
) -> Recorder:
    """The recorder of one execution; no tensor changes in place, so none needs a copy."""
    return _backend.Recorder(model, axes, execution, only=only, naming=naming)

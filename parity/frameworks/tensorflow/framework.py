"""TensorFlow, with tf_keras or without, behind `parity.frameworks.framework.Framework`."""

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import tensorflow as tf

from parity.errors import InputError
from parity.frameworks.shared.floors import measure_floors as measure_floors
from parity.frameworks.tensorflow import training
from parity.frameworks.tensorflow.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.tensorflow.capture import Recorder
from parity.frameworks.tensorflow.capture import capture_effects as capture_effects
from parity.frameworks.tensorflow.float64 import kept_in as kept_in
from parity.frameworks.tensorflow.modules import named_modules
from parity.frameworks.tensorflow.weights import variables as variables
from parity.judge import MIXED
from parity.masks import Masks
from parity.names import Naming
from parity.trace import Axes

NAME = "TensorFlow"
PRECISIONS = (MIXED,)
IMAGES: Mapping[int, str] = {5: "NDHWC", 4: "NHWC"}
kept_in_building = kept_in  # layers fix their precision when they are built
explain = None
mend = None
copied = None
trainer = training


def converted(model: tf.Module, dtype: str) -> tf.Module:
    """The model as it is: it was built in its precision."""
    return model


def precision(dtype: str) -> AbstractContextManager:
    """Inside it layers of tf_keras are built to compute in `dtype`, where it is installed."""
    if importlib.util.find_spec("tf_keras") is None:
        return nullcontext()
    from parity.frameworks.tensorflow.precision import computing_in

    return computing_in(dtype)


def on_device(device: str) -> AbstractContextManager:
    """Inside it models run on the first "gpu" or "tpu" of this machine.

    Raises InputError where there is none.
    """
    kind = device.upper()
    if kind == "TPU" and not tf.config.list_logical_devices(kind):
        try:
            tf.distribute.cluster_resolver.TPUClusterResolver.connect("local")
        except (ValueError, tf.errors.OpError) as error:
            raise _no_device(kind, str(error)) from error
    found = tf.config.list_logical_devices(kind)
    if not found:
        raise _no_device(kind, "TensorFlow lists none")
    return tf.device(found[0].name)


def _no_device(kind: str, why: str) -> InputError:
    return InputError(
        f"there is no {kind} that TensorFlow can use",
        why.partition("\n")[0] or "TensorFlow says no more",
        "give --device cpu, or install the TensorFlow that is made for it",
    )


def in_training(model: tf.Module) -> bool:
    """Never: whether a layer trains is an argument of its call."""
    return False


def modules(model: tf.Module) -> dict[str, tf.Module]:
    """Every module by path, those in private attributes too."""
    return named_modules(model, private=True)


def recorder(
    model: tf.Module,
    axes: Axes,
    execution: str,
    *,
    only: str | None = None,
    copies: bool = True,
    naming: Naming | None = None,
    masks: Masks | None = None,
) -> Recorder:
    """The recorder of one execution; no tensor changes in place, so none needs a copy."""
    return Recorder(model, axes, execution, only=only, masks=masks, naming=naming)

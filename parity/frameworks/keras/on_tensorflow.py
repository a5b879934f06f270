"""Keras 3 on its TensorFlow backend."""

from typing import Any

import keras
import tensorflow as tf

from parity.frameworks.keras import modules
from parity.frameworks.keras.weights import variables
from parity.frameworks.tensorflow import capture, gradients
from parity.frameworks.tensorflow.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.tensorflow.capture import capture_effects as capture_effects
from parity.frameworks.tensorflow.training import differentiated as differentiated
from parity.frameworks.tensorflow.training import tensor as tensor


class _Layers:
    """How the recorders of TensorFlow find and call the layers of Keras 3."""

    named_modules = staticmethod(modules.named_modules)
    call_signature = staticmethod(modules.call_signature)
    is_symbolic = staticmethod(modules.is_symbolic)
    variables = staticmethod(variables)

    def _called(self, module: Any, args: tuple, kwargs: dict) -> Any:
        return modules.called(module, args, kwargs)


class Recorder(_Layers, capture.Recorder):
    """The recorder of `parity.frameworks.tensorflow`, of layers of Keras 3."""


class GradientRecorder(_Layers, gradients.GradientRecorder):
    """The recorder of gradients of `parity.frameworks.tensorflow`, of layers of Keras 3."""


def held(variable: keras.Variable) -> tf.Variable:
    """What TensorFlow knows a variable by."""
    return variable.value


def applied(optimizer: Any, variables: list, gradients: list, execution: str) -> None:
    """One update of the variables."""

    def apply(*given: tf.Tensor) -> None:
        optimizer.apply(list(given), variables)

    if execution != "eager":
        apply = tf.function(apply, autograph=False, jit_compile=execution == "xla")
    apply(*(tf.constant(one, var.dtype) for one, var in zip(gradients, variables, strict=True)))

"""Keras 3 on its TensorFlow backend."""

from typing import Any

from parity.frameworks.keras import modules
from parity.frameworks.tensorflow import capture, gradients
from parity.frameworks.tensorflow.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.tensorflow.capture import capture_effects as capture_effects


class _Layers:
    """How the recorders of TensorFlow find and call the layers of Keras 3."""

    named_modules = staticmethod(modules.named_modules)
    call_signature = staticmethod(modules.call_signature)
    is_symbolic = staticmethod(modules.is_symbolic)

    def _called(self, module: Any, args: tuple, kwargs: dict) -> Any:
        return modules.called(module, args, kwargs)


class Recorder(_Layers, capture.Recorder):
    """The recorder of `parity.frameworks.tensorflow`, of layers of Keras 3."""


class GradientRecorder(_Layers, gradients.GradientRecorder):
    """The recorder of gradients of `parity.frameworks.tensorflow`, of layers of Keras 3."""

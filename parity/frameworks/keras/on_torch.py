"""Keras 3 on its torch backend."""

from typing import Any

import keras
import torch

from parity.calls import largest_gap
from parity.frameworks.keras import modules
from parity.frameworks.keras.weights import variables
from parity.frameworks.torch import capture, gradients
from parity.frameworks.torch.training import differentiated as differentiated
from parity.frameworks.torch.training import tensor as tensor

EXECUTIONS = ("eager",)


class _Layers:
    """How the recorders of PyTorch find and call the layers of Keras 3."""

    call_signature = staticmethod(modules.call_signature)
    variables = staticmethod(variables)

    def _find(self, found: Any) -> None:
        if self.model.built:
            private = self.naming is not None
            super()._find(modules.named_modules(self.model, private=private).items())

    def modules_of(self, inputs: tuple | dict) -> dict[str, keras.Layer]:
        """The layers by path; a model that is not built yet is called on `inputs`."""
        if not self.modules:
            if not self.model.built:
                modules.called(self.model, *capture.to_tensors(inputs))
            self._find(())
        return self.modules

    def _called(self, module: keras.Layer, args: tuple, kwargs: dict) -> Any:
        return modules.called(module, args, kwargs)


class Recorder(_Layers, capture.Recorder):
    """The recorder of `parity.frameworks.torch`, of layers of Keras 3."""


class GradientRecorder(_Layers, gradients.GradientRecorder):
    """The recorder of gradients of `parity.frameworks.torch`, of layers of Keras 3."""


def held(variable: keras.Variable) -> torch.nn.Parameter:
    """What PyTorch knows a variable by."""
    return variable.value


def applied(optimizer: Any, variables: list, gradients: list, execution: str) -> None:
    """One update of the variables."""
    with torch.no_grad():
        optimizer.apply(list(map(tensor, gradients)), variables)


def capture_effects(recorder: Recorder, inputs: tuple | dict, captured: Any) -> dict[str, float]:
    """What reading the taps changes, the largest l2 gap of an output."""
    return {"same program": largest_gap(captured, recorder.plain(inputs))}

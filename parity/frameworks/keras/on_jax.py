"""Keras 3 on its JAX backend."""

from typing import Any

import keras

from parity import calls
from parity.calls import Watch, watching
from parity.frameworks.jax import capture
from parity.frameworks.jax.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.jax.capture import capture_effects as capture_effects
from parity.frameworks.jax.capture import to_tensors
from parity.frameworks.keras import modules

GradientRecorder = None


class Recorder(capture.Recorder):
    """The recorder of `parity.frameworks.jax`, of layers of Keras 3."""

    call_signature = staticmethod(modules.call_signature)
    is_symbolic = staticmethod(modules.is_symbolic)

    def _found(self, inputs: tuple | dict) -> dict[str, keras.Layer]:
        if not self.model.built:
            modules.called(self.model, *calls.split_inputs(to_tensors(inputs)))
        return modules.named_modules(self.model, private=self.naming is not None)

    def _state(self) -> list[Any]:
        return [variable.value for variable in self.model.variables]

    def _applied(
        self, watch: Watch | None, state: Any, module: keras.Layer, args: tuple, kwargs: dict
    ) -> Any:
        held = zip(self.model.variables, state, strict=True)
        with keras.StatelessScope(state_mapping=held):
            if watch is None:
                return modules.called(module, args, kwargs)
            with watching(map(type, self.modules.values()), watch):
                return modules.called(module, args, kwargs)

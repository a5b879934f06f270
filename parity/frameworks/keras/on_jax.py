"""Keras 3 on its JAX backend."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import jax
import keras
from keras.src.backend.jax import random

from parity import calls
from parity.calls import Watch, watching
from parity.frameworks.jax import capture, training
from parity.frameworks.jax.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.jax.capture import capture_effects as capture_effects
from parity.frameworks.jax.capture import to_tensors
from parity.frameworks.jax.gradients import Gradients
from parity.frameworks.jax.training import differentiated as differentiated
from parity.frameworks.jax.training import tensor as tensor
from parity.frameworks.keras import modules
from parity.frameworks.keras.weights import variables
from parity.masks import Keeps


class Recorder(capture.Recorder):
    """The recorder of `parity.frameworks.jax`, of layers of Keras 3."""

    call_signature = staticmethod(modules.call_signature)
    variables = staticmethod(variables)
    is_symbolic = staticmethod(modules.is_symbolic)

    def _fed(self, keeps: Keeps) -> AbstractContextManager:
        return _dropping(keeps)

    def _found(self, inputs: tuple | dict) -> dict[str, keras.Layer]:
        if not self.model.built:
            modules.called(self.model, *calls.split_inputs(to_tensors(inputs)))
        return modules.named_modules(self.model, private=self.naming is not None)

    def _state(self) -> list[Any]:
        return [variable.value for variable in self.model.variables]

    def _applied(
        self, watch: Watch | None, state: Any, module: keras.Layer, args: tuple, kwargs: dict
    ) -> Any:
        variables = self.model.variables
        with keras.StatelessScope(state_mapping=zip(variables, state, strict=True)) as scope:
            if watch is None:
                outputs = modules.called(module, args, kwargs)
            else:
                with watching(map(type, self.modules.values()), watch):
                    outputs = modules.called(module, args, kwargs)
        after = [(variable, scope.get_current_value(variable)) for variable in variables]
        self.changed = [
            (variable.assign, value)
            for (variable, value), before in zip(after, state, strict=True)
            if value is not before
        ]
        return outputs


@contextmanager
def _dropping(keeps: Keeps) -> Iterator[None]:
    """Inside it the dropout of Keras' JAX backend takes what `keeps` gives."""
    original = random.dropout

    def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> jax.Array:
        shape = [
            size if asked is None else asked
            for size, asked in zip(inputs.shape, noise_shape or inputs.shape, strict=True)
        ]
        kept = keeps(tuple(shape), 1.0 - rate)
        return inputs if kept is None else jax.numpy.where(kept, inputs / (1.0 - rate), 0.0)

    random.dropout = dropout
    try:
        yield
    finally:
        random.dropout = original


class GradientRecorder(Gradients, Recorder):
    """Records gradients, of layers of Keras 3."""


def held(variable: keras.Variable) -> Callable[[], Any]:
    """What gives the array of a variable."""
    return lambda: variable.value


def applied(optimizer: Any, variables: list, gradients: list, execution: str) -> None:
    """One update of the variables."""
    everything = [*variables, *optimizer.variables]

    def apply(state: list[Any], gradients: list[Any]) -> list[Any]:
        mapping = zip(everything, state, strict=True)
        with keras.StatelessScope(state_mapping=mapping) as scope:
            optimizer.apply(gradients, variables)
        return [scope.get_current_value(variable) for variable in everything]

    run = jax.jit(apply) if execution == "jit" else apply
    after = run([variable.value for variable in everything], list(map(training.tensor, gradients)))
    for variable, value in zip(everything, after, strict=True):
        variable.assign(value)

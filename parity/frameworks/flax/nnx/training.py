"""One training step of a model of `flax.nnx`; see `parity.frameworks.framework.Trainer`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from flax import nnx

from parity.frameworks.flax.nnx.capture import Recorder, modules, variables
from parity.frameworks.flax.updates import Optax, made
from parity.frameworks.flax.updates import arrive as arrive
from parity.frameworks.flax.updates import rates as rates
from parity.frameworks.flax.updates import recipe as recipe
from parity.frameworks.jax.gradients import Gradients
from parity.frameworks.jax.training import differentiated as differentiated
from parity.frameworks.jax.training import tensor as tensor

MODES = ("deterministic", "use_running_average")


class GradientRecorder(Gradients, Recorder):
    """Records gradients, of modules of `flax.nnx`."""


def trained(model: nnx.Module) -> dict[str, Any]:
    """What gives the array of every float `nnx.Param`, by path."""
    return {
        path: one.tensor.get_value
        for path, one in variables(model).items()
        if isinstance(one.tensor, nnx.Param)
    }


@contextmanager
def training(model: nnx.Module, inputs: tuple | dict) -> Iterator[tuple | dict]:
    """The model in training mode; every module is in its own mode again afterwards."""
    modes = [
        (module, name, vars(module)[name])
        for module in modules(model).values()
        for name in MODES
        if name in vars(module)
    ]
    model.train()
    try:
        yield inputs
    finally:
        for module, name, mode in modes:
            setattr(module, name, mode)


def optimizer(make: Callable[[Any], Any], model: nnx.Module) -> Optax:
    """The transformation that `make` makes of the model, for its parameters by path."""
    return made(make(model), _parameters(model))


def update(
    optimizer: Optax,
    model: nnx.Module,
    gradients: Mapping[str, np.ndarray | None],
    execution: str = "eager",
) -> dict[str, np.ndarray]:
    """One update by gradients by path, zeros for a parameter that has none; what clipping leaves
    cannot be seen."""
    known = variables(model)
    for path, array in optimizer.updated(_parameters(model), gradients, execution).items():
        known[path].assign(array)
    return {}


def _parameters(model: nnx.Module) -> dict[str, Any]:
    return {path: read() for path, read in trained(model).items()}

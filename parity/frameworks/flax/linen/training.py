"""One training step of a model of `flax.linen`; see `parity.frameworks.framework.Trainer`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from parity.frameworks.flax.calls import call_signature
from parity.frameworks.flax.linen.capture import Held, Recorder, taken, variables
from parity.frameworks.flax.updates import Optax, made
from parity.frameworks.flax.updates import arrive as arrive
from parity.frameworks.flax.updates import rates as rates
from parity.frameworks.flax.updates import recipe as recipe
from parity.frameworks.jax.gradients import Gradients
from parity.frameworks.jax.training import differentiated as differentiated
from parity.frameworks.jax.training import tensor as tensor

MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}


class GradientRecorder(Gradients, Recorder):
    """Records gradients, of modules of `flax.linen`."""


def trained(model: Held) -> dict[str, Any]:
    """What gives the array of every float of the collection `params`, by path."""
    return {
        path: partial(taken, model.variables, one.tensor)
        for path, one in variables(model).items()
        if one.tensor[0] == "params"
    }


@contextmanager
def training(model: Held, inputs: tuple | dict) -> Iterator[tuple | dict]:
    """The inputs, and those of `MODES` that the model takes."""
    signature = call_signature(model.module)
    given = inputs if isinstance(inputs, dict) else signature.bind_partial(*inputs).arguments
    yield {**given, **{name: one for name, one in MODES.items() if name in signature.parameters}}


def optimizer(make: Callable[[Any], Any], model: Held) -> Optax:
    """The transformation that `make` makes of the model, for its parameters by path."""
    return made(make(model), _parameters(model))


def update(
    optimizer: Optax,
    model: Held,
    gradients: Mapping[str, np.ndarray | None],
    execution: str = "eager",
) -> dict[str, np.ndarray]:
    """One update by gradients by path, zeros for a parameter that has none; what clipping leaves
    cannot be seen."""
    known = variables(model)
    for path, array in optimizer.updated(_parameters(model), gradients, execution).items():
        known[path].assign(array)
    return {}


def _parameters(model: Held) -> dict[str, Any]:
    return {path: read() for path, read in trained(model).items()}

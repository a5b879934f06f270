"""Modules of `flax.nnx` behind `parity.frameworks.framework.Framework`."""

from collections.abc import Mapping

from flax import nnx

from parity.frameworks.flax.nnx import training
from parity.frameworks.flax.nnx.capture import Recorder, variables_in
from parity.frameworks.flax.nnx.capture import modules as modules
from parity.frameworks.flax.nnx.capture import variables as variables
from parity.frameworks.jax.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.jax.capture import capture_effects as capture_effects
from parity.frameworks.jax.float64 import kept_in as kept_in
from parity.frameworks.jax.precision import computing_in, is_float
from parity.frameworks.jax.precision import computing_in as precision
from parity.frameworks.shared.floors import measure_floors as measure_floors
from parity.masks import Masks
from parity.names import Naming
from parity.trace import Axes

NAME = "Flax nnx"
IMAGES: Mapping[int, str] = {5: "NDHWC", 4: "NHWC"}
DTYPES = ("dtype", "param_dtype")  # attributes that fix what a layer computes or holds
kept_in_building = kept_in  # tables are made when a module is built
explain = None
mend = None
trainer = training
__all__ = ["precision"]


def copied(model: nnx.Module, dtype: str) -> nnx.Module:
    """A copy of the model that computes in `dtype`."""
    return converted(nnx.clone(model), dtype)


def converted(model: nnx.Module, dtype: str) -> nnx.Module:
    """The model itself, made to compute in `dtype`: its variables, and what its layers fix."""
    with computing_in(dtype):
        for module in modules(model).values():
            for name in DTYPES:
                if is_float(vars(module).get(name)):
                    setattr(module, name, dtype)
            for _, held in variables_in(module):
                held.set_value(held.get_value().astype(dtype))
    return model


def in_training(model: nnx.Module) -> bool:
    """Whether a dropout or a batch norm of the model is in training mode."""
    return any(
        (isinstance(module, nnx.Dropout) and module.rate > 0 and module.deterministic is False)
        or (isinstance(module, nnx.BatchNorm) and module.use_running_average is False)
        for module in modules(model).values()
    )


def recorder(
    model: nnx.Module,
    axes: Axes,
    execution: str,
    *,
    only: str | None = None,
    copies: bool = True,
    naming: Naming | None = None,
    masks: Masks | None = None,
) -> Recorder:
    """The recorder of one execution; no array changes in place, so none needs a copy."""
    return Recorder(model, axes, execution, only=only, masks=masks, naming=naming)

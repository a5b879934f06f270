"""Modules of `flax.linen` behind `parity.frameworks.framework.Framework`."""

from collections.abc import Mapping

import jax
from flax import linen

from parity.errors import InputError
from parity.frameworks.flax.linen import training
from parity.frameworks.flax.linen.capture import Held, Recorder, plain
from parity.frameworks.flax.linen.capture import modules as modules
from parity.frameworks.flax.linen.capture import variables as variables
from parity.frameworks.jax.capture import EXECUTIONS as EXECUTIONS
from parity.frameworks.jax.capture import capture_effects as capture_effects
from parity.frameworks.jax.float64 import kept_in as kept_in
from parity.frameworks.jax.precision import computing_in, is_float
from parity.frameworks.jax.precision import computing_in as precision
from parity.frameworks.shared.floors import measure_floors as measure_floors
from parity.masks import Masks
from parity.names import Naming
from parity.trace import Axes

NAME = "Flax linen"
IMAGES: Mapping[int, str] = {5: "NDHWC", 4: "NHWC"}
DTYPES = ("dtype", "param_dtype")  # fields of a module that fix what it computes or holds
kept_in_building = kept_in  # tables are made when a module is built
explain = None
mend = None
trainer = training
__all__ = ["precision"]


def copied(model: linen.Module, dtype: str) -> Held:
    """Module and variables of a bound module, to compute in `dtype`; InputError for another."""
    if model.scope is None:
        raise InputError(
            f"the {type(model).__name__} of Flax linen has no variables",
            "a module of linen is given together with them",
            "give `module.bind(variables)`, or a function that returns it",
        )
    module, variables = model.unbind()
    fixed = {name: dtype for name in DTYPES if is_float(getattr(module, name, None))}
    with computing_in(dtype):
        held = jax.tree.map(
            lambda array: array.astype(dtype) if is_float(array.dtype) else array,
            plain(variables),
        )
    # The kinds of modules that a run of the copy finds are those of the model that was given.
    kinds = vars(model).get("_parity_kinds", {})
    object.__setattr__(model, "_parity_kinds", kinds)
    return Held(module.clone(**fixed), held, kinds)


converted = copied


def in_training(model: Held) -> bool:
    """Never: whether a layer trains is an argument of its call, or a field that its caller sets."""
    return False


def recorder(
    model: Held,
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

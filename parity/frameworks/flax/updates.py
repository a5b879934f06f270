"""Updates of the parameters of a Flax model by a transformation of Optax."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Arrays = Mapping[str, jax.Array]


@dataclass
class Optax:
    """A transformation and its state, for parameters in a dictionary by path."""

    transformation: optax.GradientTransformation
    state: Any

    def updated(
        self, parameters: Arrays, gradients: Mapping[str, np.ndarray | None], execution: str
    ) -> dict[str, jax.Array]:
        """The parameters after one update by these gradients, zeros where there is none."""
        given = {
            path: jnp.zeros_like(one)
            if gradients.get(path) is None
            else jnp.asarray(gradients[path], one.dtype)
            for path, one in parameters.items()
        }

        def apply(given: Any, state: Any, parameters: Any) -> Any:
            updates, state = self.transformation.update(given, state, parameters)
            return optax.apply_updates(parameters, updates), state

        run = jax.jit(apply) if execution == "jit" else apply
        after, self.state = run(given, self.state, dict(parameters))
        return after


def made(transformation: optax.GradientTransformation, parameters: Arrays) -> Optax:
    """The transformation before its first update."""
    return Optax(transformation, transformation.init(dict(parameters)))


def arrive(optimizer: Optax, step: int) -> None:
    """As after `step` updates, whose moments are those that it holds."""
    optimizer.state = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, step) if _counts(path) else leaf, optimizer.state
    )


def _counts(path: tuple) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == "count"


def rates(optimizer: Optax, step: int) -> None:
    """Not told: a transformation does not say its rate."""


def recipe(optimizer: Optax, model: Any) -> None:
    """Not told: mistakes are made in the rule of a PyTorch optimizer."""

"""What one training step of a model that computes with JAX takes, whatever it is made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.calls import each_array, fill, flatten, is_array
from parity.frameworks.jax.capture import to_array
from parity.frameworks.jax.precision import is_float
from parity.gradients import terms_of


def differentiated(
    loss: Callable[..., Any], outputs: Any, targets: tuple, execution: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The terms of the loss, and the gradient of their sum by each float output."""
    template, arrays = flatten(outputs, is_array, records=True)
    given = {name: jnp.asarray(array) for name, array in arrays}
    wanted = {name: array for name, array in given.items() if is_float(array.dtype)}

    def run(wanted: dict[str, Any], others: dict[str, Any], targets: list[Any]) -> Any:
        leaves = {**others, **wanted}
        terms = terms_of(loss(fill(template, lambda slot: leaves[slot.name]), *targets))
        return sum(terms.values()), {name: jnp.asarray(term) for name, term in terms.items()}

    function = jax.grad(run, has_aux=True)
    if execution == "jit":
        function = jax.jit(function)
    others = {name: array for name, array in given.items() if name not in wanted}
    gradients, terms = function(wanted, others, list(map(tensor, targets)))
    return (
        {name: np.asarray(float(term)) for name, term in terms.items()},
        {name: to_array(gradient) for name, gradient in gradients.items()},
    )


def tensor(value: Any) -> Any:
    """A structure with arrays of JAX in place of those of NumPy."""
    return each_array(value, jnp.asarray)

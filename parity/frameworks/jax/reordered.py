"""Computes what a model does with JAX with the terms of its sums in another order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax import lax


@contextmanager
def reordered() -> Iterator[None]:
    """Compute every sum, product of matrices and convolution with its terms in reverse order.

    Functions that are compiled run step by step inside, so that each step can be turned around.
    """
    originals = {primitive: primitive.bind for primitive in _REVERSALS}
    try:
        for primitive, reverse in _REVERSALS.items():
            primitive.bind = _turned(originals[primitive], reverse)
        with jax.disable_jit():
            yield
    finally:
        for primitive in originals:
            del primitive.bind


def _turned(bind: Callable, reverse: Callable) -> Callable:
    def turned(*operands: Any, **parts: Any) -> Any:
        # What is only traced is turned around when it runs.
        if not any(isinstance(one, jax.core.Tracer) for one in operands):
            operands = reverse(*operands, **parts)
        return bind(*operands, **parts)

    return turned


def _reverse_product(a: Any, b: Any, *, dimension_numbers: Any, **parts: Any) -> tuple[Any, Any]:
    (ours, theirs), _ = dimension_numbers
    return lax.rev(a, ours), lax.rev(b, theirs)


def _reverse_convolution(
    x: Any,
    kernel: Any,
    *,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **parts: Any,
) -> tuple[Any, Any]:
    if feature_group_count != 1 or batch_group_count != 1:
        return x, kernel
    channels = dimension_numbers.lhs_spec[1], dimension_numbers.rhs_spec[1]
    return lax.rev(x, channels[:1]), lax.rev(kernel, channels[1:])


def _reverse_sum(x: Any, *, axes: Any, **parts: Any) -> tuple[Any]:
    return (lax.rev(x, axes),)


_REVERSALS = {
    lax.dot_general_p: _reverse_product,
    lax.conv_general_dilated_p: _reverse_convolution,
    lax.reduce_sum_p: _reverse_sum,
}

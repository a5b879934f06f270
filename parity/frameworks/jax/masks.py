"""Feeds given dropout masks to a model that computes with JAX, in place of its random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from parity.masks import Keeps


@contextmanager
def fed_masks(keeps: Keeps) -> Iterator[None]:
    """Inside it every draw of `jax.random.bernoulli` takes what `keeps` gives.

    In a traced function the masks become constants.
    """
    original = jax.random.bernoulli

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, **options: Any) -> jax.Array:
        kept = keeps(tuple(shape or ()), float(p))
        # Attention multiplies by what is kept, divided by `p`; layers of dropout are told apart.
        return jax.numpy.full(shape, p) if kept is None else jax.numpy.asarray(kept)

    jax.random.bernoulli = bernoulli
    try:
        yield
    finally:
        jax.random.bernoulli = original

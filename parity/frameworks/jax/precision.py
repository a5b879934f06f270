"""In which precision JAX computes, and which dtypes are floats."""

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp


def computing_in(dtype: str) -> AbstractContextManager:
    """Inside it float64 is what it says where `dtype` is that, and float32 otherwise."""
    return jax.enable_x64(dtype == "float64")


def is_float(dtype: Any) -> bool:
    """Whether a dtype, if any, is one of floats, bfloat16 among them."""
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)

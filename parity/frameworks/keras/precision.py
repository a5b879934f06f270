"""In which precision Keras 3 builds and runs its layers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import keras
from keras.src.backend.common import dtypes
from keras.src.utils.naming import reset_uids

FLOAT64 = "float64"


@contextmanager
def computing_in(dtype: str) -> Iterator[None]:
    """Layers that are built inside compute in `dtype`, unless they fix another.

    Their automatic names count from 1, so that a model that is built twice has the same names.
    """
    before = keras.config.floatx(), keras.config.dtype_policy()
    reset_uids()
    with ExitStack() as stack:
        if dtype == FLOAT64:
            stack.enter_context(_doubles())
        try:
            keras.config.set_floatx(dtype)
            keras.config.set_dtype_policy(dtype)
            yield
        finally:
            keras.config.set_floatx(before[0])
            keras.config.set_dtype_policy(before[1])


@contextmanager
def _doubles() -> Iterator[None]:
    """Inside it float64 stays what it is: Keras' own arithmetic of dtypes makes float32 of it on
    every backend but TensorFlow, and JAX has none unless it is told to."""
    table = dtypes.BIT64_TO_BIT32_DTYPE
    before = table[FLOAT64]
    with ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        table[FLOAT64] = FLOAT64
        try:
            yield
        finally:
            table[FLOAT64] = before

"""In which precision Keras builds its layers."""

from collections.abc import Iterator
from contextlib import contextmanager

import tf_keras

from parity.judge import MIXED


@contextmanager
def computing_in(dtype: str) -> Iterator[None]:
    """Layers that are built inside compute in `dtype`, unless they fix another.

    Their automatic names count from 1, so that a model that is built twice has the same names.
    """
    backend, precision = tf_keras.backend, tf_keras.mixed_precision
    before = backend.floatx(), precision.global_policy()
    backend.reset_uids()
    try:
        backend.set_floatx("float32" if dtype == MIXED else dtype)
        precision.set_global_policy(dtype)
        yield
    finally:
        backend.set_floatx(before[0])
        precision.set_global_policy(before[1])

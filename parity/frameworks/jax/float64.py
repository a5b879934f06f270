"""Keeps models that compute with JAX in float64 that cast to float32 inside."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
from jax._src import dtypes, random

from parity.frameworks.shared.interceptions import note


@contextmanager
def kept_in(dtype: str) -> Iterator[None]:
    """Inside it a model in float64 stays there, whatever it casts to float32; others do as they do.

    Every dtype that JAX is asked for by name passes one function, which is replaced: casts, arrays
    that are made, what `jax.nn` computes in float32. Programs that JAX keeps are told apart by
    whether it computes in float64, so that none of a float32 run is touched.
    """
    if dtype != "float64":
        yield
        return
    own = dtypes.check_and_canonicalize_user_dtype

    @wraps(own)
    def canonical(given: Any, fun_name: str | None = None) -> Any:
        found = own(given, fun_name)
        if found != np.float32 or _is_drawing():
            return found
        note(f"{fun_name or 'a dtype'}(float32) keeps float64")
        return np.dtype(np.float64)

    dtypes.check_and_canonicalize_user_dtype = canonical
    try:
        yield
    finally:
        dtypes.check_and_canonicalize_user_dtype = own


def _is_drawing() -> bool:
    """Whether JAX draws random numbers now: in float64 they would be others than in float32."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(random.__name__):
            return True
        if not name.startswith("jax"):
            return False
        frame = frame.f_back
    return False

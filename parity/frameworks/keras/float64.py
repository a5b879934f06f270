"""Keeps models of Keras 3 in float64 that cast to float32 inside, on any backend."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import keras
from keras.src.backend.common import variables

from parity.frameworks.shared.interceptions import note

FLOAT32 = "float32"


@contextmanager
def kept_in(dtype: str) -> Iterator[None]:
    """Inside it a model in float64 stays there, whatever it casts to float32; others do as they do.

    Every dtype that Keras is asked for by name passes one function, which is replaced wherever a
    module of Keras has it.
    """
    if dtype != "float64":
        yield
        return
    own = variables.standardize_dtype

    @wraps(own)
    def standardize_dtype(given: Any) -> str:
        found = own(given)
        if found != FLOAT32 or given is None:
            return found
        note("float32 is asked for, float64 is kept")
        return "float64"

    with ExitStack() as stack:
        if keras.backend.backend() == "tensorflow":
            from parity.frameworks.tensorflow.float64 import kept_in as of_backend

            stack.enter_context(of_backend(dtype))
        elif keras.backend.backend() == "torch":
            from parity.frameworks.torch.float64 import kept_in as of_backend

            stack.enter_context(of_backend(dtype))
        elif keras.backend.backend() == "jax":
            from parity.frameworks.jax.float64 import kept_in as of_backend

            stack.enter_context(of_backend(dtype))
        holders = [
            module
            for name, module in sys.modules.copy().items()
            if name.startswith("keras.") and vars(module).get("standardize_dtype") is own
        ]
        for module in holders:
            module.standardize_dtype = standardize_dtype
        try:
            yield
        finally:
            for module in holders:
                module.standardize_dtype = own

"""What of the engine belongs to the backend that Keras 3 has in this process."""

import importlib

import keras

from parity.errors import InputError

TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
NAME = keras.backend.backend()
if NAME not in TITLES:
    raise InputError(
        f"Keras runs on its {NAME} backend",
        f"its models can be compared on {', '.join(TITLES)}",
        "set KERAS_BACKEND to one of these before Keras is imported",
    )
BACKEND = importlib.import_module(f"parity.frameworks.keras.on_{NAME}")

"""How modules of Flax are called."""

import inspect
from typing import Any


def call_signature(module: Any) -> inspect.Signature:
    """The signature that calls of a module follow, without self."""
    signature = inspect.signature(type(module).__call__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])

"""The modules of a TensorFlow model by path, and what of Keras is no module."""

import inspect
import sys
from typing import Any

import tensorflow as tf

from parity.frameworks.shared.layers import TRACKED

KERAS_BOOKKEEPING = ("optimizer", "compiled_loss", "compiled_metrics", "loss", "history")


KERAS_PRIVATE = (*TRACKED, "_obj_", "_metrics", "_losses", "_compiled", "_nested", "_inbound")


def named_modules(root: tf.Module, *, private: bool = False) -> dict[str, tf.Module]:
    """Every module below `root` by the path of attributes and indices that leads to it.

    The order is that in which attributes were set, as in `torch.nn.Module.named_modules`; a module
    reached twice keeps its first path. Private attributes are left out, unless `private`, which
    leaves out only those in which Keras keeps its own books.
    """
    found: dict[str, tf.Module] = {}
    met: set[int] = set()

    def visit(value: Any, path: str) -> None:
        if isinstance(value, tf.Module):
            if id(value) in met or _is_metric(value):
                return
            met.add(id(value))
            if callable(value):
                found[path] = value
            children = _children(value, private)
        elif isinstance(value, dict):
            children = list(value.items())
        elif isinstance(value, list | tuple):
            children = list(enumerate(value))
        else:
            return
        for name, child in children:
            visit(child, f"{path}.{name}" if path else str(name))

    visit(root, "")
    return found


def _children(module: tf.Module, private: bool) -> list[tuple[str, Any]]:
    keras = sys.modules.get("tf_keras")
    if keras is not None and isinstance(module, keras.Sequential):
        return [(str(index), layer) for index, layer in enumerate(module.layers)]
    if keras is not None and isinstance(module, keras.Model) and module._is_graph_network:
        return [(layer.name, layer) for layer in module.layers]
    return [
        (name, value)
        for name, value in vars(module).items()
        if name not in KERAS_BOOKKEEPING and not name.startswith(KERAS_PRIVATE if private else "_")
    ]


def is_symbolic(argument: Any) -> bool:
    """Whether Keras is only building a functional graph with this argument."""
    keras = sys.modules.get("tf_keras")
    return keras is not None and tf.is_tensor(argument) and keras.backend.is_keras_tensor(argument)


def _is_container(module: tf.Module) -> bool:
    keras = sys.modules.get("tf_keras")
    return (
        keras is not None
        and isinstance(module, keras.Model)
        and (isinstance(module, keras.Sequential) or module._is_graph_network)
    )


def _is_metric(module: tf.Module) -> bool:
    keras = sys.modules.get("tf_keras")
    return keras is not None and isinstance(module, keras.metrics.Metric)


def call_signature(module: tf.Module) -> inspect.Signature:
    """The signature that calls of a module follow, without self."""
    call = getattr(module, "call", None)
    if call is not None:
        signature = inspect.signature(call)
        if _is_container(module):  # besides inputs and training, Keras passes masks of its own
            parameters = [p for p in signature.parameters.values() if p.name != "mask"]
            return signature.replace(parameters=parameters)
        return signature
    # The class' own __call__, watched just now, is unwrapped by inspect.
    signature = inspect.signature(type(module).__call__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])

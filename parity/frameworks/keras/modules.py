"""The layers of a Keras 3 model by path, whatever backend it computes with."""

import inspect
from contextvars import ContextVar
from typing import Any

import keras

from parity.frameworks.shared.layers import TRACKED

# Attributes in which Keras keeps its own books; `_functional` is the graph of a Sequential.
BOOKS = (
    *("_tracker", "_layers", "_functional", "_metrics", "_compile", "_operations", "_nodes"),
    *TRACKED,  # those of its backends
    "_torch_params",
)
# Whether layers train; None where nobody says it, as a user calls a model.
TRAINING: ContextVar[bool | None] = ContextVar("training", default=False)
TRAINER = ("optimizer", "loss")


def named_modules(root: keras.Layer, *, private: bool = False) -> dict[str, keras.Layer]:
    """Every layer below `root` by the path of attributes and indices that leads to it.

    The order is that in which attributes were set; a layer reached twice keeps its first path.
    Private attributes are left out, unless `private`, which leaves out only Keras' own books.
    """
    found: dict[str, keras.Layer] = {}
    met: set[int] = set()

    def visit(value: Any, path: str) -> None:
        if isinstance(value, keras.Layer):
            if id(value) in met:
                return
            met.add(id(value))
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


def attributes(layer: keras.Layer) -> dict[str, Any]:
    """The attributes of a layer; on the torch backend layers are attributes of another kind."""
    return {**vars(layer), **vars(layer).get("_modules", {})}


def _children(layer: keras.Layer, private: bool) -> list[tuple[str, Any]]:
    if isinstance(layer, keras.Sequential):
        return [(str(index), one) for index, one in enumerate(layer.layers)]
    if _is_graph(layer):
        return [(one.name, one) for one in layer.layers]
    return [
        (name, value)
        for name, value in attributes(layer).items()
        if name not in TRAINER and not name.startswith((*BOOKS, "_modules") if private else "_")
    ]


def _is_graph(layer: keras.Layer) -> bool:
    """Whether the layer is a model that was made of its inputs and outputs."""
    return isinstance(layer, keras.Model) and hasattr(layer, "_operations")


def is_symbolic(argument: Any) -> bool:
    """Whether Keras is only building a model with this argument."""
    return any(isinstance(one, keras.KerasTensor) for one in keras.tree.flatten(argument))


def call_signature(layer: keras.Layer) -> inspect.Signature:
    """The signature that calls of a layer follow, without self."""
    signature = inspect.signature(layer.call)
    if isinstance(layer, keras.Sequential) or _is_graph(layer):  # Keras passes masks of its own
        kept = [one for one in signature.parameters.values() if one.name != "mask"]
        return signature.replace(parameters=kept)
    return signature


def called(layer: keras.Layer, args: tuple, kwargs: dict) -> Any:
    """What a layer returns that no other layer calls; it trains as `kwargs` or `TRAINING` say.

    Keras hands `training` on to every layer below, whether or not those in between take it; without
    it some layers train by default.
    """
    training = TRAINING.get()
    return layer(*args, **kwargs if training is None else {"training": training, **kwargs})

"""What layers of Keras hold, of either Keras: what PyTorch calls it, and in which layout it is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from parity.weights import Layout, of_kind

# Attributes in which TensorFlow tracks what an object has; `_self_attention` is somebody's layer.
TRACKED = tuple(
    f"_self_{one}"
    for one in ("extra", "name_based", "saveable", "setattr", "tracked", "unconditional", "update")
)
NAMES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "embeddings": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def variables_in(
    name: str, value: Any, is_variable: Callable[[Any], bool]
) -> Iterator[tuple[str, Any]]:
    """The variables of one attribute, by the path that leads to each from its owner."""
    if is_variable(value):
        yield name, value
    elif isinstance(value, list | tuple) and not name.startswith("_"):
        for index, one in enumerate(value):
            if is_variable(one):
                yield f"{name}.{index}", one


def layout_of(owner: Any, name: str, shape: Sequence[int]) -> Layout:
    """The layout that the kind of layer gives the variable that it calls `name`; other layers hold
    it as it is."""
    kinds = {one.__name__ for one in type(owner).__mro__}
    return of_kind(kinds, name, shape, _summed(getattr(owner, "equation", None)))


def _summed(equation: str | None) -> int:
    """How many axes of its kernel an `EinsumDense` sums over."""
    if not equation:
        return 1
    given, result = equation.split("->")
    return sum(axis not in result for axis in given.split(",")[1])

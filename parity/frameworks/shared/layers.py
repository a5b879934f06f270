"""What layers of Keras hold, of either Keras: what PyTorch calls it, and in which layout it is."""

from collections.abc import Callable, Iterator
from typing import Any

from parity.weights import CONVOLUTIONS, LINEAR, SAME, Layout, depthwise

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


def layout_of(layers: Any, owner: Any, variable: Any) -> Layout:
    """The layout that the kind of layer gives a variable; other layers hold it as it is.

    Args:
        layers: the module `layers` of the Keras that `owner` is of.
    """
    rank = len(variable.shape)
    if variable is getattr(owner, "depthwise_kernel", None):
        return depthwise(variable.shape[-1])
    if variable is not getattr(owner, "kernel", None):
        return SAME
    if isinstance(owner, layers.DepthwiseConv2D):
        return depthwise(variable.shape[-1])
    if isinstance(owner, layers.Dense) or (isinstance(owner, layers.EinsumDense) and rank == 2):
        return LINEAR
    convolutions = (getattr(layers, f"Conv{n}D{way}") for n in "123" for way in ("", "Transpose"))
    # Those that run the other way round have [in, out, ...], which becomes [..., out, in].
    return CONVOLUTIONS[rank] if isinstance(owner, tuple(convolutions)) else SAME

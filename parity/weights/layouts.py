"""How a port holds one tensor of a reference: the same numbers in another order of axes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How the port holds an array of the reference, and the way back; neither changes a value.

    Args:
        to_port: the reference's array as the port holds it.
        to_reference: the inverse.

    Example:
        >>> import numpy
        >>> heads_last = parity.Layout(lambda array: array.T, lambda array: array.T)
        >>> heads_last.to_port(numpy.zeros((8, 3))).shape
        (3, 8)
    """

    to_port: Callable[[np.ndarray], np.ndarray]
    to_reference: Callable[[np.ndarray], np.ndarray]


def turned(*axes: int) -> Layout:
    """The reference's axes in another order: the port's axis i is the reference's axes[i]."""
    return Layout(
        lambda array: array.transpose(axes), lambda array: array.transpose(np.argsort(axes))
    )


SAME = Layout(lambda array: array, lambda array: array)
LINEAR = turned(1, 0)  # [out, in] to [in, out]
CONVOLUTIONS = {  # by the number of axes: OI... to ...IO
    3: turned(2, 1, 0),
    4: turned(2, 3, 1, 0),
    5: turned(2, 3, 4, 1, 0),
}
KERAS_GRU = (1, 0, 2)  # Keras has update, reset, new; PyTorch reset, update, new
RECURRENT = {"LSTMCell", "GRUCell", "SimpleRNNCell"}
CHANNELWISE = {"DepthwiseConv1D", "DepthwiseConv2D"}
CONVOLVING = {f"Conv{axes}D{way}" for axes in (1, 2, 3) for way in ("", "Transpose")}


def depthwise(multiplier: int) -> Layout:
    """The kernel [channels * multiplier, 1, *size] of a convolution of each channel alone; the port
    holds [*size, channels, multiplier]."""

    def to_port(array: np.ndarray) -> np.ndarray:
        apart = array.reshape(-1, multiplier, *array.shape[2:])
        return np.moveaxis(apart, (0, 1), (-2, -1))

    def to_reference(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, (-2, -1), (0, 1)).reshape(-1, 1, *array.shape[:-2])

    return Layout(to_port, to_reference)


def split_heads(heads: int) -> Layout:
    """The weight [heads * size, in] or bias [heads * size] of a query, key or value projection.

    The port holds [in, heads, size] and [heads, size], as Keras' MultiHeadAttention does.
    """

    def to_port(array: np.ndarray) -> np.ndarray:
        return array.T.reshape(*array.shape[1:], heads, -1)

    def to_reference(array: np.ndarray) -> np.ndarray:
        return array.reshape(*array.shape[:-2], -1).T

    return Layout(to_port, to_reference)


def merged_heads(heads: int) -> Layout:
    """The weight [out, heads * size] of the projection after attention; the port holds
    [heads, size, out]."""
    return Layout(
        lambda array: array.T.reshape(heads, -1, array.shape[0]),
        lambda array: array.reshape(-1, array.shape[-1]).T,
    )


def gates(order: Sequence[int]) -> Layout:
    """The gates of a recurrent layer in another order, along the port's last axis.

    The port's gate i is the reference's gate order[i]; axes keep their order.
    """

    def ordered(array: np.ndarray, places: Sequence[int]) -> np.ndarray:
        apart = array.reshape(*array.shape[:-1], len(places), -1)
        return apart[..., list(places), :].reshape(array.shape)

    back = [int(place) for place in np.argsort(order)]
    return Layout(lambda array: ordered(array, order), lambda array: ordered(array, back))


def chained(first: Layout, second: Layout) -> Layout:
    """One layout after the other, seen from the reference."""
    return Layout(
        lambda array: second.to_port(first.to_port(array)),
        lambda array: first.to_reference(second.to_reference(array)),
    )


def of_kind(kinds: Collection[str], name: str, shape: Sequence[int], summed: int = 1) -> Layout:
    """The layout that a layer of Keras or Flax gives one of its variables.

    Args:
        kinds: names of the layer's class and of those that it extends.
        name: what the layer calls the variable, such as `kernel`.
        shape: as it is held.
        summed: of a kernel with heads, how many of its axes are summed over: 2 after attention.
    """
    kinds, rank = set(kinds), len(shape)
    if name == "depthwise_kernel" or (name == "kernel" and kinds & CHANNELWISE):
        return depthwise(shape[-1])
    if name == "pointwise_kernel":
        return CONVOLUTIONS[rank]
    if kinds & RECURRENT:
        return _recurrent("GRUCell" in kinds, name)
    if "EinsumDense" in kinds and name == "kernel" and rank == 3:
        return split_heads(shape[1]) if summed == 1 else merged_heads(shape[0])
    if "EinsumDense" in kinds and name == "bias" and rank == 2:
        return split_heads(shape[0])
    if name != "kernel":
        return SAME
    if "Dense" in kinds or ("EinsumDense" in kinds and rank == 2):
        return LINEAR
    # Those that run the other way round are among them: [in, out, ...] becomes [..., out, in].
    return CONVOLUTIONS[rank] if kinds & CONVOLVING else SAME


def _recurrent(gru: bool, name: str) -> Layout:
    order = gates(KERAS_GRU) if gru else SAME
    if name == "bias":
        return order
    return chained(LINEAR, order) if name in ("kernel", "recurrent_kernel") else SAME

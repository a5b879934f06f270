"""Which variable of a port holds which tensor of the reference, and in which layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from parity.names import reasons


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


def depthwise(multiplier: int) -> Layout:
    """The kernel [channels * multiplier, 1, height, width] of a convolution of each channel alone;
    the port holds [height, width, channels, multiplier]."""
    return Layout(
        lambda array: array.reshape(-1, multiplier, *array.shape[2:]).transpose(2, 3, 0, 1),
        lambda array: array.transpose(2, 3, 0, 1).reshape(-1, 1, *array.shape[:2]),
    )


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


@dataclass(frozen=True)
class Weights:
    """What of a port's variables does not follow from the kind and the place of its layers.

    By itself a variable of a layer of Keras belongs to the tensor of the module with which the
    layer is paired: `kernel`, `depthwise_kernel`, `gamma` and `embeddings` to `weight`, `beta` to
    `bias`, `moving_mean` to `running_mean`, `moving_variance` to `running_var`, others to their own
    name; and kernels of `Dense` and convolutions have the layout of their kind. In paths a `*`
    stands for one part, the same on both sides.

    Args:
        variables: the port's path, such as `encoder.layers.*.scale`, to the reference's key.
        layouts: the reference's key to its `Layout` in the port.
        reference_only: the reference's key that no variable holds, to the reason.
        port_only: path of a variable that no tensor fits, to the reason; it keeps its value.

    Example:
        >>> weights = parity.Weights(
        ...     variables={"blocks.*.scale": "layers.*.gamma"},
        ...     reference_only={"tokens.cached": "computed anew by the port"},
        ... )
        >>> weights.reasons
        ['tokens.cached, weight of the reference only: computed anew by the port']
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    reference_only: Mapping[str, str] = field(default_factory=dict)
    port_only: Mapping[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """What is declared to be on one side only, and why, for people."""
        return reasons("weight of", self.reference_only, self.port_only)

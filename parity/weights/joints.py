"""Tensors of a reference and variables of a port that are not one to one, and the way back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.errors import InputError

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Joint:
    """Tensors of the reference that variables of the port hold together.

    On both sides arrays are as PyTorch's layers hold them; how the port's layer turns each of its
    variables round follows from its kind. In names a `*` stands for one part, the same in all.

    Args:
        reference: keys of the reference's tensors.
        port: paths of the port's variables.
        to_port: the reference's arrays, one argument each, as those of the port, a sequence.
        to_reference: the inverse, from the port's arrays. With a `reason` it is given those of the
            reference after them, and returns the nearest to these that the port's could come from.
        reason: why there is no inverse; the report says so. Such arrays are computed in float64,
            and the port's must be what the reference's give, bit for bit.
        how: Python that declares it, empty for one of functions of somebody's own.
    Raises: InputError where there is neither an inverse nor a reason.

    Example:
        >>> joint = parity.Joint.packed(
        ...     reference=["layers.*.attention.in_proj_weight"],
        ...     port=[f"blocks.*.{name}.kernel" for name in ("query", "key", "value")],
        ... )
        >>> weights = parity.Weights(joints=[joint])
    """

    reference: Sequence[str]
    port: Sequence[str]
    to_port: Callable[..., Arrays]
    to_reference: Callable[..., Arrays] | None = None
    reason: str = ""
    how: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.to_reference is None and not self.reason:
            raise InputError(
                f"a joint of {self.port[0]} has no way back and no reason",
                "without an inverse nobody can see whether the weights came over",
                "give `to_reference`, or a `reason` why there can be none",
            )

    @classmethod
    def packed(
        cls,
        reference: Sequence[str],
        port: Sequence[str],
        *,
        axis: int = 0,
        sizes: Sequence[int] | None = None,
        block: int | None = None,
        turned: bool = False,
    ) -> "Joint":
        """Both sides hold the same numbers along one axis, cut at other places.

        Such as one matrix of query, key and value against three.

        Args:
            reference, port: as in `Joint`; on one side a single name.
            axis: the axis that is cut, as the side with the single name has it.
            sizes: of the parts along it; by default all are equal.
            block: equal parts take turns, each with so many at a time, such as those of one head;
                by default each part lies in one piece.
            turned: whether one side has its matrices transposed, as GPT-2's have been.
        """
        parts = max(len(reference), len(port))
        if min(len(reference), len(port)) != 1 or (sizes and len(sizes) != parts):
            raise InputError(
                f"a packed joint of {len(reference)} tensors and {len(port)} variables",
                "one side is a single name, and `sizes` are those of the other's",
                "declare a joint for each tensor that is packed",
            )

        def places(length: int) -> list[np.ndarray]:
            if block is not None:
                table = np.arange(length).reshape(-1, parts, block)
                return [table[:, one].ravel() for one in range(parts)]
            return np.split(np.arange(length), np.cumsum(sizes)[:-1] if sizes else parts)

        def split(array: np.ndarray) -> list[np.ndarray]:
            found = [np.take(array, one, axis) for one in places(array.shape[axis])]
            return [one.T for one in found] if turned else found

        def joined(*arrays: np.ndarray) -> list[np.ndarray]:
            whole = np.concatenate([one.T for one in arrays] if turned else arrays, axis)
            return [np.take(whole, np.argsort(np.concatenate(places(whole.shape[axis]))), axis)]

        ways = (split, joined) if len(reference) == 1 else (joined, split)
        given = {"axis": axis, "sizes": sizes and list(sizes), "block": block, "turned": turned}
        return cls(reference, port, *ways, how=_call("packed", reference, port, **given))

    @classmethod
    def stacked(cls, reference: Sequence[str], port: str) -> "Joint":
        """Several tensors of one shape, in one variable with a first axis more."""
        how = _call("stacked", reference, port)
        return cls(reference, [port], lambda *arrays: [np.stack(arrays)], list, how=how)

    @classmethod
    def tied(cls, reference: Sequence[str], port: str) -> "Joint":
        """One tensor under several names, which the port holds once."""

        def to_port(*arrays: np.ndarray) -> list[np.ndarray]:
            if any(not np.array_equal(one, arrays[0]) for one in arrays):
                raise InputError(
                    f"{' and '.join(reference)} are not one tensor",
                    f"the port holds only {port} for them",
                    "give the port a variable for each, or choose the one that it has",
                )
            return [arrays[0]]

        how = _call("tied", reference, port)
        return cls(reference, [port], to_port, lambda array: [array] * len(reference), how=how)

    @classmethod
    def summed(cls, reference: Sequence[str], port: str) -> "Joint":
        """The port holds the sum: one bias for two, or an embedding with another folded in.

        The first tensor has the sum's shape; the others are broadcast to it.
        """

        def to_port(*arrays: np.ndarray) -> list[np.ndarray]:
            return [sum(arrays[1:], start=arrays[0])]

        def nearest(total: np.ndarray, first: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
            return [total - sum(others, start=np.zeros_like(first)), *others]

        why, how = "a sum does not say what was added", _call("summed", reference, port)
        return cls(reference, [port], to_port, nearest, why, how)

    @classmethod
    def normalised(cls, reference: Sequence[str], port: str) -> "Joint":
        """Weight normalisation: length g and direction v, of which the port holds g v / |v|.

        Lengths are those over all axes along which g has one element.
        """

        def length(v: np.ndarray, g: np.ndarray) -> np.ndarray:
            axes = tuple(axis for axis in range(v.ndim) if g.ndim < v.ndim or g.shape[axis] == 1)
            return np.sqrt((v * v).sum(axis=axes, keepdims=True))

        def nearest(weight: np.ndarray, g: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
            size = np.where(g < 0, -1.0, 1.0) * length(weight, g).reshape(g.shape)
            return [size, weight * (length(v, g) / size)]

        return cls(
            reference,
            [port],
            lambda g, v: [v * (g / length(v, g))],
            nearest,
            "a product does not say how long its direction was",
            _call("normalised", reference, port),
        )

    @classmethod
    def spectral(cls, reference: Sequence[str], port: str, *, axis: int = 0) -> "Joint":
        """Spectral normalisation: weight, u and v, of which the port holds weight / (u W v).

        W is the weight as a matrix, `axis` first: in evaluation u and v stay as they are.
        """

        def sigma(weight: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
            rows = np.moveaxis(weight, axis, 0)
            return float(u @ rows.reshape(rows.shape[0], -1) @ v)

        return cls(
            reference,
            [port],
            lambda weight, u, v: [weight / sigma(weight, u, v)],
            lambda held, weight, u, v: [held * sigma(weight, u, v), u, v],
            "a quotient does not say what was divided",
            _call("spectral", reference, port, axis=axis),
        )

    @classmethod
    def folded(
        cls, reference: Sequence[str], port: Sequence[str], *, epsilon: float, axis: int = 0
    ) -> "Joint":
        """A norm by stored statistics, folded into the layer before it.

        Args:
            reference: the layer's weight and its bias, where it has one, then weight, bias, running
                mean and running variance of the norm.
            port: the layer's kernel and bias.
            epsilon: of the norm.
            axis: that of the weight's channels; 1 of a transposed convolution.
        """

        def scale(weight: np.ndarray, gamma: np.ndarray, variance: np.ndarray) -> np.ndarray:
            shape = [-1 if one == axis else 1 for one in range(weight.ndim)]
            return (gamma / np.sqrt(variance + epsilon)).reshape(shape)

        def to_port(weight: np.ndarray, *rest: np.ndarray) -> list[np.ndarray]:
            *bias, gamma, beta, mean, variance = rest
            factor = scale(weight, gamma, variance)
            shift = (bias[0] if bias else 0.0) - mean
            return [weight * factor, beta + shift * factor.ravel()]

        def nearest(kernel: np.ndarray, shifted: np.ndarray, *own: np.ndarray) -> list[np.ndarray]:
            weight, *bias, gamma, _, mean, variance = own
            factor = scale(weight, gamma, variance)
            shift = (bias[0] if bias else 0.0) - mean
            moved = shifted - shift * factor.ravel()
            return [kernel / factor, *bias, gamma, moved, mean, variance]

        why = "a folded norm is part of the kernel"
        how = _call("folded", reference, port, epsilon=epsilon, axis=axis)
        return cls(reference, port, to_port, nearest, why, how)


def alone(key: str, path: str) -> Joint:
    """One tensor and one variable that holds it."""
    return Joint([key], [path], lambda array: [array], lambda array: [array])


def _call(name: str, reference: Sequence[str], port: Sequence[str] | str, **given: Any) -> str:
    """The call of a joint's own function, without what is as by default."""
    port = port if isinstance(port, str) else list(port)
    settings = [f", {key}={one!r}" for key, one in given.items() if one]
    return f"parity.Joint.{name}({list(reference)!r}, {port!r}{''.join(settings)})"

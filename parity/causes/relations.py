"""Simple functions of the reference's tensor that a port may have in its place."""

import itertools
from collections.abc import Iterator

import numpy as np

ROLLS = (1, -1, 2, -2)
NORM_EPSILONS = (1e-5, 1e-6, 1e-12, 1e-3)


def related(port: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Simple functions of the reference's float tensor, which the port's may be, in words."""
    if not port.any():
        yield "the port's tensor is all zeros", np.zeros_like(theirs)
    size = float((theirs * theirs).sum())
    if size > 0.0:
        factor = float((theirs * port).sum()) / size
        yield f"the reference's tensor times {factor:.10g}", factor * theirs
    offset = float((port - theirs).mean())
    yield f"the reference's tensor plus {offset:.6g}", theirs + offset
    yield "the reference's tensor through a sigmoid", 1.0 / (1.0 + np.exp(-theirs))
    yield "the reference's tensor through a ReLU", np.maximum(theirs, 0.0)
    powers = np.exp(theirs - theirs.max(-1, keepdims=True)) if theirs.ndim else np.ones(())
    yield "the reference's tensor through a softmax", powers / powers.sum(-1, keepdims=True)
    if theirs.ndim and theirs.shape[-1] > 2:
        centred = theirs - theirs.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        for epsilon in NORM_EPSILONS:
            text = (
                f"the reference's tensor through a layer norm without scale (epsilon {epsilon:g})"
            )
            yield text, centred / np.sqrt(variance + epsilon)
    for axis in range(theirs.ndim):
        if theirs.shape[axis] > 1:
            first = np.take(theirs, [0], axis)
            text = f"the reference's tensor with the first of axis {axis} in place of all"
            yield text, np.broadcast_to(first, theirs.shape)
            yield f"the reference's tensor reversed along axis {axis}", np.flip(theirs, axis)
            for shift in ROLLS:
                yield (
                    f"the reference's tensor rolled by {shift} along axis {axis}",
                    np.roll(theirs, shift, axis),
                )
    for first, second in itertools.combinations(range(theirs.ndim), 2):
        a, b = theirs.shape[first], theirs.shape[second]
        if a > 1 and b > 1:
            turned = np.swapaxes(theirs, first, second)
            text = f"the reference's tensor with axes {first} and {second} transposed"
            yield text, turned if a == b else np.ascontiguousarray(turned).reshape(theirs.shape)


def exactly_related(port: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same of booleans and integers, such as a mask that hides nothing."""
    if port.size and (port == port.flat[0]).all():
        text = f"the port's tensor is {port.flat[0]} everywhere"
        yield text, np.full_like(theirs, port.flat[0])
    if theirs.dtype.kind == "b":
        yield "the port's tensor is the opposite of the reference's", ~theirs
    elif port.size and (offset := int(port.flat[0]) - int(theirs.flat[0])):
        sign = "plus" if offset > 0 else "minus"
        yield f"the reference's tensor {sign} {abs(offset)}", theirs + offset

"""Other orders: axes merged or split otherwise, parts exchanged, indices transposed."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parity.causes.torch_attention import Variant


def roll(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, shifts, axes = args
    yield "not shifted", lambda: x.clone()
    yield "shifted the other way", lambda: operation(x, [-s for s in shifts], axes)
    for delta in (-1, 1):
        moved = [s + delta for s in shifts]
        yield f"shifted by {moved} instead of {list(shifts)}", partial(operation, x, moved, axes)


def joined(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    tensors = list(args[0])
    for first, second in itertools.combinations(range(min(len(tensors), 6)), 2):
        if tensors[first].shape == tensors[second].shape:
            order = list(tensors)
            order[first], order[second] = order[second], order[first]
            yield (
                f"its parts {first} and {second} are swapped",
                partial(operation, order, *args[1:], **kwargs),
            )


def parts(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    parts = list(result)
    if not 2 <= len(parts) <= 4 or len({part.shape for part in parts}) > 1:
        return
    for order in itertools.permutations(range(len(parts))):
        if list(order) != list(range(len(parts))):
            yield f"its parts in the order {order}", lambda order=order: [parts[i] for i in order]


def selected(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, axis, index = args
    if x.shape[axis] <= 8:
        for other in range(x.shape[axis]):
            if other != index % x.shape[axis]:
                yield (
                    f"part {other} instead of {index} of axis {axis}",
                    partial(operation, x, axis, other),
                )


def sliced(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x = args[0]
    axis = args[1] if len(args) > 1 else 0
    start = args[2] if len(args) > 2 and args[2] else 0
    step = args[4] if len(args) > 4 else 1
    size, taken = x.shape[axis], result.shape[axis]
    if step > 1:
        for other in range(step):
            if other != start:
                yield (
                    f"every {step}th from {other} instead of {start}",
                    lambda other=other: x.narrow(axis, other, size - other)[
                        (slice(None),) * (axis % x.dim()) + (slice(None, None, step),)
                    ],
                )
    elif taken < size and start >= 0:
        for text, other in (("the last", size - taken), ("the first", 0)):
            if other != start:
                yield (
                    f"{text} {taken} of {size} instead of those from {start}",
                    partial(x.narrow, axis, other, taken),
                )


def viewed(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    """An axis split or two merged in the other order: the shape is the same, the values move."""
    x = args[0]
    before, after = list(x.shape), list(result.shape)
    for axis in range(len(after) - 1):
        together = [*after[:axis], after[axis] * after[axis + 1], *after[axis + 2 :]]
        if before == together and min(after[axis], after[axis + 1]) > 1:
            turned = [*after[:axis], after[axis + 1], after[axis], *after[axis + 2 :]]
            yield (
                f"an axis is split into {after[axis + 1]} x {after[axis]} and transposed, "
                f"instead of {after[axis]} x {after[axis + 1]}",
                lambda axis=axis, turned=turned: (
                    x.reshape(turned).transpose(axis, axis + 1).contiguous()
                ),
            )
            yield from _other_sides(x, after, axis)
    for axis in range(len(after) - 2):
        sizes = after[axis : axis + 3]
        if before != [*after[:axis], math.prod(sizes), *after[axis + 3 :]] or min(sizes) == 1:
            continue
        for order in itertools.permutations(range(3)):
            if order == (0, 1, 2):
                continue
            split = [*after[:axis], *(sizes[i] for i in order), *after[axis + 3 :]]
            axes = [*range(axis), *(axis + order.index(i) for i in range(3))]
            axes += range(axis + 3, len(after))
            named = " x ".join(str(sizes[i]) for i in order)
            yield (
                f"an axis is split into {named} instead of {' x '.join(map(str, sizes))}, "
                f"in the order {order}",
                lambda split=split, axes=axes: x.reshape(split).permute(axes).contiguous(),
            )
    for axis in range(len(after) - 1):
        kept = before[:axis] == after[:axis] and before[axis + 2 :] == after[axis + 2 :]
        if len(before) == len(after) and kept and before[axis + 1] > after[axis + 1] > 1:
            heads = before[axis + 1] // after[axis + 1]
            turned = [*before[: axis + 1], after[axis + 1], heads, *before[axis + 2 :]]
            yield (
                f"channels are dealt to {heads} heads in turn",
                lambda axis=axis, turned=turned: (
                    x.reshape(turned).transpose(axis + 1, axis + 2).reshape(after)
                ),
            )
    for axis in range(len(before) - 1):
        merged = [*before[:axis], before[axis] * before[axis + 1], *before[axis + 2 :]]
        if merged == after and min(before[axis], before[axis + 1]) > 1:
            yield (
                f"axes {axis} and {axis + 1} are merged in the other order",
                lambda axis=axis: x.transpose(axis, axis + 1).reshape(after),
            )


def _other_sides(x: Tensor, after: Sequence[int], axis: int) -> Iterator[Variant]:
    """Pixels in a row made a map with other sides: exchanged, or the root of their number."""
    height, width = after[axis : axis + 2]
    root = math.isqrt(height * width)
    for text, sides in (
        ("height and width exchanged", (width, height)),
        ("the root of their number", (root, root)),
    ):
        if sides != (height, width) and math.prod(sides) == height * width:
            shape = [*after[:axis], *sides, *after[axis + 2 :]]
            yield (
                f"an axis is split into {sides[0]} x {sides[1]}, {text}, "
                f"instead of {height} x {width}",
                partial(x.reshape, shape),
            )


def permuted(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    shape = result.shape
    for first, second in itertools.combinations(range(len(shape)), 2):
        if shape[first] == shape[second] > 1:
            yield (
                f"axes {first} and {second} of the result are swapped",
                partial(torch.transpose, result, first, second),
            )


def indexed(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, indices = args
    if len(indices) != 1 or indices[0] is None or indices[0].is_floating_point():
        return
    index = indices[0]
    side = math.isqrt(index.numel())
    if side * side == index.numel() and side > 1:
        turned = index.reshape(side, side).T.reshape(index.shape)
        yield "its table of indices is transposed", partial(operation, x, [turned])
        yield "its indices are reversed", partial(operation, x, [index.flip(0)])

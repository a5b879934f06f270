"""Other forms of one operation of PyTorch: another epsilon, padding, rounding, rule of resizing."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from parity.causes.resizing import weights
from parity.causes.torch_attention import FILLS, attention, other_fills

EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0)


BASES = (1e3, 1e4, 1e5, 20.0, 100.0)


ROOT_OF_HALF = float(np.float32(math.sqrt(0.5)))


CUBIC = float(np.float32(0.044715))


_ATEN = torch.ops.aten


Variant = tuple[str, Callable[[], Any]]


def _epsilons(call: Callable[[float], Any], own: float) -> Iterator[Variant]:
    for epsilon in EPSILONS:
        if epsilon != own:
            text = f"epsilon {epsilon:g} instead of {own:g}"
            yield text, partial(call, epsilon)


def _layer_norm(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, shape, weight, bias, own = args

    def run(epsilon: float = own, weight: Any = weight, bias: Any = bias) -> Any:
        return operation(x, shape, weight, bias, epsilon)

    yield from _epsilons(run, own)
    if weight is not None:
        yield "without its scale", partial(run, weight=None)
    if bias is not None:
        yield "without its offset", partial(run, bias=None)

    def unbiased() -> Any:
        axes = list(range(-len(shape), 0))
        deviation = (x.var(axes, correction=1, keepdim=True) + own).sqrt()
        normal = (x - x.mean(axes, keepdim=True)) / deviation
        scaled = normal if weight is None else normal * weight
        return (scaled if bias is None else scaled + bias, *result[1:])

    yield "with the unbiased variance", unbiased
    yield "left out", lambda: (x.clone(), *result[1:])


def _group_norm(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, weight, bias, n, channels, pixels, groups, own = args

    def run(epsilon: float = own, groups: int = groups) -> Any:
        return (operation(x, weight, bias, n, channels, pixels, groups, epsilon)[0], *result[1:])

    yield from _epsilons(run, own)
    for other in (1, 8, 16, 32, 64, channels):
        if other != groups and channels % other == 0:
            yield f"{other} groups instead of {groups}", partial(run, groups=other)

    def interleaved() -> Any:
        dealt = torch.arange(channels).reshape(-1, groups).T.reshape(-1)
        back = torch.argsort(dealt)
        normal = operation(x[:, dealt], None, None, n, channels, pixels, groups, own)[0][:, back]
        for term, join in ((weight, torch.mul), (bias, torch.add)):
            if term is not None:
                normal = join(normal, term.reshape(1, -1, *[1] * (x.dim() - 2)))
        return (normal, *result[1:])

    def of_batch() -> Any:
        pooled = x.transpose(0, 1).reshape(1, channels, -1)
        normal = operation(pooled, weight, bias, 1, channels, n * pixels, groups, own)[0]
        back = normal.reshape(channels, n, *x.shape[2:]).transpose(0, 1)
        return (back.contiguous(), *result[1:])

    if n > 1:
        yield "with the statistics of all images together", of_batch
    if 1 < groups < channels:
        yield "channels are dealt to groups in turn", interleaved
    yield "left out", lambda: (x.clone(), *result[1:])


def _batch_norm(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, weight, bias, own = args[0], args[1], args[2], args[-1]

    def run(epsilon: float) -> Any:
        return operation(*args[:-1], epsilon)

    def of_batch() -> Any:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        deviation = (x.var(axes, correction=0, keepdim=True) + own).sqrt()
        normal = (x - x.mean(axes, keepdim=True)) / deviation
        scaled = normal if weight is None else normal * weight.reshape(shape)
        return (scaled if bias is None else scaled + bias.reshape(shape), *result[1:])

    yield from _epsilons(run, own)
    yield "with the statistics of this batch instead of the stored ones", of_batch
    yield "left out", lambda: (args[0].clone(), *result[1:])


def _same_padding(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float) -> Tensor:
    """`x` padded as TensorFlow's SAME does: the odd pixel goes to the bottom and the right."""
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[-2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def _convolution(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, weight, bias, stride, padding, dilation, transposed, outer, groups = args
    if x.dim() != 4 or transposed:
        return
    kernel = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]

    def run(
        x: Tensor = x, weight: Tensor = weight, bias: Any = bias, padding: Any = padding
    ) -> Tensor:
        return operation(x, weight, bias, stride, padding, dilation, False, outer, groups)

    if any(padding):
        yield (
            "SAME padding (the odd pixel at the bottom and right) instead of symmetric",
            lambda: run(_same_padding(x, kernel, stride, 0.0), padding=[0, 0]),
        )
        pads = [padding[1], padding[1], padding[0], padding[0]]
        for mode in ("reflect", "replicate"):
            yield (
                f"{mode} padding instead of zeros",
                lambda mode=mode: run(F.pad(x, pads, mode=mode), padding=[0, 0]),
            )
    for other in (1, 2):
        if other != max(stride):
            yield (
                f"stride {other} instead of {max(stride)}",
                lambda other=other: operation(
                    x, weight, bias, [other, other], padding, dilation, False, outer, groups
                ),
            )
    if weight.shape[2] == weight.shape[3] > 1:
        yield (
            "height and width of the kernel transposed",
            lambda: run(weight=weight.transpose(2, 3).contiguous()),
        )
        yield "the kernel turned by 180 degrees", lambda: run(weight=weight.flip(2, 3))
    if weight.shape[0] == weight.shape[1] > 1:
        yield (
            "input and output channels of the kernel transposed",
            lambda: run(weight=weight.transpose(0, 1).contiguous()),
        )
    if bias is not None:
        yield "without its bias", lambda: run(bias=None)
    if x.shape[1] == 3:
        yield "the three input channels in reverse order", lambda: run(x.flip(1))
    if max(dilation) > 1:
        pads = [k // 2 for k in weight.shape[2:]]
        yield (
            f"dilation 1 instead of {max(dilation)}",
            lambda: operation(x, weight, bias, stride, pads, [1, 1], False, outer, groups),
        )


def _max_pool(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, kernel, stride = args[0], args[1], args[2] or args[1]
    padding = args[3] if len(args) > 3 else [0, 0]
    if any(padding):
        pads = [padding[-1], padding[-1], padding[0], padding[0]]
        for text, padded in (
            ("SAME padding", lambda: _same_padding(x, kernel, stride, -math.inf)),
            ("zeros as padding", lambda: F.pad(x, pads)),
        ):
            yield text, lambda padded=padded: operation(padded(), kernel, stride)


def _added_product(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    bias, a, b = args[:3]
    yield "without its bias", lambda: operation(torch.zeros_like(bias), a, b, **kwargs)
    yield "its bias is added twice", lambda: operation(2 * bias, a, b, **kwargs)
    yield from _rounded_factors(lambda a, b: operation(bias, a, b, **kwargs), a, b)
    if b.shape[-1] == b.shape[-2]:
        yield (
            "its matrix transposed",
            lambda: operation(bias, a, b.transpose(-1, -2), **kwargs),
        )


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).to(x.dtype)


def _rounded_factors(product: Callable[..., Any], a: Tensor, b: Tensor) -> Iterator[Variant]:
    """Factors with fewer digits; float16 has the ten bits that TF32 keeps."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        short = partial(_rounded, dtype=dtype)
        yield f"its factors are rounded to {name}", lambda short=short: product(short(a), short(b))
        yield f"its first factor is rounded to {name}", lambda short=short: product(short(a), b)
        yield f"its second factor is rounded to {name}", lambda short=short: product(a, short(b))


def _product(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    a, b = args[:2]
    yield from _rounded_factors(operation, a, b)
    if b.shape[-1] == b.shape[-2]:
        yield "its second matrix transposed", lambda: operation(a, b.transpose(-1, -2))
    if a.shape[-1] == a.shape[-2]:
        yield "its first matrix transposed", lambda: operation(a.transpose(-1, -2), b)


def _softmax(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, axis, *rest = args
    for other in range(x.dim()):
        if other != axis % x.dim():
            yield (
                f"softmax over axis {other} instead of {axis % x.dim()}",
                partial(operation, x, other, *rest),
            )
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield (
            f"computed in {name}",
            lambda dtype=dtype: operation(x.to(dtype), axis, *rest).to(x.dtype),
        )
        yield f"its result is rounded to {name}", partial(_rounded, result, dtype)
    yield "sigmoid instead of softmax", lambda: x.sigmoid()
    yield "log-softmax instead of softmax", lambda: x.log_softmax(axis)
    if x.dim() >= 2 and x.shape[-1] == x.shape[-2] > 1:
        later = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
        for text, hidden in (("later", later), ("earlier", later.T)):
            yield (
                f"{text} positions are masked",
                lambda hidden=hidden: operation(x.masked_fill(hidden, -math.inf), axis, *rest),
            )
    yield "left out", lambda: x.clone()


def _resize(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, size = args[0], tuple(result.shape[-2:])
    own = operation.overloadpacket.__name__
    rules = {
        "nearest (rounding down)": {"mode": "nearest"},
        "nearest (pixel centres)": {"mode": "nearest-exact"},
        "bilinear": {"mode": "bilinear", "align_corners": False},
        "bilinear with aligned corners": {"mode": "bilinear", "align_corners": True},
        "antialiased bilinear": {"mode": "bilinear", "antialias": True},
        "bicubic": {"mode": "bicubic", "align_corners": False},
    }
    for text, options in rules.items():
        yield (
            f"{text} resize instead of {own}",
            lambda options=options: F.interpolate(x, size=size, **options),
        )

    if own == "upsample_bicubic2d":
        rows, columns = (
            torch.from_numpy(weights(before, after, "bicubic")).to(x.dtype)
            for before, after in zip(x.shape[-2:], size, strict=True)
        )
        yield (
            "bicubic with the coefficient -0.5 instead of -0.75",
            lambda: torch.einsum("ip,ncpq,jq->ncij", rows, x, columns),
        )


def _sum(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    a, b = args[:2]
    if isinstance(b, Tensor) and isinstance(a, Tensor):
        for name, kept in (("second", a), ("first", b)):
            if kept.shape == result.shape and kept.is_floating_point():
                yield f"its {name} term is left out", lambda kept=kept: kept.clone()
        if a.is_floating_point():
            yield "its second term has the other sign", lambda: operation(a, -b, **kwargs)
            yield "ReLU of its first term", lambda: operation(F.relu(a), b, **kwargs)
            yield "ReLU of its second term", lambda: operation(a, F.relu(b), **kwargs)
            yield "a product instead of a sum", lambda: a * b
        if b.is_floating_point():
            yield from other_fills(b, lambda other: a + other)
        for name, term, rest in (("second", b, a), ("first", a, b)):
            sides = term.shape[-2:]
            if len(sides) == 2 and sides[0] == sides[1] > 1:
                yield (
                    f"the last two axes of its {name} term are transposed",
                    lambda term=term, rest=rest: rest + term.transpose(-1, -2),
                )
        return
    if isinstance(b, int | float) and isinstance(a, Tensor):
        yield f"without adding {b:g}", lambda: a.clone()
        if 0 < abs(b) < 0.01:
            yield from _epsilons(lambda epsilon: operation(a, epsilon, **kwargs), b)
        elif a.is_floating_point():
            yield f"{1 - b:g} instead of {b:g}", lambda: operation(a, 1 - b, **kwargs)


def _factor(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    a, b = args[:2]
    if isinstance(a, Tensor) and a.shape == result.shape and a.is_floating_point():
        yield "its second factor is left out", lambda: a.clone()
    if isinstance(b, Tensor) and b.shape == result.shape and b.is_floating_point():
        yield "its first factor is left out", lambda: b.clone()
    if isinstance(b, int | float) and isinstance(a, Tensor) and a.is_floating_point() and b:
        yield f"the inverse of the factor {b:g}", lambda: a / b
        yield f"the square of the factor {b:g}", lambda: a * b * b


def _quotient(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    a, b = args[:2]
    if isinstance(a, Tensor) and a.is_floating_point() and a.shape == result.shape:
        yield "the divisor is left out", lambda: a.clone()
        yield "a product instead of a quotient", lambda: a * b


def _power(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    base, exponent = args[:2]
    if isinstance(base, int | float):
        for other in BASES:
            if other != base:
                yield f"base {other:g} instead of {base:g}", partial(operation, other, exponent)
    elif isinstance(exponent, int | float):
        for other in (1, 2, 3, 0.5):
            if other != exponent:
                yield f"power {other:g} instead of {exponent:g}", partial(operation, base, other)


def _cumulative(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, axis = args[:2]
    yield "counted from 0 instead of 1", lambda: result - x
    for other in range(1, x.dim()):
        if other != axis % x.dim() and result.is_floating_point():
            yield f"counted along axis {other} instead of {axis}", partial(operation, x, other)


def _replaced_by(*names: str) -> Callable[..., Iterator[Variant]]:
    """Variants that apply another function of one tensor."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": lambda x: x.clone(),
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu (tanh)": lambda x: F.gelu(x, approximate="tanh"),
        # As tf.nn.gelu in float64, whose constants are float32 first.
        "gelu with its constant in float32": lambda x: 0.5 * x * torch.erfc(-x * ROOT_OF_HALF),
        "gelu (tanh) with its constant in float32": lambda x: (
            0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + CUBIC * x**3)))
        ),
        "silu": F.silu,
        "sigmoid": torch.sigmoid,
        "leaky relu": F.leaky_relu,
        "sin": torch.sin,
        "cos": torch.cos,
    }

    def variants(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
        own = operation.overloadpacket.__name__
        for name in names:
            yield f"{name} instead of {own}", partial(functions[name], args[0])

    return variants


def _roll(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, shifts, axes = args
    yield "not shifted", lambda: x.clone()
    yield "shifted the other way", lambda: operation(x, [-s for s in shifts], axes)
    for delta in (-1, 1):
        moved = [s + delta for s in shifts]
        yield f"shifted by {moved} instead of {list(shifts)}", partial(operation, x, moved, axes)


def _joined(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    tensors = list(args[0])
    for first, second in itertools.combinations(range(min(len(tensors), 6)), 2):
        if tensors[first].shape == tensors[second].shape:
            order = list(tensors)
            order[first], order[second] = order[second], order[first]
            yield (
                f"its parts {first} and {second} are swapped",
                partial(operation, order, *args[1:], **kwargs),
            )


def _parts(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    parts = list(result)
    if not 2 <= len(parts) <= 4 or len({part.shape for part in parts}) > 1:
        return
    for order in itertools.permutations(range(len(parts))):
        if list(order) != list(range(len(parts))):
            yield f"its parts in the order {order}", lambda order=order: [parts[i] for i in order]


def _selected(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, axis, index = args
    if x.shape[axis] <= 8:
        for other in range(x.shape[axis]):
            if other != index % x.shape[axis]:
                yield (
                    f"part {other} instead of {index} of axis {axis}",
                    partial(operation, x, axis, other),
                )


def _sliced(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
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


def _viewed(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
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


def _permuted(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    shape = result.shape
    for first, second in itertools.combinations(range(len(shape)), 2):
        if shape[first] == shape[second] > 1:
            yield (
                f"axes {first} and {second} of the result are swapped",
                partial(torch.transpose, result, first, second),
            )


def _filled(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, mask, own = args
    yield "nothing is masked", lambda: x.clone()
    for value in FILLS:
        if value != own:
            yield f"masked with {value:g} instead of {own}", partial(operation, x, mask, value)


def _padded(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, pads = args[0], list(args[1])
    value = args[2] if len(args) > 2 else 0
    turned = [pads[index ^ 1] for index in range(len(pads))]
    if turned != pads:
        yield "padded on the other side", partial(operation, x, turned, value)
        halves: list[int] = []
        for low, high in zip(pads[0::2], pads[1::2], strict=True):
            halves += [(low + high) // 2, low + high - (low + high) // 2]
        if halves != pads:
            yield "padded on both sides", partial(operation, x, halves, value)
    if x.dim() == 4 and len(pads) == 4:
        for mode in ("replicate", "reflect"):
            yield f"{mode} padding instead of {value:g}", partial(F.pad, x, pads, mode=mode)


def _indexed(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, indices = args
    if len(indices) != 1 or indices[0] is None or indices[0].is_floating_point():
        return
    index = indices[0]
    side = math.isqrt(index.numel())
    if side * side == index.numel() and side > 1:
        turned = index.reshape(side, side).T.reshape(index.shape)
        yield "its table of indices is transposed", partial(operation, x, [turned])
        yield "its indices are reversed", partial(operation, x, [index.flip(0)])


def _reduced(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    """Where a reduction was taken otherwise."""
    x = args[0]
    yield "of squares", lambda: operation(x * x, *args[1:], **kwargs)
    own = operation.overloadpacket.__name__
    if own == "mean":
        yield "a sum instead of a mean", lambda: torch.sum(x, *args[1:], **kwargs)
    elif len(args) > 1 and args[1]:
        yield "a mean instead of a sum", lambda: torch.mean(x, *args[1:], **kwargs)
    else:
        yield "a mean instead of a sum", lambda: x.mean()


def _class_loss(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, target, weight, reduction, ignored = args
    if weight is not None:
        rows = torch.ones_like(result[1]) * len(target)
        yield "without class weights", partial(operation, x, target, None, reduction, ignored)
        yield (
            "a plain mean: divided by the number of rows, not by their weights",
            lambda: (result[0] * result[1] / rows, rows),
        )


def _chosen(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    _, *choices = args
    for name, choice in zip(("first", "second"), choices, strict=False):
        if isinstance(choice, Tensor):
            yield (
                f"its {name} choice everywhere",
                lambda choice=choice: choice.expand_as(result).to(result.dtype).clone(),
            )


def _compared(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    own = operation.overloadpacket.__name__
    other = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt"}[own]
    text = "or equal too" if other.endswith("e") else "without what is equal"
    yield text, lambda: getattr(torch, other)(*args)


def _bounded(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    yield "not clamped", lambda: args[0].clone()


NOT_SCALED = frozenset(
    {
        "detach", "clone", "lift_fresh", "_to_copy", "view", "_unsafe_view", "permute", "transpose",
        "t", "expand", "unsqueeze", "squeeze", "select", "slice", "alias", "empty", "zeros", "ones",
        "full", "arange", "zeros_like", "ones_like", "split", "unbind", "reshape", "scalar_tensor",
    }
)  # fmt: skip


VARIANTS: dict[Any, Callable[..., Iterable[Variant]]] = {
    _ATEN.native_layer_norm: _layer_norm,
    _ATEN.native_group_norm: _group_norm,
    _ATEN.native_batch_norm: _batch_norm,
    _ATEN._native_batch_norm_legit_no_training: _batch_norm,
    _ATEN.convolution: _convolution,
    _ATEN.max_pool2d_with_indices: _max_pool,
    _ATEN.addmm: _added_product,
    _ATEN.baddbmm: _added_product,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: attention,
    _ATEN.mm: _product,
    _ATEN.bmm: _product,
    _ATEN._softmax: _softmax,
    _ATEN._safe_softmax: _softmax,
    _ATEN.upsample_nearest2d: _resize,
    _ATEN._upsample_nearest_exact2d: _resize,
    _ATEN.upsample_bilinear2d: _resize,
    _ATEN.upsample_bicubic2d: _resize,
    _ATEN._upsample_bilinear2d_aa: _resize,
    _ATEN.add: _sum,
    _ATEN.add_: _sum,
    _ATEN.sub: _sum,
    _ATEN.mul: _factor,
    _ATEN.div: _quotient,
    _ATEN.pow: _power,
    _ATEN.cumsum: _cumulative,
    _ATEN.relu_: _replaced_by("identity", "gelu", "leaky relu"),
    _ATEN.relu: _replaced_by("identity", "gelu", "leaky relu"),
    _ATEN.gelu: _replaced_by(
        "gelu (tanh)",
        "gelu with its constant in float32",
        "gelu (tanh) with its constant in float32",
        "relu",
        "silu",
        "identity",
    ),
    _ATEN.sigmoid: _replaced_by("identity", "relu"),
    _ATEN.sin: _replaced_by("cos"),
    _ATEN.cos: _replaced_by("sin"),
    _ATEN.roll: _roll,
    _ATEN.cat: _joined,
    _ATEN.stack: _joined,
    _ATEN.split: _parts,
    _ATEN.unbind: _parts,
    _ATEN.select: _selected,
    _ATEN.slice: _sliced,
    _ATEN.view: _viewed,
    _ATEN._unsafe_view: _viewed,
    _ATEN.permute: _permuted,
    _ATEN.transpose: _permuted,
    _ATEN.masked_fill: _filled,
    _ATEN.constant_pad_nd: _padded,
    _ATEN.index: _indexed,
    _ATEN.sum: _reduced,
    _ATEN.mean: _reduced,
    _ATEN.nll_loss_forward: _class_loss,
    _ATEN.where: _chosen,
    _ATEN.lt: _compared,
    _ATEN.le: _compared,
    _ATEN.gt: _compared,
    _ATEN.ge: _compared,
    _ATEN.clamp: _bounded,
    _ATEN.clamp_min: _bounded,
}

"""Other forms of an operation on images: another padding, stride, rule of resizing."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from parity.causes.resizing import weights
from parity.causes.torch_attention import Variant

MODES = {"replicate": "edge", "reflect": "reflect", "symmetric": "symmetric", "circular": "wrap"}
"""Kinds of padding by elements of the map itself, as PyTorch and as NumPy call them."""


def _same_padding(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float) -> Tensor:
    """`x` padded as TensorFlow's SAME does: the odd pixel goes to the bottom and the right."""
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[-2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def convolution(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
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


def max_pool(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, kernel, stride = args[0], args[1], args[2] or args[1]
    padding = args[3] if len(args) > 3 else [0, 0]
    if any(padding):
        pads = [padding[-1], padding[-1], padding[0], padding[0]]
        for text, padded in (
            ("SAME padding", lambda: _same_padding(x, kernel, stride, -math.inf)),
            ("zeros as padding", lambda: F.pad(x, pads)),
        ):
            yield text, lambda padded=padded: operation(padded(), kernel, stride)


def resize(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, size = args[0], tuple(result.shape[-2:])
    own = operation.overloadpacket.__name__
    rules = {
        "nearest (rounding down)": {"mode": "nearest"},
        "nearest (pixel centres)": {"mode": "nearest-exact"},
        "bilinear": {"mode": "bilinear", "align_corners": False},
        "bilinear with aligned corners": {"mode": "bilinear", "align_corners": True},
        "antialiased bilinear": {"mode": "bilinear", "antialias": True},
        "bicubic": {"mode": "bicubic", "align_corners": False},
        "bicubic with aligned corners": {"mode": "bicubic", "align_corners": True},
        "antialiased bicubic": {"mode": "bicubic", "antialias": True},
    }
    for text, options in rules.items():
        yield (
            f"{text} resize instead of {own}",
            lambda options=options: F.interpolate(x, size=size, **options),
        )

    # PyTorch's cubic has the coefficient -0.75, its antialiased one -0.5.
    if own == "upsample_bicubic2d":
        text = "bicubic with the coefficient -0.5 instead of -0.75"
        yield text, partial(_cubic, x, size, False)
        yield f"{text}, and the last pixel repeated", partial(_cubic, x, size, True)
    if own == "_upsample_bicubic2d_aa":
        text = "bicubic with the coefficient -0.5, not antialiased"
        yield text, partial(_cubic, x, size, False)


def _cubic(x: Tensor, size: Sequence[int], repeated: bool) -> Tensor:
    """The cubic with the coefficient -0.5; beyond the border the last pixel is repeated, or none
    is."""
    rows, columns = (
        torch.from_numpy(weights(before, after, "bicubic", repeated=repeated)).to(x.dtype)
        for before, after in zip(x.shape[-2:], size, strict=True)
    )
    return torch.einsum("ip,ncpq,jq->ncij", rows, x, columns)


def padded(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
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
    if x.numel() and min(pads) >= 0:
        for name, mode in MODES.items():
            yield f"{name} padding instead of {value:g}", partial(_filled, x, pads, mode)


def _filled(x: Tensor, pads: Sequence[int], mode: str) -> Tensor:
    """`x` with elements of its own around it; `pads` before and after, from the last axis."""
    for axis, pair in enumerate(zip(pads[0::2], pads[1::2], strict=True)):
        of = x.dim() - 1 - axis
        index = np.pad(np.arange(x.shape[of]), pair, mode=mode)
        x = x.index_select(of, torch.from_numpy(index))
    return x

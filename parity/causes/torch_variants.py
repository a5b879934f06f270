"""Other forms of one operation of PyTorch: another epsilon, padding, rounding, rule of resizing."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from parity.causes.torch_attention import FILLS, Variant, attention, other_fills
from parity.causes.torch_clipping import (
    also,
    binary_entropy,
    bounded,
    clipped_probabilities,
    log_softmax,
)
from parity.causes.torch_images import convolution, max_pool, padded, resize
from parity.causes.torch_norms import batch_norm, epsilons, group_norm, layer_norm
from parity.causes.torch_order import (
    indexed,
    joined,
    parts,
    permuted,
    roll,
    selected,
    sliced,
    viewed,
)

BASES = (1e3, 1e4, 1e5, 20.0, 100.0)


ROOT_OF_HALF = float(np.float32(math.sqrt(0.5)))


CUBIC = float(np.float32(0.044715))


_ATEN = torch.ops.aten


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
            yield from epsilons(lambda epsilon: operation(a, epsilon, **kwargs), b)
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


def _filled(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, mask, own = args
    yield "nothing is masked", lambda: x.clone()
    for value in FILLS:
        if value != own:
            yield f"masked with {value:g} instead of {own}", partial(operation, x, mask, value)


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


def _embedded(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    """Rows of a table that were counted from elsewhere, or that all are one."""
    table, index, *rest = args
    for shift in (1, -1, 2, -2):
        other = (index + shift).clamp(0, len(table) - 1)
        text = f"rows counted {abs(shift)} {'further' if shift > 0 else 'before'}"
        yield text, partial(operation, table, other, *rest)
    yield "the first row everywhere", partial(operation, table, torch.zeros_like(index), *rest)
    yield "without its rows", lambda: torch.zeros_like(result)


OF_RELU = ("identity", "gelu", "gelu (tanh)", "silu", "leaky relu")
NOT_SCALED = frozenset(
    {
        "detach", "clone", "lift_fresh", "_to_copy", "view", "_unsafe_view", "permute", "transpose",
        "t", "expand", "unsqueeze", "squeeze", "select", "slice", "alias", "empty", "zeros", "ones",
        "full", "arange", "zeros_like", "ones_like", "split", "unbind", "reshape", "scalar_tensor",
    }
)  # fmt: skip


VARIANTS: dict[Any, Callable[..., Iterable[Variant]]] = {
    _ATEN.native_layer_norm: layer_norm,
    _ATEN.native_group_norm: group_norm,
    _ATEN.native_batch_norm: batch_norm,
    _ATEN._native_batch_norm_legit_no_training: batch_norm,
    _ATEN.convolution: convolution,
    _ATEN.max_pool2d_with_indices: max_pool,
    _ATEN.addmm: _added_product,
    _ATEN.baddbmm: _added_product,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: attention,
    _ATEN.mm: _product,
    _ATEN.bmm: _product,
    _ATEN._softmax: also(_softmax, clipped_probabilities),
    _ATEN._safe_softmax: also(_softmax, clipped_probabilities),
    _ATEN._log_softmax: log_softmax,
    _ATEN.binary_cross_entropy_with_logits: binary_entropy,
    _ATEN.upsample_nearest2d: resize,
    _ATEN._upsample_nearest_exact2d: resize,
    _ATEN.upsample_bilinear2d: resize,
    _ATEN.upsample_bicubic2d: resize,
    _ATEN._upsample_bilinear2d_aa: resize,
    _ATEN._upsample_bicubic2d_aa: resize,
    _ATEN.embedding: _embedded,
    _ATEN.add: _sum,
    _ATEN.add_: _sum,
    _ATEN.sub: _sum,
    _ATEN.mul: _factor,
    _ATEN.div: _quotient,
    _ATEN.pow: _power,
    _ATEN.cumsum: _cumulative,
    _ATEN.relu_: also(_replaced_by(*OF_RELU), bounded()),
    _ATEN.relu: also(_replaced_by(*OF_RELU), bounded()),
    _ATEN.gelu: also(
        _replaced_by(
            "gelu (tanh)",
            "gelu with its constant in float32",
            "gelu (tanh) with its constant in float32",
            "relu",
            "silu",
            "identity",
        ),
        bounded(),
    ),
    _ATEN.sigmoid: also(_replaced_by("identity", "relu"), clipped_probabilities),
    _ATEN.sin: _replaced_by("cos"),
    _ATEN.cos: _replaced_by("sin"),
    _ATEN.roll: roll,
    _ATEN.cat: joined,
    _ATEN.stack: joined,
    _ATEN.split: parts,
    _ATEN.unbind: parts,
    _ATEN.select: selected,
    _ATEN.slice: sliced,
    _ATEN.view: viewed,
    _ATEN._unsafe_view: viewed,
    _ATEN.permute: permuted,
    _ATEN.transpose: permuted,
    _ATEN.masked_fill: _filled,
    _ATEN.constant_pad_nd: padded,
    _ATEN.index: indexed,
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

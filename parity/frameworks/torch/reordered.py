"""Computes what a PyTorch model does with the terms of its sums in another order."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def reordered() -> Iterator[None]:
    """Compute every sum of products, norm and softmax with its terms in reverse order.

    The results are mathematically the same; only rounding differs. Inside the context PyTorch's
    convolutions, matrix products, layer and group norms, softmax, means, sums and vector norms are
    affected.
    """
    with _Reversed():
        yield


class _Reversed(TorchDispatchMode):
    """Turns the summed axis of each operation's operands around."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rewrite = _REVERSALS.get(operation)
        if rewrite is None:
            return operation(*args, **kwargs)
        return rewrite(operation, *args, **kwargs)


def _reverse_convolution(
    operation: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    rest = (bias, stride, padding, dilation, transposed, output_padding, groups)
    if transposed or groups != 1:
        return operation(x, weight, *rest)
    return operation(x.flip(1), weight.flip(1), *rest)


def _reverse_product(operation: Any, a: Any, b: Any) -> Any:
    return operation(a.flip(-1), b.flip(-2))


def _reverse_added_product(operation: Any, bias: Any, a: Any, b: Any, **scales: Any) -> Any:
    return operation(bias, a.flip(-1), b.flip(-2), **scales)


def _reverse_layer_norm(
    operation: Any, x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Any:
    axes = list(range(-len(shape), 0))
    weight, bias = (None if t is None else t.flip(axes) for t in (weight, bias))
    out, mean, deviation = operation(x.flip(axes), shape, weight, bias, eps)
    return out.flip(axes), mean, deviation


def _reverse_group_norm(operation: Any, x: Any, *rest: Any) -> Any:
    axes = list(range(2, x.dim()))
    out, mean, deviation = operation(x.flip(axes), *rest)
    return out.flip(axes), mean, deviation


def _reverse_softmax(operation: Any, x: Any, axis: int, *rest: Any) -> Any:
    return operation(x.flip(axis), axis, *rest).flip(axis)


def _reverse_sum(operation: Any, x: Any, axes: Any = None, *rest: Any, **kwargs: Any) -> Any:
    turned = list(range(x.dim())) if axes is None or not len(axes) else list(axes)
    return operation(x.flip(turned), axes, *rest, **kwargs)


def _reverse_total(operation: Any, x: Any, **kwargs: Any) -> Any:
    return operation(x.flip(list(range(x.dim()))), **kwargs)


def _reverse_norm(
    operation: Any, x: Any, order: Any = 2, axes: Any = None, *rest: Any, **kwargs: Any
) -> Any:
    turned = list(range(x.dim())) if axes is None or not len(axes) else list(axes)
    return operation(x.flip(turned), order, axes, *rest, **kwargs)


_ATEN = torch.ops.aten
_REVERSALS = {
    _ATEN.convolution.default: _reverse_convolution,
    _ATEN.mm.default: _reverse_product,
    _ATEN.bmm.default: _reverse_product,
    _ATEN.addmm.default: _reverse_added_product,
    _ATEN.baddbmm.default: _reverse_added_product,
    _ATEN.native_layer_norm.default: _reverse_layer_norm,
    _ATEN.native_group_norm.default: _reverse_group_norm,
    _ATEN._softmax.default: _reverse_softmax,
    _ATEN._safe_softmax.default: _reverse_softmax,
    _ATEN.mean.dim: _reverse_sum,
    _ATEN.sum.dim_IntList: _reverse_sum,
    _ATEN.mean.default: _reverse_total,
    _ATEN.sum.default: _reverse_total,
    _ATEN.linalg_vector_norm.default: _reverse_norm,
}

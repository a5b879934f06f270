"""Other forms of a norm of PyTorch: another epsilon, other statistics, without its scale."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from parity.causes.torch_attention import Variant

EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0)


def epsilons(call: Callable[[float], Any], own: float) -> Iterator[Variant]:
    for epsilon in EPSILONS:
        if epsilon != own:
            text = f"epsilon {epsilon:g} instead of {own:g}"
            yield text, partial(call, epsilon)


def layer_norm(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, shape, weight, bias, own = args

    def run(epsilon: float = own, weight: Any = weight, bias: Any = bias) -> Any:
        return operation(x, shape, weight, bias, epsilon)

    yield from epsilons(run, own)
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


def group_norm(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    x, weight, bias, n, channels, pixels, groups, own = args

    def run(epsilon: float = own, groups: int = groups) -> Any:
        return (operation(x, weight, bias, n, channels, pixels, groups, epsilon)[0], *result[1:])

    yield from epsilons(run, own)
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


def batch_norm(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
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

    yield from epsilons(run, own)
    yield "with the statistics of this batch instead of the stored ones", of_batch
    yield "left out", lambda: (args[0].clone(), *result[1:])

"""Bounds that an operation of PyTorch lacks: clipped probabilities, logits and activations.

On numbers of a usual size they change nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from parity.causes.torch_attention import BOUNDS, CLIPPED, Variant

ACTIVATIONS = (65504.0, 6.0)
Variants = Callable[[Any, tuple, dict, Any], Iterable[Variant]]


def clipped_probabilities(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator:
    """Of a softmax or sigmoid: its result kept away from 0 and 1, its input from large numbers."""
    for least in CLIPPED:
        yield f"its result is clipped below at {least:g}", lambda least=least: result.clamp(least)
        yield (
            f"its result is clipped at {least:g} and 1 - {least:g}",
            lambda least=least: result.clamp(least, 1 - least),
        )
    yield from _clipped_inputs(operation, args, kwargs)


def _clipped_inputs(operation: Any, args: tuple, kwargs: dict) -> Iterator[Variant]:
    x, *rest = args
    for most in BOUNDS:
        yield (
            f"its input is clipped at -{most:g} and {most:g}",
            lambda most=most: operation(x.clamp(-most, most), *rest, **kwargs),
        )


def log_softmax(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    """The logarithm of a softmax, of which small probabilities are lost."""
    x, axis = args[:2]
    for least in CLIPPED:
        yield (
            f"the logarithm of a softmax that is clipped below at {least:g}",
            lambda least=least: x.softmax(axis).clamp(least).log(),
        )
        yield (
            f"the logarithm of a softmax that is clipped at {least:g} and 1 - {least:g}",
            lambda least=least: x.softmax(axis).clamp(least, 1 - least).log(),
        )
        yield (
            f"the logarithm of a softmax and {least:g}",
            lambda least=least: (x.softmax(axis) + least).log(),
        )
    yield from _clipped_inputs(operation, args, kwargs)


def binary_entropy(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    """Binary cross entropy of a probability, of which small ones are lost."""
    x, target, *_ = args
    for least in CLIPPED:

        def clipped(least: float = least) -> Tensor:
            p = x.sigmoid().clamp(least, 1 - least)
            return -(target * p.log() + (1 - target) * (1 - p).log())

        def below(least: float = least) -> Tensor:
            p = x.sigmoid()
            return -(target * (p + least).log() + (1 - target) * (1 - p + least).log())

        yield f"of a probability that is clipped at {least:g} and 1 - {least:g}", clipped
        yield f"of probabilities with {least:g} added to each", below
    yield from _clipped_inputs(operation, args, kwargs)


def bounded(most: tuple[float, ...] = ACTIVATIONS) -> Variants:
    """Of an activation: its result kept below a number."""

    def variants(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
        for bound in most:
            yield (
                f"its result is clipped at {bound:g}",
                lambda bound=bound: operation(*args, **kwargs).clamp(-bound, bound),
            )

    return variants


_ATEN = torch.ops.aten
BOUNDED: dict[Any, Variants] = {
    _ATEN._softmax: clipped_probabilities,
    _ATEN._safe_softmax: clipped_probabilities,
    _ATEN.sigmoid: clipped_probabilities,
    _ATEN._log_softmax: log_softmax,
    _ATEN.binary_cross_entropy_with_logits: binary_entropy,
    _ATEN.relu: bounded(),
    _ATEN.relu_: bounded(),
    _ATEN.gelu: bounded(),
}
"""The bounds of each operation that is known to be given some."""


def also(*kinds: Variants) -> Variants:
    """The variants of several kinds, one after another."""

    def variants(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
        for one in kinds:
            yield from one(operation, args, kwargs, result)

    return variants

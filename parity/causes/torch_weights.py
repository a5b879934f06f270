"""Mistakes in the weights that a PyTorch module holds, and weights that were loaded otherwise."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from parity.causes.source import Mistake, Planted
from parity.causes.torch_mistakes import every_place

ATTENDING = ("query", "key", "value")
GATES = {"GRU": ("reset", "update", "new"), "LSTM": ("input", "forget", "cell", "output")}


def parameter_mistakes(
    module: torch.nn.Module, others: Mapping[str, Tensor], apart: Sequence[str] = ()
) -> Iterator[Mistake]:
    """Wrong values for each parameter and buffer that `module` itself holds.

    Args:
        others: tensors by name whose values may have been loaded in its place.
        apart: paths of modules within, whose parameters are left alone.
    """
    own = _held(module, apart)
    gates = GATES.get(type(module).__name__.removesuffix("Cell"))
    alike: dict[str, dict[str, Planted]] = {}
    for name, tensor in own.items():
        wrong = itertools.chain(
            _wrong_values(tensor.detach()), _wrong_parts(tensor.detach(), gates)
        )
        for text, value in wrong:
            planted = partial(_loaded, tensor, value)
            alike.setdefault(text, {})[name] = planted
            yield Mistake(f"{name} {text}", planted)
        for other, twin in others.items():
            if twin is not tensor and twin.shape == tensor.shape:
                text = f"{name} has the values of {other}"
                yield Mistake(text, partial(_loaded, tensor, twin.detach()))
    for (first, a), (second, b) in itertools.combinations(own.items(), 2):
        if a.shape == b.shape:
            swapped = (partial(_loaded, a, b.detach()), partial(_loaded, b, a.detach()))
            yield Mistake(
                f"{first} and {second} have each other's values", partial(every_place, swapped)
            )
    for text, planted in alike.items():
        if len(planted) > 1:
            names = " and ".join(planted)
            yield Mistake(f"{names}: each {text}", partial(every_place, tuple(planted.values())))


def loaded_otherwise(
    module: torch.nn.Module,
    path: str,
    weights: Mapping[str, np.ndarray],
    apart: Sequence[str] = (),
) -> Iterator[Mistake]:
    """The port's own values of the parameters and buffers that `module` itself holds.

    All of them at once; where there are several, each alone first.

    Args:
        path: of the module, with which the names of its tensors begin in `weights`.
        weights: those of the port that are not the reference's, in its names and layout.
        apart: paths of modules within, whose parameters are left alone.
    """
    given: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in _held(module, apart).items():
        value = weights.get(f"{path}.{name}" if path else name)
        if value is not None and value.shape == tuple(tensor.shape):
            given[name] = (tensor, torch.from_numpy(np.ascontiguousarray(value)).to(tensor.dtype))
    for name, (tensor, value) in given.items():
        flat, own = value.flatten(), tensor.detach().flatten()
        index = int((flat - own).abs().argmax())
        where = [int(one) for one in np.unravel_index(index, value.shape)]
        text = (
            f"{name} has other values, which are furthest apart at {where}: "
            f"{flat[index].item():.9g} instead of {own[index].item():.9g}"
        )
        yield Mistake(text, partial(_loaded, tensor, value))
    if len(given) > 1:
        planted = tuple(partial(_loaded, *one) for one in given.values())
        yield Mistake(f"{' and '.join(given)} have other values", partial(every_place, planted))


def _held(module: torch.nn.Module, apart: Sequence[str]) -> dict[str, Tensor]:
    """The float parameters and buffers of a module by name, without those below `apart`."""
    return {
        name: tensor
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        if tensor.is_floating_point() and not name.startswith(tuple(f"{one}." for one in apart))
    }


@contextmanager
def _loaded(tensor: Tensor, value: Tensor) -> Iterator[None]:
    """`tensor` with other values; its own come back when the context ends."""
    original = tensor.data
    tensor.data = value.to(original.dtype).contiguous()
    try:
        yield
    finally:
        tensor.data = original


def _wrong_values(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    for dtype in (torch.float16, torch.bfloat16):
        yield f"was rounded to {str(dtype).removeprefix('torch.')}", value.to(dtype)
    yield "is missing (zeros)", torch.zeros_like(value)
    yield "is missing (ones)", torch.ones_like(value)
    rank, first = value.dim(), value.shape[0] if value.dim() else 0
    if rank >= 2 and first == value.shape[1]:
        yield "has rows and columns transposed", value.transpose(0, 1)
    if rank == 4 and value.shape[2] == value.shape[3] > 1:
        yield "has height and width of the kernel transposed", value.transpose(2, 3)
        yield "has the kernel turned by 180 degrees", value.flip(2, 3)
    if rank >= 1 and first > 1:
        yield "is reversed along its first axis", value.flip(0)
        yield "is rolled by one along its first axis", value.roll(1, 0)
        yield "is rolled back by one along its first axis", value.roll(-1, 0)
    if rank >= 2 and 1 < value.shape[1] <= 4:
        yield "is reversed along its second axis", value.flip(1)
    if rank == 2 and first == (side := math.isqrt(first)) ** 2 and side > 1:
        turned = value.reshape(side, side, -1).transpose(0, 1).reshape(value.shape)
        yield "has rows and columns of its table transposed", turned


def _wrong_parts(value: Tensor, gates: Sequence[str] | None) -> Iterator[tuple[str, Tensor]]:
    """What is wrong with one of several parts along the first axis: of attention, or gates."""
    names = gates or ATTENDING
    if not value.dim() or value.shape[0] % len(names) or value.shape[0] < 2 * len(names):
        return
    own = value.chunk(len(names))
    called = "gates" if gates else "three parts"
    for order in itertools.permutations(range(len(names))):
        if order != tuple(range(len(names))):
            listed = ", ".join(names[i] for i in order)
            yield f"has its {called} in the order {listed}", torch.cat([own[i] for i in order])
    for index, name in enumerate(names):
        parts = list(own)
        parts[index] = torch.zeros_like(parts[index])
        yield f"lacks its {name} part", torch.cat(parts)
        if value.dim() == 2 and len(parts[index]) == value.shape[1]:
            parts[index] = own[index].transpose(0, 1)
            yield f"has its {name} part transposed", torch.cat(parts)

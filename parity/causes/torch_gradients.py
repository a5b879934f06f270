"""Gradients that a port could have lost: stopped at one argument of one operation of the reference.

The forward pass stays what it is. So a backward pass that is wrong in this way only is explained
where the reference, with that gradient stopped, passes back what the port does.
"""

import linecache
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from parity.causes.source import Mistake

ORDINALS = ("first", "second", "third", "fourth", "fifth")
_HERE = f"{Path(__file__).parents[1]}{os.sep}"  # the engine
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


def stopped(run: Callable[[], Any]) -> Iterator[Mistake]:
    """The mistakes of stopping one gradient in `run`, and of holding a norm's statistics constant.

    `run` must call the same functions every time that it is called.
    """
    recording = _Stopping({})
    with recording:
        run()
    for number, line, arguments, norm in recording.met:
        place = f"{line}: " if line else ""
        if norm:
            for text, held in (("mean is", (True, False)), ("variance is", (False, True)),
                               ("mean and variance are", (True, True))):  # fmt: skip
                planted = partial(_Stopping, {number: held})
                yield Mistake(f"{place}the gradient is stopped: its {text} held constant", planted)
        for index in arguments:
            which = ORDINALS[index] if index < len(ORDINALS) else f"{index + 1}th"
            text = f"{place}the gradient is stopped at the {which} argument"
            yield Mistake(text, partial(_Stopping, {number: index}))


class _Stopping(TorchFunctionMode):
    """Stops the gradient of numbered arguments of numbered calls; notes what could be stopped."""

    def __init__(self, stops: dict[int, Any]) -> None:
        super().__init__()
        self.met: list[tuple[int, str, list[int], bool]] = []
        self._stops, self._number = stops, -1

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._number += 1
        stop = self._stops.get(self._number)
        if isinstance(stop, tuple):
            return _layer_norm(*args, **kwargs, held=stop)
        if stop is not None:
            return function(*_detached(args, stop), **kwargs)
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.requires_grad and not self._stops:
            arguments = [
                index
                for index, one in enumerate(_tensors(args))
                if isinstance(one, Tensor) and one.requires_grad
            ]
            if arguments:
                norm = function is F.layer_norm
                self.met.append((self._number, _source_line(), arguments, norm))
        return result


def _tensors(args: tuple) -> tuple | list:
    """The arguments, or the parts of the first where that is a list, as of `torch.stack`."""
    return args[0] if args and isinstance(args[0], list | tuple) else args


def _detached(args: tuple, index: int) -> tuple:
    parts = list(_tensors(args))
    parts[index] = parts[index].detach()
    return tuple(parts) if _tensors(args) is args else (type(args[0])(parts), *args[1:])


def _layer_norm(
    x: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    held: tuple[bool, bool],
) -> Tensor:
    axes = list(range(-len(shape), 0))
    mean = x.mean(axes, keepdim=True)
    mean = mean.detach() if held[0] else mean
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    variance = variance.detach() if held[1] else variance
    normal = (x - mean) / (variance + eps).sqrt()
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


def _source_line() -> str:
    """The innermost line of the model's code that runs now, `file:line: text`, or ""."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_HERE, _TORCH, "<")):
            text = linecache.getline(name, frame.f_lineno).strip()
            return f"{Path(name).name}:{frame.f_lineno}: `{text}`"
        frame = frame.f_back
    return ""

"""Mistakes that a port could have made, planted one at a time in a module of the PyTorch reference.

A mistake explains a difference where the reference, having made it, computes what the port does. So
nothing needs to be known of the port's code. Mistakes are made at single operations of a module's
forward pass (another epsilon, a term left out, another resize rule) and in its parameters (a
transposed matrix, the weights of another module).
"""

import itertools
import linecache
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parity.causes.source import Mistake, Planted
from parity.causes.torch_attention import Variant
from parity.causes.torch_norms import EPSILONS
from parity.causes.torch_variants import NOT_SCALED, VARIANTS
from parity.causes.torch_windows import Windows
from parity.trace import Tap

_HERE = f"{Path(__file__).parents[1]}{os.sep}"  # the engine
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_PYTHON = f"{Path(os.__file__).parent}{os.sep}"
_BETWEEN = f"{_HERE}frameworks{os.sep}torch{os.sep}float64.py"


@dataclass(frozen=True)
class Operation:
    """One operation of a run: its number, its name, and the source line that made it, if known."""

    number: int
    name: str
    line: str
    scalable: bool

    @property
    def place(self) -> str:
        """The operation as people find it: `line` of the reference, or its name."""
        return self.line or f"`{self.name}`"

    def scaled(self, factor: float) -> Mistake:
        """The mistake of multiplying the result by `factor`."""

        def change(result: Any) -> Any:
            return result * factor

        text = f"{self.place}: its result is multiplied by {factor:.10g}"
        return Mistake(text, partial(_Changed, {self.number: change}))


def operations(
    run: Callable[[], Any], variants: Mapping[Any, Callable[..., Iterable[Variant]]] = VARIANTS
) -> tuple[list[Operation], list[Mistake]]:
    """The operations of `run`, in order, and the mistakes that could be made at each.

    `variants` are the other forms that are thought of, by operation. `run` must do the same
    operations every time that it is called.
    """
    recording = _Recording(variants)
    with recording:
        run()
    return recording.operations, [*recording.mistakes, *recording.repeated()]


def both(first: Mistake, second: Mistake) -> Mistake | None:
    """The mistake of making two at once; None where both are made at one operation."""
    text = f"{first.text}; and {second.text}"
    changes = [_changes(one) for one in (first, second)]
    if None in changes:
        return Mistake(text, partial(every_place, (first.planted, second.planted)))
    if changes[0].keys() & changes[1].keys():
        return None
    return Mistake(text, partial(_Changed, {**changes[0], **changes[1]}))


def _changes(mistake: Mistake) -> "dict[int, Any] | None":
    """The operations that a mistake is made at, by number; None where it is made elsewhere."""
    planted = mistake.planted
    at_operations = isinstance(planted, partial) and planted.func is _Changed
    return dict(planted.args[0]) if at_operations else None


def argument_mistakes(feeds: Mapping[str, Tap]) -> Iterator[tuple[str, dict[str, Tap]]]:
    """Wrong tensors for the arguments of a call: turned, shifted, or those of another argument."""
    for name, tap in feeds.items():
        shown = name or "input"
        for axis, size in enumerate(tap.array.shape):
            for shift in (1, -1) if size > 2 else ():
                rolled = replace(tap, array=np.roll(tap.array, shift, axis))
                text = f"argument {shown} is rolled by {shift} along axis {axis}"
                yield text, {**feeds, name: rolled}
            if 1 < size <= 4:
                first = replace(tap, array=np.repeat(np.take(tap.array, [0], axis), size, axis))
                text = f"argument {shown} has the first of axis {axis} in place of all"
                yield text, {**feeds, name: first}
                turned = replace(tap, array=np.flip(tap.array, axis).copy())
                yield f"argument {shown} is reversed along axis {axis}", {**feeds, name: turned}
        for other, twin in feeds.items():
            if other != name and twin.array.shape == tap.array.shape:
                taken = replace(tap, array=twin.array)
                yield f"argument {other} is used for {shown}", {**feeds, name: taken}


def attribute_mistakes(module: torch.nn.Module) -> Iterator[Mistake]:
    """Other values of the switches and numbers that `module` itself holds, one at a time."""
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        for other in _other_values(value):
            text = f"attribute {name} is {other} instead of {value}"
            yield Mistake(text, partial(_set, module, name, other))


def _other_values(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (other for other in (0, 2 * value, value // 2, -value) if other != value)
    elif isinstance(value, float):
        small = 0 < value < 0.01
        others = EPSILONS if small else (2 * value, value / 2, value * value, math.sqrt(abs(value)))
        yield from (other for other in others if other != value)


@contextmanager
def _set(module: torch.nn.Module, name: str, value: Any) -> Iterator[None]:
    before = vars(module)[name]
    vars(module)[name] = value
    try:
        yield
    finally:
        vars(module)[name] = before


@contextmanager
def every_place(planted: Sequence[Planted]) -> Iterator[None]:
    with ExitStack() as stack:
        for one in planted:
            stack.enter_context(one())
        yield


class _Recording(TorchDispatchMode):
    """Notes the operations of a run, and what could be wrong at each."""

    def __init__(self, variants: Mapping[Any, Callable[..., Iterable[Variant]]]) -> None:
        super().__init__()
        self._variants = variants
        self.operations: list[Operation] = []
        self.mistakes: list[Mistake] = []
        self._alike: dict[tuple[str, str, str], dict[int, _Variation]] = {}
        self._number = -1
        self._windows = Windows()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self._number += 1
        kwargs = kwargs or {}
        before = _before(operation, args)
        result = operation(*args, **kwargs)
        name = operation.overloadpacket.__name__
        scalable = (
            isinstance(result, Tensor) and result.is_floating_point() and name not in NOT_SCALED
        )
        noted = Operation(self._number, name, _source_line(), scalable)
        self.operations.append(noted)
        self._windows.note(self._number, noted.place, operation, args, result)
        known = self._variants
        variants = known.get(operation, known.get(operation.overloadpacket))
        if variants is not None:
            for index, (text, _) in enumerate(variants(operation, before, kwargs, result)):
                variation = _Variation(variants, index)
                for line in {noted.line, ""}:
                    self._alike.setdefault((line, name, text), {})[self._number] = variation
                planted = partial(_Changed, {self._number: variation})
                self.mistakes.append(Mistake(f"{noted.place}: {text}", planted))
        return result

    def repeated(self) -> Iterator[Mistake]:
        """The mistakes that are made at several operations: alike, or of the order of two."""
        for text, changes in self._windows.mistakes():
            yield Mistake(text, partial(_Changed, changes))
        for (line, name, text), changes in self._alike.items():
            count = len(changes)
            if count == 1:
                continue
            place = line or f"`{name}`"
            yield Mistake(f"{place}, all {count} times: {text}", partial(_Changed, changes))
            # A line that runs for several layers does the same operations for each in turn.
            for period in (2, 3, 4):
                if line and count % period == 0 and count > period:
                    for first in range(period):
                        chosen = dict(itertools.islice(changes.items(), first, None, period))
                        title = f"{place}, operation {first + 1} of {period}: {text}"
                        yield Mistake(title, partial(_Changed, chosen))


@dataclass(frozen=True)
class _Variation:
    """One of the ways in which an operation can be done otherwise, by number."""

    variants: Callable[..., Iterable[Variant]]
    index: int


class _Changed(TorchDispatchMode):
    """Does numbered operations in another way: by a variation, or by a function of the result."""

    def __init__(self, changes: "Mapping[int, _Variation | Callable[[Any], Any]]") -> None:
        super().__init__()
        self._changes = changes
        self._number = -1

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._number += 1
        change = self._changes.get(self._number)
        if change is None:
            return operation(*args, **kwargs)
        before = _before(operation, args)
        result = operation(*args, **kwargs)
        if isinstance(change, _Variation):
            offered = change.variants(operation, before, kwargs, result)
            changed = next(itertools.islice(offered, change.index, None))[1]()
        else:
            changed = change(result)
        return changed if before is args else args[0].copy_(changed)


def _before(operation: Any, args: tuple) -> tuple:
    """The arguments, copied where the operation works in place."""
    if not operation._schema.is_mutable:
        return args
    return tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)


def _source_line() -> str:
    """The innermost line of the model's own code that runs now, `file:line: text`, or "".

    What lies between it and PyTorch is a tool, such as a package that rearranges axes: code
    outside the package of the module that is running.
    """
    frame = sys._getframe(2)
    lines: list[tuple[str, int, str]] = []
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_HERE) and not name.startswith(_BETWEEN):
            break
        if not name.startswith((_TORCH, _BETWEEN, "<")):
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            lines.append((name, frame.f_lineno, package))
            owner = frame.f_locals.get("self")
            if isinstance(owner, torch.nn.Module):
                home = type(owner).__module__.partition(".")[0]
                lines = [one for one in lines if one[2] == home or _is_users(one[0])] or lines[-1:]
                break
        frame = frame.f_back
    else:
        lines = [one for one in lines if _is_users(one[0])] or lines
    if not lines:
        return ""
    name, number, _ = lines[0]
    return f"{Path(name).name}:{number}: `{linecache.getline(name, number).strip()}`"


def _is_users(file: str) -> bool:
    """Whether a file is neither installed nor a part of Python."""
    return "-packages" not in file and not file.startswith(_PYTHON)

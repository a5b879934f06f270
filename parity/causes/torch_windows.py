"""Padding and rolling, as windows need both, done in the other order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ATEN = torch.ops.aten
PAD, ROLL = _ATEN.constant_pad_nd, _ATEN.roll
Changes = Mapping[int, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class _Both:
    """A padding and a roll, one of the other's result, by the number of the second."""

    number: int
    pads: tuple[int, ...]
    shifts: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def rolled_first(self, result: Tensor) -> Tensor:
        """What was padded and then rolled, rolled and then padded."""
        return F.pad(self.rolled(self.cropped(self.rolled(result, -1)), 1), self.pads)

    def padded_first(self, result: Tensor) -> Tensor:
        """What was rolled and then padded, padded and then rolled."""
        return self.rolled(F.pad(self.rolled(self.cropped(result), -1), self.pads), 1)

    def rolled(self, x: Tensor, sign: int) -> Tensor:
        """Rolled as it was, or back."""
        return x.roll([sign * shift for shift in self.shifts], self.axes)

    def cropped(self, x: Tensor) -> Tensor:
        """Without what was padded."""
        return F.pad(x, [-one for one in self.pads])


class Windows:
    """Notes paddings and rolls of a run; `mistakes` are those of doing them in the other order."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, Any, Any]] = {}  # which keeps identities in use
        self._both: list[tuple[str, str, _Both]] = []
        self._back: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []

    def note(self, number: int, line: str, operation: Any, args: Sequence, result: Any) -> None:
        """One operation of the run, done on `args`, at a line of source."""
        kind = operation.overloadpacket
        if kind not in (PAD, ROLL):
            return
        if kind is PAD and len(args) > 2 and args[2]:
            return
        _, before, given = self._made.get(id(args[0]), (None, None, ()))
        if kind is ROLL and before is PAD:
            both = _Both(number, tuple(given[1]), tuple(args[1]), tuple(args[2]), result.shape)
            self._both.append((line, "rolled before it is padded", both))
        elif kind is PAD and before is ROLL:
            both = _Both(number, tuple(args[1]), tuple(given[1]), tuple(given[2]), result.shape)
            self._both.append((line, "padded before it is rolled", both))
        elif kind is ROLL:
            self._back.append((number, tuple(args[1]), tuple(result.shape)))
        self._made[id(result)] = (result, kind, args)

    def mistakes(self) -> Iterator[tuple[str, Changes]]:
        """What is done otherwise, with its line, and how results change, by number of operation.

        What is rolled back later, still padded, is rolled back without what was padded too.
        """
        for line, text, both in self._both:
            if text.startswith("padded"):
                yield f"{line}: {text}", {both.number: both.padded_first}
                continue
            back = [
                number
                for number, shifts, shape in self._back
                if number > both.number
                and shape == tuple(both.shape)
                and shifts == tuple(-one for one in both.shifts)
            ]
            changes = {both.number: both.rolled_first}
            for number in back[:1]:
                changes[number] = partial(_rolled_back, both)
            yield f"{line}: {text}", changes


def _rolled_back(both: _Both, result: Tensor) -> Tensor:
    """What was rolled back with its padding, rolled back without it; the padding is cropped."""
    return F.pad(both.rolled(both.cropped(both.rolled(result, 1)), -1), both.pads)

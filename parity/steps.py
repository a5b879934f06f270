"""The steps of a long work: announced on standard error, timed, their memory given back."""

import ctypes
import gc
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from parity.errors import InputError


@dataclass
class Steps:
    """Announces steps and records their wall time in seconds in `timings`.

    On a terminal a finished step is followed by its duration; without one, each step is one line.
    `total` is the number of steps expected, for the counter only, which goes on past it where what
    is found asks for more; without it they have no numbers.
    """

    total: int | None = None
    quiet: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        """Runs one step called `title`."""
        step = len(self.timings) + 1
        number = "" if self.total is None else f"[{step}/{max(step, self.total)}] "
        self._print(f"{number}{title} ...", "")
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self._print(" stopped", "\n")
            raise
        self.timings[title] = time.perf_counter() - start
        self._print(f" {self.timings[title]:.1f} s", "\n")

    def note(self, text: str) -> None:
        """Prints a line within a step."""
        self._print(f"\n  {text}", "")

    def _print(self, text: str, end: str) -> None:
        if not self.quiet:
            print(text, end=end, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Budget:
    """How long a search may take, in seconds: in all, and at one place; None: as long as it does.

    Example:
        >>> Budget.of_text("60s")
        Budget(total=60.0, place=15.0)
    """

    total: float | None = None
    place: float | None = None

    @classmethod
    def of_text(cls, text: str) -> "Budget":
        """`60s` in all, of which one place gets at most a quarter, or `60s,5s`.

        Raises InputError for other texts.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)s?(?:,(\d+(?:\.\d+)?)s?)?", text.strip())
        if found is None or not float(found[1]) > 0:
            raise InputError(
                f"`{text}` is no time for a search",
                "it is a number of seconds in all, and with a comma another at each place",
                "for example 60s or 60s,5s",
            )
        total = float(found[1])
        return cls(total, float(found[2]) if found[2] else total / 4)

    def clock(self) -> "Clock":
        """A clock that starts now."""
        return Clock(self)


class Clock:
    """How much of a budget is spent."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._start = time.perf_counter()
        self._stopped = False

    def stop(self) -> None:
        """All of it is spent."""
        self._stopped = True

    def at_place(self) -> Callable[[], bool]:
        """Whether the time at the place that begins now is spent, or all of it."""
        start, budget = time.perf_counter(), self._budget

        def over() -> bool:
            now = time.perf_counter()
            spent = budget.total is not None and now - self._start > budget.total
            here = budget.place is not None and now - start > budget.place
            return self._stopped or spent or here

        return over


ENDLESS = Budget()


@dataclass(frozen=True)
class Telling:
    """How long a search may take, and who is told of what it finds when it finds it."""

    budget: Budget = ENDLESS
    tell: Callable[[Any], None] = lambda found: None


IN_SILENCE = Telling()


LEAST = 64 * 2**20  # bytes that a process has grown by when it is worth looking for garbage
_held = 0


def give_back() -> None:
    """Frees objects that refer to each other, and pages of the C heap that hold nothing.

    Models and traced programs are such objects; and the heap keeps what was freed between other
    blocks, after a full-size run more than a gigabyte. Without glibc only the first is done. Where
    the process has hardly grown since the last call, nothing is: looking takes up to a second.
    """
    global _held
    now = _resident()
    if now is not None and now < _held + LEAST:
        return
    gc.collect()
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _held = _resident() or 0


def _resident() -> int | None:
    """Resident bytes of this process; None where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None

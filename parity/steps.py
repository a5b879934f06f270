"""The steps of a long work: announced on standard error, timed, their memory given back."""

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Steps:
    """Announces steps and records their wall time in seconds in `timings`.

    On a terminal a finished step is followed by its duration; without one, each step is one line.
    `total` is the number of steps expected, for the counter only; without it they have no numbers.
    """

    total: int | None = None
    quiet: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        """Runs one step called `title`."""
        number = "" if self.total is None else f"[{len(self.timings) + 1}/{self.total}] "
        self._print(f"{number}{title} ...", "")
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self._print(" stopped", "\n")
            raise
        self.timings[title] = time.perf_counter() - start
        self._print(f" {self.timings[title]:.1f} s", "\n")

    def _print(self, text: str, end: str) -> None:
        if not self.quiet:
            print(text, end=end, file=sys.stderr, flush=True)


def give_back() -> None:
    """Frees objects that refer to each other, and pages of the C heap that hold nothing.

    Models and traced programs are such objects; and the heap keeps what was freed between other
    blocks, after a full-size run more than a gigabyte. Without glibc only the first is done.
    """
    gc.collect()
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Progress of a long command on standard error, and how long each of its steps took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Steps:
    """Announces numbered steps and records their wall time in seconds in `timings`.

    On a terminal a finished step is followed by its duration; without one, each step is one line.
    `total` is the number of steps expected, for the counter only.
    """

    total: int
    quiet: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        """Runs one step called `title`."""
        number = len(self.timings) + 1
        if not self.quiet:
            print(f"[{number}/{self.total}] {title} ...", end="", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            if not self.quiet:
                print(" stopped", file=sys.stderr, flush=True)
            raise
        self.timings[title] = time.perf_counter() - start
        if not self.quiet:
            print(f" {self.timings[title]:.1f} s", file=sys.stderr, flush=True)

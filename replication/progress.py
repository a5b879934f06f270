"""Progress of long commands on standard error, and how long their steps took."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


def without_notes() -> None:
    """TensorFlow's notes on hardware, tracing and strategies do not tear lines of progress apart.

    To be called before TensorFlow is imported, in each process.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def bytes_shown(title: str, visible: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes done; yields the function to call with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (visible and console.is_terminal),
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def images_shown(title: str, total: int, visible: bool = True) -> Iterator[Callable[[], None]]:
    """A bar of images done; yields the function to call after each."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (visible and console.is_terminal),
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


@dataclass
class Steps:
    """Announces numbered steps and records their wall time in seconds in `timings`.

    On a terminal a finished step is followed by its duration; without one, each step is one line.
    `total` is the number of steps expected, for the counter only.
    """

    total: int
    quiet: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
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

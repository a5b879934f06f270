"""Progress of long commands on standard error."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from maskformer.family import MASKFORMER


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


_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def steps_shown(
    title: str, total: int, visible: bool
) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """A bar of steps with losses and time left; lines now and then where there is no terminal.

    Yields the function to call with the last step and its row.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    began, printed, first = time.perf_counter(), time.perf_counter(), 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
        console=console,
        disable=not (visible and console.is_terminal),
    ) as bar:
        task = bar.add_task(title, total=total, losses="")

        def show(step: int, row: Mapping[str, Any]) -> None:
            nonlocal printed, first
            losses = ", ".join(
                f"{k} {row[k]:.4g}" for k in MASKFORMER.losses if row.get(k) is not None
            )
            bar.update(task, completed=step, losses=losses)
            now = time.perf_counter()
            first = first or step
            if not visible or console.is_terminal or now - printed < _SECONDS_BETWEEN_LINES:
                return
            printed = now
            left = "starting" if step < total else "evaluating"
            if first < step < total:
                minutes = (now - began) / (step - first) * (total - step) / 60
                left = f"{minutes:.1f} min left"
            print(
                f"{title}: step {step} of {total}, {losses or 'no row yet'}, {left}",
                file=sys.stderr,
                flush=True,
            )

        yield show

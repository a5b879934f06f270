"""Progress of long commands on standard error."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


def without_notes() -> None:
    """TensorFlow's notes on hardware, tracing and strategies do not tear lines of progress apart.

    To be called before TensorFlow is imported, in each process.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def bar_of(
    title: str, total: int | None, visible: bool = True, *columns: "ProgressColumn", **fields: str
) -> Iterator["tuple[Progress, TaskID]"]:
    """A bar on standard error with the time that is left, where that is a terminal; and its task.

    `columns` stand in place of the count; `fields` are texts behind the bar that may be updated.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        *(columns or (progress.MofNCompleteColumn(),)),
        progress.TimeRemainingColumn(),
        *(progress.TextColumn(f"{{task.fields[{name}]}}") for name in fields),
        console=console,
        transient=not fields,
        disable=not (visible and console.is_terminal),
    ) as bar:
        yield bar, bar.add_task(title, total=total, **fields)


@contextlib.contextmanager
def bytes_shown(title: str, visible: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes done; yields the function to call with (done, total)."""
    from rich.progress import DownloadColumn

    with bar_of(title, None, visible, DownloadColumn()) as (bar, task):
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def images_shown(title: str, total: int, visible: bool = True) -> Iterator[Callable[[], None]]:
    """A bar of images done; yields the function to call after each."""
    with bar_of(title, total, visible) as (bar, task):
        yield lambda: bar.advance(task)


_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def steps_shown(
    title: str, total: int, visible: bool
) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """A bar of steps with losses and time left; lines now and then where there is no terminal.

    Yields the function to call with the last step and its row.
    """
    from maskformer.family import MASKFORMER

    began, printed, first = time.perf_counter(), time.perf_counter(), 0
    with bar_of(title, total, visible, losses="") as (bar, task):

        def show(step: int, row: Mapping[str, Any]) -> None:
            nonlocal printed, first
            losses = ", ".join(
                f"{k} {row[k]:.4g}" for k in MASKFORMER.losses if row.get(k) is not None
            )
            bar.update(task, completed=step, losses=losses)
            now = time.perf_counter()
            first = first or step
            if not visible or bar.console.is_terminal or now - printed < _SECONDS_BETWEEN_LINES:
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

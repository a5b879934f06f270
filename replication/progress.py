"""Progress of long commands, on standard error and on terminals only."""

import contextlib
from collections.abc import Callable, Iterator


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

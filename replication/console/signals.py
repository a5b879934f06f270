"""Signals that ask this process to end: raised, so that what it has begun is ended with it."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from typing import Any

SECONDS_TO_AGAIN = 0.1


class Terminated(BaseException):
    """This process was asked to end by a signal. Ctrl-C may end a part, this ends the whole.

    `status` is what a shell says of such an end: 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.status = number, 128 + number

    def __str__(self) -> str:
        return f"signal {int(self.number)}"


def end_by_signals() -> dict[signal.Signals, Any]:
    """From now on SIGTERM and SIGHUP end `multiprocessing`'s processes, and raise `Terminated`.

    A signal that is ignored, as SIGHUP is under nohup, stays so. Outside the main thread, which
    alone may say what a signal does, nothing changes. Returns what the signals did before.
    """

    def end(number: int, frame: object) -> None:
        end_children()
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    taken = {one: was for one, was in before.items() if was is not signal.SIG_IGN}
    for one in taken:
        signal.signal(one, end)
    sys.unraisablehook = partial(_again, sys.unraisablehook)
    return taken


def end_children() -> None:
    """Ends `multiprocessing`'s processes, else a pool would wait for what they do."""
    for child in active_children():
        child.terminate()


def _again(hook: Callable[[Any], None], swallowed: Any) -> None:
    """Sends again a signal whose exception nobody got: it was raised in a finalizer, or while
    garbage was collected, where the frameworks have code of their own."""
    error = swallowed.exc_value
    if isinstance(error, Terminated | KeyboardInterrupt):
        number = getattr(error, "number", signal.SIGINT)
        threading.Timer(SECONDS_TO_AGAIN, os.kill, (os.getpid(), number)).start()
    else:
        hook(swallowed)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it, what `end_by_signals` does."""
    hook, before = sys.unraisablehook, end_by_signals()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for one, handler in before.items():
            signal.signal(one, handler)

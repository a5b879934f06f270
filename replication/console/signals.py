"""Signals that ask this process to end: raised, so that what it has begun is ended with it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any


class Terminated(BaseException):
    """This process was asked to end by a signal. Ctrl-C may end a part, this ends the whole.

    `status` is what a shell says of such an end: 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.status = 128 + number


def end_by_signals() -> dict[signal.Signals, Any]:
    """From now on SIGTERM and SIGHUP end `multiprocessing`'s processes, and raise `Terminated`.

    A signal that is ignored, as SIGHUP is under nohup, stays so. Outside the main thread, which
    alone may say what a signal does, nothing changes. Returns what the signals did before.
    """

    def end(number: int, frame: object) -> None:
        for child in active_children():  # else a pool would wait for what they do
            child.terminate()
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    taken = {one: was for one, was in before.items() if was is not signal.SIG_IGN}
    for one in taken:
        signal.signal(one, end)
    return taken


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it, what `end_by_signals` does."""
    before = end_by_signals()
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)

"""Work in a process of its own, whose memory and TensorFlow devices end with it."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from parity.errors import InputError
from replication.console.progress import without_notes
from replication.console.signals import end_by_signals

Result = TypeVar("Result")


def in_fresh_process(
    function: Callable[..., Result],
    *words: Any,
    prepare: Callable[[], None] | None = None,
    what: str = "a process of this command",
    action: str = "Repeat the command where more memory is free.",
    **named: Any,
) -> Result:
    """What `function` returns in a new process: TensorFlow fixes its devices when it starts.

    There `prepare` is called first. A signal that ends this process ends that, and what it began.
    Raises `killed(what, action)` where it ends without a result.
    """
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context, begin, (prepare,)) as pool:
            return pool.submit(function, *words, **named).result()
    except BrokenProcessPool as error:
        raise killed(what, action) from error


def killed(what: str, action: str) -> InputError:
    """The error of a process that ended without a result: its fact, and what to do."""
    evidence = "its process ended without a result, most likely for lack of memory"
    return InputError(f"{what} was killed", evidence, action)


def begin(prepare: Callable[[], None] | None = None) -> None:
    """To be called first in a process of ours: signals end it with what it begins, TensorFlow's
    notes stay out of its progress, and `prepare` is called."""
    without_notes()
    end_by_signals()
    if prepare is not None:
        prepare()

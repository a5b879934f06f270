"""Work in a process of its own, whose memory and TensorFlow devices end with it."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from parity.errors import InputError
from parity.orphans import end_with_parent
from replication.console.progress import without_notes
from replication.console.signals import Terminated, end_by_signals, end_children

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

    There `prepare` is called first. What ends this process ends that, and what it began.
    Raises `killed(what, action)` where it ends without a result.
    """
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context, begin, (prepare,)) as pool:
            try:
                return pool.submit(work, function, *words, **named).result()
            except KeyboardInterrupt:
                end_children()
                raise
    except BrokenProcessPool as error:
        raise killed(what, action) from error


def killed(what: str, action: str) -> InputError:
    """The error of a process that ended without a result: its fact, and what to do."""
    evidence = "its process ended without a result, most likely for lack of memory"
    return InputError(f"{what} was killed", evidence, action)


def work(function: Callable[..., Result], *words: Any, **named: Any) -> Result:
    """What `function` returns, in a process of ours that ends where its parent has ended."""
    try:
        return function(*words, **named)
    except Terminated as ended:
        if not parent_process().is_alive():
            os._exit(ended.status)  # a pool's process would wait for more work
        raise


def begin(prepare: Callable[[], None] | None = None) -> None:
    """To be called first in a process of ours: signals, and its parent's end, end it with what it
    begins, TensorFlow's notes stay out of its progress, and `prepare` is called."""
    without_notes()
    end_by_signals()
    end_with_parent(parent_process().pid)
    if prepare is not None:
        prepare()

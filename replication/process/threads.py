"""How many threads both frameworks compute with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from parity.errors import InputError

PYTORCH = "OMP_NUM_THREADS"
THREADS = (PYTORCH, "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def set_threads(count: int | None) -> None:
    """Lets both frameworks use `count` threads; None leaves their defaults. Call before any run."""
    if count is None:
        return
    if count < 1:
        raise InputError(f"--threads is {count}", "expected at least 1")
    from replication.sides.side import IMPLEMENTATIONS

    for one in IMPLEMENTATIONS.values():
        one.set_threads(count)


def shared_cores(processes: int) -> dict[str, str]:
    """This process's environment, with threads that leave each of `processes` its share of cores.

    What the environment says of threads already stays as it is.
    """
    return {**dict.fromkeys(THREADS, str(_share(processes))), **os.environ}


@contextmanager
def sharing_cores(processes: int) -> Iterator[None]:
    """Within the context PyTorch computes with one of `processes` shares of the cores, here and in
    processes that start, unless the environment says how many threads it has.

    More of its threads than cores wait for each other at the end of each operation, which then
    takes eight times as long; TensorFlow's do not, and keep their number.
    """
    import torch

    threads, told = torch.get_num_threads(), PYTORCH in os.environ
    share = min(threads, _share(processes))
    torch.set_num_threads(share)
    os.environ.setdefault(PYTORCH, str(share))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if not told:
            del os.environ[PYTORCH]


def told_threads() -> int:
    """How many threads the environment gives PyTorch; 0 where it says nothing of them."""
    told = os.environ.get(PYTORCH, "")
    return int(told) if told.isdigit() else 0


def _share(processes: int) -> int:
    return max(1, (os.cpu_count() or 1) // processes)

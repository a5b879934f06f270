"""How many threads both frameworks compute with."""

import os

from parity.errors import InputError


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
    share = str(max(1, (os.cpu_count() or 1) // processes))
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return {**dict.fromkeys(names, share), **os.environ}

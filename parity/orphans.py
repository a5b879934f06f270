"""A process that ends with the one that began it, however that ends."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def end_with_parent(parent: int | None = None) -> None:
    """From now on the system sends this process SIGTERM when its parent ends, by SIGKILL as well.

    Only Linux can; elsewhere nothing changes. `parent` is the parent's number, where it is known:
    if that has ended before, the signal comes at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)

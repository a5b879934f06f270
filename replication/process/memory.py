"""Gives memory that a finished step leaves behind back to the system."""

import ctypes
import gc
from typing import Any


def give_back() -> None:
    """Frees objects that refer to each other, and pages of the C heap that hold nothing.

    Models and traced programs are such objects; and the heap keeps what was freed between other
    blocks, after a full-size run more than a gigabyte. Without glibc only the first is done.
    """
    gc.collect()
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

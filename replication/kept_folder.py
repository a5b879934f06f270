"""A folder that is filled in its final place, so that what is recorded of it stays true."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from parity.errors import InputError


@contextlib.contextmanager
def kept_folder(out: Path, name: str) -> Iterator[Path]:
    """Yields the empty folder `out/name`, which stays only if the block ends without an error.

    Paths inside it are final, unlike those of `output_folder`. One process at a time fills it;
    what an earlier one left there is removed first.
    Raises InputError where `out` cannot be written, or another process is at work in it.
    """
    folder = out / name
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written",
            f"{type(error).__name__}: {error.strerror or error}",
            "choose another folder",
        ) from None
    try:
        _hold(held, out)
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                out.rmdir()  # which an earlier report, or anything else in it, prevents
            raise
    finally:
        os.close(held)


def _hold(descriptor: int, out: Path) -> None:
    """Locks the folder until the descriptor is closed, also by a kill."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{out} is being written",
            "another process holds it",
            "wait for it to end, or choose another folder",
        ) from None

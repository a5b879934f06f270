"""Results that appear whole or not at all: written under a temporary name, then renamed."""

import contextlib
import errno
import fcntl
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from parity.errors import InputError

_CLEARED: set[Path] = set()
"""Folders in which this process has looked for leftovers."""


def _own_mark() -> str:
    """This process in a file's name; process numbers mean something on one machine only."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', platform.node())}-{os.getpid()}"


@contextlib.contextmanager
def temporary(target: Path, is_folder: bool) -> Iterator[Path]:
    """A path beside `target` to write to; gone afterwards unless it was renamed.

    Raises InputError, with the reason, where anything cannot be written.
    """
    path = target.parent / f".{target.name}.{_own_mark()}.partial"
    try:
        if is_folder:
            path.mkdir()
        yield path
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"the disk of {target.parent} is full",
                f"{target.name} did not fit; nothing was kept",
                "free some space, or choose another destination",
            ) from None
        raise InputError(
            f"{target} cannot be written",
            str(error.strerror or error),
            "choose another destination; nothing was kept",
        ) from None
    finally:
        _remove(path)


def replace(path: Path, target: Path) -> None:
    """Renames `path` to `target`, in place of what is there."""
    if path.is_dir() and target.is_dir():
        old = target.parent / f".{target.name}.{_own_mark()}.old"
        target.rename(old)
        path.rename(target)
        shutil.rmtree(old)
    else:
        os.replace(path, target)


def remove_leftovers(target: Path) -> list[str]:
    """Clears away what killed processes of this machine left beside `target`; one line for each.

    An earlier result that such a process had set aside and not yet replaced is put back. Whatever
    belongs to a process that is alive stays.
    """
    machine = _own_mark().rpartition("-")[0]
    name = re.compile(rf"\.{re.escape(target.name)}\.{machine}-(\d+)\.(partial|old)")
    lines = []
    for path in _siblings(target):
        found = name.fullmatch(path.name)
        if not found or _is_alive(int(found[1])):
            continue
        if found[2] == "old" and not target.exists():
            path.rename(target)
            lines.append(f"put {target} back, which a killed conversion had set aside")
            continue
        _remove(path)
        if not path.exists():
            lines.append(f"removed {path}, left by a killed conversion")
    return lines


def _clear(folder: Path) -> None:
    """Removes what dead processes of this machine left unfinished in a folder; looks once."""
    folder = folder.resolve()
    if folder in _CLEARED:
        return
    _CLEARED.add(folder)
    machine = _own_mark().rpartition("-")[0]
    name = re.compile(rf"\..+\.{machine}-(\d+)(\.\w+)?\.partial")
    for path in _siblings(folder / "any"):
        found = name.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            _remove(path)


def _siblings(target: Path) -> list[Path]:
    try:
        return sorted(target.parent.iterdir())
    except OSError:  # a folder to write to is not always one to list
        return []


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there, and another user's
    return True


def _remove(path: Path) -> None:
    """Removes a file or folder if it is there; what cannot be removed is in nobody's way."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, a file's or a folder's, for the block to write.

    It is moved over `path` when the block ends without an error. Raises InputError where there is
    no folder to write to.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(
            f"the folder {path.parent} does not exist",
            f"{path.name} would be written there",
            "create it first",
        )
    _clear(path.parent)
    temporary = path.with_name(f".{path.name}.{_own_mark()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def output_folder(out: Path | None) -> Iterator[Path]:
    """Yields a temporary folder whose entries move into `out` when the block ends without an error.

    Entries of the same names that `out` already has are replaced, others stay. Without `out` the
    temporary folder and its entries are removed at the end.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="parity-") as folder:
            yield Path(folder)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear(out.parent)
    prefix = f".{out.name}.{_own_mark()}."
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix, suffix=".partial"))
    try:
        yield temporary
        out.mkdir(exist_ok=True)
        for entry in sorted(temporary.iterdir()):
            target = out / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def kept_folder(
    out: Path, name: str, finished: Callable[[Path], Collection[str]] = lambda folder: ()
) -> Iterator[Path]:
    """Yields the folder `out/name`, which stays whole if the block ends without an error.

    Paths inside it are final, unlike those of `output_folder`. One process at a time fills it; of
    what an earlier one left there, and of what is there when the block ends with an error, only the
    entries stay whose names `finished` gives for the folder, by default none.
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
        _lock(held, out)
        try:
            folder.mkdir(exist_ok=True)
            _keep_only(folder, finished(folder))
            yield folder
        except BaseException:
            with contextlib.suppress(OSError):
                _keep_only(folder, finished(folder))
                folder.rmdir()  # which anything that stays prevents, as an earlier report does
                out.rmdir()
            raise
    finally:
        os.close(held)


def _keep_only(folder: Path, names: Collection[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            _remove(path)


def hold(folder: Path) -> int:
    """Locks a folder until the descriptor that is returned is closed, also by a kill.

    Raises InputError where another process holds it.
    """
    held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(held, folder)
    except BaseException:
        os.close(held)
        raise
    return held


def _lock(descriptor: int, out: Path) -> None:
    """Locks the folder until the descriptor is closed, also by a kill."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{out} is being written",
            "another process holds it",
            "wait for it to end, or choose another folder",
        ) from None

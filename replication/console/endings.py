"""How the program ends that did not come to a verdict: in three lines, and a status of its own."""

import errno
import os
import platform
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from parity import __version__
from parity.errors import InputError
from replication.console.signals import Terminated
from replication.layers import layer_error

REFUSED, FAILED, INTERRUPTED = 2, 3, 130

_OF_PLACES = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR),
        *(errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP, errno.ENOENT),
    )
)
"""What a full disk or a folder that cannot be written says, wherever it was noticed."""

_TOLD = re.compile(
    r"(?:(?P<path>/\S+); |I/O error: )"
    rf"(?P<reason>{'|'.join(re.escape(os.strerror(one)) for one in _OF_PLACES)})\b"
)
"""The same, as writers of TensorFlow and safetensors say it, whose errors are their own."""


def of_input(error: Exception) -> InputError | None:
    """What to tell of an error that is about what was given or where; None for any other."""
    if isinstance(error, ModuleNotFoundError):
        return layer_error(error)
    path, reason = None, None
    if isinstance(error, OSError):
        if error.errno in _OF_PLACES:
            path, reason = error.filename, f"{type(error).__name__}: {error.strerror}"
    elif told := _TOLD.search(str(error)):
        path, reason = told["path"], told["reason"]
    if reason is None:
        return None
    return InputError(
        f"{path or 'a file'} cannot be used", reason, "choose another folder, or free some space"
    )


def failed(error: Exception, words: Sequence[str]) -> InputError:
    """What to tell of a fault of the program itself; its traceback goes to a file.

    `words` are those of the command line.
    """
    return InputError(
        f"the program itself failed: {type(error).__name__}: {error}",
        _written(error, words),
        "this says nothing of the models: report it with that file and what was given, or try the "
        "command on smaller input",
    )


def _written(error: Exception, words: Sequence[str]) -> str:
    """Writes the traceback to a file of its own; says where, or why not."""
    lines = [
        f"parity {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"{shlex.join(['parity', *words[1:]])}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        descriptor, name = tempfile.mkstemp(".txt", "parity-failure-")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(lines)
    except OSError as refused:
        sys.stderr.writelines(lines)
        return f"its traceback is above; no file could be written: {refused.strerror}"
    return f"its traceback is in {name}"


def interrupted(words: Sequence[str]) -> InputError:
    """What to tell of a command that was interrupted: what is kept in the folder of --out."""
    out = _out(words)
    if out is None:
        kept = "nothing is kept: no folder was given with --out"
    elif not out.is_dir():
        kept = f"nothing is kept: {out} was not written"
    else:
        names = [path.name for path in out.rglob("*") if path.is_file()]
        count = sum(not name.startswith(".") for name in names)  # those are locks
        kept = f"{out} holds {count} files, each of them whole"
    return InputError("interrupted before it came to a verdict", kept, "repeat the command")


def status_of(interruption: BaseException) -> int:
    """The status to end with after Ctrl-C or `Terminated`."""
    return interruption.status if isinstance(interruption, Terminated) else INTERRUPTED


def _out(words: Sequence[str]) -> Path | None:
    """The folder that a command line names with --out."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--out":
            return Path(value) if equals else Path(*words[index + 1 : index + 2] or [""])
    return None

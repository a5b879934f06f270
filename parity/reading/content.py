"""Reads files and JSON that somebody else wrote, within the bounds; what is left is an InputError.

Callers get the value or one error of three lines: no hang, no traceback, no memory beyond the file.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from parity.errors import InputError
from parity.reading import bounds

_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (bounds.DIGITS + 1))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_AGAIN = "obtain the file again"


@contextmanager
def regular_file(path: Path, what: str = "file") -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, opened to be read, and its bytes; `what` is its kind in messages.

    Raises InputError where it is another kind of file, and OSError where it cannot be opened.
    """
    # a pipe without a writer would otherwise never open
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(
                f"{what} {path} is no regular file", "it is a folder, a device or a pipe"
            )
        yield file, status.st_size


def read_bytes(path: str | os.PathLike[str], most: int, what: str = "file") -> bytes:
    """The content of a regular file of at most `most` bytes; `what` is its kind in messages.

    Raises InputError where it is missing, no regular file, larger, or cannot be read.
    """
    path = Path(path)
    try:
        with regular_file(path, what) as (file, size):
            if size > most:
                raise InputError(
                    f"{what} {path} has {size:,} bytes",
                    f"at most {most:,} are read",
                    "is it the right file?",
                )
            return file.read(most)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", f"expected: a {what}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{what} {path} cannot be read", reason) from None


def read_text(
    path: str | os.PathLike[str], most: int = bounds.SETTINGS_BYTES, what: str = "file"
) -> str:
    """As `read_bytes`, as UTF-8; a byte-order mark is dropped."""
    raw = read_bytes(path, most, what)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} is not text", str(error), _AGAIN) from None


def read_json(
    path: str | os.PathLike[str], most: int = bounds.SETTINGS_BYTES, what: str = "file"
) -> Any:
    """The value of a JSON file, as `parse_json` and `read_bytes` give it."""
    return parse_json(read_bytes(path, most, what), f"{what} {path}")


def parse_json(raw: bytes, name: str) -> Any:
    """The value of JSON in UTF-8, with or without a byte-order mark; `name` is for messages.

    Raises InputError for broken UTF-8, broken JSON, a key that an object has twice, values nested
    deeper than `bounds.DEEPEST`, whole numbers of more than `bounds.DIGITS` digits, and texts that
    are no Unicode (half of a surrogate pair).
    """
    whole = _whole if _LONG_NUMBER.search(raw) else None
    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique, parse_int=whole)
        if _may_be_deep(raw):
            _check_depth(value)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except InputError as error:
        raise InputError(f"{name} cannot be used", *error.args) from None
    except RecursionError:
        raise InputError(
            f"{name} cannot be read as JSON", f"it is nested deeper than {bounds.DEEPEST}", _AGAIN
        ) from None
    except ValueError as error:
        raise InputError(f"{name} cannot be read as JSON", str(error), _AGAIN) from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise InputError(f"the key {twice!r} is there twice", "which of the two is meant?")
    return found


def _whole(digits: str) -> int:
    if len(digits) > bounds.DIGITS:
        raise InputError(
            f"a whole number has {len(digits):,} digits", f"at most {bounds.DIGITS} are read"
        )
    return int(digits)


def _may_be_deep(raw: bytes) -> bool:
    """Whether brackets, those in texts included, open deeper than the bound anywhere."""
    depth = 0
    for bracket in re.finditer(rb"[\[\]{}]", raw):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > bounds.DEEPEST:
            return True
    return False


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > bounds.DEEPEST:
            raise InputError(f"it is nested deeper than {bounds.DEEPEST}", _AGAIN)
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]

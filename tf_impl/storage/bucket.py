"""Reading records from a bucket (gs://...), through TensorFlow's file systems."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import tensorflow as tf

from parity.errors import InputError


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is no path of this machine, such as gs://bucket/run."""
    return "://" in os.fspath(path)


def path_of(text: str | os.PathLike[str]) -> "Path | BucketPath":
    """A path that can be read. Raises InputError for a file system that cannot be reached."""
    if not is_remote(text):
        return Path(text)
    try:
        tf.io.gfile.exists(text)
    except tf.errors.OpError as error:
        raise InputError(
            f"{text} cannot be reached",
            " ".join(str(error).split())[:200],
            "Check the name and the credentials (`gsutil ls` must list it).",
        ) from None
    return BucketPath(os.fspath(text))


class BucketPath:
    """What reading records needs of `pathlib.Path`."""

    def __init__(self, text: str) -> None:
        self._text = text.rstrip("/")

    def __str__(self) -> str:
        return self._text

    def __truediv__(self, name: str) -> "BucketPath":
        return BucketPath(f"{self._text}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self._text.rpartition("/")[2]

    def with_suffix(self, suffix: str) -> "BucketPath":
        """The same with the last part's suffix replaced."""
        return BucketPath(os.path.splitext(self._text)[0] + suffix)

    def is_file(self) -> bool:
        """Whether it exists and is no folder."""
        return tf.io.gfile.exists(self._text) and not tf.io.gfile.isdir(self._text)

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """The entries of this folder whose names fit."""
        return (BucketPath(found) for found in tf.io.gfile.glob(f"{self._text}/{pattern}"))

    def stat(self) -> SimpleNamespace:
        """`st_size` in bytes."""
        return SimpleNamespace(st_size=tf.io.gfile.stat(self._text).length)

    def open(self, mode: str = "r") -> tf.io.gfile.GFile:
        """The file, to be read or written."""
        return tf.io.gfile.GFile(self._text, mode)


class ShardFile:
    """One shard, read by position from any thread."""

    def __init__(self, path: "Path | BucketPath") -> None:
        self._remote, self._lock = None, Lock()
        if isinstance(path, BucketPath):
            self._remote = path.open("rb")
        else:
            self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, length: int, offset: int) -> bytes:
        """`length` bytes from `offset` on; fewer at the end of the file."""
        if self._remote is None:
            return os.pread(self._descriptor, length, offset)
        with self._lock:
            self._remote.seek(offset)
            return self._remote.read(length)

"""Taps on disk, one file for each run: written as they come, read one at a time through a map of
the file, each checked against its digest.

A file of taps is a safetensors file, which every tool reads; writing and reading it needs NumPy
alone.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from parity.reading import bounds
from parity.reading.content import parse_json, regular_file
from parity.trace import Site, Tap, TraceError, tap_key

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNED = 8
AGAIN = "capture again"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tap: what `parity.trace.Tap` has, its array by name, dtype and digest."""

    path: str
    kind: str
    name: str
    call: int
    axes: str
    array: str
    dtype: str
    sha256: str
    shape: tuple[int, ...]
    same_as: str | None = None

    @property
    def key(self) -> str:
        """The tap's key."""
        return tap_key(self.path, self.kind, self.name, self.call)


class TapWriter:
    """A sink that writes each tap's array when it comes, and holds none of them.

    A context: the file is put together when it ends without an error, and `entries` are what it
    holds, in the order in which they came. A tensor that is met again is written once. Raises
    TraceError for two taps of one key, and for a dtype that a file cannot hold.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._data = path, path.with_suffix(".data")
        self._file: BinaryIO = self._data.open("wb")
        self._entries: dict[str, Entry] = {}
        self._header: dict[str, Any] = {}

    def __call__(self, tap: Tap) -> None:
        """Writes one tap."""
        if tap.key in self._entries:
            raise TraceError(
                f"two taps are called {tap.key}",
                "names of arguments and results joined by dots must stay different",
                "rename one of the dictionary keys",
            )
        dtype = NAMES.get(tap.array.dtype.newbyteorder("<"))
        if dtype is None:
            raise TraceError(f"{tap.key} is {tap.array.dtype}, which no trace holds", AGAIN)
        earlier = self._entries.get(tap.same_as or "")
        alike = earlier and (earlier.shape, earlier.dtype) == (tap.array.shape, dtype)
        stored = (earlier.array, earlier.sha256) if alike else self._written(tap, dtype)
        self._entries[tap.key] = Entry(
            path=tap.path,
            kind=tap.kind,
            name=tap.name,
            call=tap.call,
            axes=tap.axes,
            array=stored[0],
            dtype=dtype,
            sha256=stored[1],
            shape=tuple(tap.array.shape),
            same_as=tap.same_as,
        )

    def _written(self, tap: Tap, dtype: str) -> tuple[str, str]:
        # An array without axes would come back from ascontiguousarray with one.
        raw = np.ascontiguousarray(tap.array, DTYPES[dtype]).reshape(tap.array.shape)
        start, slot = self._file.tell(), str(len(self._header))
        view = raw.reshape(-1).view(np.uint8).data
        self._file.write(view)
        offsets = [start, start + raw.nbytes]
        self._header[slot] = {"dtype": dtype, "shape": raw.shape, "data_offsets": offsets}
        return slot, hashlib.sha256(view).hexdigest()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What was written."""
        return tuple(self._entries.values())

    def __enter__(self) -> "TapWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._put_together()
        self._data.unlink()

    def _put_together(self) -> None:
        header = json.dumps(self._header, separators=(",", ":")).encode()
        header += b" " * (-len(header) % ALIGNED)
        with self._path.open("wb") as whole, self._data.open("rb") as data:
            whole.write(len(header).to_bytes(8, "little") + header)
            shutil.copyfileobj(data, whole, 1 << 24)


class StoredTaps(Mapping[str, Tap]):
    """The taps of one file by key, in order of execution; each array is a view of the file.

    Raises TraceError for a file that is not what its entries say, when a tap is read.
    """

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        self._path, self.entries = path, tuple(entries)
        self._entries = {one.key: one for one in entries}
        self._header, self._bytes = _opened(path)
        self._sound: set[str] = set()

    def __getitem__(self, key: str) -> Tap:
        entry = self._entries[key]
        array = self._array(entry)
        return Tap(entry.path, entry.kind, entry.name, entry.call, entry.axes, array, entry.same_as)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def places(self) -> dict[str, Site]:
        """What is known of each tap without its values, by key, in order of execution."""
        return {
            key: Site(one.path, one.kind, one.axes, one.shape) for key, one in self._entries.items()
        }

    def _array(self, entry: Entry) -> np.ndarray:
        try:
            told = self._header[entry.array]
            dtype, shape = DTYPES[entry.dtype], tuple(told["shape"])
            start, end = told["data_offsets"]
            size = math.prod(shape) * dtype.itemsize
            wrong = (
                (shape, told["dtype"]) != (entry.shape, entry.dtype)
                or min(shape, default=0) < 0
                or not 0 <= start <= end <= len(self._bytes)
            )
            wrong = wrong or end - start != size
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(entry, repr(error)) from error
        if wrong:
            raise self._damaged(entry, "its place in the file is not that of its shape and dtype")
        raw = self._bytes[start:end]
        if entry.key not in self._sound:
            if hashlib.sha256(raw.data).hexdigest() != entry.sha256:
                raise self._damaged(entry, "its values are not those that were captured")
            self._sound.add(entry.key)
        return raw.view(dtype).reshape(shape)

    def _damaged(self, entry: Entry, why: str) -> TraceError:
        return TraceError(
            f"{self._path} was changed after it was written", f"{entry.key}: {why}", AGAIN
        )


def _opened(path: Path) -> tuple[Mapping[str, Any], np.ndarray]:
    """The header of a safetensors file, and its data as a map of the file."""
    try:
        with regular_file(path) as (file, size):
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(bounds.HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = parse_json(file.read(length), "its header")
            if not isinstance(header, dict):
                raise ValueError("its header is no table")
            start = 8 + length
            data = np.memmap(file, np.uint8, "r", start) if size > start else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} is no file of taps", error, AGAIN) from error
    return header, np.asarray(data)

"""Tensors that stay in their file until they are read, one at a time."""

import io
import math
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np

from parity.errors import InputError
from parity.reading import bounds

DTYPES: dict[str, np.dtype] = {
    **{
        name: np.dtype(name)
        for name in (
            *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
            *("uint64", "uint32", "uint16", "uint8", "bool"),
        )
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""Every element type a checkpoint may hold, by name; in files little endian."""

_PIECE = 16 << 20  # bytes of a large region that are held at a time

FLOATS = frozenset(("float64", "float32", "float16", "bfloat16"))


def damaged(path: Path | str, evidence: str) -> InputError:
    """The error for a file whose content contradicts itself."""
    return InputError(f"{path} is damaged", evidence, "obtain the file again")


def refused(path: Path | str, evidence: str) -> InputError:
    """The error for a file that may be whole, and holds what is not read here."""
    return InputError(
        f"{path} is refused", evidence, "nothing of it was used; docs/security.md has the bounds"
    )


def check_shape(sides: Sequence[int]) -> str | None:
    """Why a shape or stride of so many elements is not read; None where it is."""
    if len(sides) > bounds.MOST_AXES:
        return f"a tensor has {len(sides)} axes, at most {bounds.MOST_AXES} are read"
    if any(side > bounds.MOST_ELEMENTS for side in sides):
        return f"a tensor has a side of {max(sides):.3g} elements"
    if math.prod(side for side in sides if side) > bounds.MOST_ELEMENTS:
        return "a tensor's sides overflow when multiplied"
    return None


class Writable(Protocol):
    """What the writers of this package append bytes to."""

    def write(self, data: bytes | memoryview) -> object:
        """Appends `data`."""


@dataclass(frozen=True)
class Region:
    """A span of bytes in an open file."""

    path: Path
    descriptor: int
    offset: int
    size: int

    def part(self, offset: int, size: int) -> "Region":
        """The span of `size` bytes from `offset` on; InputError where it leaves this region."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise damaged(
                self.path,
                f"bytes {self.offset + offset:,} to {self.offset + offset + size:,} are needed, "
                f"{self.offset + self.size:,} are there",
            )
        return Region(self.path, self.descriptor, self.offset + offset, size)

    def read_array(self) -> np.ndarray:
        """The bytes as a new uint8 array [size]."""
        buffer = np.empty(self.size, np.uint8)
        view = memoryview(buffer)
        done = 0
        while done < self.size:
            count = os.preadv(self.descriptor, [view[done:]], self.offset + done)
            if count == 0:
                raise damaged(self.path, f"it ends at byte {self.offset + done:,}")
            done += count
        return buffer

    def read(self) -> bytes:
        """The bytes."""
        return self.read_array().tobytes()


class RegionFile(io.RawIOBase):
    """A region as a file of its own, for a reader that wants one."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a byte; returns where that is."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._region.size}
        position = origin[whence] + offset
        if position < 0:
            raise ValueError("a position before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Reads as many bytes as fit; returns how many."""
        size = max(0, min(len(buffer), self._region.size - self._position))
        buffer[:size] = self._region.part(min(self._position, self._region.size), size).read()
        self._position += size
        return size


class OpenFile:
    """A file held open for as long as its tensors are read. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InputError(f"{path} cannot be read", str(error.strerror)) from None
        size = os.fstat(self._file.fileno()).st_size
        self.region = Region(path, self._file.fileno(), 0, size)

    def close(self) -> None:
        """Closes the file; its tensors cannot be loaded any more."""
        self._file.close()

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape, its dtype (a key of `DTYPES`), and how to load it.

    `load` returns a new or read-only array of that shape and dtype, little endian.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def check_sum(region: Region, crc: int) -> None:
    """Raises InputError unless the bytes of `region`, read in pieces, have this CRC-32."""
    found = 0
    for start in range(0, region.size, _PIECE):
        piece = region.part(start, min(_PIECE, region.size - start))
        found = zlib.crc32(piece.read_array(), found)
    if found != crc:
        raise damaged(
            region.path, f"the checksum of the {region.size:,} bytes at {region.offset:,} is wrong"
        )


def tensor_in(
    region: Region,
    shape: tuple[int, ...],
    dtype: str,
    *,
    byte_order: str = "<",
    fortran: bool = False,
) -> StoredTensor:
    """A tensor whose values fill `region`.

    Raises:
        InputError: the region's size is not that of `shape` and `dtype`, or beyond the bounds.
    """
    kind = DTYPES[dtype]
    if reason := check_shape(shape):
        raise refused(region.path, reason)
    wanted = math.prod(shape) * kind.itemsize
    if wanted != region.size:
        raise damaged(
            region.path,
            f"a tensor {list(shape)} of {dtype} takes {wanted:,} bytes, {region.size:,} are there",
        )

    def load() -> np.ndarray:
        raw = region.read_array()
        values = raw.view(kind if byte_order == "<" else kind.newbyteorder(byte_order))
        if byte_order != "<":
            values = values.astype(kind)
        return values.reshape(shape, order="F" if fortran else "C")

    return StoredTensor(tuple(shape), dtype, load)

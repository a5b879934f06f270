"""Arrays and traces on disk: only what is looked at is in memory."""

import math
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary, finalize

import numpy as np

from parity.errors import InputError
from parity.trace import Tap, Trace

ALIGNED = 64  # bytes; no dtype needs more


@dataclass(frozen=True)
class _Place:
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


class ArraysOnDisk(MutableMapping[str, np.ndarray | None]):
    """Arrays by key in a file without a name, bit for bit; None for what has no array.

    An array is mapped when it is asked for, and its memory is given back with the last reference to
    it. Equal arrays are stored once, and are one array while one of them is in use. What is written
    to an array stays in memory.

    Args:
        arrays: the first, by key.

    Raises InputError where the disk is full.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray | None] | Iterable[tuple[str, np.ndarray | None]] = ()
    ) -> None:
        with tempfile.TemporaryFile(prefix="parity-") as file:
            self._file = os.dup(file.fileno())
        finalize(self, os.close, self._file)
        self._size = 0
        self._places: dict[str, _Place | None] = {}
        self._met: dict[tuple, list[_Place]] = {}
        self._in_use: WeakValueDictionary[int, np.ndarray] = WeakValueDictionary()
        for key, array in arrays.items() if isinstance(arrays, Mapping) else arrays:
            self[key] = array

    def __setitem__(self, key: str, array: np.ndarray | None) -> None:
        self._places[key] = None if array is None else self._stored(np.asarray(array))

    def __getitem__(self, key: str) -> np.ndarray | None:
        place = self._places[key]
        return None if place is None else self._read(place)

    def __delitem__(self, key: str) -> None:
        del self._places[key]  # the file has no holes to fill

    def __contains__(self, key: object) -> bool:
        return key in self._places  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, place: _Place) -> np.ndarray:
        if not math.prod(place.shape):
            return np.empty(place.shape, place.dtype)
        found = self._in_use.get(place.offset)
        if found is None:
            start = place.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            count = math.prod(place.shape)
            end = place.offset + count * place.dtype.itemsize
            mapped = mmap.mmap(self._file, end - start, access=mmap.ACCESS_COPY, offset=start)
            flat = np.frombuffer(mapped, place.dtype, count, place.offset - start)
            found = self._in_use[place.offset] = flat.reshape(place.shape)
        return found

    def _stored(self, array: np.ndarray) -> _Place:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        mark = zlib.crc32(content), array.shape, array.dtype
        for place in self._met.setdefault(mark, []):
            if np.array_equal(self._read(place).reshape(-1).view(np.uint8), content):
                return place
        place = _Place(-(-self._size // ALIGNED) * ALIGNED, array.shape, array.dtype)
        self._write(content, place.offset)
        self._met[mark].append(place)
        return place

    def _write(self, content: np.ndarray, offset: int) -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[os.pwrite(self._file, left, offset + content.size - len(left)) :]
        except OSError as error:
            raise InputError(
                f"the tensors of both models do not fit into {tempfile.gettempdir()}",
                f"{error.strerror or error}, after {offset} bytes",
                "set TMPDIR to a folder with more room",
            ) from None
        self._size = offset + content.size


@dataclass
class TraceOnDisk(Trace):
    """A trace whose arrays are on disk; that of a tap is read when the tap is asked for."""

    _arrays: ArraysOnDisk = field(default_factory=ArraysOnDisk, repr=False)

    def __getitem__(self, key: str) -> Tap:
        return replace(super().__getitem__(key), array=self._arrays[key])

    def __contains__(self, key: object) -> bool:
        return key in self._taps  # without reading it

    def add(self, tap: Tap) -> None:
        """As `Trace.add`; the tap's array may change afterwards."""
        shape = np.broadcast_to(np.zeros((), tap.array.dtype), tap.array.shape)  # of no size
        super().add(replace(tap, array=shape))
        self._arrays[tap.key] = tap.array


class Renamed(Mapping[str, Tap]):
    """Taps of a trace under other names, each read when it is asked for; those that it lacks left
    out.

    Args:
        trace: the trace.
        keys: their keys there, by name.
    """

    def __init__(self, trace: Mapping[str, Tap], keys: Mapping[str, str]) -> None:
        self._trace = trace
        self._keys = {name: key for name, key in keys.items() if key in trace}

    def __getitem__(self, name: str) -> Tap:
        return self._trace[self._keys[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._keys  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

"""TensorBoard's event files: scalars written and read without TensorFlow.

A file is a sequence of records, each `length (8 bytes), masked crc32c of it (4), content, masked
crc32c of the content (4)`, the content an `Event` message (TensorFlow's `lib/io/record_writer` and
`util/event.proto`).
"""

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_bytes

_HEADER, _FOOTER = 12, 4
_VERSION = "brain.Event:2"


@dataclass(frozen=True)
class Scalar:
    """One value of an event file; `wall_time` in seconds since 1970."""

    step: int
    name: str
    value: float
    wall_time: float


class EventWriter:
    """Writes scalars into a new event file of `folder`; each call is flushed to the file."""

    def __init__(self, folder: str | os.PathLike[str], first_step: int = 0) -> None:
        """TensorBoard forgets what other files of the folder say of steps from `first_step` on."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._stream: IO[bytes] = (folder / name).open("xb")
        self._write(file_version=_VERSION)
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Writes values by name, `prefix` in front of each name."""
        event = Event(step=step, wall_time=time.time())
        for name, value in values.items():
            event.summary.value.add(tag=f"{prefix}{name}", simple_value=float(value))
        self._append(event)

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _write(self, **fields: Any) -> None:
        self._append(Event(wall_time=time.time(), **fields))

    def _append(self, event: Event) -> None:
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        crcs = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        self._stream.write(b"".join((length, crcs[0], content, crcs[1])))
        self._stream.flush()


def read_scalars(path: str | os.PathLike[str]) -> Iterator[Scalar]:
    """The scalars of one event file in their order; a torn last record ends them.

    Raises InputError for a file that is no event file or is damaged before its end.
    """
    path = Path(path)
    content = read_bytes(path, bounds.RECORD_BYTES, "event file")
    position = 0
    while position + _HEADER <= len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        if _crc(content, position + 8) != masked_crc32c(content[position : position + 8]):
            raise _damaged(path, position)
        start, end = position + _HEADER, position + _HEADER + length
        if end + _FOOTER > len(content):
            return
        record = content[start:end]
        if _crc(content, end) != masked_crc32c(record):
            raise _damaged(path, position)
        try:
            event = Event.FromString(record)
        except DecodeError:
            raise _damaged(path, position) from None
        yield from _scalars_of(event)
        position = end + _FOOTER


def _scalars_of(event: Event) -> Iterator[Scalar]:
    """Values in either form: `simple_value`, or a tensor of one number (TensorFlow 2)."""
    for value in event.summary.value:
        if value.HasField("simple_value"):
            number = value.simple_value
        elif value.HasField("tensor"):
            number = _number(value.tensor)
        else:
            continue
        if number is not None:
            yield Scalar(event.step, value.tag, number, event.wall_time)


def _number(tensor: Any) -> float | None:
    """The only number of a float32 or float64 tensor, None of any other."""
    formats = {1: ("<f", tensor.float_val), 2: ("<d", tensor.double_val)}
    if tensor.dtype not in formats or any(side.size != 1 for side in tensor.tensor_shape.dim):
        return None
    packing, listed = formats[tensor.dtype]
    if listed:
        return float(listed[0])
    if len(tensor.tensor_content) != struct.calcsize(packing):
        return None
    return struct.unpack(packing, tensor.tensor_content)[0]


def _crc(content: bytes, position: int) -> int:
    return struct.unpack_from("<I", content, position)[0]


def _damaged(path: Path, position: int) -> InputError:
    where = "it is not an event file" if position == 0 else "the file is damaged"
    return InputError(
        f"{path}: the record at byte {position} does not have its checksum",
        where,
        "Give a file named events.out.tfevents.*, or fetch it again.",
    )

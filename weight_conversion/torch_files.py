"""PyTorch and detectron2 checkpoint files: read through `safe_pickle`, written as a stream.

Written files have the same bytes whenever they hold the same tensors, and hold no pickled objects
but numpy arrays or torch tensors, in a `collections.OrderedDict` whose `_metadata` says that the
head's keys are of version 2 (without it the original renames them, `MaskFormerHead._version`).
"""

import pickle
import struct
import zipfile
from collections.abc import Iterable, Sequence
from io import BufferedReader
from typing import Any, BinaryIO

import numpy as np

from maskformer.family import MASKFORMER
from parity.errors import InputError
from parity.reading import bounds
from weight_conversion import safe_pickle
from weight_conversion.stand_ins import shown
from weight_conversion.stored import (
    DTYPES,
    Region,
    RegionFile,
    StoredTensor,
    Writable,
    damaged,
    refused,
)
from weight_conversion.torch_stand_ins import STORAGES, Storage

Declared = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of a tensor to write."""

AUTHOR = "maskformer-replication"
METADATA = {"": {"version": 1}, MASKFORMER.state.head: {"version": 2}}
_ALIGNMENT = 64  # torch's own, so that a file may be memory mapped
_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
_PROTOCOL = 2


def read_zip(region: Region) -> Any:
    """The object in a torch file of version 1.6 or later; arrays as `StoredTensor`.

    Raises:
        InputError: it is another zip archive, is damaged, or asks to run code.
    """
    members = _members(region)
    pickles = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        kind = "a TorchScript program" if any("/code/" in name for name in members) else "no pickle"
        raise InputError(
            f"{region.path} is a zip archive, but not a torch checkpoint",
            f"it holds {kind if not pickles else 'several pickles'} among {len(members)} members",
            "expected: a file that torch.save wrote",
        )
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in members):
        raise InputError(
            f"{region.path} is a TorchScript program, not a checkpoint",
            "programs are not run",
            "save its state dict with torch.save",
        )
    storages: dict[str, Storage] = {}
    byte_order = ">" if _text(members, f"{folder}byteorder") == "big" else "<"

    def persistent(reference: Any) -> Storage:
        kind, storage_type, key, _, count, *_ = reference
        dtype = getattr(storage_type, "dtype", None)
        if kind != "storage" or dtype is None or not isinstance(key, str):
            raise damaged(region.path, f"it refers to a {shown(kind)}")
        if type(count) is not int or not 0 <= count <= bounds.MOST_ELEMENTS:
            raise damaged(region.path, f"it refers to a storage of {shown(count)} elements")
        name = f"{folder}data/{key}"
        if name in storages:
            return storages[name]
        if name not in members:
            raise damaged(region.path, f"the member {name} is missing")
        data, crc = members[name]
        size = count * DTYPES[dtype].itemsize
        if data.size != size:
            raise damaged(region.path, f"{name} has {data.size:,} bytes, its tensor {size:,}")
        return storages.setdefault(name, Storage(dtype, count, data, byte_order, crc))

    return safe_pickle.load(members[pickles[0]][0], persistent)


def _text(members: dict[str, tuple[Region, int]], name: str) -> str:
    """The beginning of a short member, such as `byteorder`."""
    if name not in members:
        return ""
    region = members[name][0]
    return region.part(0, min(region.size, 16)).read().decode("latin-1")


def _members(region: Region) -> dict[str, tuple[Region, int]]:
    """Where each member's bytes are, and their CRC-32."""
    _check_directory(region)
    try:
        with zipfile.ZipFile(BufferedReader(RegionFile(region))) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise damaged(region.path, f"the zip archive cannot be read: {error}") from None
    if len(entries) > bounds.MOST_NAMES:
        raise refused(region.path, f"the zip archive has {len(entries):,} members")
    found: dict[str, tuple[Region, int]] = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise InputError(
                f"{region.path} is not a torch checkpoint",
                f"its member {entry.filename} is compressed or encrypted; torch stores plainly",
            )
        if entry.filename in found:
            raise damaged(region.path, f"the member {entry.filename} is there twice")
        local = region.part(entry.header_offset, 30).read()
        if local[:4] != b"PK\x03\x04":
            raise damaged(region.path, f"the member {entry.filename} has no header")
        names = sum(struct.unpack("<HH", local[26:30]))
        data = region.part(entry.header_offset + 30 + names, entry.file_size)
        found[entry.filename] = (data, entry.CRC)
    return found


def _check_directory(region: Region) -> None:
    """Refuses an archive whose directory, which Python reads at once, is beyond the bound."""
    tail = region.part(max(0, region.size - 66_000), min(region.size, 66_000)).read()
    at = tail.rfind(b"PK\x05\x06")
    end = tail[at : at + 22]
    if at < 0 or len(end) < 22:
        raise damaged(region.path, "the zip archive cannot be read: it has no directory")
    (size,) = struct.unpack("<I", end[12:16])
    at = tail.rfind(b"PK\x06\x06")
    if size == 0xFFFFFFFF and at >= 0 and len(tail) >= at + 48:
        (size,) = struct.unpack("<Q", tail[at + 40 : at + 48])
    if size > bounds.HEADER_BYTES:
        raise refused(region.path, f"the zip archive's directory has {size:,} bytes")


def write_pickle(
    stream: Writable, declared: Sequence[Declared], arrays: Iterable[np.ndarray]
) -> None:
    """Writes detectron2's `.pkl`: ``{"model": {key: numpy array}, "__author__": ...}``.

    `arrays` gives the tensors in the order of `declared`; one is held at a time.
    """
    stream.write(b"\x80\x03}(" + _spliced("model"))
    stream.write(b"ccollections\nOrderedDict\n)R(")
    for (name, shape, dtype), array in zip(declared, arrays, strict=True):
        stream.write(_spliced(name))
        stream.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
        stream.write(_spliced((0,)) + _spliced(b"b") + b"\x87R")
        kind = DTYPES[dtype]
        stream.write(b"(" + _spliced(1) + _spliced(shape))
        stream.write(b"cnumpy\ndtype\n" + _spliced((kind.str[1:], False, True)) + b"R")
        order = "|" if kind.itemsize == 1 else "<"
        stream.write(_spliced((3, order, None, None, None, -1, -1, 0)) + b"b")
        stream.write(_spliced(False) + b"B" + struct.pack("<I", array.nbytes))
        stream.write(memoryview(array).cast("B") if array.size else b"")
        stream.write(b"tb")
    stream.write(b"u" + _spliced({"_metadata": METADATA}) + b"b")
    stream.write(_spliced("__author__") + _spliced(AUTHOR) + b"u.")


def write_zip(stream: BinaryIO, declared: Sequence[Declared], arrays: Iterable[np.ndarray]) -> None:
    """Writes what ``torch.save({"model": state_dict})`` would, one tensor held at a time."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _add(archive, stream, "archive/data.pkl", _tensor_pickle(declared))
        _add(archive, stream, "archive/byteorder", b"little")
        for index, (_, array) in enumerate(zip(declared, arrays, strict=True)):
            data = memoryview(array).cast("B") if array.size else b""
            _add(archive, stream, f"archive/data/{index}", data)
        _add(archive, stream, "archive/version", b"3\n")


def _add(archive: zipfile.ZipFile, stream: BinaryIO, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980: the same bytes every time
    big = len(data) >= zipfile.ZIP64_LIMIT
    start = stream.tell() + 30 + len(name) + 4 + (20 if big else 0)
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
    info.file_size = len(data)
    with archive.open(info, "w", force_zip64=big) as member:
        member.write(data)


def _tensor_pickle(declared: Sequence[Declared]) -> bytes:
    parts = [b"\x80\x02}", _spliced("model"), b"ccollections\nOrderedDict\n)R("]
    for index, (name, shape, dtype) in enumerate(declared):
        count = int(np.prod(shape, dtype=np.int64))
        stride = tuple(
            int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))
        )
        parts += [
            _spliced(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _spliced("storage"),
            f"ctorch\n{_STORAGE_NAMES[dtype]}\n".encode(),
            *(_spliced(str(index)), _spliced("cpu"), _spliced(count), b"tQ"),
            *(_spliced(0), _spliced(shape), _spliced(stride), _spliced(False)),
            b"ccollections\nOrderedDict\n)RtR",
        ]
    parts += [b"u", _spliced({"_metadata": METADATA}), b"bs."]
    return b"".join(parts)


def _spliced(value: Any) -> bytes:
    """The instructions that push `value`, without the frame of a pickle around them."""
    return pickle.dumps(value, 3 if isinstance(value, bytes) else _PROTOCOL)[2:-1]


def tensors_in(value: Any) -> dict[str, StoredTensor]:
    """The tensors directly in the dict `value`."""
    return {key: item for key, item in value.items() if isinstance(item, StoredTensor)}

"""The safetensors format: read without trusting its header, written as a stream.

Format: eight bytes with the header's length, a JSON header, the tensors' bytes
(huggingface/safetensors, `README.md`).
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import parse_json
from weight_conversion.stored import (
    DTYPES,
    Region,
    StoredTensor,
    Writable,
    damaged,
    refused,
    tensor_in,
)
from weight_conversion.torch_files import Declared

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read(region: Region) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, in the order of their data.

    Raises:
        InputError: the header is too long, no JSON, names a tensor twice, or does not describe
            every byte of the file exactly once.
    """
    size = int.from_bytes(region.part(0, 8).read(), "little")
    if size > bounds.HEADER_BYTES or size > region.size - 8:
        raise damaged(
            region.path,
            f"its header claims {size:,} bytes, the file has {region.size:,} "
            f"(a header may have {bounds.HEADER_BYTES:,})",
        )
    header = _header(region, region.part(8, size).read())
    data = region.part(8 + size, region.size - 8 - size)
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _place(region, *item)):
        dtype, shape, (begin, stop) = _entry(region, name, entry)
        if begin != end:
            raise damaged(region.path, f"the data of {name} begins at {begin:,}, not at {end:,}")
        tensors[name] = tensor_in(data.part(begin, stop - begin), shape, dtype)
        end = stop
    if end != data.size:
        raise damaged(region.path, f"{data.size - end:,} bytes at its end belong to no tensor")
    return tensors


def _header(region: Region, raw: bytes) -> dict[str, Any]:
    header = parse_json(raw, f"{region.path}: its header")
    if not isinstance(header, dict):
        raise damaged(region.path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    if len(header) > bounds.MOST_NAMES:
        raise refused(region.path, f"its header has {len(header):,} names")
    for name in header:
        if len(name) > bounds.NAME_BYTES:
            raise refused(region.path, f"a name has {len(name):,} letters")
    return header


def is_one(region: Region) -> bool:
    """Whether the file has the form: a length that fits, then the brace of a JSON object."""
    if region.size < 9:
        return False
    start = region.part(0, 9).read()
    return int.from_bytes(start[:8], "little") <= region.size - 8 and start[8:] == b"{"


def _place(region: Region, name: str, entry: Any) -> tuple[int, int]:
    return _entry(region, name, entry)[2]


def _entry(region: Region, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sides = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise damaged(region.path, f"its header describes {name!r} incompletely") from None
    if not all(type(side) is int and side >= 0 for side in sides):
        raise damaged(region.path, f"its header gives {name!r} a shape or place {sides}")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(
            f"{region.path} holds {name!r} as {dtype!r}", f"known types: {', '.join(_DTYPES)}"
        )
    return _DTYPES[dtype], tuple(shape), (begin, end)


def write(stream: Writable, declared: Sequence[Declared], arrays: Iterable[np.ndarray]) -> None:
    """Writes the tensors in the order of `declared`, one held at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype in declared:
        begin, end = end, end + int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for _, array in zip(declared, arrays, strict=True):
        stream.write(memoryview(array).cast("B") if array.size else b"")

"""Reads a distributed checkpoint of torch (DCP): tensors in pieces, each a torch file of its own.

`.metadata` is a pickle that says of each tensor its size and type, of each piece where it begins in
the tensor, and in which file, from which byte on, it lies. It is read by `safe_pickle`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.reading import bounds
from weight_conversion import safe_pickle, torch_files
from weight_conversion.stand_ins import Inert, shown
from weight_conversion.stored import DTYPES, Region, StoredTensor, check_shape, damaged, refused
from weight_conversion.torch_stand_ins import TorchDtype

METADATA = ".metadata"
PIECES = "*.distcp"

Opened = Callable[[str], Region]
"""The bytes of a file of the folder, by its name."""


def read(metadata: Region, opened: Opened) -> dict[str, Any]:
    """The tensors of a distributed checkpoint, in the mappings in which they were saved.

    Args:
        metadata: the bytes of `.metadata`.
        opened: opens a file of pieces; it is asked for names without a folder only.

    Returns:
        a `StoredTensor` for each tensor, which reads its pieces when it is loaded, and an `Inert`
        for everything else.

    Raises:
        InputError: the pickle is refused or damaged, pieces are missing, overlap or leave their
            tensor, or lie in a form that is not torch's own.
    """
    content = safe_pickle.load(metadata)
    path = metadata.path
    described, stored = _tables(path, content)
    places = content.get("planner_data")
    found: dict[str, Any] = {}
    for name, one in described.items():
        if not isinstance(name, str):
            raise damaged(path, f"a tensor's name is {shown(name)}")
        value: Any = Inert("an object")
        if isinstance(one, Mapping) and "chunks" in one:
            value = _tensor(path, name, one, stored, opened)
        _put(path, found, _place(places, name), value)
    return found


def _tables(path: Path, content: Any) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
    names = ("state_dict_metadata", "storage_data")
    tables = [content.get(name) if isinstance(content, Mapping) else None for name in names]
    for name, table in zip(names, tables, strict=True):
        if not isinstance(table, Mapping):
            raise damaged(path, f"its {name} is {shown(table)}")
        if len(table) > bounds.MOST_NAMES:
            raise refused(path, f"it has {len(table):,} names")
    return tables[0], tables[1]


def _place(places: Any, name: str) -> tuple[str, ...]:
    """The keys below which a tensor was saved; its name where that is not said."""
    place = places.get(name) if isinstance(places, Mapping) else None
    keys = place if isinstance(place, tuple) and place else (name,)
    return tuple(map(str, keys))


def _put(path: Path, found: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    if len(place) > bounds.DEEPEST:
        raise refused(path, f"its values are nested deeper than {bounds.DEEPEST}")
    for key in place[:-1]:
        found = found.setdefault(key, {})
        if not isinstance(found, dict):
            raise damaged(path, f"{shown('.'.join(place))} lies in something that is no mapping")
    if place[-1] in found:
        raise damaged(path, f"the key {shown('.'.join(place))} is there twice")
    found[place[-1]] = value


def _tensor(
    path: Path, name: str, one: Mapping[Any, Any], stored: Mapping[Any, Any], opened: Opened
) -> StoredTensor | Inert:
    properties = one.get("properties")
    kind = properties.get(0) if isinstance(properties, Mapping) else None
    if not isinstance(kind, TorchDtype):
        raise damaged(path, f"{name} has no type")
    if kind.dtype not in DTYPES:
        return Inert(f"torch.Tensor of {kind.dtype}")
    size = _sides(path, name, one.get("size"))
    pieces = [*_pieces(path, name, size, one.get("chunks"), stored)]
    held = sum(math.prod(sides) for _, sides, _ in pieces)
    if held != math.prod(size):
        raise damaged(path, f"the pieces of {name} hold {held:,} of {math.prod(size):,} values")
    spans = [opened(file).part(offset, length) for _, _, (file, offset, length) in pieces]
    item = DTYPES[kind.dtype].itemsize
    for (_, sides, _), span in zip(pieces, spans, strict=True):
        if math.prod(sides) * item > span.size:
            raise damaged(span.path, f"a piece of {name} takes more than its {span.size:,} bytes")
    files = {file: opened(file).size for _, _, (file, _, _) in pieces}
    if held * item > bounds.REPEATS * sum(files.values()):
        raise refused(path, f"the pieces of {name} are the same bytes, many times")

    def load() -> np.ndarray:
        whole = np.empty(size, DTYPES[kind.dtype])
        filled = np.zeros(size, bool) if len(pieces) > 1 else None
        for (start, sides, _), span in zip(pieces, spans, strict=True):
            piece = torch_files.read_zip(span)
            is_tensor = isinstance(piece, StoredTensor)
            if not is_tensor or (piece.shape, piece.dtype) != (sides, kind.dtype):
                raise damaged(span.path, f"a piece of {name} is another than stated")
            where = tuple(slice(at, at + side) for at, side in zip(start, sides, strict=True))
            whole[where] = piece.load()
            if filled is not None:
                filled[where] = True
        if filled is not None and not filled.all():
            raise damaged(path, f"pieces of {name} overlap")
        return whole

    return StoredTensor(size, kind.dtype, load)


def _pieces(
    path: Path, name: str, size: tuple[int, ...], chunks: Any, stored: Mapping[Any, Any]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[str, int, int]]]:
    """Where each piece begins, its sides, and the file, first byte and bytes that it takes."""
    for chunk in chunks if isinstance(chunks, list) else ():
        if not isinstance(chunk, Mapping):
            raise damaged(path, f"a piece of {name} is {shown(chunk)}")
        start, sides = (_sides(path, name, chunk.get(part)) for part in ("offsets", "sizes"))
        ends = [at + side for at, side in zip(start, sides, strict=False)]
        if not len(start) == len(sides) == len(size) or any(
            end > side for end, side in zip(ends, size, strict=True)
        ):
            raise damaged(path, f"a piece of {name} leaves its tensor")
        yield start, sides, _span(path, name, stored.get((name, *start)))


def _sides(path: Path, name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(one) is int and one >= 0 for one in value):
        raise damaged(path, f"{name} has the sides {shown(value)}")
    if reason := check_shape(value):
        raise refused(path, reason)
    return value


def _span(path: Path, name: str, stated: Any) -> tuple[str, int, int]:
    if not isinstance(stated, Mapping):
        raise damaged(path, f"a piece of {name} lies in no file")
    file, offset, length = (stated.get(part) for part in ("relative_path", "offset", "length"))
    if type(offset) is not int or type(length) is not int or min(offset, length) < 0:
        raise damaged(path, f"a piece of {name} lies at {shown(offset)}")
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(PIECES[1:]):
        raise refused(path, f"a piece of {name} lies in {shown(file)}, no file of its folder")
    if stated.get("transform_descriptors"):
        raise refused(path, f"the pieces of {name} are compressed or otherwise transformed")
    return file, offset, length

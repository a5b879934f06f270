"""Which files hold the weights in a folder that a training program left."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_json, read_text
from weight_conversion import distributed
from weight_conversion.stored import damaged

INDEX = ".index.json"
DISTRIBUTED = "distributed checkpoint"
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_POINTERS = ("last_checkpoint", "latest_checkpoint")
_SUFFIXES = frozenset((".pth", ".pt", ".pkl", ".ckpt", ".bin", ".safetensors"))
_PLAIN_NAME = re.compile(r"[\w][\w.+=-]*")
_LISTED = 5


@dataclass(frozen=True)
class Files:
    """Files of weights, the other files that say what they are, and how they were found."""

    kind: str
    weights: tuple[Path, ...]
    beside: tuple[Path, ...] = ()
    note: str = ""


def files_of(path: Path) -> Files | None:
    """The files that a folder or an index file stands for; None where it is neither.

    Raises InputError where a folder has no weights, or several and nothing says which, where it is
    a distributed checkpoint, and where a file points out of its folder.
    """
    if path.is_file():
        if path.name.endswith(INDEX):
            return Files("sharded checkpoint", _shards(path), (path,))
        if path.match(distributed.PIECES):
            raise InputError(
                f"{path} is a part of a distributed checkpoint of torch (DCP)",
                "each file holds pieces of its tensors",
                f"name the folder: {path.parent}",
            )
        return _distributed(path.parent) if path.name == distributed.METADATA else None
    if not path.is_dir():
        return None
    config = path / "config.json"
    if config.is_file():
        _check_library_config(config)
    kind = "Hugging Face folder" if config.is_file() else "folder of weights"
    beside = (config,) if config.is_file() else ()
    for single in _SINGLE:
        if (path / single).is_file():
            return Files(kind, (path / single,), beside)
    for single in _SINGLE:
        index = path / f"{single}{INDEX}"
        if index.is_file():
            return Files(kind, _shards(index), (*beside, index))
    if beside:
        raise InputError(f"{path} has a config.json but no weights", "expected: model.safetensors")
    if (path / distributed.METADATA).is_file():
        return _distributed(path)
    if pieces := sorted(path.glob(distributed.PIECES)):
        raise InputError(
            f"{path} is an incomplete distributed checkpoint of torch (DCP)",
            f"it holds {pieces[0].name} and no {distributed.METADATA}, which is written last",
            "obtain the whole folder again, or take an earlier checkpoint",
        )
    return _only_file(path)


def _distributed(folder: Path) -> Files:
    pieces = tuple(sorted(folder.glob(distributed.PIECES)))
    return Files(DISTRIBUTED, (folder / distributed.METADATA,), pieces)


def _only_file(path: Path) -> Files | None:
    for pointer in _POINTERS:
        if (path / pointer).is_file():
            name = read_text(path / pointer, bounds.NAME_BYTES).strip()
            if not _PLAIN_NAME.fullmatch(name) or not (path / name).is_file():
                raise InputError(
                    f"{path / pointer} names no file of its folder",
                    f"it says {name!r}",
                    "name the checkpoint itself",
                )
            return Files("folder", (path / name,), note=f"{pointer} says {name}")
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(found) > 1:
        raise InputError(
            f"{path} holds {len(found)} files that may be checkpoints",
            listed(path),
            f"name one, for example {found[-1]}",
        )
    return (
        Files("folder", (found[0],), note=f"the only checkpoint is {found[0].name}")
        if found
        else None
    )


def listed(folder: Path) -> str:
    """The first names in a folder, for a message."""
    names = sorted(file.name for file in folder.iterdir())
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED]) or 'nothing'}{rest}"


def _check_library_config(path: Path) -> None:
    content: Any = read_json(path, what="config")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "maskformer":
        raise InputError(
            f"{path.parent} is a Hugging Face model of type {str(kind)[:100]!r}",
            "expected: 'maskformer'",
        )


def _shards(index: Path) -> tuple[Path, ...]:
    content = read_json(index, bounds.HEADER_BYTES, "index")
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise damaged(index, "it has no weight_map")
    shards = {shard for shard in names.values() if isinstance(shard, str)}
    if len(shards) > 10_000 or not all(isinstance(shard, str) for shard in names.values()):
        raise damaged(index, "its weight_map does not name files")
    if not all(_PLAIN_NAME.fullmatch(shard) for shard in shards):
        raise InputError(
            f"{index} is refused", "it names files outside its folder", "nothing of it was used"
        )
    return tuple(index.parent / shard for shard in sorted(shards))

"""Opens a checkpoint of any known kind, found by its content, and finds the model in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskformer.family import MASKFORMER
from parity.errors import InputError
from parity.reading import bounds
from weight_conversion import (
    distributed,
    hugging_face,
    safe_pickle,
    safetensors_file,
    tf_checkpoint,
    torch_files,
)
from weight_conversion.folders import DISTRIBUTED, Files, files_of, listed
from weight_conversion.stored import OpenFile, Region, StoredTensor, damaged, refused
from weight_conversion.unwrapping import LIBRARY, Choice, Found, caffe2, unwrap

_HEAD = f"{MASKFORMER.state.head}."

# First bytes of files that are often taken for checkpoints.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n", "a Keras HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer; the file itself was not downloaded"),
    (b"<", "a web page; the download failed"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
)


@dataclass
class Source:
    """An open checkpoint. Use as a context manager; `tensors` can be loaded while it is open.

    `naming` is "original", "hugging_face" or "tf" (original names, TF layouts). `left_out` gives
    the reason for everything else in the file, `notes` what was done to find the model.
    """

    path: Path
    kind: str
    naming: str
    tensors: dict[str, StoredTensor]
    files: list[Path]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    opened: list[OpenFile] = field(default_factory=list)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.opened:
            file.close()


def open_source(path: Path, choice: Choice | None = None) -> Source:
    """Opens the checkpoint at `path`: a file, an index of shards, a folder, or a TF checkpoint.

    Args:
        path: the file, folder or TF checkpoint prefix.
        choice: which of its weights; without it the model's own.

    Raises:
        InputError: it is of no known kind, damaged, refused, or holds no weights.
    """
    try:
        return _open(path, choice or Choice())
    except OSError as error:
        raise InputError(f"{path} cannot be read", str(error.strerror or error)) from None


def _open(path: Path, choice: Choice) -> Source:
    is_table = path.is_file() and path.suffix == ".index"
    if not path.is_file() or is_table:
        prefix = None if (path / "config.json").is_file() else tf_checkpoint.prefix_of(path)
        if prefix is not None:
            return _open_tf(path, prefix)
    files = files_of(path)
    if files is not None:
        return _open_files(path, files, choice)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder without a checkpoint",
            f"it holds {listed(path)}",
            "expected: a file of weights, a Hugging Face folder, or a TF checkpoint",
        )
    if not path.exists():
        raise InputError(
            f"{path} does not exist", _beside(path.parent), "expected: a checkpoint file or folder"
        )
    return _open_files(path, Files("", (path,)), choice)


def _beside(folder: Path) -> str:
    return f"{folder} holds {listed(folder)}" if folder.is_dir() else f"{folder} is no folder"


def _open_tf(path: Path, prefix: Path) -> Source:
    tensors, left_out = tf_checkpoint.read(prefix)
    files = tf_checkpoint.files_of(prefix)
    return Source(path, "TF checkpoint", "tf", tensors, files, left_out)


def _open_files(path: Path, files: Files, choice: Choice) -> Source:
    source = Source(path, files.kind, "original", {}, [*files.beside, *files.weights])
    try:
        how = _found_in_pieces if files.kind == DISTRIBUTED else _found
        kind, found = how(source, files, choice)
        if any(name.endswith("_bn_s") for name in found.tensors):
            raise caffe2(path, len(found.tensors))
    except BaseException:
        source.__exit__()
        raise
    source.kind = files.kind or kind
    source.tensors, source.left_out = found.tensors, found.left_out
    source.notes += found.notes
    if any(name.startswith(f"model.{LIBRARY}") for name in source.tensors):
        source.naming = "hugging_face"
        source.tensors = {hugging_face.file_name(name): t for name, t in source.tensors.items()}
    else:
        _rename_version_1(source)
    return source


def _found(source: Source, files: Files, choice: Choice) -> tuple[str, Found]:
    """The model in one file, or in the shards of one together."""
    merged: dict[str, Any] = {}
    kind = ""
    if files.note:
        source.notes.append(files.note)
    for name in files.weights:
        file = OpenFile(name)
        source.opened.append(file)
        kind, read = _kind(name, file.region)
        content = read(file.region)
        if files.kind:
            source.notes.append(f"{name.name} is a {kind}")
        if len(files.weights) == 1:
            return kind, unwrap(source.path, kind, content, choice)
        if not isinstance(content, dict):
            raise damaged(name, "it holds no tensors by name")
        if twice := sorted(map(str, merged.keys() & content.keys())):
            raise damaged(name, f"the tensor {twice[0]} is in two files")
        merged |= content
        if len(merged) > bounds.MOST_NAMES:
            raise refused(source.path, f"it has more than {bounds.MOST_NAMES:,} names")
    return kind, unwrap(source.path, kind, merged, choice)


def _found_in_pieces(source: Source, files: Files, choice: Choice) -> tuple[str, Found]:
    """The model in a distributed checkpoint of torch; `source` keeps each file of pieces open."""
    opened: dict[str, OpenFile] = {}

    def region(path: Path) -> Region:
        if path.name not in opened:
            opened[path.name] = OpenFile(path)
            source.opened.append(opened[path.name])
        return opened[path.name].region

    (metadata,) = files.weights
    content = distributed.read(region(metadata), lambda name: region(metadata.parent / name))
    return DISTRIBUTED, unwrap(source.path, DISTRIBUTED, content, choice)


def _kind(path: Path, region: Region) -> tuple[str, Callable[[Region], Any]]:
    if region.size == 0:
        raise InputError(f"{path} is empty", "it has 0 bytes", "obtain the file again")
    if safetensors_file.is_one(region):  # its first bytes are a length, and may be any
        return "safetensors file", safetensors_file.read
    start = region.part(0, min(region.size, 32)).read()
    for magic, name in _STRANGERS:
        if start.startswith(magic):
            raise InputError(f"{path} is {name}", "expected: weights of a MaskFormer")
    if start.startswith(b"PK"):
        return "torch checkpoint", torch_files.read_zip
    if start[8:9] == b"{":
        return "safetensors file", safetensors_file.read
    magic = safe_pickle.LEGACY_TORCH_MAGIC.to_bytes(10, "little")
    if magic in start:
        return "torch checkpoint of before 1.6", safe_pickle.load_legacy_torch
    if start[:1] in (b"\x80", b"(", b"}", b"c"):
        return "pickle", safe_pickle.load
    raise InputError(
        f"{path} is no checkpoint of a known kind",
        f"it begins with {start[:12]!r}",
        "expected: a detectron2 .pkl, .pth, .safetensors, Hugging Face folder or TF checkpoint",
    )


def _rename_version_1(source: Source) -> None:
    """Keys of the head's first version get their `pixel_decoder` (`MaskFormerHead._version`)."""
    head = [name for name in source.tensors if name.startswith(_HEAD)]
    old = [
        name for name in head if not name.startswith((f"{_HEAD}predictor", f"{_HEAD}pixel_decoder"))
    ]
    if not old or any(name.startswith(f"{_HEAD}pixel_decoder.") for name in head):
        return
    renamed = {name: name.replace(_HEAD, f"{_HEAD}pixel_decoder.", 1) for name in old}
    source.tensors = {renamed.get(name, name): t for name, t in source.tensors.items()}
    source.notes.append(f"{len(old)} keys of version 1 renamed to {_HEAD}pixel_decoder.*")

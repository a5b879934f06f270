"""Opens a checkpoint of any known kind, found by its content, and finds the model in it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskformer.family import MASKFORMER
from parity.errors import InputError
from weight_conversion import (
    hugging_face,
    safe_pickle,
    safetensors_file,
    tf_checkpoint,
    torch_files,
)
from weight_conversion.stored import OpenFile, Region, StoredTensor, damaged

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "weights")
EMA_WRAPPERS = ("ema_state", "model_ema", "state_dict_ema", "ema_model", "ema", "ema_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "ema.", "ema_model.")
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


def open_source(path: Path, *, ema: bool = False) -> Source:
    """Opens the checkpoint at `path`: a file, a Hugging Face folder, or a TF checkpoint.

    Args:
        path: the file, folder or TF checkpoint prefix.
        ema: take the exponential moving average where the file has one.

    Raises:
        InputError: it is of no known kind, damaged, asks to run code, or holds no weights.
    """
    if path.is_dir() and (path / "config.json").is_file():
        return _open_hugging_face(path)
    is_table = path.is_file() and path.suffix == ".index"
    if not path.is_file() or is_table:
        prefix = tf_checkpoint.prefix_of(path)
        if prefix is not None:
            return _open_tf(path, prefix)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder without a checkpoint",
            f"it holds {_listed(path)}",
            "expected: config.json with weights (Hugging Face), or a TF checkpoint",
        )
    if not path.is_file():
        raise InputError(
            f"{path} does not exist", _beside(path.parent), "expected: a checkpoint file or folder"
        )
    file = OpenFile(path)
    try:
        return _open_file(path, file, ema)
    except BaseException:
        file.close()
        raise


def _listed(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5]) or 'nothing'}{rest}"


def _beside(folder: Path) -> str:
    return f"{folder} holds {_listed(folder)}" if folder.is_dir() else f"{folder} is no folder"


def _open_tf(path: Path, prefix: Path) -> Source:
    tensors, left_out = tf_checkpoint.read(prefix)
    files = tf_checkpoint.files_of(prefix)
    return Source(path, "TF checkpoint", "tf", tensors, files, left_out)


def _open_file(path: Path, file: OpenFile, ema: bool) -> Source:
    kind, read = _kind(path, file.region)
    content = read(file.region)
    source = Source(path, kind, "original", {}, [path], opened=[file])
    state = _unwrap(source, content, ema)
    for key, value in state.items():
        if not isinstance(key, str):
            raise damaged(path, f"a tensor's name is {key!r}")
        if isinstance(value, StoredTensor):
            source.tensors[key] = value
        else:
            source.left_out[key] = f"no tensor ({type(value).__name__})"
    if not source.tensors:
        raise InputError(f"{path} holds no tensors", f"it is a {kind} without weights")
    if any(name.endswith("_bn_s") for name in source.tensors):
        raise _caffe2(path, len(source.tensors))
    _strip_prefixes(source)
    if any(name.startswith("model.pixel_level_module.") for name in source.tensors):
        _use_library_names(source)
    else:
        _rename_version_1(source)
    return source


def _kind(path: Path, region: Region) -> tuple[str, Callable[[Region], Any]]:
    if region.size == 0:
        raise InputError(f"{path} is empty", "it has 0 bytes", "obtain the file again")
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


def _unwrap(source: Source, content: Any, ema: bool) -> Mapping[Any, Any]:
    """The state dict in `content`; what lies beside it is left out by name."""
    for _ in range(3):
        if not isinstance(content, dict):
            raise InputError(
                f"{source.path} holds no weights by name",
                f"it is a {source.kind} of a {type(content).__name__}",
            )
        if any(isinstance(value, StoredTensor) for value in content.values()):
            break
        wrapper = _wrapper(source, content, ema)
        for key in content:
            if key != wrapper:
                source.left_out[str(key)] = "not the model"
        source.notes.append(f"taken from {wrapper!r}")
        content = content[wrapper]
    if ema and not any("ema" in note for note in source.notes):
        raise InputError(
            f"{source.path} has no exponential moving average", "leave --ema out to use its weights"
        )
    return content


def _wrapper(source: Source, content: dict, ema: bool) -> str:
    found = any("ema" in note for note in source.notes)
    first, second = (EMA_WRAPPERS, WRAPPERS) if ema and not found else (WRAPPERS, EMA_WRAPPERS)
    for key in (*first, *second):
        if isinstance(content.get(key), dict) and content[key]:
            return key
    blobs = content.get("blobs")
    if isinstance(blobs, dict):
        raise _caffe2(source.path, len(blobs))
    raise InputError(
        f"{source.path} holds no model",
        f"its keys are {', '.join(map(repr, list(content)[:8])) or 'none'}",
        f"expected: tensors, or one of {', '.join(WRAPPERS)}",
    )


def _caffe2(path: Path, count: int) -> InputError:
    return InputError(
        f"{path} is a Caffe2 model",
        f"its {count} tensors have Caffe2's names and BGR channels",
        "use the torchvision weights of the published configs (R-50.pkl of detectron2)",
    )


def _strip_prefixes(source: Source) -> None:
    """Removes what training wrappers put before every name."""
    while True:
        names = list(source.tensors)
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None)
        rest = [name.removeprefix(prefix) for name in names] if prefix else []
        if not prefix or (
            prefix == "model." and any(name.startswith("pixel_level_module.") for name in rest)
        ):
            return
        source.tensors = dict(zip(rest, source.tensors.values(), strict=True))
        source.notes.append(f"prefix {prefix!r} removed from every name")


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


def _use_library_names(source: Source) -> None:
    source.naming = "hugging_face"
    source.tensors = {hugging_face.file_name(name): t for name, t in source.tensors.items()}


def _open_hugging_face(path: Path) -> Source:
    _check_library_config(path / "config.json")
    files = _weight_files(path)
    source = Source(path, "Hugging Face folder", "hugging_face", {}, [path / "config.json", *files])
    try:
        for name in files:
            file = OpenFile(name)
            source.opened.append(file)
            kind, read = _kind(name, file.region)
            for key, tensor in torch_files.tensors_in(read(file.region)).items():
                key = hugging_face.file_name(key)
                if key in source.tensors:
                    raise damaged(name, f"the tensor {key} is in two files")
                source.tensors[key] = tensor
            source.notes.append(f"{name.name} is a {kind}")
    except BaseException:
        source.__exit__()
        raise
    if not source.tensors:
        raise InputError(f"{path} holds no tensors")
    return source


def _check_library_config(path: Path) -> None:
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise damaged(path, f"it is not JSON: {error}") from None
    if kind != "maskformer":
        raise InputError(
            f"{path.parent} is a Hugging Face model of type {kind!r}", "expected: 'maskformer'"
        )


def _weight_files(path: Path) -> list[Path]:
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (path / single).is_file():
            return [path / single]
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (path / index).is_file():
            try:
                shards = set(json.loads((path / index).read_text())["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise damaged(path / index, f"it has no weight_map: {error}") from None
            if not all(re.fullmatch(r"[\w.-]+", str(shard)) for shard in shards):
                raise damaged(path / index, "it names files outside its folder")
            return [path / shard for shard in sorted(shards)]
    raise InputError(f"{path} has a config.json but no weights", "expected: model.safetensors")

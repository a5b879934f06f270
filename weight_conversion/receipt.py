"""The receipt of a conversion: what went in, what came out, and how each tensor got there.

It holds no time and no absolute path: the same conversion gives the same bytes. `verify` derives
everything in it again from the two checkpoints.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.config import (
    InferenceConfig,
    LossConfig,
    ModelConfig,
    PixelDecoderConfig,
    PredictorConfig,
    ResNetConfig,
    SwinConfig,
)
from maskformer.errors import InputError
from maskformer.zoo import md5_prefix

if TYPE_CHECKING:
    from weight_conversion.checkpoints import Source
    from weight_conversion.plan import Plan

FORMAT = 1
RECEIPT_NAME = "receipt.json"
_FOLDERS = ("tf", "hf")
_CHUNK = 1 << 20
_UNHASHED_BYTES = 16 << 20


def receipt_path(target: Path, to: str) -> Path:
    """Where the receipt of `target` lies: in a folder, or beside a file under its name."""
    if to in _FOLDERS:
        return target / RECEIPT_NAME
    return target.with_name(f"{target.name}.{RECEIPT_NAME}")


def digest(array: np.ndarray) -> str:
    """sha256 of an array's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


def digests_of_files(files: Sequence[Path], named: Path | None = None) -> list[dict[str, Any]]:
    """Name, size and sha256 of each file; checks the md5 prefix in the name of `named`.

    Raises:
        InputError: the md5 of `named` does not begin as its name says.
    """
    found = []
    for file in files:
        prefix = md5_prefix(file.name) if named and file == named else None
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                sha256.update(chunk)
                if prefix:
                    md5.update(chunk)
        entry = {"name": file.name, "size": file.stat().st_size, "sha256": sha256.hexdigest()}
        if prefix:
            if not md5.hexdigest().startswith(prefix):
                raise InputError(
                    f"{file} is not the published file",
                    f"its md5 begins with {md5.hexdigest()[:6]}, its name says {prefix}",
                    "obtain the file again, or rename it if it is another file on purpose",
                )
            entry["md5_prefix"] = prefix
        found.append(entry)
    return found


class HashingFile:
    """A new file that is only appended to; its sha256 is computed beside the writing.

    Use as a context manager; `hexdigest` is known when it is closed.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._worker = ThreadPoolExecutor(1)
        self._pending: deque[tuple[Future, int]] = deque()
        self._waiting = 0
        self.hexdigest = ""

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`, which must not change afterwards."""
        self._pending.append((self._worker.submit(self._sha256.update, data), len(data)))
        self._waiting += len(data)
        self._file.write(data)
        while self._waiting > _UNHASHED_BYTES:
            future, size = self._pending.popleft()
            future.result()
            self._waiting -= size

    def __enter__(self) -> "HashingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown()
        self._file.close()
        self.hexdigest = self._sha256.hexdigest()


def receipt_text(receipt: dict[str, Any]) -> str:
    """The receipt as JSON, one line for each tensor."""
    outline = json.dumps({**receipt, "tensors": []}, indent=1)
    lines = ",\n  ".join(json.dumps(entry) for entry in receipt["tensors"])
    return outline.replace('"tensors": []', f'"tensors": [\n  {lines}\n ]') + "\n"


def code_version() -> dict[str, str]:
    """The package's version, and the sha256 of the code that converts."""
    text = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text.update(file.name.encode() + b"\0" + file.read_bytes())
    try:
        version = metadata.version("maskformer-replication")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return {"version": version, "weight_conversion_sha256": text.hexdigest()}


def build_receipt(
    *,
    source: "Source",
    source_files: list[dict[str, Any]],
    target: Path,
    target_files: list[dict[str, Any]],
    to: str,
    plan: "Plan",
    dtype: str | None,
    ema: bool,
    tensors: list[dict[str, Any]],
) -> dict[str, Any]:
    """The receipt of what is, or will be, at `target`."""
    folder = receipt_path(target, to).parent
    return {
        "format": FORMAT,
        "code": code_version(),
        "source": {
            "path": _relative(source.path, folder),
            "kind": source.kind,
            "files": source_files,
            "notes": [*source.notes, *plan.notes],
            "left_out": plan.left_out,
        },
        "target": {"path": _relative(target, folder), "kind": to, "files": target_files},
        "options": {"dtype": dtype, "ema": ema},
        "config": {**plan.config.to_dict(), "digest": plan.config.digest},
        "tensors": tensors,
    }


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def verify(path: Path) -> list[str]:
    """Derives the receipt at `path` again from both checkpoints; returns every difference.

    Each difference names the file, tensor or entry concerned; none means that it all holds.

    Raises:
        InputError: `path` is no receipt.
    """
    receipt = _read(path)
    try:
        config = _config(receipt["config"])
        return _Verification(path, receipt, config).run()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} is incomplete", f"{type(error).__name__}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"receipt {path} cannot be read", str(error.strerror)) from None
    except ValueError as error:
        raise InputError(f"receipt {path} is not JSON", str(error)) from None
    if not isinstance(receipt, dict) or receipt.get("format") != FORMAT:
        raise InputError(f"{path} is no receipt of format {FORMAT}", "expected: a receipt.json")
    return receipt


def _config(values: dict[str, Any]) -> ModelConfig:
    """The configuration of a receipt; InputError where its digest is another."""
    sections = {
        "pixel_decoder": PixelDecoderConfig,
        "predictor": PredictorConfig,
        "loss": LossConfig,
        "inference": InferenceConfig,
        "backbone": SwinConfig if values["backbone"]["kind"] == "swin" else ResNetConfig,
    }
    arguments = {}
    for item in dataclasses.fields(ModelConfig):
        value = values[item.name]
        if item.name in sections:
            parts = {key: _frozen(part) for key, part in value.items() if key != "kind"}
            value = sections[item.name](**parts)
        arguments[item.name] = _frozen(value)
    return ModelConfig(**arguments)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Verification:
    """Compares one receipt with its checkpoints and collects the differences."""

    def __init__(self, path: Path, receipt: dict[str, Any], config: ModelConfig) -> None:
        self.receipt, self.config = receipt, config
        self.folder = path.parent
        self.problems: list[str] = []

    def run(self) -> list[str]:
        receipt = self.receipt
        if self.config.digest != receipt["config"]["digest"]:
            self.problems.append("config: its digest is another than the receipt's")
        if code_version() != receipt["code"]:
            self.problems.append("code: this version is another than the receipt's")
        source = self._files("source")
        target = self._files("target")
        if source and target:
            self._tensors(source, target)
        return self.problems

    def _files(self, side: str) -> Path | None:
        entry = self.receipt[side]
        path = self.folder / entry["path"]
        parent = path if path.is_dir() else path.parent
        for stated in entry["files"]:
            file = parent / Path(stated["name"]).name
            if not file.is_file():
                self.problems.append(f"{side}: {stated['name']} is missing")
                return None
            try:
                found = digests_of_files([file], file if "md5_prefix" in stated else None)[0]
            except InputError as error:
                self.problems.append(f"{side}: {str(error).splitlines()[0]}")
                continue
            if found != stated:
                keys = [key for key in stated if stated[key] != found.get(key)]
                self.problems.append(f"{side}: {stated['name']} differs in {', '.join(keys)}")
        return path

    def _tensors(self, source_path: Path, target_path: Path) -> None:
        from weight_conversion.checkpoints import open_source
        from weight_conversion.convert import outputs_of
        from weight_conversion.plan import make_plan

        options, kind = self.receipt["options"], self.receipt["target"]["kind"]
        stated = {entry["name"]: entry for entry in self.receipt["tensors"]}
        try:
            with (
                open_source(source_path, ema=options["ema"]) as source,
                open_source(target_path) as target,
            ):
                plan = make_plan(source, self.config, options["dtype"])
                if plan.left_out != self.receipt["source"]["left_out"]:
                    self.problems.append("source: the list of what is left out differs")
                if [pair.spec.name for pair in plan.pairs] != list(stated):
                    self.problems.append("tensors: the list of names differs from the receipt's")
                for pair in plan.pairs:
                    entry = stated.get(pair.spec.name)
                    if entry is not None:
                        self._tensor(pair, outputs_of(pair, kind), entry, target)
                written = [out["name"] for entry in stated.values() for out in entry["targets"]]
                self._names(written, target, kind)
        except InputError as error:
            self.problems.append(" ".join(str(error).split()))

    def _tensor(self, pair: Any, outputs: list[Any], entry: dict[str, Any], target: Any) -> None:
        name = pair.spec.name
        arrays = pair.load_sources()
        sources = [
            {"name": n, "shape": list(a.shape), "dtype": a.dtype.name, "sha256": digest(a)}
            for n, a in zip(pair.sources, arrays, strict=True)
        ]
        if sources != entry["sources"] or pair.rule != entry["rule"]:
            self.problems.append(f"{name}: the source is not what the receipt says")
        combined = pair.combine(arrays)
        targets = [
            {
                "name": output.declared[0],
                "shape": list(output.declared[1]),
                "dtype": output.declared[2],
                "rule": output.rule,
                "sha256": digest(output.make(combined)),
            }
            for output in outputs
        ]
        if targets != entry["targets"]:
            self.problems.append(f"{name}: the conversion gives another result than the receipt's")
        for stated in targets:
            stored = target.tensors.get(stated["name"])
            if stored is None:
                self.problems.append(f"{stated['name']}: missing in the target")
            elif stored.shape != tuple(stated["shape"]) or stored.dtype != stated["dtype"]:
                self.problems.append(f"{stated['name']}: has another shape or type in the target")
            elif digest(stored.load()) != stated["sha256"]:
                self.problems.append(f"{stated['name']}: has other values in the target")

    def _names(self, written: list[str], target: Any, kind: str) -> None:
        from weight_conversion import hugging_face

        extra = set(target.tensors) - set(written)
        if kind == "hf":
            known = hugging_face.extras(self.config, [e["name"] for e in self.receipt["tensors"]])
            for name in extra & set(known):
                extra.discard(name)
                if not np.array_equal(target.tensors[name].load(), known[name].load()):
                    self.problems.append(f"{name}: has other values in the target")
        self.problems += [f"{name}: unexpected in the target" for name in sorted(extra)]


def size_of(tensors: list[dict[str, Any]]) -> int:
    """The bytes that the target's tensors of a receipt take."""
    return sum(
        math.prod(out["shape"]) * np.dtype(out["dtype"]).itemsize
        for entry in tensors
        for out in entry["targets"]
    )

"""The receipt of a conversion: what went in, what came out, and how each tensor got there.

It holds no time and no absolute path: the same conversion gives the same bytes.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from maskformer.model.zoo import md5_prefix
from parity.errors import InputError
from weight_conversion.checkpoints import Source
from weight_conversion.plan import Plan

FORMAT = 1
RECEIPT_NAME = "receipt.json"
FOLDERS = ("tf", "hf")
"""The targets that are folders; the others are files."""

_CHUNK = 1 << 20
_UNHASHED_BYTES = 16 << 20


def receipt_path(target: Path, to: str) -> Path:
    """Where the receipt of `target` lies: in a folder, or beside a file under its name."""
    if to in FOLDERS:
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


@dataclass(frozen=True)
class Written:
    """What is, or will be, at `path`: its format, and the files' names, sizes and hashes."""

    path: Path
    kind: str
    files: list[dict[str, Any]]


def build_receipt(
    source: Source,
    source_files: list[dict[str, Any]],
    target: Written,
    plan: Plan,
    options: dict[str, Any],
    tensors: list[dict[str, Any]],
) -> dict[str, Any]:
    """The receipt of `target`; `options` are those that it was converted with."""
    folder = receipt_path(target.path, target.kind).parent
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
        "target": {
            "path": _relative(target.path, folder),
            "kind": target.kind,
            "files": target.files,
        },
        "options": options,
        "config": {**plan.config.to_dict(), "digest": plan.config.digest},
        "tensors": tensors,
    }


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def size_of(tensors: list[dict[str, Any]]) -> int:
    """The bytes that the target's tensors of a receipt take."""
    return sum(
        math.prod(out["shape"]) * np.dtype(out["dtype"]).itemsize
        for entry in tensors
        for out in entry["targets"]
    )

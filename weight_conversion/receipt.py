"""The receipt of a conversion: what went in, what came out, and how each tensor got there.

It holds no time and no absolute path: the same conversion gives the same bytes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from parity.errors import InputError
from parity.records import parts, typed
from parity.results import Result

FORMAT = 1
RECEIPT_NAME = "receipt.json"
FOLDERS = ("tf", "hf")
"""The targets that are folders; the others are files."""


def receipt_path(target: Path, to: str) -> Path:
    """Where the receipt of `target` lies: in a folder, or beside a file under its name."""
    if to in FOLDERS:
        return target / RECEIPT_NAME
    return target.with_name(f"{target.name}.{RECEIPT_NAME}")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file that went in or came out; `md5_prefix` is what a published name says of it."""

    name: str
    size: int
    sha256: str
    md5_prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The source or the target; `left_out` are tensors that were not taken, with the reason."""

    path: str
    kind: str
    files: tuple[File, ...]
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] | tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One side of a conversion's step; a target says by which rule it was laid out."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    rule: str = ""


@dataclass(frozen=True)
class Entry:
    """One parameter of the model: the tensors that it came from, and those that it became."""

    name: str
    rule: str
    sources: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]

    @property
    def copied(self) -> bool:
        """Whether it is one tensor, whose bits must be kept."""
        kept = self.rule == "same" and len(self.sources) == 1
        return kept and all(
            out.rule == "same" and out.dtype == self.sources[0].dtype for out in self.targets
        )

    @property
    def same_bits(self) -> bool:
        """Whether the bits were kept."""
        return all(out.sha256 == self.sources[0].sha256 for out in self.targets)


@dataclass(frozen=True, kw_only=True)
class Receipt(Result):
    """A conversion, as it is recorded; its file names the `format`, and no schema."""

    schema: ClassVar[str] = "maskformer-replication/receipt/1"

    verdict: str = ""
    format: int
    code: Mapping[str, str]
    source: Checkpoint
    target: Checkpoint
    options: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """The bytes that the target's tensors take."""
        outputs = [out for entry in self.tensors for out in entry.targets]
        return sum(math.prod(out.shape) * np.dtype(out.dtype).itemsize for out in outputs)

    @classmethod
    def read(cls, content: Any, path: Path) -> "Receipt":
        """The receipt that JSON `content` of the file at `path` is; InputError where it is none."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{path} is no receipt of format {FORMAT}", "expected: a receipt.json")
        try:
            return typed(cls, content)
        except ValueError as error:
            raise InputError(f"{path} is incomplete", str(error)) from None

    def text(self) -> str:
        """The receipt as JSON, one line for each tensor."""
        content = parts(self)
        outline = json.dumps({**content, "tensors": []}, indent=1)
        lines = ",\n  ".join(json.dumps(entry) for entry in content["tensors"])
        return outline.replace('"tensors": []', f'"tensors": [\n  {lines}\n ]') + "\n"

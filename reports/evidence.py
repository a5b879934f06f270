"""Recorded results as evidence: found in files and folders, checked, and copied byte for byte."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from maskformer.metrics.run_scores import ImageCounts
from maskformer.runs.run_record import Run
from parity.records import json_text
from reports.kind import Kind

SCHEMA = "maskformer-replication/report/3"
FOLDER, DATA = "evidence", "report.json"
"""Where a report keeps what it was made of, and the file that lists it."""

SIDES = {"torch": "PyTorch", "tf": "TensorFlow", "imported": "imported"}


@dataclass(frozen=True)
class Evidence:
    """One recorded result: its kind, its files' bytes, and the `Result` that they hold.

    `files` has one entry "" for a result that is one JSON file. A run has run.json, metrics.jsonl
    and, where it was evaluated, evaluation.npz; an evaluation that drew pictures has
    evaluation.json and the pictures, made smaller where they are large. `source` says where it
    was read, for messages; `schema` is its format, in the version that was recorded.
    """

    kind: Kind
    files: Mapping[str, bytes]
    result: Any
    source: str
    schema: str
    run: Run | None = None
    counts: ImageCounts | None = field(default=None, compare=False)

    @property
    def main(self) -> str:
        """The file that is named as the evidence of its claims."""
        return next(iter(self.files))

    @property
    def config(self) -> str | None:
        """The configuration it is about; None where it is about several."""
        named = getattr(self.result, "config", None) or self.result.provenance.get("config")
        return named["name"] if isinstance(named, Mapping) else named

    @property
    def title(self) -> str:
        """What it is, in a few words that tell it from others of its kind where they differ."""
        if self.result.title:
            return self.result.title
        text = f"{self.kind.title} of {self.config}" if self.config else self.kind.title
        return text if self.kind.detail is None else text + self.kind.detail(self.result)

    @property
    def digest(self) -> str:
        """sha256 over what was recorded, by which copies are known; pictures do not count."""
        if self.run is None:
            return sha256(self.files[self.main])
        parts = (f"{n}\0{sha256(content)}\n" for n, content in sorted(self.files.items()))
        return sha256("".join(parts).encode())


def sha256(content: bytes) -> str:
    """The digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def json_bytes(value: Any) -> bytes:
    """A result as its commands write it."""
    return json_text(value).encode()


def names(evidence: Iterable[Evidence]) -> list[dict[str, str]]:
    """Each evidence's files by where a report keeps them: `evidence/01-audit.json`.

    The first of each is the one that the report names as the evidence of a claim.
    """
    placed = []
    for index, one in enumerate(evidence, 1):
        stem = f"{FOLDER}/{index:02d}-{one.kind.name}"
        if set(one.files) == {""}:
            placed.append({"": f"{stem}.json"})
        else:
            placed.append({name: f"{stem}/{name}" for name in one.files})
    return placed

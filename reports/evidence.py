"""Recorded results as evidence: found in files and folders, checked, and copied byte for byte."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from maskformer.metrics.run_scores import ImageCounts
from maskformer.runs.run_record import SCHEMA as RUN
from maskformer.runs.run_record import Run
from parity.records import json_text
from parity.schemas import (
    EVALUATION,
    PREFLIGHT,
    RECEIPT,
    TRAJECTORY,
)
from reports.kinds import KINDS, TITLES

SIDES = {"torch": "PyTorch", "tf": "TensorFlow", "imported": "imported"}

TARGETS = {
    "tf": "TensorFlow checkpoint",
    "torch": "PyTorch checkpoint",
    "hf": "Hugging Face folder",
    "safetensors": "safetensors file",
}
"""What a conversion writes, by the kind in its receipt."""

EVALUATED = "evaluation.json"
"""The file of an evaluation that has pictures beside it."""


@dataclass(frozen=True)
class Evidence:
    """One recorded result: its schema, its files' bytes, and what they hold.

    `files` has one entry "" for a result that is one JSON file. A run has run.json, metrics.jsonl
    and, where it was evaluated, evaluation.npz; an evaluation that drew pictures has
    evaluation.json and the pictures, made smaller where they are large. `source` says where it
    was read, for messages.
    """

    schema: str
    files: Mapping[str, bytes]
    content: Mapping[str, Any]
    source: str
    run: Run | None = None
    counts: ImageCounts | None = field(default=None, compare=False)

    @property
    def kind(self) -> str:
        """What its file is named after."""
        return KINDS[self.schema]

    @property
    def config(self) -> str | None:
        """The configuration it is about; None where it is about several."""
        content = self.content
        for holder in (content, content.get("settings"), content.get("provenance")):
            if isinstance(holder, Mapping) and holder.get("config"):
                found = holder["config"]
                return found["name"] if isinstance(found, Mapping) else found
        return None

    @property
    def title(self) -> str:
        """What it is, in a few words that tell it from others of its kind where they differ."""
        content = self.content
        if content.get("title"):
            return content["title"]
        text = f"{TITLES[self.schema]} of {self.config}" if self.config else TITLES[self.schema]
        if self.schema == RUN:
            seed = content["settings"].get("seed")
            text += f", {SIDES[content['side']]}" + ("" if seed is None else f", seed {seed}")
        elif self.schema == TRAJECTORY:
            text += f", {content['dtype']}"
        elif self.schema == EVALUATION:
            text += f" on {content['split']}"
        elif self.schema == PREFLIGHT:
            topologies = [row["topology"] for row in content["topologies"]]
            text += f", {content['precision']}, {', '.join(topologies)}"
        elif self.schema == RECEIPT:
            kind = content["target"]["kind"]
            text += f" to a {TARGETS.get(kind, kind)}"
        return text

    @property
    def digest(self) -> str:
        """sha256 over what was recorded, by which copies are known; pictures do not count."""
        if EVALUATED in self.files:
            return sha256(self.files[EVALUATED])
        if "" in self.files:
            return sha256(self.files[""])
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
        stem = f"evidence/{index:02d}-{one.kind}"
        if set(one.files) == {""}:
            placed.append({"": f"{stem}.json"})
        else:
            placed.append({name: f"{stem}/{name}" for name in one.files})
    return placed

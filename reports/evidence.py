"""Recorded results as evidence: found in files and folders, checked, and copied byte for byte."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maskformer.metrics.run_scores import COUNTS, ImageCounts, read_counts
from maskformer.runs.run_record import DESCRIPTION, METRICS, Run, read_run
from maskformer.runs.run_record import SCHEMA as RUN
from parity.errors import InputError
from parity.records import json_text
from parity.schemas import (
    AUDIT,
    AUDIT_ALL,
    CLEAN_AUDITS,
    EVALUATION,
    FAULT_SCORE,
    PREFLIGHT,
    RECEIPT,
    SUITE,
    TRAINING_RUNS,
    TRAINING_SEEDS,
    TRAINING_STEP,
    TRAJECTORY,
)
from reports.pictures import MOST, jpeg_name, kept

KINDS = {
    RECEIPT: "receipt",
    AUDIT: "audit",
    AUDIT_ALL: "audit-all",
    TRAINING_STEP: "training-step",
    TRAJECTORY: "trajectory",
    EVALUATION: "evaluation",
    RUN: "run",
    TRAINING_RUNS: "training-runs",
    TRAINING_SEEDS: "training-seeds",
    PREFLIGHT: "preflight",
    FAULT_SCORE: "fault-score",
    CLEAN_AUDITS: "clean-audits",
    SUITE: "suite",
}
"""What a report can be made of, in a report's order: the schema, and what files are named after."""

TITLES = {
    RECEIPT: "Conversion",
    AUDIT: "Audit",
    AUDIT_ALL: "Audit of every architecture",
    TRAINING_STEP: "Training step",
    TRAJECTORY: "Trajectory",
    EVALUATION: "Evaluation",
    RUN: "Training run",
    TRAINING_RUNS: "Comparison of two training runs",
    TRAINING_SEEDS: "Training from several seeds",
    PREFLIGHT: "TPU preflight",
    FAULT_SCORE: "Planted faults",
    CLEAN_AUDITS: "Clean audits",
    SUITE: "Test suite",
}

SIDES = {"torch": "PyTorch", "tf": "TensorFlow", "imported": "imported"}

TARGETS = {
    "tf": "TensorFlow checkpoint",
    "torch": "PyTorch checkpoint",
    "hf": "Hugging Face folder",
    "safetensors": "safetensors file",
}
"""What a conversion writes, by the kind in its receipt."""

_SCHEMA_FIRST = re.compile(rb'\s*\{\s*"schema":\s*"([^"]*)"')
_RECEIPT_FIRST = re.compile(rb'\s*\{\s*"format":\s*1,\s*"code":\s*\{')
EVALUATED = "evaluation.json"
"""The file of an evaluation that has pictures beside it."""

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


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


def of_result(result: Mapping[str, Any]) -> Evidence:
    """A result that was just made, as if it had been read from its file."""
    return _of_bytes(json_bytes(result), "the result")


def load(paths: Sequence[Path]) -> tuple[Evidence, ...]:
    """The evidence in files and folders, in the order of `KINDS`, then as given; copies once.

    A folder is searched with all below it; files in it that are no recorded result are passed over.
    Of copies, one that has its pictures is taken.
    Raises InputError for a path that is missing, unknown, broken or without any evidence.
    """
    found: dict[str, Evidence] = {}
    for path in paths:
        below = {}
        for one in _search(path):
            known = below.get(one.digest)
            if known is None or len(one.files) > len(known.files):
                below[one.digest] = one
        if not below:
            raise InputError(
                f"{path} holds no recorded result",
                f"searched for: {', '.join(KINDS.values())}",
                "give the JSON that a command wrote with --out or --json, or the folder of a run",
            )
        found |= {key: one for key, one in below.items() if key not in found}
    order = list(KINDS)
    return tuple(sorted(found.values(), key=lambda one: order.index(one.schema)))


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


def _search(path: Path) -> Iterator[Evidence]:
    if path.is_dir():
        if (path / DESCRIPTION).is_file():
            yield _of_run(path)
        for file in sorted(path.rglob("*.json")):
            if file.name == DESCRIPTION and file.parent != path:
                yield _of_run(file.parent)
            elif file.name != DESCRIPTION and _may_be_result(file):
                yield _of_file(file)
    elif path.name in (DESCRIPTION, METRICS):
        yield _of_run(path.parent)
    else:
        yield _of_file(path)


def _may_be_result(file: Path) -> bool:
    """Whether a file found in a folder is a recorded result; others may lie beside it."""
    with file.open("rb") as stream:
        start = stream.read(4096)
    schema = _SCHEMA_FIRST.match(start)
    if schema is None:
        return _RECEIPT_FIRST.match(start) is not None
    return schema.group(1).decode(errors="replace") in KINDS


def _of_file(file: Path) -> Evidence:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read",
            f"{type(error).__name__}: {error.strerror or error}",
            "give a recorded result, or a folder that has some",
        ) from None
    return _with_pictures(_of_bytes(content, str(file)), file.parent)


def _with_pictures(found: Evidence, folder: Path) -> Evidence:
    """An evaluation with the pictures that it names, where they lie in `folder`."""
    if found.schema != EVALUATION:
        return found
    pictures: dict[str, bytes] = {}
    for name in [str(one) for one in found.content.get("pictures", ())][:MOST]:
        for present in (name, jpeg_name(name)):
            if ".." not in Path(present).parts and (folder / present).is_file():
                try:
                    place, content = kept(present, (folder / present).read_bytes())
                except ValueError as error:
                    raise InputError(
                        f"{folder / present} cannot be shown",
                        str(error),
                        "remove it, or evaluate again",
                    ) from None
                pictures[place] = content
                break
    if not pictures:
        return found
    return replace(found, files={EVALUATED: found.files[""], **pictures})


def _of_bytes(content: bytes, source: str) -> Evidence:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise InputError(
            f"{source} is not a complete JSON file",
            f"{type(error).__name__}: {error}",
            "record the result again",
        ) from None
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(value, dict) and value.get("format") == 1 and {"tensors", "target"} <= set(value):
        schema = RECEIPT
    if schema not in KINDS or schema == RUN:
        raise InputError(
            f"{source} has the schema {schema!r}, which no report knows",
            f"known: {', '.join(KINDS)}",
            "record the result again with this version, or report it with the version that made it",
        )
    return Evidence(schema, {"": content}, _revived(value), source)


def _of_run(folder: Path) -> Evidence:
    run = read_run(folder)
    files = {name: (folder / name).read_bytes() for name in (DESCRIPTION, METRICS)}
    counts = None
    if (folder / COUNTS).is_file():
        files[COUNTS] = (folder / COUNTS).read_bytes()
        counts = read_counts(folder / COUNTS)
    if not run.rows:
        raise InputError(
            f"{folder} has no rows yet",
            f"{METRICS} is empty",
            "wait for the run's first row, or leave it out",
        )
    return Evidence(RUN, files, run.description, str(folder), run, counts)


def _revived(value: Any) -> Any:
    """The value with the texts that `strict` writes as the numbers they stand for."""
    if isinstance(value, Mapping):
        return {name: _revived(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_revived(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value

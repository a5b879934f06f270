"""The sections of a conversion's receipt: where each tensor of a checkpoint comes from."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from parity.claims import Claim, claim
from parity.measurements import Findings
from parity.results import Result
from reports import words
from reports.document import Block, Cell, Chapter, Column, Facts, Items, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special, Unnamed
from reports.subjects import Subject, files

TARGETS = {
    "tf": "TensorFlow checkpoint",
    "torch": "PyTorch checkpoint",
    "hf": "Hugging Face folder",
    "safetensors": "safetensors file",
}
"""What a conversion writes, by the kind in its receipt."""

LEFT_OPEN = (
    "That converted files are still what their receipts say: parity convert --verify RECEIPT reads "
    "them again, and parity audit --port-weights CONVERTED compares them with their source."
)

UNNAMED = Unnamed(
    beginning=re.compile(rb'\s*\{\s*"format":\s*1,\s*"code":\s*\{'),
    holds=lambda content: content.get("format") == 1 and {"tensors", "target"} <= set(content),
)


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
class ReceiptResult(Result):
    """A conversion (`weight_conversion.receipt`); its file names the `format`, and no schema."""

    schema: ClassVar[str] = "maskformer-replication/receipt/1"

    verdict: str = ""
    format: int
    code: Mapping[str, str]
    source: Checkpoint
    target: Checkpoint
    options: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: tuple[Entry, ...]


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """A receipt's chapter: all that it holds."""
    result = one.result
    failing = any(one.verdict == "fails" for one in claims)
    verdict = "fails" if failing else "holds"
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Files", _files(result)),
        Section("Rules", (_rules(result.tensors),)),
        Section("Every tensor", (_tensors(result.tensors),)),
        verdict=verdict,
    )


def _headline(result: ReceiptResult) -> str:
    left_out = len(result.source.left_out)
    values = sum(math.prod(out.shape) for entry in result.tensors for out in entry.targets)
    return (
        f"{number(len(result.tensors))} tensors with {number(values)} values from a "
        f"{result.source.kind} to a {TARGETS[result.target.kind]}; "
        f"{number(left_out) if left_out else 'none'} of the source left out."
    )


def _files(result: ReceiptResult) -> tuple[Block, ...]:
    rows = tuple(
        (
            Cell(side),
            Cell(file.name),
            Cell(number(file.size), file.size),
            Cell(file.sha256),
        )
        for side, one in (("source", result.source), ("target", result.target))
        for file in one.files
    )
    columns = (
        Column("Side"),
        Column("File", code=True),
        Column("Bytes", numeric=True),
        Column("sha256", code=True),
    )
    facts = (
        ("config", result.config["name"]),
        ("values converted to", result.options["dtype"] or "as they were"),
        ("moving average", number(result.options["ema"])),
        ("version", result.code["version"]),
        ("sha256 of the converter", result.code["weight_conversion_sha256"]),
    )
    blocks: list[Block] = [Table("Files that went in and came out", columns, rows), Facts(facts)]
    notes = [*result.source.notes]
    left_out = result.source.left_out
    if left_out:
        names = left_out.items() if isinstance(left_out, Mapping) else ((x, "") for x in left_out)
        notes += [f"left out: {name} {why}".strip() for name, why in names]
    if notes:
        blocks.append(Items(tuple(str(note) for note in notes)))
    return tuple(blocks)


def _rules(tensors: Sequence[Entry]) -> Table:
    counted = Counter(out.rule for entry in tensors for out in entry.targets)
    rows = tuple((Cell(rule), Cell(number(count), count)) for rule, count in counted.most_common())
    columns = (Column("Rule of layout", code=True), Column("Tensors", numeric=True))
    return Table("How tensors were laid out anew", columns, rows)


def _tensors(tensors: Sequence[Entry]) -> Table:
    rows = tuple(
        (
            Cell(entry.name, entry.name),
            Cell(out.rule, out.rule),
            Cell("x".join(map(str, out.shape)) or "scalar", math.prod(out.shape)),
            Cell(out.dtype, out.dtype),
            Cell(", ".join(source.name for source in entry.sources)),
            Cell(out.sha256[:16]),
        )
        for entry in tensors
        for out in entry.targets
    )
    columns = (
        Column("Tensor", code=True),
        Column("Rule", choices=True),
        Column("Shape"),
        Column("Type", choices=True),
        Column("From", code=True),
        Column("sha256 begins", code=True),
    )
    return Table("Every tensor of the target, and its source", columns, rows, interactive=True)


def of_receipt(one: Evidence) -> list[Claim]:
    """That every tensor of a conversion has a source, and that copied ones kept their bits."""
    tensors, path = one.result.tensors, one.result.target.path
    unsourced = [one.name for one in tensors if not (one.sources and one.targets)]
    changed = [one.name for one in tensors if one.copied and not one.same_bits]
    name = "receipt.json" if path == "." else f"{path}.receipt.json"
    command = shlex.join(["parity", "convert", "--verify", f"DIR/{name}"])
    return [
        claim(
            "weights/receipt",
            "Every tensor of the converted checkpoint comes from a tensor of its source",
            Findings(len(tensors), unsourced),
            "as the receipt records it, which names the source, the rule and the sha256 of every "
            "tensor; the command reads both files again",
            command,
        ),
        claim(
            "weights/bits",
            "Every tensor that is copied without a change of layout kept its bits",
            Findings(sum(one.copied for one in tensors), changed),
            "sha256 of the tensor before and after, as the receipt records them",
            command,
        ),
    ]


def _detail(result: ReceiptResult) -> str:
    kind = result.target.kind
    return f" to a {TARGETS.get(kind, kind)}"


def _subject(result: ReceiptResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {
        "config_sha256": result.config["digest"],
        "source": [result.source.kind, *files(result.source.files)],
        "target": result.target.kind,
        **result.options,
    }


KIND = Kind(
    result=ReceiptResult,
    name="receipt",
    title="Conversion",
    detail=_detail,
    subject=_subject,
    rungs={"": "weights"},
    chapter=chapter,
    recheck=None,
    given={
        **dict.fromkeys(("format", "verdict"), "the format's version"),
        **dict.fromkeys(
            ("code", "config", "options", "source", "target", "tensors"),
            "files, tensors and their hashes, as the converter saw them "
            "(parity convert --verify reads them again)",
        ),
    },
    derived=of_receipt,
    records_claims=False,
    changes=None,
    special=Special(unnamed=UNNAMED, left_open=LEFT_OPEN),
)

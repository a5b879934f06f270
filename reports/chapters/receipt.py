"""The sections of a conversion's receipt: where each tensor of a checkpoint comes from."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from parity.claims import Claim, claim
from parity.measurements import Findings
from reports import words
from reports.document import Block, Cell, Chapter, Column, Facts, Items, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special, Unnamed
from reports.subjects import Subject, files
from weight_conversion.receipt import Entry, Receipt

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


def _headline(result: Receipt) -> str:
    left_out = len(result.source.left_out)
    values = sum(math.prod(out.shape) for entry in result.tensors for out in entry.targets)
    return (
        f"{number(len(result.tensors))} tensors with {number(values)} values from a "
        f"{result.source.kind} to a {TARGETS[result.target.kind]}; "
        f"{number(left_out) if left_out else 'none'} of the source left out."
    )


def _files(result: Receipt) -> tuple[Block, ...]:
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


def _detail(result: Receipt) -> str:
    kind = result.target.kind
    return f" to a {TARGETS.get(kind, kind)}"


def _subject(result: Receipt) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {
        "config_sha256": result.config["digest"],
        "source": [result.source.kind, *files(result.source.files)],
        "target": result.target.kind,
        **result.options,
    }


KIND = Kind(
    result=Receipt,
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

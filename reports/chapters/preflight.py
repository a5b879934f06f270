"""The sections of a preflight: what a TPU's compiler says of the training step, without a TPU."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.results import PREFLIGHT
from reports import words
from reports.checks import Content, Difference, all_hold, by_id, differ
from reports.document import Block, Cell, Chapter, Column, Facts, Items, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import picked

GIB = 2**30
STEPS = {"train": "training", "evaluation": "evaluation"}


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """A preflight's chapter: all that the result holds."""
    result = one.content
    verdict = "holds" if result["passed"] else "fails"
    height, width = result["image_size"]
    facts = (
        ("config", result["config"]),
        ("precision", result["precision"]),
        ("image size", f"{height}x{width}"),
        ("images per core", number(result["per_core_batch"])),
        ("cores in a step", number(result["replicas"])),
        ("targets an image is padded to", number(result["targets"])),
    )
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Compiled steps", _steps(result)),
        Section("The published schedule", _schedule(result)),
        Section("How it was run", (Facts(facts),)),
        verdict=verdict,
    )


def _headline(result: Mapping[str, Any]) -> str:
    passed = [row["topology"] for row in result["topologies"] if row["passed"]]
    failed = [row["topology"] for row in result["topologies"] if not row["passed"]]
    text = f"Compiles and fits: {', '.join(passed) or 'nowhere'}"
    return f"{text}; does not: {', '.join(failed)}." if failed else f"{text}."


def _steps(result: Mapping[str, Any]) -> tuple[Block, ...]:
    rows, reasons = [], []
    for row in result["topologies"]:
        if "reason" in row:
            reasons.append(f"{row['topology']}: {row['reason']}")
        for key, name in STEPS.items():
            if key not in row:
                continue
            step = row[key]
            if not step["compiles"]:
                reasons.append(f"{row['topology']}, {name}: {step['reason']}")
                rows.append(
                    (Cell(row["topology"]), Cell(name), Cell("no", tone="bad"), *[Cell("")] * 6)
                )
                continue
            rows.append(
                (
                    Cell(row["topology"]),
                    Cell(name),
                    Cell("yes", tone="good"),
                    Cell(f"{step['hbm_used'] / GIB:.2f}", step["hbm_used"]),
                    Cell(f"{100 * step['hbm_share']:.1f} %", step["hbm_share"]),
                    Cell(f"{step['flops'] / 1e12:.3f}", step["flops"]),
                    Cell(f"{step['bytes_accessed'] / 1e9:.2f}", step["bytes_accessed"]),
                    Cell(f"{1e3 * step['roofline_seconds']:.2f}", step["roofline_seconds"]),
                    Cell(f"{step['compile_seconds']:.0f}", step["compile_seconds"]),
                )
            )
    columns = (
        Column("Topology"),
        Column("Step"),
        Column("Compiles"),
        Column("Memory, GiB", numeric=True),
        Column("of the chip", numeric=True),
        Column("TFLOP", numeric=True),
        Column("GB moved", numeric=True),
        Column("At least, ms", numeric=True),
        Column("Compiled in, s", numeric=True),
    )
    table = Table("What the compiler says of each step", columns, tuple(rows))
    return (table, Items(tuple(reasons))) if reasons else (table,)


def _largest(row: Mapping[str, Any]) -> str:
    """The largest batch that fits; the search may have ended before it met one that does not."""
    if "largest_per_core_batch" not in row:
        return "not searched"
    return number(row["largest_per_core_batch"]) + (" or more" if "larger_batches" in row else "")


def _schedule(result: Mapping[str, Any]) -> tuple[Block, ...]:
    rows = tuple(
        (
            Cell(row["topology"]),
            Cell(number(row["schedule"]["images"]), row["schedule"]["images"]),
            Cell(number(row["schedule"]["steps"]), row["schedule"]["steps"]),
            Cell(number(row["schedule"]["hours"]), row["schedule"]["hours"]),
            Cell(number(row["schedule"]["chip_hours"]), row["schedule"]["chip_hours"]),
            Cell(f"{1e3 * row['matcher']['seconds']:.2f}", row["matcher"]["seconds"]),
            Cell(_largest(row)),
        )
        for row in result["topologies"]
        if "schedule" in row
    )
    if not rows:
        return (Items(("No topology compiles.",)),)
    columns = (
        Column("Topology"),
        Column("Images", numeric=True),
        Column("Steps", numeric=True),
        Column("Hours", numeric=True),
        Column("Chip-hours", numeric=True),
        Column("Matching adds at most, ms", numeric=True),
        Column("Largest batch per core"),
    )
    caption = "Time of the published schedule, from below: every step at the roofline, no waiting"
    return (Table(caption, columns, rows),)


def recheck_preflight(content: Content) -> Iterator[Difference]:
    yield from differ("passed", all_hold(content["claims"]), content["passed"])
    claims = by_id(content)
    for index, row in enumerate(content["topologies"]):
        topology = row["topology"]
        place = f"topologies[{index}] ({topology})"
        holds = claims[f"compiles/{topology}"]["verdict"] == "holds"
        yield from differ(f"{place}.passed", holds, row["passed"])
        steps = {name: row[name] for name in ("train", "evaluation") if name in row}
        for name, step in steps.items():
            if step["compiles"]:
                share = step["hbm_used"] / row["chip"]["hbm"]
                yield from differ(f"{place}.{name}.hbm_share", share, step["hbm_share"])
        if f"memory/{topology}" in claims:
            shares = {name: one["hbm_share"] for name, one in steps.items() if one["compiles"]}
            measured = claims[f"memory/{topology}"]["measured"]["values"]
            yield from differ(f"claims (memory/{topology}).measured.values", shares, measured)


def _detail(content: Content) -> str:
    topologies = [row["topology"] for row in content["topologies"]]
    return f", {content['precision']}, {', '.join(topologies)}"


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    asked = ("precision", "image_size", "per_core_batch", "replicas", "targets", "effort")
    rows = content["topologies"]
    return {**picked(content, asked), "topologies": [row["topology"] for row in rows]}


KIND = Kind(
    schema=PREFLIGHT,
    name="preflight",
    title="TPU preflight",
    detail=_detail,
    subject=_subject,
    rungs={"": "tpu"},
    chapter=chapter,
    recheck=recheck_preflight,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

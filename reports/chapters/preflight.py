"""The sections of a preflight: what a TPU's compiler says of the training step, without a TPU."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from parity.claims import Claim, all_hold
from parity.results import Result
from reports import words
from reports.checks import Difference, differ
from reports.document import Block, Cell, Chapter, Column, Facts, Items, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject, picked

GIB = 2**30
STEPS = {"train": "training", "evaluation": "evaluation"}


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """What the compiler says of one step: memory in bytes, or the kind and reason of a refusal.

    `hbm_share` is the share of a core's memory; `roofline_seconds` bounds its time from below.
    """

    compiles: bool
    kind: str | None = None
    reason: str | None = None
    compile_seconds: float = 0.0
    memory: Mapping[str, int] = field(default_factory=dict)
    hbm_used: int = 0
    hbm_share: float = 0.0
    flops: float = 0.0
    bytes_accessed: float = 0.0
    roofline_seconds: float = 0.0


@dataclass(frozen=True)
class MatcherBound:
    """The most that the assignment's loops can add to a step."""

    most_steps: int
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """An estimate of the published schedule."""

    estimate: str
    images: int
    steps: int
    hours: float
    chip_hours: float


@dataclass(frozen=True, kw_only=True)
class Topology:
    """What was found for one topology; `reason` is why the step cannot be lowered at all.

    `larger_batches` says why batches above the largest that fits were not judged. A core's images
    are computed in `micro_batches` parts, and all of `train` but its memory is of one part;
    `fewer_parts` says why fewer were not judged.
    """

    topology: str
    passed: bool
    reason: str = ""
    micro_batches: int = 1
    fewer_parts: str = ""
    chip: Mapping[str, Any] = field(default_factory=dict)
    train: Compilation | None = None
    evaluation: Compilation | None = None
    matcher: MatcherBound | None = None
    schedule: Schedule | None = None
    largest_per_core_batch: int | None = None
    larger_batches: str = ""

    @property
    def parts(self) -> str:
        """How many parts a core's images are computed in, as text."""
        return f"{self.micro_batches}{' or fewer' if self.fewer_parts else ''}"

    @property
    def largest_batch(self) -> str:
        """The largest batch of a core that was found to fit, as text; empty where none was."""
        if self.largest_per_core_batch is None:
            return ""
        return f"{self.largest_per_core_batch}{' or more' if self.larger_batches else ''}"

    @property
    def steps(self) -> dict[str, Compilation]:
        """The steps that were compiled, by name."""
        found = {"train": self.train, "evaluation": self.evaluation}
        return {name: one for name, one in found.items() if one is not None}

    @property
    def refused(self) -> list[str]:
        """Why steps do not compile, each after its name."""
        found = [f"{name}: {one.reason}" for name, one in self.steps.items() if not one.compiles]
        return [*found, *filter(None, [self.reason])]

    @property
    def shares(self) -> dict[str, float]:
        """The share of a core's memory that each step takes which compiles."""
        return {name: one.hbm_share for name, one in self.steps.items() if one.compiles}


@dataclass(frozen=True, kw_only=True)
class PreflightResult(Result):
    """What a TPU's compiler says of a training; `image_size` is (height, width)."""

    schema: ClassVar[str] = "preflight/2"

    verdict: str = ""
    config: str
    precision: str
    image_size: tuple[int, int]
    per_core_batch: int
    replicas: int
    targets: int
    effort: float = 0.0
    topologies: tuple[Topology, ...]
    passed: bool


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """A preflight's chapter: all that the result holds."""
    result = one.result
    verdict = "holds" if result.passed else "fails"
    height, width = result.image_size
    facts = (
        ("config", result.config),
        ("precision", result.precision),
        ("image size", f"{height}x{width}"),
        ("images per core", number(result.per_core_batch)),
        ("cores in a step", number(result.replicas)),
        ("targets an image is padded to", number(result.targets)),
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
    passed = [row.topology for row in result.topologies if row.passed]
    failed = [row.topology for row in result.topologies if not row.passed]
    text = f"Compiles and fits: {', '.join(passed) or 'nowhere'}"
    return f"{text}; does not: {', '.join(failed)}." if failed else f"{text}."


def _steps(result: Mapping[str, Any]) -> tuple[Block, ...]:
    rows, reasons = [], []
    for row in result.topologies:
        if row.reason:
            reasons.append(f"{row.topology}: {row.reason}")
        for key, step in row.steps.items():
            name = STEPS[key]
            if not step.compiles:
                reasons.append(f"{row.topology}, {name}: {step.reason}")
                rows.append(
                    (Cell(row.topology), Cell(name), Cell("no", tone="bad"), *[Cell("")] * 6)
                )
                continue
            rows.append(
                (
                    Cell(row.topology),
                    Cell(name),
                    Cell("yes", tone="good"),
                    Cell(f"{step.hbm_used / GIB:.2f}", step.hbm_used),
                    Cell(f"{100 * step.hbm_share:.1f} %", step.hbm_share),
                    Cell(f"{step.flops / 1e12:.3f}", step.flops),
                    Cell(f"{step.bytes_accessed / 1e9:.2f}", step.bytes_accessed),
                    Cell(f"{1e3 * step.roofline_seconds:.2f}", step.roofline_seconds),
                    Cell(f"{step.compile_seconds:.0f}", step.compile_seconds),
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


def _schedule(result: Mapping[str, Any]) -> tuple[Block, ...]:
    in_parts = any(row.micro_batches > 1 for row in result.topologies)
    rows = tuple(
        (
            Cell(row.topology),
            Cell(number(row.schedule.images), row.schedule.images),
            Cell(number(row.schedule.steps), row.schedule.steps),
            *([Cell(row.parts, row.micro_batches)] if in_parts else []),
            Cell(number(row.schedule.hours), row.schedule.hours),
            Cell(number(row.schedule.chip_hours), row.schedule.chip_hours),
            Cell(f"{1e3 * row.matcher.seconds:.2f}", row.matcher.seconds),
            Cell(row.largest_batch or "not searched"),
        )
        for row in result.topologies
        if row.schedule is not None
    )
    if not rows:
        return (Items(("No topology compiles.",)),)
    columns = (
        Column("Topology"),
        Column("Images", numeric=True),
        Column("Steps", numeric=True),
        *([Column("Parts of a core's images", numeric=True)] if in_parts else []),
        Column("Hours", numeric=True),
        Column("Chip-hours", numeric=True),
        Column("Matching adds at most, ms", numeric=True),
        Column("Largest batch per core"),
    )
    caption = "Time of the published schedule, from below: every step at the roofline, no waiting"
    return (Table(caption, columns, rows),)


def recheck_preflight(result: PreflightResult) -> Iterator[Difference]:
    yield from differ("passed", all_hold(result.claims), result.passed)
    claims = {one.id: one for one in result.claims}
    for index, row in enumerate(result.topologies):
        topology = row.topology
        place = f"topologies[{index}] ({topology})"
        holds = claims[f"compiles/{topology}"].holds
        yield from differ(f"{place}.passed", holds, row.passed)
        for name, share in row.shares.items():
            used = row.steps[name].hbm_used / row.chip["hbm"]
            yield from differ(f"{place}.{name}.hbm_share", used, share)
        if f"memory/{topology}" in claims:
            measured = claims[f"memory/{topology}"].measured.values
            yield from differ(f"claims (memory/{topology}).measured.values", row.shares, measured)


def _detail(result: PreflightResult) -> str:
    topologies = [row.topology for row in result.topologies]
    return f", {result.precision}, {', '.join(topologies)}"


def _subject(result: PreflightResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    asked = ("precision", "image_size", "per_core_batch", "replicas", "targets", "effort")
    return {**picked(result, asked), "topologies": [row.topology for row in result.topologies]}


KIND = Kind(
    result=PreflightResult,
    name="preflight",
    title="TPU preflight",
    detail=_detail,
    subject=_subject,
    rungs={"": "tpu"},
    chapter=chapter,
    recheck=recheck_preflight,
    given={
        **dict.fromkeys(
            (
                *("verdict", "config", "precision", "image_size", "per_core_batch", "replicas"),
                *("targets", "effort"),
            ),
            "what was compiled",
        ),
        **dict.fromkeys(("topologies.*",), "what the TPU's compiler said"),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

"""The sections of a preflight: what a TPU's compiler says of the training step, without a TPU."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from parity.claims import Claim, all_hold, claim
from parity.measurements import Findings, Largest
from parity.records import plain
from parity.results import Result
from reports import words
from reports.checks import Difference, differ
from reports.document import (
    Block,
    Cell,
    Chapter,
    Column,
    Facts,
    Items,
    Section,
    Table,
    flatten,
    number,
)
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject, picked

GIB = 2**30
STEPS = {"train": "training", "evaluation": "evaluation"}
CORES_PER_CHIP = {"v2": 2, "v3": 2}
UNKNOWN = ("machine", "other")
"""Kinds of refusals that say nothing of the step: this machine could not compile it."""
ESTIMATE = "from below: every step at the roofline, data never late"


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

    @property
    def fits(self) -> str:
        """Whether it compiles into the memory of a core: yes, no or not known."""
        if not self.compiles:
            return "not known" if self.kind in UNKNOWN else "no"
        return "yes" if self.hbm_share <= 1 else "no"

    @property
    def why(self) -> str:
        """Why it does not fit, or why that is not known; empty where it fits."""
        if not self.compiles:
            return self.reason or "no reason is recorded"
        if self.fits == "yes":
            return ""
        return f"takes {self.hbm_used / GIB:.2f} GiB, {self.hbm_share:.0%} of a core's memory"


@dataclass(frozen=True)
class MatcherBound:
    """The most that the assignment's loops can add to a step."""

    most_steps: int
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """An estimate of the published schedule; all `chips` of the slice are paid for.

    Without them, as in earlier recordings, those are that hold the replicas.
    """

    estimate: str
    images: int
    steps: int
    hours: float
    chip_hours: float
    chips: int | None = None


def scheduled(
    images: int, per_core_batch: int, replicas: int, topology: str, seconds: float
) -> Schedule:
    """So many images in steps of so many seconds, on the whole slice."""
    steps = -(-images // (per_core_batch * replicas))
    hours = steps * seconds / 3600
    chips = chips_of(topology)
    paid = busy_chips(topology, replicas) if chips is None else chips
    return Schedule(ESTIMATE, images, steps, hours, hours * paid, chips)


def chips_of(topology: str) -> int | None:
    """The chips of a slice `kind:shape`; None for a shape that is not sizes with x between."""
    shape = topology.partition(":")[2]
    if not re.fullmatch(r"[0-9]{1,6}(x[0-9]{1,6}){0,3}", shape):
        return None
    return math.prod(map(int, shape.split("x")))


def busy_chips(topology: str, replicas: int) -> int:
    """The fewest chips whose cores hold the replicas."""
    return -(-replicas // CORES_PER_CHIP.get(topology.partition(":")[0], 1))


@dataclass(frozen=True)
class Tried:
    """A program of the search for the largest batch; `found` is yes, or the kind of a refusal."""

    batch: int
    found: str


@dataclass(frozen=True, kw_only=True)
class Topology:
    """What was found for one topology; earlier recordings without steps have the `reason`.

    `larger_batches` says why batches above the largest that fits were not judged, `tried` are those
    that were; earlier recordings have none. A core's images are computed in `micro_batches` parts,
    and all of `train` but its memory is of one part, as is `evaluation`; `fewer_parts` says why
    fewer were not judged.
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
    tried: tuple[Tried, ...] = ()

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
    def fits(self) -> str:
        """Whether every step compiles and fits: yes, no, training only or not known."""
        train = "no" if self.train is None else self.train.fits
        if train != "yes" or self.evaluation is None:
            return train
        return "training only" if self.evaluation.fits == "no" else self.evaluation.fits

    @property
    def reasons(self) -> dict[str, str]:
        """Why steps do not fit, or why that is not known, by step; "" is the step of a `reason`."""
        found = {"": self.reason, **{name: one.why for name, one in self.steps.items()}}
        return {name: text for name, text in found.items() if text}

    @property
    def of_parts(self) -> str:
        """What the figures of a batch in parts are of; empty for one in a single part."""
        if self.micro_batches == 1:
            return ""
        return (
            f"a core's images are computed in {self.parts} parts: TFLOP, bytes and time of "
            "training are of one part, evaluation is of the images of one part"
        )

    @property
    def shares(self) -> dict[str, float]:
        """The share of a core's memory that each step takes which compiles."""
        return {name: one.hbm_share for name, one in self.steps.items() if one.compiles}


@dataclass(frozen=True, kw_only=True)
class PreflightResult(Result):
    """What a TPU's compiler says of a training; `image_size` is (height, width).

    `provenance` has the versions of jax and libtpu among its packages. Earlier recordings have none
    of it, nor the chips of a schedule and the programs of a search.
    """

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
        Section("How it was run", (Facts((*facts, *flatten(result.provenance))),)),
        verdict=verdict,
    )


def claims_of(row: Topology, command: str) -> list[Claim]:
    """That every step compiles for the row's topology, and what it takes of the memory there."""
    topology = row.topology
    claims = [
        claim(
            f"compiles/{topology}",
            f"Every step compiles for {topology}",
            Findings(max(1, len(row.steps)), row.refused),
            "steps that the TPU's own compiler refuses",
            command,
        )
    ]
    if row.shares:
        claims.append(
            claim(
                f"memory/{topology}",
                f"Every step fits into the memory of a core of {topology}",
                Largest(row.shares, 1),
                "largest share of the core's memory that a step takes, by the compiler's account",
                command,
            )
        )
    return claims


def _headline(result: Mapping[str, Any]) -> str:
    named = {
        fits: ", ".join(row.topology for row in result.topologies if row.fits in fits)
        for fits in (("yes",), ("no", "training only"), ("not known",))
    }
    fits, failed, unknown = named.values()
    text = f"Compiles and fits: {fits or 'nowhere'}"
    text += f"; does not: {failed}" if failed else ""
    return f"{text}; not known: {unknown}." if unknown else f"{text}."


def _steps(result: Mapping[str, Any]) -> tuple[Block, ...]:
    rows, reasons = [], []
    for row in result.topologies:
        for key, text in row.reasons.items():
            reasons.append(f"{', '.join(filter(None, (row.topology, STEPS.get(key))))}: {text}")
        if row.of_parts:
            reasons.append(f"{row.topology}: {row.of_parts}")
        for key, step in row.steps.items():
            name = STEPS[key]
            if not step.compiles:
                refused = Cell(step.fits, tone="bad" if step.fits == "no" else "")
                rows.append((Cell(row.topology), Cell(name), refused, *[Cell("")] * 6))
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
    """Where the result is not what the compiler's answers in it make of it."""
    if not result.topologies:
        yield "topologies", "at least one", []
    for index, row in enumerate(result.topologies):
        yield from _recheck_row(result, row, f"topologies[{index}] ({row.topology})")
    expected = [one for row in result.topologies for one in claims_of(row, result.command)]
    made, found = ([one.id for one in claims] for claims in (expected, result.claims))
    yield from differ("claims", made, found)
    if made == found:
        for one, recorded in zip(expected, result.claims, strict=True):
            measured = (one.measured, recorded.measured)
            yield from differ(f"claims ({one.id}).measured", *measured)
    yield from differ("passed", all_hold(result.claims), result.passed)


def _recheck_row(result: PreflightResult, row: Topology, place: str) -> Iterator[Difference]:
    yield from differ(f"{place}.passed", row.fits == "yes", row.passed)
    if row.train is None and not row.reason:
        yield f"{place}.train", "what the compiler said", None
    if row.shares:
        wrong = [*_unusable(f"{place}.chip", row.chip, ("hbm", "flops", "bandwidth"), 1)]
        for name in row.shares:
            step = row.steps[name]
            here = f"{place}.{name}"
            wrong += _unusable(here, vars(step), ("flops", "bytes_accessed"), 0)
            wrong += _unusable(f"{here}.memory", step.memory, step.memory, 0)
        yield from wrong
        if wrong:
            return
    for name in row.shares:
        yield from _recheck_step(row.steps[name], row.chip, f"{place}.{name}")
    yield from _recheck_schedule(result, row, place)
    if row.tried or result.provenance:
        yield from _recheck_search(row, place)


def _unusable(
    place: str, numbers: Mapping[str, Any], names: Iterable[str], least: int
) -> Iterator[Difference]:
    """Which of these are no finite numbers of at least `least`."""
    for name in names:
        value = numbers.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value < math.inf:
            yield f"{place}.{name}", f"a number of at least {least}", value


def _recheck_step(step: Compilation, chip: Mapping[str, Any], place: str) -> Iterator[Difference]:
    used = sum(step.memory.values())
    expected = {
        "hbm_used": used,
        "hbm_share": used / chip["hbm"],
        "roofline_seconds": max(
            step.flops / chip["flops"], step.bytes_accessed / chip["bandwidth"]
        ),
    }
    yield from differ(place, expected, vars(step))


def _recheck_schedule(result: PreflightResult, row: Topology, place: str) -> Iterator[Difference]:
    """The schedule and the matching's bound are there where training compiles, and there alone."""
    compiles = row.train is not None and row.train.compiles
    wrong = [
        (f"{place}.{name}", "what follows from the training step" if compiles else None, plain(one))
        for name, one in (("schedule", row.schedule), ("matcher", row.matcher))
        if (one is None) == compiles
    ]
    yield from wrong
    if wrong or not compiles:
        return
    yield from _unusable(f"{place}.matcher", vars(row.matcher), ("most_steps", "seconds"), 0)
    sizes = {"per_core_batch": result.per_core_batch, "replicas": result.replicas}
    sizes |= {"micro_batches": row.micro_batches, "images": row.schedule.images}
    if wrong := [*_unusable(place, sizes, sizes, 1)]:
        yield from wrong
        return
    seconds = row.micro_batches * row.train.roofline_seconds
    cores, recorded = (result.per_core_batch, result.replicas), row.schedule
    plan = replace(scheduled(recorded.images, *cores, row.topology, seconds), estimate="")
    if recorded.chips is None and not result.provenance:
        paid = busy_chips(row.topology, result.replicas)
        plan = replace(plan, chip_hours=plan.hours * paid, chips=None)
    yield from differ(f"{place}.schedule", vars(plan), vars(replace(recorded, estimate="")))


def _recheck_search(row: Topology, place: str) -> Iterator[Difference]:
    fits = max((one.batch for one in row.tried if one.found == "yes"), default=0)
    largest = fits if row.tried else None
    yield from differ(f"{place}.largest_per_core_batch", largest, row.largest_per_core_batch)
    is_known = not row.tried or Tried(fits + 1, "memory") in row.tried
    if is_known == bool(row.larger_batches):
        words = "nothing" if is_known else "why larger ones were not judged"
        yield f"{place}.larger_batches", words, row.larger_batches


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
        **dict.fromkeys(
            (
                *(f"topologies.*.{part}" for part in ("topology", "reason", "micro_batches")),
                *(f"topologies.*.{part}" for part in ("chip", "matcher", "tried")),
                *(f"topologies.*.{part}" for part in ("fewer_parts", "larger_batches")),
                "topologies.*.largest_per_core_batch",
                *(f"topologies.*.schedule.{part}" for part in ("images", "estimate", "chips")),
                *(f"topologies.*.*.{part}" for part in ("memory", "flops", "bytes_accessed")),
                *(f"topologies.*.*.{part}" for part in ("compile_seconds", "kind", "reason")),
            ),
            "what the TPU's compiler said",
        ),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

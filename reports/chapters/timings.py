"""The sections of timings: what was measured beside what, against which aim, and how cost grows.

Times claim nothing: no rung of the ladder rests on them.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from parity.claims import Claim
from parity.results import Result
from reports import words
from reports.checks import Difference, differ, same
from reports.document import Cell, Chapter, Column, Facts, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure with its aim.

    Args:
        name: what is measured.
        command: that measures it.
        unit: of the value; "x" is a ratio of medians.
        of: whose median the value is.
        against: the contestants whose best median it is divided by; empty: by none.
        aim: that the value is at most, or at least where `larger`.
        rounds: what each contestant gave, in order.
        value: the figure; None where it was not measured, for the `reason`.
    """

    name: str
    command: str
    unit: str
    of: str
    against: tuple[str, ...] = ()
    aim: float
    larger: bool = False
    rounds: Mapping[str, tuple[float, ...]]
    value: float | None = None
    met: bool | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How seconds grow with what is worked on, as an exponent beside that of the work.

    Args:
        name: what grows.
        sizes: how much of it.
        work: the units of work of each size, counted.
        seconds: the median of each size.
        exponent, error: of the seconds over the sizes, fitted to their logarithms, and one standard
            error of the fit.
        work_exponent: of the work, fitted alike.
        met: whether the seconds grow no faster than the work, by two standard errors.
    """

    name: str
    sizes: tuple[float, ...]
    work: tuple[float, ...]
    seconds: tuple[float, ...]
    exponent: float
    error: float
    work_exponent: float
    met: bool


@dataclass(frozen=True)
class Machine:
    """The machine while it measured: its load (runnable processes) and frequency (MHz) before."""

    processor: str
    cores: int
    memory_bytes: int
    load: float
    megahertz: float | None
    threads: int


@dataclass(frozen=True, kw_only=True)
class TimingsResult(Result):
    """Timings of one run: `verdict` is "measured", or "not all measured"."""

    schema: ClassVar[str] = "maskformer-replication/timings/1"

    machine: Machine
    rows: tuple[Row, ...]
    growth: tuple[Growth, ...] = ()
    seconds: float


def figure(
    rounds: Mapping[str, Sequence[float]], of: str, against: Sequence[str], larger: bool
) -> float | None:
    """The median of `of`, over the best median of `against`; None where one has no round."""
    if any(not rounds.get(name) for name in (of, *against)):
        return None
    value = statistics.median(rounds[of])
    if not against:
        return value
    best = max if larger else min
    return value / best(statistics.median(rounds[name]) for name in against)


def is_met(value: float | None, aim: float, larger: bool) -> bool | None:
    """Whether the value reaches its aim; None without a value."""
    if value is None:
        return None
    return value >= aim if larger else value <= aim


def fitted(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The exponent of `values` over `sizes` by least squares of logarithms, and its error."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    x = x - x.mean()
    spread = float(x @ x)
    slope = float(x @ y) / spread
    rest = y - y.mean() - slope * x
    free = len(x) - 2
    return slope, math.sqrt(float(rest @ rest) / free / spread) if free > 0 else 0.0


def grown(
    name: str, sizes: Sequence[float], work: Sequence[float], seconds: Sequence[float]
) -> Growth:
    """The growth of `seconds` beside that of `work`."""
    exponent, error = fitted(sizes, seconds)
    work_exponent, _ = fitted(sizes, work)
    return Growth(
        name=name,
        sizes=tuple(sizes),
        work=tuple(work),
        seconds=tuple(seconds),
        exponent=exponent,
        error=error,
        work_exponent=work_exponent,
        met=exponent - 2 * error <= work_exponent,
    )


def in_words(value: float | None, unit: str) -> str:
    """A value with its unit; a dash without one."""
    if value is None:
        return "-"
    return f"{value:.3g}{unit}" if unit == "x" else f"{value:.4g} {unit}"


def rows_table(rows: Sequence[Row]) -> Table:
    """Each figure beside its aim, and what its contestants needed."""
    found = []
    for one in rows:
        state = {True: "met", False: "not met", None: "not measured"}[one.met]
        sign = "at least" if one.larger else "at most"
        medians = ", ".join(
            f"{name} {statistics.median(values):.4g}" for name, values in one.rounds.items()
        )
        found.append(
            (
                Cell(one.name),
                Cell(in_words(one.value, one.unit), math.inf if one.value is None else one.value),
                Cell(f"{sign} {in_words(one.aim, one.unit)}"),
                Cell(state, tone={True: "good", False: "bad", None: ""}[one.met]),
                Cell(one.reason or medians),
            )
        )
    columns = (
        Column("What"),
        Column("Value", numeric=True),
        Column("Aim"),
        Column("State", choices=True),
        Column("Medians", prose=True),
    )
    return Table("Figures and aims", columns, tuple(found), interactive=True)


def growth_table(growth: Sequence[Growth]) -> Table:
    """Each exponent beside that of the work."""
    found = tuple(
        (
            Cell(one.name),
            Cell(", ".join(f"{size:g}" for size in one.sizes)),
            Cell(", ".join(f"{value:.3g}" for value in one.seconds)),
            Cell(f"{one.exponent:.2f} ± {one.error:.2f}", one.exponent),
            Cell(f"{one.work_exponent:.2f}", one.work_exponent),
            Cell("no faster" if one.met else "faster", tone="good" if one.met else "bad"),
        )
        for one in growth
    )
    titles = ("What grows", "Sizes", "Seconds", "Exponent", "Exponent of the work", "Than its work")
    return Table("How cost grows", tuple(Column(title) for title in titles), found)


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of timings: all that the result holds."""
    result = one.result
    reached = sum(row.met is True for row in result.rows)
    facts = (
        ("command", result.command),
        ("seconds", f"{result.seconds:.0f}"),
        *((name, str(value)) for name, value in vars(result.machine).items()),
    )
    sections = [Section("Figures", (rows_table(result.rows),))]
    if result.growth:
        sections.append(Section("Growth", (growth_table(result.growth),)))
    return words.chapter(
        one,
        claims,
        f"{number(reached)} of {number(len(result.rows))} figures reach their aim.",
        *sections,
        Section("The machine", (Facts(facts),)),
    )


def recheck_timings(result: TimingsResult) -> Iterator[Difference]:
    """Where a value, a state or an exponent does not follow from the rounds."""
    whole = all(one.value is not None for one in result.rows)
    yield from differ("verdict", "measured" if whole else "not all measured", result.verdict)
    for index, one in enumerate(result.rows):
        value = figure(one.rounds, one.of, one.against, one.larger)
        yield from differ(f"rows[{index}].value", value, one.value)
        yield from differ(f"rows[{index}].met", is_met(value, one.aim, one.larger), one.met)
    for index, one in enumerate(result.growth):
        expected = grown(one.name, one.sizes, one.work, one.seconds)
        for name in ("exponent", "error", "work_exponent", "met"):
            if not same(getattr(expected, name), getattr(one, name)):
                yield f"growth[{index}].{name}", getattr(expected, name), getattr(one, name)


KIND = Kind(
    result=TimingsResult,
    name="timings",
    title="Timings",
    detail=None,
    subject=lambda result: {"figures": sorted(one.name for one in result.rows)},
    rungs={"": "harness"},
    chapter=chapter,
    recheck=recheck_timings,
    given={
        **dict.fromkeys(
            (
                *("rows.*.name", "rows.*.command", "rows.*.unit", "rows.*.of", "rows.*.against.*"),
                *("rows.*.aim", "rows.*.larger", "rows.*.reason", "growth.*.name"),
            ),
            "what was to be measured, and its aim",
        ),
        **dict.fromkeys(
            ("rows.*.rounds", "growth.*.sizes.*", "growth.*.work.*", "growth.*.seconds.*"),
            "times",
        ),
        **dict.fromkeys(("machine", "seconds"), "the machine and its times"),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

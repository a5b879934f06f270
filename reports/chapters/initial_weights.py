"""The sections of initial weights: what both trainers draw before the first step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from parity.claims import Claim
from parity.comparing.initial_weights import Compared
from parity.records import number as read
from parity.results import Result
from reports import words
from reports.checks import Difference, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject


@dataclass(frozen=True)
class Configuration:
    """The parameters of one configuration; `shown` are those that differ, or the nearest to it."""

    config: str
    verdict: str
    parameters: int
    shown: tuple[Compared, ...]


@dataclass(frozen=True, kw_only=True)
class InitialWeightsResult(Result):
    """What both trainers draw before the first step, `seeds` times on each side."""

    schema: ClassVar[str] = "maskformer-replication/initial-weights/1"

    seeds: int
    configurations: tuple[Configuration, ...]
    seconds: float


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of initial weights: all that the result holds."""
    result = one.result
    rows = result.configurations
    facts = (
        ("command", result.command),
        ("seconds", f"{result.seconds:.0f}"),
        *flatten(result.provenance),
    )
    different = [row.config for row in rows if row.verdict != "holds"]
    count = sum(row.parameters for row in rows)
    verdict = f"{', '.join(different)} differ" if different else "none differs"
    headline = (
        f"{number(count)} parameters of {number(len(rows))} configurations, drawn "
        f"{number(result.seeds)} times on each side: {verdict}."
    )
    return words.chapter(
        one,
        claims,
        headline,
        Section("What is drawn", (_table(rows),)),
        Section("How it was run", (Facts(facts),)),
    )


def _table(rows: Sequence[Configuration]) -> Table:
    """Every parameter that differs; of a configuration where none does, the nearest to that."""
    found = []
    for row in rows:
        for one in row.shown:
            share = one.ratio
            found.append(
                (
                    Cell(row.config),
                    Cell(row.verdict, tone="good" if row.verdict == "holds" else "bad"),
                    Cell(one.key),
                    Cell(one.reference or "no such parameter"),
                    Cell(one.port or "no such parameter"),
                    Cell(number(share), share),
                    Cell(one.cause or ""),
                )
            )
    columns = (
        Column("Configuration", code=True),
        Column("Verdict", choices=True),
        Column("Parameter", code=True),
        Column("Reference"),
        Column("Port"),
        Column("Of its limit", numeric=True),
        Column("Difference"),
    )
    title = "Parameters that differ, or the nearest to that of each configuration"
    return Table(title, columns, tuple(found), interactive=True)


def recheck_initial_weights(result: InitialWeightsResult) -> Iterator[Difference]:
    yield from differing_verdict(result, "holds", "fails")
    for index, row in enumerate(result.configurations):
        place = f"configurations[{index}] ({row.config})"
        made = result.claimed(f"{row.config}/initial_weights")
        values = {key: read(one) for key, one in made.measured.values.items()}
        yield from differ(f"{place}.parameters", len(values), row.parameters)
        yield from differ(f"{place}.verdict", made.verdict, row.verdict)
        worst = max(values, key=values.__getitem__)
        keys = [key for key, value in values.items() if value > 1.0] or [worst]
        yield from differ(f"{place}.shown", keys, [one.key for one in row.shown])
        for one in row.shown:
            yield from differ(f"{place}.{one.key}", values.get(one.key), one.ratio)


def _subject(result: InitialWeightsResult) -> Subject:
    """What tells such a result from others."""
    return {
        "configurations": [row.config for row in result.configurations],
        "seeds": result.seeds,
    }


KIND = Kind(
    result=InitialWeightsResult,
    name="initial-weights",
    title="Initial weights",
    detail=None,
    subject=_subject,
    rungs={"": "initial_weights"},
    chapter=chapter,
    recheck=recheck_initial_weights,
    given={
        "seeds": "what was compared",
        **dict.fromkeys(
            ("configurations.*.shown.*",),
            "the statistics of single parameters, of which the claims have the ratios",
        ),
        "seconds": "times",
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(members=True),
)

"""The sections of initial weights: what both trainers draw before the first step."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.comparing.initial_weights import ratio
from parity.records import number as read
from parity.results import INITIAL_WEIGHTS
from reports import words
from reports.checks import Content, Difference, by_id, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """The chapter of initial weights: all that the result holds."""
    result = one.content
    rows = result["configurations"]
    facts = (
        ("command", result["command"]),
        ("seconds", f"{result['seconds']:.0f}"),
        *flatten(result["provenance"]),
    )
    different = [row["config"] for row in rows if row["verdict"] != "holds"]
    count = sum(row["parameters"] for row in rows)
    verdict = f"{', '.join(different)} differ" if different else "none differs"
    headline = (
        f"{number(count)} parameters of {number(len(rows))} configurations, drawn "
        f"{number(result['seeds'])} times on each side: {verdict}."
    )
    return words.chapter(
        one,
        claims,
        headline,
        Section("What is drawn", (_table(rows),)),
        Section("How it was run", (Facts(facts),)),
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every parameter that differs; of a configuration where none does, the nearest to that."""
    found = []
    for row in rows:
        for one in row["shown"]:
            share = ratio(_tests(one))
            found.append(
                (
                    Cell(row["config"]),
                    Cell(row["verdict"], tone="good" if row["verdict"] == "holds" else "bad"),
                    Cell(one["key"]),
                    Cell(one["reference"] or "no such parameter"),
                    Cell(one["port"] or "no such parameter"),
                    Cell(number(share), share),
                    Cell(one["cause"] or ""),
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


def _tests(one: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: [read(value) for value in pair] for name, pair in one["tests"].items()}


def recheck_initial_weights(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "holds", "fails")
    claims = by_id(content)
    for index, row in enumerate(content["configurations"]):
        place = f"configurations[{index}] ({row['config']})"
        made = claims[f"{row['config']}/initial_weights"]
        values = {key: read(one) for key, one in made["measured"]["values"].items()}
        yield from differ(f"{place}.parameters", len(values), row["parameters"])
        yield from differ(f"{place}.verdict", made["verdict"], row["verdict"])
        worst = max(values, key=values.__getitem__)
        keys = [key for key, value in values.items() if value > 1.0] or [worst]
        yield from differ(f"{place}.shown", keys, [one["key"] for one in row["shown"]])
        for one in row["shown"]:
            share = ratio(_tests(one))
            yield from differ(f"{place}.{one['key']}", values.get(one["key"]), share)


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others."""
    return {
        "configurations": [row["config"] for row in content["configurations"]],
        "seeds": content["seeds"],
    }


KIND = Kind(
    schema=INITIAL_WEIGHTS,
    name="initial-weights",
    title="Initial weights",
    detail=None,
    subject=_subject,
    rungs={"": "initial_weights"},
    chapter=chapter,
    recheck=recheck_initial_weights,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(members=True),
)

"""The sections of a fault score: what the harness says of faults that were planted on purpose."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.results import FAULT_SCORE
from reports import words
from reports.checks import Content, Difference, by_id, differ, differing_verdict
from reports.document import Block, Cell, Chapter, Column, Facts, Section, Table, Text, flatten
from reports.evidence import Evidence
from reports.kind import Kind, Special


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """A fault score's chapter: all that the result holds."""
    result = one.content
    facts = (
        ("command", result["command"]),
        ("config", result["config"]),
        ("image size", result["size"]),
        ("seconds", f"{result['seconds']:.0f}"),
        *flatten(result["provenance"]),
    )
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("Beside customary checks", _customary(result)),
        Section("Every fault", (_faults(result["outcomes"]),)),
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: Mapping[str, Any]) -> str:
    outcomes = result["outcomes"]
    detected, placed, explained = (
        sum(bool(one[key]) for one in outcomes)
        for key in ("detected", "place_exact", "cause_named")
    )
    planted = "1 fault" if len(outcomes) == 1 else f"{len(outcomes)} faults"
    return (
        f"{planted} planted: {detected} detected, {placed} named at the right place, "
        f"{explained} explained."
    )


def _customary(result: Mapping[str, Any]) -> tuple[Block, ...]:
    """What usual criteria would have said of the same faults, and of the sound port."""
    outcomes = result["outcomes"]
    names = list(dict.fromkeys(name for one in outcomes for name in one["noticed"]))
    rows = [
        (
            Cell("this harness"),
            Cell(str(len(outcomes)), len(outcomes)),
            _share(sum(not one["detected"] for one in outcomes), len(outcomes)),
            Cell("no alarm"),
        )
    ]
    for name in names:
        judged = [one for one in outcomes if name in one["noticed"]]
        missed = sum(not one["noticed"][name] for one in judged)
        alarms = [
            bench
            for bench, noticed in result["criteria_on_the_sound_port"].items()
            if noticed.get(name)
        ]
        sound = f"alarms in {', '.join(alarms)}" if alarms else "no alarm"
        rows.append(
            (
                Cell(name),
                Cell(str(len(judged)), len(judged)),
                _share(missed, len(judged)),
                Cell(sound),
            )
        )
    columns = (
        Column("Check"),
        Column("Faults it can judge", numeric=True),
        Column("Missed", numeric=True),
        Column("On the sound port"),
    )
    text = "What checks that ports usually have would have said of the same outputs."
    return (Text(text), Table("Faults that each check misses", columns, tuple(rows)))


def _share(missed: int, of: int) -> Cell:
    share = missed / of if of else 0.0
    return Cell(f"{missed} ({100 * share:.0f} %)", share, "bad" if missed else "good")


def _faults(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    def said(value: bool) -> Cell:
        return Cell("yes" if value else "no", tone="good" if value else "bad")

    rows = tuple(
        (
            Cell(one["id"], one["id"]),
            said(one["detected"]),
            said(one["place_exact"]),
            said(one["cause_named"]),
            Cell((one["named"][0]["causes"] or [""])[0] if one["named"] else ""),
            Cell(one["named"][0]["place"] if one["named"] else one["problem"] or ""),
            Cell(one["what"]),
            Cell(one["stage"], one["stage"], stage=one["stage"]),
            Cell(one["imitates"]),
        )
        for one in outcomes
    )
    columns = (
        Column("Fault", code=True),
        Column("Detected", choices=True),
        Column("Placed", choices=True),
        Column("Explained", choices=True),
        Column("Cause named", prose=True),
        Column("Place named", code=True),
        Column("What was planted", prose=True),
        Column("Stage", choices=True),
        Column("Imitates"),
    )
    return Table("Planted faults, and what was said of each", columns, rows, interactive=True)


def recheck_fault_score(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "holds", "does not hold")
    outcomes, claims, score = content["outcomes"], by_id(content), content["score"]
    kinds = (
        ("detected", "detected", "detected", "undetected"),
        ("placed", "place_exact", "place_exact", "misplaced"),
        ("explained", "cause_named", "cause_named", "unexplained"),
    )
    yield from differ("score.faults", len(outcomes), score["faults"])
    for identity, key, counted, listed in kinds:
        missed = [one["id"] for one in outcomes if not one[key]]
        yield from differ(f"score.{counted}", len(outcomes) - len(missed), score[counted])
        yield from differ(f"score.{listed}", missed, list(score[listed]))
        place = f"claims ({identity}).measured.found"
        yield from differ(place, missed, list(claims[identity]["measured"]["found"]))
    for index, one in enumerate(outcomes):
        place = f"outcomes[{index}] ({one['id']})"
        yield from differ(f"{place}.detected", bool(one["claims"]), one["detected"])
        places = [
            named["place"] in one["places"] or named["edge"] in one["places"]
            for named in one["named"]
        ]
        rank = places.index(True) + 1 if any(places) else None
        yield from differ(f"{place}.rank", rank, one["rank"])
        yield from differ(f"{place}.place_exact", rank == 1, one["place_exact"])
        causes = one["named"][rank - 1]["causes"][:1] if rank else []
        right = any(part in text for text, part in itertools.product(causes, one["causes"]))
        yield from differ(f"{place}.cause_named", right, one["cause_named"])


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    return {"size": content["size"], "faults": [one["id"] for one in content["outcomes"]]}


KIND = Kind(
    schema=FAULT_SCORE,
    name="fault-score",
    title="Planted faults",
    detail=None,
    subject=_subject,
    rungs={"": "harness"},
    chapter=chapter,
    recheck=recheck_fault_score,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

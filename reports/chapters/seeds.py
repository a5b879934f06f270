"""The sections of training from several seeds: the scores' differences, and their spread."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.results import TRAINING_SEEDS
from reports import words
from reports.chapters.training_runs import run_subject
from reports.checks import Content, Difference, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, Text, number
from reports.evidence import SIDES, Evidence
from reports.kind import Kind, Special
from reports.labels import difference, label


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """The chapter of a comparison over seeds: all that the result holds."""
    result = one.content
    judged = claims[0]["verdict"]
    return Chapter(
        title=one.title,
        verdict=result["verdict"],
        tone=words.tone(judged),
        headline=_headline(result),
        sections=(
            Section("Claims", (words.table(claims),)),
            Section("Differences over seeds", (Text(_explained(result)), _differences(result))),
            Section("Every seed", (_seeds(result),)),
            Section("Files that were compared", (Facts(tuple(result["files"].items())),)),
        ),
    )


def _headline(result: Mapping[str, Any]) -> str:
    one = result["scores"]["panoptic_quality"]
    interval = one["interval"]
    shown = "shown" if result["verdict"] == "equivalent" else "not shown"
    if not any(value for side in one["scores"].values() for value in side):
        shown += ", as every run scores 0"
    return (
        f"{difference(result['of'])} over {len(result['seeds'])} seeds of "
        f"{number(result['steps'])} steps: PQ {one['mean']:+.2f} points, "
        f"{100 * interval['confidence']:.0f} % interval {interval['low']:+.2f} to "
        f"{interval['high']:+.2f}; equivalence within {result['margin']:g} points {shown} "
        f"(p {number(result['p_value'])})."
    )


def _explained(result: Mapping[str, Any]) -> str:
    return (
        "Two runs of one side differ as well when their seeds differ. The last columns say by how "
        "much: a difference between the sides below that is no sign of another function."
    )


def _differences(result: Mapping[str, Any]) -> Table:
    sides = list(next(iter(result["scores"].values()))["between_seeds"])
    rows = tuple(
        (
            Cell(label(name)),
            Cell(f"{one['mean']:+.2f}", one["mean"]),
            Cell(f"{one['standard_deviation']:.2f}", one["standard_deviation"]),
            Cell(f"{one['interval']['low']:+.2f} to {one['interval']['high']:+.2f}"),
            *(
                Cell(f"{one['between_seeds'][side][key]:.2f}", one["between_seeds"][side][key])
                for side in sides
                for key in ("mean", "largest")
            ),
        )
        for name, one in result["scores"].items()
    )
    columns = (
        Column("Score"),
        Column("Mean difference", numeric=True),
        Column("Its spread (sd)", numeric=True),
        Column("90 % interval"),
        *(
            Column(f"{SIDES.get(side, side)}: {what} of two seeds", numeric=True)
            for side in sides
            for what in ("mean gap", "largest gap")
        ),
    )
    return Table(f"{difference(result['of'])}, in points", columns, rows)


def _seeds(result: Mapping[str, Any]) -> Table:
    sides = list(next(iter(result["scores"].values()))["scores"])
    rows = []
    for name, one in result["scores"].items():
        for index, seed in enumerate(result["seeds"]):
            values = [one["scores"][side][index] for side in sides]
            apart = one["differences"][index]
            rows.append(
                (
                    Cell(label(name), name),
                    Cell(str(seed), index),
                    *(Cell(f"{value:.2f}", value) for value in values),
                    Cell(f"{apart:+.2f}", apart),
                )
            )
    columns = (
        Column("Score", choices=True),
        Column("Seed", numeric=True),
        *(Column(SIDES.get(side, side), numeric=True) for side in sides),
        Column("Difference", numeric=True),
    )
    return Table("Scores in percent", columns, tuple(rows), interactive=True)


def recheck_training_seeds(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "equivalent", "not shown")
    (claim,) = content["claims"]
    yield from differ("p_value", claim["value"], content["p_value"])
    yield from differ("margin", claim["measured"]["margin"], content["margin"])


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    first = next(iter(content["seeds"].values()))
    return {**run_subject(first), "seeds": list(content["seeds"]), "margin": content["margin"]}


KIND = Kind(
    schema=TRAINING_SEEDS,
    name="training-seeds",
    title="Training from several seeds",
    detail=None,
    subject=_subject,
    rungs={"": "metric_trained"},
    chapter=chapter,
    recheck=recheck_training_seeds,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)

"""The sections of a comparison of two training runs, as it was made when they ended."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maskformer.model import zoo
from parity.claims import Claim, claim
from parity.measurements import Findings
from parity.results import TRAINING_RUNS
from reports import words
from reports.checks import Content, Difference, differ
from reports.document import Block, Cell, Chapter, Column, Section, Table, Text, number
from reports.evidence import SIDES, Evidence
from reports.kind import Kind, Special
from reports.labels import difference, label
from reports.subjects import command_words


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """A comparison's chapter: all that the result holds."""
    result = one.content
    compared = []
    if "comparison" in result:
        compared = [
            Section("How far the losses are apart", _losses(result["comparison"])),
            Section("Scores compared", _scores(result["comparison"])),
        ]
    return words.chapter(
        one,
        claims,
        _headline(result),
        Section("What each run reached", (_reached(result["sides"]),)),
        *compared,
    )


def _headline(result: Mapping[str, Any]) -> str:
    names = {"panoptic_quality": "PQ", "mean_iou": "mIoU"}
    parts = [
        f"{SIDES.get(side, side)}: "
        + ", ".join(
            f"{short} {one['scores'][key]:.2f}"
            for key, short in names.items()
            if one["scores"].get(key) is not None
        )
        for side, one in result["sides"].items()
    ]
    return f"{number(result['steps'])} steps of {result['config']}; {'; '.join(parts)}."


def _reached(sides: Mapping[str, Mapping[str, Any]]) -> Table:
    scores = list(dict.fromkeys(name for one in sides.values() for name in one["scores"]))
    rows = tuple(
        (
            Cell(SIDES.get(side, side)),
            *(_numeric(one["scores"].get(name)) for name in scores),
            _numeric(one["seconds"]),
            _numeric(one["step_seconds"]),
            Cell(f"{100 * one['data_wait_share']:.1f} %", one["data_wait_share"]),
            Cell(one["metrics_sha256"]),
        )
        for side, one in sides.items()
    )
    columns = (
        Column("Side"),
        *(Column(label(name), numeric=True) for name in scores),
        Column("Seconds", numeric=True),
        Column("A step", numeric=True),
        Column("Waiting for data", numeric=True),
        Column("sha256 of its rows", code=True),
    )
    return Table("Scores in percent", columns, rows)


def _numeric(value: float | None) -> Cell:
    return Cell("", "") if value is None else Cell(number(value), value)


def _losses(comparison: Mapping[str, Any]) -> tuple[Block, ...]:
    rows = tuple(
        (
            Cell(label(name)),
            _numeric(one["first_gap"]),
            _numeric(one["median_gap"]),
            _numeric(one["largest_gap"]),
            _numeric(one["smoothed_gap"]),
            *map(_numeric, one["end"]),
        )
        for name, one in comparison["losses"].items()
    )
    columns = (
        Column("Loss"),
        Column("At the first step", numeric=True),
        Column("Median", numeric=True),
        Column("Largest", numeric=True),
        Column("Largest, smoothed", numeric=True),
        Column("Reference ends at", numeric=True),
        Column("Port ends at", numeric=True),
    )
    same = "the same data" if comparison["same_data"] else "other data"
    text = f"Both runs read {same}. Gaps are relative to the mean of both losses."
    return (Text(text), Table("Relative gaps of the loss curves", columns, rows))


def _scores(comparison: Mapping[str, Any]) -> tuple[Block, ...]:
    rows = []
    for name, one in comparison["scores"].items():
        score = Cell(label(name))
        if "reason" in one:
            rows.append((score, Cell(""), Cell(f"none: {one['reason']}"), Cell("")))
            continue
        interval = one["interval"]
        bounds = f"{100 * interval['low']:+.2f} to {100 * interval['high']:+.2f}"
        rows.append(
            (
                score,
                Cell(f"{100 * interval['value']:+.2f}", interval["value"]),
                Cell(bounds),
                _numeric(one["p_value"]),
            )
        )
    if not rows:
        return (Text("The two runs were not evaluated on the same images."),)
    columns = (
        Column("Score"),
        Column("Difference", numeric=True),
        Column("95 % interval"),
        Column("p", numeric=True),
    )
    caption = f"{difference(comparison['of'])} on the same images, in points"
    return (Table(caption, columns, tuple(rows)),)


def recheck_training_runs(content: Content) -> Iterator[Difference]:
    comparison = content.get("comparison")
    if comparison is None:
        yield from differ("verdict", "trained", content["verdict"])
        return
    intervals = [one["interval"] for one in comparison["scores"].values() if "interval" in one]
    agree = all(one["low"] <= 0 <= one["high"] for one in intervals)
    expected = ("agree" if agree else "different") if intervals else "not judged"
    yield from differ("verdict", expected, content["verdict"])


def of_training_runs(one: Evidence) -> list[Claim]:
    content = one.content
    comparison = content.get("comparison")
    if comparison is None:
        return []
    intervals = {
        name: one["interval"] for name, one in comparison["scores"].items() if "interval" in one
    }
    if not intervals:
        return []
    away = [name for name, one in intervals.items() if not one["low"] <= 0 <= one["high"]]
    return [
        claim(
            "metric_trained/summary",
            "No score of the trained models differs beyond its 95 % interval, as was recorded",
            Findings(len(intervals), away),
            "intervals of the paired difference over images, as recorded at the end of training",
            content.get("command")
            or shlex.join(
                ["parity", "train", *zoo.config_words(content["config"]), "--side", "both"]
            ),
        )
    ]


def run_subject(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": content["steps"],
        "sides": sorted(content["sides"]),
        "settings": command_words(content.get("command")),
    }


KIND = Kind(
    schema=TRAINING_RUNS,
    name="training-runs",
    title="Comparison of two training runs",
    detail=None,
    subject=run_subject,
    rungs={"": "metric_trained"},
    chapter=chapter,
    recheck=recheck_training_runs,
    derived=of_training_runs,
    records_claims=False,
    changes=None,
    special=Special(),
)

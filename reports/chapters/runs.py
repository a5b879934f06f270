"""The sections of training runs: curves of both sides with bands over seeds, and where they end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskformer.runs.run_record import SCORES, SENTINELS
from reports import words
from reports.document import (
    Block,
    Cell,
    Chapter,
    Column,
    Facts,
    Figure,
    Plot,
    Section,
    Table,
    Text,
    describe,
    number,
)
from reports.drawing.curves import Series, curve_plot, described
from reports.evidence import SIDES, Evidence
from reports.labels import label
from reports.run_pairs import pairs_of_runs

COLORS = {"torch": "a0", "tf": "a1", "imported": "a2"}
LOSSES = ("loss", "loss_ce", "loss_mask", "loss_dice", "loss_sem_seg")
COURSE = ("gradient_norm", "learning_rate/head", *SENTINELS)
LOGARITHMIC = ("gradient_norm", "learning_rate/head")
SIZE = (360, 240)
SENTINEL_LIMIT = 0.99  # share of queries that say no-object, above which a run has collapsed


def chapter(runs: Sequence[Evidence], claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """One chapter for all runs of a config; they differ in side, seed or settings."""
    verdicts = {claim["verdict"] for claim in claims}
    failing = "fails" in verdicts
    verdict = "fails" if failing else "holds" if "holds" in verdicts else "recorded"
    return Chapter(
        title=f"Training runs of {runs[0].config}",
        verdict=verdict,
        tone=words.tone(verdict),
        headline=_headline(runs),
        sections=(
            *([Section("Claims", (words.table(claims),))] if claims else []),
            Section("Losses", _curves(runs, LOSSES, "train")),
            Section("The course of training", _curves(runs, COURSE, "train")),
            Section("Scores on the evaluation split", _scores(runs)),
            Section("Every run", (_runs(runs),)),
            Section("How they were run", _settings(runs)),
        ),
    )


def _headline(runs: Sequence[Evidence]) -> str:
    parts = []
    for side, name in SIDES.items():
        own = [one for one in runs if one.content["side"] == side]
        if not own:
            continue
        text = f"{name}: {len(own)} run{'s' if len(own) > 1 else ''}"
        for score in ("panoptic_quality", "mean_iou"):
            values = [value for one in own if (value := one.run.last(score)) is not None]
            values = [value for value in values if value == value]
            if values:
                low, high = min(values), max(values)
                ends = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
                text += f", {label(score)} {ends}"
        parts.append(text)
    pairs = len(pairs_of_runs(runs))
    ends = "" if pairs == 0 else f"; {number(pairs)} with the same settings on both sides"
    return f"{'; '.join(parts)}{ends}."


def series_of(runs: Sequence[Evidence], name: str, split: str) -> list[Series]:
    """A value's curves by side; sides without it are left out."""
    found = []
    for side, title in SIDES.items():
        curves = [
            (steps.astype(float), values)
            for one in runs
            if one.content["side"] == side
            for steps, values in [one.run.column(name, split)]
            if len(steps) and np.isfinite(values).any()
        ]
        if curves:
            found.append(Series(title, COLORS[side], tuple(curves)))
    return found


def _figure(
    runs: Sequence[Evidence], names: Sequence[str], split: str, caption: str
) -> Figure | None:
    plots, used = [], {}
    for name in names:
        series = series_of(runs, name, split)
        if not series:
            continue
        log = name in LOGARITHMIC or (name in LOSSES and split == "train")
        title = label(name)
        drawn = curve_plot(series, title, described(series, title), SIZE, log)
        if drawn is not None:
            plots.append(Plot(title, drawn))
            used |= {one.css: one.name for one in series}
    if not plots:
        return None
    return Figure(caption, tuple(plots), series=tuple(used.items()))


def _curves(runs: Sequence[Evidence], names: Sequence[str], split: str) -> tuple[Block, ...]:
    caption = (
        "A line is the median of a side's runs, its band their least and largest value, at the "
        "steps that all have; curves of more than 150 rows are medians over equal parts. "
        "TensorFlow's line is dashed: where both sides have the same values, PyTorch's shows "
        "between the dashes."
    )
    if names is COURSE and any(series_of(runs, name, split) for name in SENTINELS):
        caption += (
            " Of each training batch: matched class accuracy is the share of matched queries "
            "whose class is right, matched IoU how far matched masks cover their targets, the "
            "no-object rate the share of all queries that say no-object."
        )
    found = _figure(runs, names, split, caption)
    if found is None:
        return (Text("No run recorded any of these values."),)
    collapsed = [
        _short(one)
        for one in runs
        if (one.run.last("no_object_rate", "train") or 0) > SENTINEL_LIMIT
    ]
    if names is COURSE and collapsed:
        return (found, Text(f"Nearly every query ends as no-object in: {'; '.join(collapsed)}."))
    return (found,)


def _scores(runs: Sequence[Evidence]) -> tuple[Block, ...]:
    caption = "Scores in percent at each evaluation; a dot is a side that was evaluated once."
    found = _figure(runs, SCORES, "eval", caption)
    return (Text("No run was evaluated."),) if found is None else (found,)


def _runs(runs: Sequence[Evidence]) -> Table:
    rows = []
    for one in runs:
        settings = one.content["settings"]
        _, seconds = one.run.column("step_seconds")
        steps = max(row.step for row in one.run.rows)
        seed = settings.get("seed")
        rows.append(
            (
                Cell(SIDES[one.content["side"]], one.content["side"]),
                Cell("" if seed is None else number(seed), "" if seed is None else seed),
                Cell(number(steps), steps),
                _numeric(one.run.last("loss", "train")),
                *(_numeric(one.run.last(score)) for score in SCORES),
                _numeric(float(np.median(seconds)) if len(seconds) else None),
                Cell((one.content["data_sha256"] or "not recorded")[:12]),
                Cell((one.content["checkpoint_sha256"] or "not recorded")[:12]),
            )
        )
    columns = (
        Column("Side", choices=True),
        Column("Seed", numeric=True),
        Column("Steps", numeric=True),
        Column("Last loss", numeric=True),
        Column("PQ", numeric=True),
        Column("PQ things", numeric=True),
        Column("PQ stuff", numeric=True),
        Column("mIoU", numeric=True),
        Column("Seconds a step", numeric=True),
        Column("Data", code=True),
        Column("Initial weights", code=True),
    )
    return Table(
        "Where each run ended; hashes by their first digits", columns, tuple(rows), interactive=True
    )


def _numeric(value: float | None) -> Cell:
    if value is None or value != value:
        return Cell("", "")
    return Cell(number(value), value)


def _short(run: Evidence) -> str:
    """A run among others of its config."""
    seed = run.content["settings"].get("seed")
    return SIDES[run.content["side"]] + ("" if seed is None else f", seed {seed}")


def _settings(runs: Sequence[Evidence]) -> tuple[Block, ...]:
    """What all runs share as facts, what differs as a table."""
    flat = [
        {name: describe(value) for name, value in one.content["settings"].items()} for one in runs
    ]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    shared = [
        (name.replace("_", " "), flat[0][name])
        for name in names
        if all(settings.get(name) == flat[0].get(name) for settings in flat) and flat[0][name]
    ]
    differing = [
        name for name in names if any(settings.get(name) != flat[0].get(name) for settings in flat)
    ]
    blocks: list[Block] = [Facts(tuple(shared))]
    if differing:
        rows = tuple(
            (Cell(_short(one)), *(Cell(settings.get(name, "")) for name in differing))
            for one, settings in zip(runs, flat, strict=True)
        )
        columns = (Column("Run"), *(Column(name.replace("_", " ")) for name in differing))
        blocks.append(Table("Settings that differ between runs", columns, rows))
    return tuple(blocks)

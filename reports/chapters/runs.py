"""The sections of training runs: curves of both sides with bands over seeds, and where they end."""

import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from maskformer.family import MASKFORMER
from maskformer.metrics import panoptic_quality, semantic_iou
from maskformer.metrics.run_scores import ImageCounts
from maskformer.metrics.statistics import Missing
from maskformer.model import zoo
from maskformer.runs.run_record import SCHEMA, SCORES, SENTINELS
from maskformer.runs.run_settings import training_words
from parity.claims import Claim, claim
from parity.measurements import Findings, Relative
from parity.results import Result
from reports import words
from reports.changes import Change
from reports.checks import EPSILON, ROUNDINGS
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
from reports.kind import Kind, Scored, Special
from reports.labels import label
from reports.ladder import verdict_of
from reports.run_pairs import Paired, compared, pairs_of_runs
from reports.sections import scores
from reports.sections.environment import FRAMEWORKS
from reports.subjects import Subject, picked

COLORS = {"torch": "a0", "tf": "a1", "imported": "a2"}
COURSE = ("gradient_norm", "learning_rate/head", *SENTINELS)
LOGARITHMIC = ("gradient_norm", "learning_rate/head")
SIZE = (360, 240)
SENTINEL_LIMIT = 0.99  # share of queries that say no-object, above which a run has collapsed


@dataclass(frozen=True, kw_only=True)
class RunResult(Result):
    """What a training run says of itself (`maskformer.runs.run_record`).

    Hashes are those of the data, the initial weights and the configuration. `experiment` is the
    Model Garden's, `source` are the files of an imported run, `resumed` the code that went on.
    """

    schema: ClassVar[str] = SCHEMA

    verdict: str = ""
    side: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str | None]
    data_sha256: str | None
    checkpoint_sha256: str | None
    git_commit: str | None
    model_sha256: str | None = None
    command: str | None = None
    replicas: int | None = None
    threads: int | None = None
    device: str | None = None
    experiment: Any = None
    source: Mapping[str, Any] = field(default_factory=dict)
    resumed: tuple[Mapping[str, Any], ...] = ()

    @property
    def config(self) -> str | None:
        """The configuration's name, where it was recorded."""
        return self.settings.get("config")


def chapter(runs: Sequence[Evidence], claims: Sequence[Claim]) -> Chapter:
    """One chapter for all runs of a config; they differ in side, seed or settings."""
    verdict = verdict_of(claims) if claims else "recorded"
    return Chapter(
        title=f"Training runs of {runs[0].config}",
        verdict=verdict,
        tone=words.tone(verdict),
        headline=_headline(runs),
        sections=(
            *([Section("Claims", (words.table(claims),))] if claims else []),
            Section("Losses", _curves(runs, MASKFORMER.losses, "train")),
            Section("The course of training", _curves(runs, COURSE, "train")),
            Section("Scores on the evaluation split", _scores(runs)),
            Section("Every run", (_runs(runs),)),
            Section("How they were run", _settings(runs)),
        ),
    )


def _headline(runs: Sequence[Evidence]) -> str:
    parts = []
    for side, name in SIDES.items():
        own = [one for one in runs if one.result.side == side]
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
    collapsed = list(filter(None, map(collapse, runs)))
    blind = f"; collapsed: {'; '.join(collapsed)}" if collapsed else ""
    return f"{'; '.join(parts)}{ends}{blind}."


def series_of(runs: Sequence[Evidence], name: str, split: str) -> list[Series]:
    """A value's curves by side; sides without it are left out."""
    found = []
    for side, title in SIDES.items():
        curves = [
            (steps.astype(float), values)
            for one in runs
            if one.result.side == side
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
        log = name in LOGARITHMIC or (name in MASKFORMER.losses and split == "train")
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
    collapsed = list(filter(None, map(collapse, runs)))
    if names is COURSE and collapsed:
        return (found, Text(f"Collapsed: {'; '.join(collapsed)}."))
    return (found,)


def _scores(runs: Sequence[Evidence]) -> tuple[Block, ...]:
    caption = "Scores in percent at each evaluation; a dot is a side that was evaluated once."
    found = _figure(runs, SCORES, "eval", caption)
    return (Text("No run was evaluated."),) if found is None else (found,)


def _runs(runs: Sequence[Evidence]) -> Table:
    rows = []
    for one in runs:
        settings = one.result.settings
        _, seconds = one.run.column("step_seconds")
        steps = max(row.step for row in one.run.rows)
        seed = settings.get("seed")
        rows.append(
            (
                Cell(SIDES[one.result.side], one.result.side),
                Cell("" if seed is None else number(seed), "" if seed is None else seed),
                Cell(number(steps), steps),
                _numeric(one.run.last("loss", "train")),
                *(_numeric(one.run.last(score)) for score in SCORES),
                _numeric(float(np.median(seconds)) if len(seconds) else None),
                Cell((one.result.data_sha256 or "not recorded")[:12]),
                Cell((one.result.checkpoint_sha256 or "not recorded")[:12]),
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


def _short(result: RunResult) -> str:
    """A run among others of its config: `PyTorch, seed 3`."""
    seed = result.settings.get("seed")
    return SIDES[result.side] + ("" if seed is None else f", seed {seed}")


def _settings(runs: Sequence[Evidence]) -> tuple[Block, ...]:
    """What all runs share as facts, what differs as a table."""
    flat = [{name: describe(value) for name, value in one.result.settings.items()} for one in runs]
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
            (Cell(_short(one.result)), *(Cell(settings.get(name, "")) for name in differing))
            for one, settings in zip(runs, flat, strict=True)
        )
        columns = (Column("Run"), *(Column(name.replace("_", " ")) for name in differing))
        blocks.append(Table("Settings that differ between runs", columns, rows))
    return tuple(blocks)


def _trained_rows(config: str, runs: Sequence[Evidence]) -> list[scores.Row]:
    """A row for each pair of runs and score, then for their mean, then for runs without a pair."""
    pairs = pairs_of_runs(runs)
    rows = []
    for score, title in scores.SCORES.items():
        differences = []
        for theirs, ours in pairs:
            ends = [one.run.last(score) for one in (theirs, ours)]
            if None in ends:
                continue
            differences.append(ends[1] - ends[0])
            one = compared(theirs.counts, ours.counts).get(score)
            name = f"trained, seed {ours.result.settings['seed']}"
            rows.append(_score_row(config, title, name, ends, one))
        if len(differences) > 1:
            rows.append(
                (
                    Cell(title),
                    Cell(f"trained, mean of {len(differences)} seeds"),
                    scores.published(config, title),
                    *(scores.percent(_mean(score, [pair[i] for pair in pairs])) for i in (0, 1)),
                    scores.difference(statistics.fmean(differences)),
                    Cell(f"seeds differ by {statistics.stdev(differences):.2f} (1 sd)"),
                    Cell(""),
                )
            )
    paired = {id(one) for pair in pairs for one in pair}
    for one in runs:
        if id(one) in paired:
            continue
        for score, title in scores.SCORES.items():
            value = one.run.last(score)
            if value is not None:
                ends = [None, value] if one.result.side == "tf" else [value, None]
                name = "imported run" if one.result.side == "imported" else "trained"
                rows.append(_score_row(config, title, name, ends, None))
    return rows


def _mean(score: str, runs: Sequence[Evidence]) -> float | None:
    values = [value for one in runs if (value := one.run.last(score)) is not None]
    return statistics.fmean(values) if values else None


def _score_row(
    config: str,
    title: str,
    weights: str,
    ends: Sequence[float | None],
    one: Paired | Missing | None,
) -> scores.Row:
    difference = ends[1] - ends[0] if None not in ends else None
    bounds, shown = "", Cell("")
    if isinstance(one, Missing):
        bounds = one.reason
    elif one is not None:
        bounds = f"{100 * one.difference.low:+.2f} to {100 * one.difference.high:+.2f}"
        found = one.equivalence
        shown = scores.equivalence(found.holds, found.margin, found.p_value)
    return (
        Cell(title),
        Cell(weights),
        scores.published(config, title),
        scores.percent(ends[0]),
        scores.percent(ends[1]),
        scores.difference(difference),
        Cell(bounds),
        shown,
    )


def _class_plots(found: Sequence[Evidence]) -> list[Plot]:
    """Per-class scores of the two sides, of each pair of runs."""
    plots = []
    for theirs, ours in pairs_of_runs(found):
        if theirs.counts is not None and ours.counts is not None:
            both = _class_scores(theirs.counts), _class_scores(ours.counts)
            shared = [name for name in both[0] if name in both[1]]
            nonzero = [name for name in shared if any(np.nansum(one[name]) > 0 for one in both)]
            if nonzero:
                key = nonzero[0]
                first, second = (one[key] for one in both)
                points = [
                    (f"class {i}", 100 * a, 100 * b, scores.THING if thing else scores.STUFF)
                    for i, (a, b, thing) in enumerate(
                        zip(first, second, ours.counts.things, strict=True)
                    )
                    if not (np.isnan(a) or np.isnan(b))
                ]
                seed = ours.result.settings["seed"]
                plots += scores.scatter(points, f"{key}, trained, seed {seed}")
    return plots


def _class_scores(counts: ImageCounts) -> dict[str, np.ndarray]:
    """The classes' scores, PQ first."""
    found = {}
    if counts.panoptic is not None:
        found["PQ"] = panoptic_quality.class_qualities(counts.panoptic.total())[0]
    if counts.semantic is not None:
        found["IoU"] = semantic_iou.score(counts.semantic.total()).iou
    return found


def _values(one: Evidence) -> list[float | None]:
    return [] if one.counts is None else [one.run.last(name) for name in one.counts.values()]


def _surroundings(result: RunResult) -> Iterator[tuple[str, str, Any]]:
    """What a run says of its side: framework and packages, then the device."""
    side = result.side
    if side not in FRAMEWORKS:
        return
    for name, value in result.versions.items():
        if name in FRAMEWORKS.values():
            yield side, "framework", f"{name} {value}"
        else:
            yield side, name, value
    for name in ("device", "replicas", "threads"):
        yield side, name, getattr(result, name)


def _changes(before: Evidence, after: Evidence) -> Iterator[Change]:
    """Final scores of two runs, compared image by image where both were evaluated on the same."""
    for name, one in compared(before.counts, after.counts).items():
        values = [100 * each.counts.samples()[name].value for each in (before, after)]
        if values[0] == values[1]:
            continue
        interval = one.difference if isinstance(one, Paired) else None
        below = interval is not None and interval.high < 0
        reason = ""
        if interval is not None:
            reason = (
                f"{100 * interval.confidence:.0f} % interval of the difference "
                f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f} points"
            )
        yield Change("score", name, *(f"{x:.2f}" for x in values), below, reason)
    rows = [one.run.column("loss") for one in (before, after)]
    ends = [float(values[-1]) for _, values in rows]
    if ends[0] != ends[1]:
        yield Change("loss", "last row", *(f"{x:.6g}" for x in ends), False)


def of_run(one: Evidence) -> list[Claim]:
    """That the scores which a run recorded last follow from the counts of its images."""
    if one.run is None or one.counts is None:
        return []
    recorded = {name: one.run.last(name) for name in one.counts.values()}
    pairs = {
        name: [None if recorded[name] is None else recorded[name], value]
        for name, value in one.counts.values().items()
        if not math.isnan(value)
    }
    return [
        claim(
            "metric_code/run",
            "The scores that the run recorded follow from the counts of its images "
            f"({_short(one.result)})",
            Relative(pairs, ROUNDINGS * EPSILON),
            f"largest relative gap; {ROUNDINGS} roundings of a float64 number",
            run_command(one.result),
        )
    ]


def _of_seed(one: Evidence) -> str:
    """Tells a pair of runs from others."""
    seed = one.result.settings.get("seed")
    return "" if seed is None else f" (seed {seed})"


def of_pair(theirs: Evidence, ours: Evidence) -> list[Claim]:
    """What a run of each side with the same settings shows: the same data, scores alike."""
    command = pair_command(theirs.result, ours.result)
    digests = [one.result.data_sha256 for one in (theirs, ours)]
    different = [] if digests[0] is not None and digests[0] == digests[1] else digests
    found = [
        claim(
            "data/same",
            f"Both trainers read the same images and annotations{_of_seed(ours)}",
            Findings(2, different),
            "sha256 over the examples that each side read",
            command,
        )
    ]
    outcomes = compared(theirs.counts, ours.counts)
    if outcomes:
        found.append(_scores_claim(theirs, ours, outcomes, command))
    return found


def _scores_claim(
    theirs: Evidence, ours: Evidence, outcomes: Mapping[str, Paired | Missing], command: str
) -> Claim:
    """That no score of two trained models differs; not decided where they see nothing."""
    judged = {name: one.difference for name, one in outcomes.items() if isinstance(one, Paired)}
    blind = [text for one in (theirs, ours) if (text := collapse(one))]
    if not judged:
        blind += [f"{label(name)}: {one.reason}" for name, one in outcomes.items()]
    if blind:
        measured = Findings(len(outcomes), blind, otherwise="not decided")
    else:
        away = [name for name, one in judged.items() if not one.low <= 0 <= one.high]
        measured = Findings(len(judged), away)
    return claim(
        "metric_trained/scores",
        f"No score of the trained models differs beyond its 95 % interval{_of_seed(ours)}",
        measured,
        "paired bootstrap over images, bias-corrected and accelerated; a score differs "
        "where the interval of port - reference leaves 0 out; it is about these two "
        "models, and says nothing of what another seed would give; models that see nothing score "
        "alike whatever they compute, so that nothing is decided",
        command,
    )


def collapse(one: Evidence) -> str:
    """Why a run shows nothing: nearly every query ends as no-object; empty where that is not so."""
    rate = one.run.last("no_object_rate", "train")
    if rate is None or not rate > SENTINEL_LIMIT:
        return ""
    return (
        f"{_short(one.result)}: {100 * rate:.1f} % of all queries say no-object in the last batch"
    )


def run_command(result: RunResult) -> str:
    """The command that makes such a run again, as it was recorded, or from what was recorded."""
    if result.command:
        return result.command
    if result.side == "imported":
        source = next(iter(result.source or {"metrics.json": ""}))
        config = result.settings["config"]
        return shlex.join(
            ["parity", "import-run", source, *zoo.config_words(config), "--out", "DIR"]
        )
    return _training_command(result.settings, result.side)


def pair_command(theirs: RunResult, ours: RunResult) -> str:
    """The command that trains both of a pair again; the reference reads the data set itself."""
    if theirs.command and theirs.command == ours.command:
        return theirs.command
    return _training_command(theirs.settings, "both")


def _training_command(settings: Mapping[str, Any], side: str) -> str:
    return shlex.join([*training_words(settings, side), "--out", "DIR"])


def _of_pairs(runs: Sequence[Evidence]) -> Iterator[tuple[Evidence, Claim]]:
    """The claims of every pair of runs, which stand with the port's run."""
    for theirs, ours in pairs_of_runs(runs):
        for each in of_pair(theirs, ours):
            yield ours, each


HASHED = ("data", "initial")
"""Settings of a run that are paths; the record has the hashes of what lies there."""

WRITTEN = ("keep", "checkpoint_every")
"""Settings of a run that say what is kept beside its record."""


def _subject(result: RunResult) -> Subject:
    settings = result.settings
    asked = [name for name in settings if name not in (*HASHED, *WRITTEN, "config")]
    recorded = ("model_sha256", "data_sha256", "checkpoint_sha256", "replicas")
    return {"side": result.side, **picked(settings, asked), **picked(result, recorded)}


KIND = Kind(
    result=RunResult,
    name="run",
    title="Training run",
    detail=lambda result: f", {_short(result)}",
    subject=_subject,
    rungs={"": "metric_trained"},
    chapter=chapter,
    recheck=None,
    given={
        **dict.fromkeys(
            (
                *("verdict", "side", "settings", "versions", "data_sha256", "checkpoint_sha256"),
                *("git_commit", "model_sha256", "replicas", "threads", "device", "experiment"),
                *("source", "resumed"),
            ),
            "settings, versions and hashes of training runs, and their curves",
        ),
    },
    derived=of_run,
    records_claims=False,
    changes=_changes,
    special=Special(
        folder=True,
        together=_of_pairs,
        environment=_surroundings,
        scored=Scored(rows=_trained_rows, plots=_class_plots, values=_values),
    ),
)

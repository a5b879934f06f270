"""PQ and mIoU side by side: published, trained on either side, and from converted weights."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from maskformer.metrics import panoptic_quality, semantic_iou
from maskformer.metrics.run_scores import ImageCounts
from maskformer.model import zoo
from parity.errors import InputError
from parity.schemas import EVALUATION
from reports.document import Block, Cell, Column, Figure, Plot, Section, Table, Text, number
from reports.drawing.scatter import scatter_plot
from reports.evidence import RUN, Evidence
from reports.run_pairs import compared, pairs_of_runs

SCORES = {
    "panoptic_quality": "PQ All",
    "panoptic_quality_things": "PQ Things",
    "panoptic_quality_stuff": "PQ Stuff",
    "mean_iou": "mIoU",
}
"""Scores of runs, and what an evaluation calls them."""

THING, STUFF = "a1", "a2"  # colour classes
SQUARE = (360, 340)
Row = tuple[Cell, ...]


def sections(found: Sequence[Evidence]) -> tuple[Section, ...]:
    """One section with a table for each config that has a score; none without any."""
    blocks: list[Block] = []
    for config in dict.fromkeys(one.config for one in found if one.schema in (RUN, EVALUATION)):
        own = [one for one in found if one.config == config]
        rows = [*_trained_rows(config, own), *_evaluated_rows(config, own)]
        if rows:
            blocks.append(_table(config, rows))
        if plots := _scatters(own):
            blocks.append(
                Figure(
                    "Each dot is a class; on the line both sides score alike. Hover for its name; "
                    "the chapters have the figures.",
                    tuple(plots),
                    series=((THING, "things"), (STUFF, "stuff")),
                )
            )
    if not blocks:
        return ()
    text = (
        "In percent. Published values are the zoo's table; a difference is port minus reference, "
        "in points, over the same images."
    )
    return (Section("PQ and mIoU: published, reference, ours", (Text(text), *blocks)),)


def _table(config: str, rows: Sequence[Row]) -> Table:
    columns = (
        Column("Score"),
        Column("Weights"),
        Column("Published", numeric=True),
        Column("Reference", numeric=True),
        Column("Port", numeric=True),
        Column("Difference", numeric=True),
        Column("95 % interval"),
        Column("Equivalence"),
    )
    return Table(config, columns, tuple(rows))


def _published(config: str, score: str) -> Cell:
    try:
        published = zoo.get(config).published
    except InputError:
        published = None
    if published is None or {"PQ": "PQ All"}.get(published.metric, published.metric) != score:
        return Cell("")
    return Cell(f"{published.value:.1f}", published.value)


def _percent(value: float | None) -> Cell:
    if value is None or value != value:
        return Cell("")
    return Cell(f"{value:.2f}", value)


def _difference(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(f"{value:+.2f}", value)


def _trained_rows(config: str, found: Sequence[Evidence]) -> list[Row]:
    """A row for each pair of runs and score, then for their mean, then for runs without a pair."""
    runs = [one for one in found if one.schema == RUN]
    pairs = pairs_of_runs(runs)
    rows = []
    for score, label in SCORES.items():
        differences = []
        for theirs, ours in pairs:
            ends = [one.run.last(score) for one in (theirs, ours)]
            if None in ends:
                continue
            differences.append(ends[1] - ends[0])
            one = compared(theirs.counts, ours.counts).get(score, {})
            name = f"trained, seed {ours.content['settings']['seed']}"
            rows.append(_row(config, label, name, ends, one))
        if len(differences) > 1:
            rows.append(
                (
                    Cell(label),
                    Cell(f"trained, mean of {len(differences)} seeds"),
                    _published(config, label),
                    *(_percent(_mean(score, [pair[i] for pair in pairs])) for i in (0, 1)),
                    _difference(statistics.fmean(differences)),
                    Cell(f"seeds differ by {statistics.stdev(differences):.2f} (1 sd)"),
                    Cell(""),
                )
            )
    paired = {id(one) for pair in pairs for one in pair}
    for one in runs:
        if id(one) in paired:
            continue
        for score, label in SCORES.items():
            value = one.run.last(score)
            if value is not None:
                ends = [None, value] if one.content["side"] == "tf" else [value, None]
                name = "imported run" if one.content["side"] == "imported" else "trained"
                rows.append(_row(config, label, name, ends, {}))
    return rows


def _mean(score: str, runs: Sequence[Evidence]) -> float | None:
    values = [value for one in runs if (value := one.run.last(score)) is not None]
    return statistics.fmean(values) if values else None


def _row(
    config: str,
    label: str,
    weights: str,
    ends: Sequence[float | None],
    one: Mapping[str, Any],
) -> Row:
    difference = ends[1] - ends[0] if None not in ends else None
    interval = one.get("difference")
    bounds = one.get("reason", "")
    if interval is not None:
        bounds = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"
    shown = one.get("equivalence")
    return (
        Cell(label),
        Cell(weights),
        _published(config, label),
        _percent(ends[0]),
        _percent(ends[1]),
        _difference(difference),
        Cell(bounds),
        Cell("") if shown is None else _equivalence(shown.holds, shown.margin, shown.p_value),
    )


def _equivalence(holds: bool, margin: float, p_value: float) -> Cell:
    text = f"within {100 * margin:g} points (p {number(p_value)})"
    return Cell(f"{'shown' if holds else 'not shown'} {text}", tone="good" if holds else "")


def _evaluated_rows(config: str, found: Sequence[Evidence]) -> list[Row]:
    """A row for each evaluation and score; random weights are named as such."""
    rows = []
    for one in found:
        if one.schema != EVALUATION:
            continue
        content = one.content
        random = content["weights"].startswith("seeded:")
        weights = f"{'random' if random else 'converted'}, {content['weights']}"
        if "port_weights" in content:
            weights += f"; TensorFlow's {content['port_weights']}"
        for label in SCORES.values():
            ends = [_score(content["sides"].get(side), label) for side in ("torch", "tf")]
            if ends == [None, None]:
                continue
            judged = content.get("comparison", {}).get("scores", {}).get(label, {})
            if ends == [0, 0]:
                judged = {"difference": {"reason": "both score 0, which says nothing"}}
            rows.append(
                (
                    Cell(label),
                    Cell(weights),
                    _published(config, label) if not random else Cell(""),
                    *map(_percent, ends),
                    _difference(None if None in ends else ends[1] - ends[0]),
                    Cell(_recorded_interval(judged.get("difference", {}))),
                    _recorded_equivalence(judged.get("equivalence", {})),
                )
            )
    return rows


def _score(side: Mapping[str, Any] | None, label: str) -> float | None:
    if side is None:
        return None
    if label == "mIoU":
        return 100 * side["miou"]
    group = side.get("panoptic", {}).get(label.removeprefix("PQ "))
    return None if group is None else 100 * group["pq"]


def _recorded_interval(difference: Mapping[str, Any]) -> str:
    if "reason" in difference:
        return f"none: {difference['reason']}"
    interval = difference.get("interval")
    if interval is None:
        return ""
    return f"{100 * interval['low']:+.2f} to {100 * interval['high']:+.2f}"


def _recorded_equivalence(one: Mapping[str, Any]) -> Cell:
    if "holds" not in one:
        return Cell(f"not testable: {one['reason']}" if "reason" in one else "")
    return _equivalence(one["holds"], one["margin"], one["p_value"])


def _scatters(found: Sequence[Evidence]) -> list[Plot]:
    """Per-class scores of the two sides: of evaluations, and of pairs of runs."""
    plots = []
    for one in found:
        if one.schema == EVALUATION and {"torch", "tf"} <= one.content["sides"].keys():
            both = [one.content["sides"][side]["per_class"] for side in ("torch", "tf")]
            # A plot of classes that all have PQ 0 is a dot in a corner.
            key = "pq" if any(row.get("pq") for side in both for row in side) else "iou"
            points = [
                (
                    row["name"],
                    100 * row[key],
                    100 * other[key],
                    THING if row["isthing"] else STUFF,
                )
                for row, other in zip(*both, strict=True)
                if row.get(key) is not None and other.get(key) is not None
            ]
            kind = "random" if one.content["weights"].startswith("seeded:") else "converted"
            plots += _scatter(points, f"{'PQ' if key == 'pq' else 'IoU'}, {kind} weights")
    for theirs, ours in pairs_of_runs([one for one in found if one.schema == RUN]):
        if theirs.counts is not None and ours.counts is not None:
            scores = _class_scores(theirs.counts), _class_scores(ours.counts)
            shared = [name for name in scores[0] if name in scores[1]]
            nonzero = [name for name in shared if any(np.nansum(one[name]) > 0 for one in scores)]
            if nonzero:
                key = nonzero[0]
                first, second = (one[key] for one in scores)
                points = [
                    (f"class {i}", 100 * a, 100 * b, THING if thing else STUFF)
                    for i, (a, b, thing) in enumerate(
                        zip(first, second, ours.counts.things, strict=True)
                    )
                    if not (np.isnan(a) or np.isnan(b))
                ]
                seed = ours.content["settings"]["seed"]
                plots += _scatter(points, f"{key}, trained, seed {seed}")
    return plots


def _class_scores(counts: ImageCounts) -> dict[str, np.ndarray]:
    """The classes' scores, PQ first."""
    found = {}
    if counts.panoptic is not None:
        found["PQ"] = panoptic_quality.class_qualities(counts.panoptic.total())[0]
    if counts.semantic is not None:
        found["IoU"] = semantic_iou.score(counts.semantic.total()).iou
    return found


def _scatter(points: Sequence[tuple[str, float, float, str]], title: str) -> list[Plot]:
    if not any(first or second for _, first, second, _ in points):
        return []
    apart = max(points, key=lambda point: abs(point[1] - point[2]))
    description = (
        f"{title} of {len(points)} classes, port over reference. Furthest from the line: "
        f"{apart[0]}, reference {apart[1]:.2f}, port {apart[2]:.2f}."
    )
    drawn: Markup = scatter_plot(points, f"{title}: port", "reference", description, SQUARE)
    return [Plot(title, drawn)]

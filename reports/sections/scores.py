"""PQ and mIoU side by side: published, trained on either side, and from converted weights."""

from collections.abc import Sequence

from markupsafe import Markup

from maskformer.model import zoo
from parity.errors import InputError
from reports.document import Block, Cell, Column, Figure, Plot, Section, Table, Text, number
from reports.drawing.scatter import scatter_plot
from reports.evidence import Evidence
from reports.kind import Kind

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
    scored = [one for one in found if one.kind.special.scored is not None]
    for config in dict.fromkeys(one.config for one in scored):
        own: dict[Kind, list[Evidence]] = {}
        for one in scored:
            if one.config == config:
                own.setdefault(one.kind, []).append(one)
        rows, plots = [], []
        for kind, members in own.items():
            rows = [*kind.special.scored.rows(config, members), *rows]  # what was trained first
            plots += kind.special.scored.plots(members)
        if rows:
            blocks.append(_table(config, rows))
        if plots:
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


def published(config: str, score: str) -> Cell:
    """The zoo's value of this score; empty where it has none."""
    try:
        known = zoo.get(config).published
    except InputError:
        known = None
    if known is None or {"PQ": "PQ All"}.get(known.metric, known.metric) != score:
        return Cell("")
    return Cell(f"{known.value:.1f}", known.value)


def percent(value: float | None) -> Cell:
    """A score in percent; empty where there is none."""
    if value is None or value != value:
        return Cell("")
    return Cell(f"{value:.2f}", value)


def difference(value: float | None) -> Cell:
    """Port minus reference in points; empty where a side has no score."""
    return Cell("") if value is None else Cell(f"{value:+.2f}", value)


def equivalence(holds: bool, margin: float, p_value: float) -> Cell:
    """Whether two scores were shown to be equivalent, and within what."""
    text = f"within {100 * margin:g} points (p {number(p_value)})"
    return Cell(f"{'shown' if holds else 'not shown'} {text}", tone="good" if holds else "")


def scatter(points: Sequence[tuple[str, float, float, str]], title: str) -> list[Plot]:
    """The classes' scores (name, reference, port, colour), each a dot; nothing where all are 0."""
    if not any(first or second for _, first, second, _ in points):
        return []
    apart = max(points, key=lambda point: abs(point[1] - point[2]))
    description = (
        f"{title} of {len(points)} classes, port over reference. Furthest from the line: "
        f"{apart[0]}, reference {apart[1]:.2f}, port {apart[2]:.2f}."
    )
    drawn: Markup = scatter_plot(points, f"{title}: port", "reference", description, SQUARE)
    return [Plot(title, drawn)]

"""How a pair trains: losses, gradients and updates tensor by tensor, and many steps as curves."""

from collections.abc import Sequence

import numpy as np

from parity.claims import Claim
from parity.measurements import Margins, Running
from parity.trace import module_of
from reports import words
from reports.audit_story import STAGES
from reports.document import Block, Cell, Column, Figure, Plot, Section, Table, Text, number
from reports.drawing.curves import Series, curve_plot, described
from reports.drawing.plots import Point, layer_plot

START = "train_"
PORT, TWIN = "a1", "a0"
SIZE = (360, 260)
STEPS = {"train_steps_weight_gap": "weights", "train_steps_loss_gap": "total loss"}
TEXT = (
    "Training is chaotic: two runs of one program that start one rounding apart come apart as "
    "well. The port is held to the largest gap so far of the reference's twin, which starts one "
    "unit in the last place away."
)


def sections(claims: Sequence[Claim]) -> tuple[Section, ...]:
    """What the claims on training measured; nothing where there is none."""
    own = [one for one in claims if one.id.startswith(START)]
    found = []
    if many := [one for one in own if isinstance(one.measured, Running)]:
        found.append(Section("Many steps: how far the two come apart", _curves(many)))
    if each := [one for one in own if isinstance(one.measured, Margins)]:
        found.append(Section("Losses, gradients and updates", _tensors(each)))
    return tuple(found)


def _curves(claims: Sequence[Claim]) -> tuple[Block, ...]:
    plots = []
    for one in claims:
        title = f"{STEPS.get(one.id, one.id.removeprefix(START).replace('_', ' '))}, relative gap"
        series = [
            Series("port", PORT, (_curve(one.measured.port),)),
            Series("the reference's twin", TWIN, (_curve(one.measured.beside),)),
        ]
        drawn = curve_plot(series, title, described(series, title), SIZE, log=True)
        if drawn is not None:
            plots.append(Plot(title, drawn))
    rows = tuple(
        (
            Cell(one.id.removeprefix(START).replace("_", " ")),
            Cell(step, int(step)),
            _numeric(value),
            _numeric(one.measured.beside[step]),
        )
        for one in claims
        for step, value in one.measured.port.items()
    )
    columns = (
        Column("Gap", choices=True),
        Column("Step", numeric=True),
        Column("Port", numeric=True),
        Column("The reference's twin", numeric=True),
    )
    series = ((PORT, "port"), (TWIN, "the reference's twin"))
    caption = "Gap from the reference at each step; zero is below a logarithmic axis."
    return (
        Text(TEXT),
        *([Figure(caption, tuple(plots), series=series)] if plots else []),
        Table("Gaps at every step", columns, rows, interactive=True),
    )


def _curve(values: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    found = np.array([float(value) for value in values.values()])
    found[found == 0] = np.nan
    return np.array([float(step) for step in values]), found


def _tensors(claims: Sequence[Claim]) -> tuple[Block, ...]:
    plots, rows = [], []
    for one in claims:
        name = STAGES.get(one.id, one.id.removeprefix(START).replace("_", " "))
        verdicts = one.measured.verdicts()
        points = []
        for key, verdict in verdicts.items():
            stage = module_of(key).partition(".")[0]
            points.append(Point(key, stage, verdict.value, verdict.threshold.value, verdict.passed))
            rows.append(
                (
                    Cell(name, name),
                    Cell(key, key),
                    Cell(*_said(verdict.passed)),
                    _numeric(verdict.value),
                    _numeric(verdict.threshold.value),
                    Cell(words.margin(verdict.value, verdict.threshold.value), verdict.margin),
                )
            )
        if len(points) > 1:
            wrong = sum(not point.passed for point in points)
            title = f"{name} / limit"
            about = f"{title}: {number(len(points))} tensors, {number(wrong)} above their limit."
            plots.append(Plot(title, layer_plot(points, title, about, *SIZE, labels=False)))
    columns = (
        Column("What", choices=True),
        Column("Tensor", code=True),
        Column("Verdict", choices=True),
        Column("Gap", numeric=True),
        Column("Limit", numeric=True),
        Column("Margin"),
    )
    caption = "Each dot is a tensor's gap divided by its limit, the line is at 1."
    table = Table("Every loss, gradient and update", columns, tuple(rows), interactive=True)
    return (*([Figure(caption, tuple(plots))] if plots else []), table)


def _said(passed: bool) -> tuple[str, str, str]:
    return ("holds", "holds", "good") if passed else ("fails", "fails", "bad")


def _numeric(value: float) -> Cell:
    return Cell(number(float(value)), float(value))

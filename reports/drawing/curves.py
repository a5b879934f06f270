"""Curves over training steps: a line for each side, a band where a side has several runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from reports.drawing.axes import Scale, close, frame, inside

MOST_POINTS = 150  # of a curve; longer ones are shown as medians of equal parts
Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Series:
    """One side's curves of a value, each (steps [N], values [N]); `css` is its colour's class."""

    name: str
    css: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Band:
    """Least, middle and largest value over curves, at common steps; all [M]."""

    steps: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """The curve, or medians of equal parts of it where it has more points."""
    steps, values = curve
    if len(steps) <= most:
        return curve
    parts = np.array_split(np.arange(len(steps)), most)
    with np.errstate(all="ignore"):
        middles = [np.nanmedian(values[part]) if part.size else np.nan for part in parts]
    return np.array([steps[part].mean() for part in parts]), np.array(middles)


def band(curves: Sequence[Curve]) -> Band | None:
    """The band over curves at the steps that all have, or at every step where they share none.

    None where no value is finite.
    """
    common = curves[0][0]
    for steps, _ in curves[1:]:
        common = np.intersect1d(common, steps)
    if not len(common):
        return _band_of_points([thinned(curve) for curve in curves])
    found = [thinned((common, values[np.searchsorted(steps, common)])) for steps, values in curves]
    values = np.stack([one[1] for one in found])
    keep = np.isfinite(values).all(axis=0)
    if not keep.any():
        return None
    values = values[:, keep]
    return Band(
        found[0][0][keep], values.min(axis=0), np.median(values, axis=0), values.max(axis=0)
    )


def _band_of_points(curves: Sequence[Curve]) -> Band | None:
    """At each step, the values of those curves that have it."""
    steps, values = (np.concatenate(parts) for parts in zip(*curves, strict=True))
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    if not len(steps):
        return None
    found = np.unique(steps)
    at = [values[steps == step] for step in found]
    return Band(
        found,
        np.array([one.min() for one in at]),
        np.array([np.median(one) for one in at]),
        np.array([one.max() for one in at]),
    )


def curve_plot(
    series: Sequence[Series],
    title: str,
    description: str,
    size: tuple[int, int],
    log: bool = False,
) -> Markup | None:
    """An SVG of every series' band over the step; None where no series has a finite value.

    A single point is drawn as a dot, smaller for each series, so that equal ones show. `log` is
    given up where a value is not positive.
    """
    bands = [(one, band(one.curves)) for one in series if one.curves]
    shown = [(one, found) for one, found in bands if found is not None]
    if not shown:
        return None
    values = [float(v) for _, found in shown for v in (*found.low, *found.high)]
    log = log and min(values) > 0
    across, up = inside(size)
    x = Scale.of([float(v) for _, found in shown for v in found.steps], *across, whole=True)
    y = Scale.of(values, *up, log)
    parts = frame(x, y, title, "step", size, description)
    for one, found in shown:
        if (found.high > found.low).any():
            edge = [*zip(found.steps, found.high, strict=True)]
            edge += reversed([*zip(found.steps, found.low, strict=True)])
            parts.append(f'<path class="band {one.css}" d="{_path(edge, x, y)}Z"/>')
    for index, (one, found) in enumerate(shown):
        middle = [*zip(found.steps, found.middle, strict=True)]
        if len(middle) == 1:
            (step, value) = middle[0]
            parts.append(
                f'<circle class="{one.css}" cx="{x.place(step):.1f}" cy="{y.place(value):.1f}" '
                f'r="{max(6 - 2 * index, 2)}"/>'
            )
        else:
            parts.append(f'<path class="curve {one.css}" d="{_path(middle, x, y)}"/>')
    return close(parts)


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    places = (f"{x.place(float(a)):.1f} {y.place(float(b)):.1f}" for a, b in points)
    return "M" + "L".join(places)


def described(series: Sequence[Series], title: str) -> str:
    """What is read out in place of the drawing: each series' first and last value."""
    texts = []
    for one in series:
        found = band(one.curves) if one.curves else None
        if found is not None:
            runs = f"{len(one.curves)} runs" if len(one.curves) > 1 else "one run"
            texts.append(
                f"{one.name} ({runs}) from {_short(found.middle[0])} to {_short(found.middle[-1])}"
            )
    return f"{title} over steps: {'; '.join(texts)}."


def _short(value: float) -> str:
    return "no number" if not math.isfinite(value) else f"{value:.3g}"

"""Draws values per layer on a log scale, as SVG whose colours come from the page's style sheet."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from maskformer.family import MASKFORMER

LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 58  # room for labels, in SVG units (pixels at full size)
LETTER = 6.6  # widest usual advance of a 12 px letter
TICK_GAP = 24  # least distance of two tick labels
ORDER = "tensors in execution order"


@dataclass(frozen=True)
class Point:
    """One layer: what was measured, what was allowed, and whether it passed."""

    label: str
    stage: str
    value: float
    limit: float
    passed: bool

    @property
    def ratio(self) -> float:
        """The value in units of its limit; infinite where the limit is 0 and the value is not."""
        if self.limit > 0:
            return self.value / self.limit if self.limit < math.inf else 0.0
        return self.value if self.value == 0 else math.inf


def stage_class(stage: str) -> str:
    """The style sheet's class of a stage: a known one has its own, another one that of its name."""
    if stage in MASKFORMER.stages:
        return f"s{MASKFORMER.stages.index(stage)}"
    if stage in ("", "other", "outputs"):
        return "sx"
    return f"s{zlib.crc32(stage.encode()) % len(MASKFORMER.stages)}"


def layer_plot(
    points: Sequence[Point],
    title: str,
    description: str,
    width: int,
    height: int,
    *,
    labels: bool = True,
) -> Markup:
    """An SVG of every point in units of its limit, in the given order, with one line at 1.

    `title` names the vertical axis, `description` is read out in place of the drawing, `labels` are
    what a mouse shows of every point. Zero has a row of its own below the scale; values that are
    no number stand at the top edge, marked.
    """
    scale = _Scale.of(points, width, height)
    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(description)}"><g aria-hidden="true">',
        f'<text class="axis" x="4" y="16">{escape(title)}</text>',
        *_decades(scale, width),
        *_stage_strip(points, scale, height),
        *_layer_ticks(points, scale, height),
        f'<path class="limit" d="M{scale.left:.1f} {scale.y(1.0):.1f}H{scale.right:.1f}"/>',
        *[_mark(index, point, scale, labels) for index, point in enumerate(points)],
        "</g></svg>",
    ]
    return Markup("".join(parts))


@dataclass(frozen=True)
class _Scale:
    low: int  # decades
    high: int
    zero: bool  # whether a row for zero is kept
    left: float
    right: float
    top: float
    bottom: float
    count: int

    @classmethod
    def of(cls, points: Sequence[Point], width: int, height: int) -> "_Scale":
        shown = [1.0, *(point.ratio for point in points if 0 < point.ratio < math.inf)]
        low = math.floor(math.log10(min(shown)))
        high = math.ceil(math.log10(max(shown)))
        zero = any(point.ratio == 0 for point in points)
        return cls(
            low, max(high, low + 1), zero, LEFT, width - RIGHT, TOP, height - BOTTOM, len(points)
        )

    def x(self, index: float) -> float:
        """Centre of the given layer's slot."""
        return self.left + (index + 0.5) / max(self.count, 1) * (self.right - self.left)

    @property
    def zero_y(self) -> float:
        return self.bottom - 8

    def y(self, value: float) -> float:
        if value == 0:
            return self.zero_y
        if not value < math.inf:  # not a number, or infinite
            return self.top
        bottom = self.bottom - (22 if self.zero else 0)
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return bottom - min(max(share, 0.0), 1.0) * (bottom - self.top)


def _decades(scale: _Scale, width: int) -> list[str]:
    room = (scale.y(10.0**scale.low) - scale.top) / (scale.high - scale.low)
    step = max(1, math.ceil(TICK_GAP / room))
    shown = range(scale.low, scale.high + 1, step)
    rows = [(_power(decade), scale.y(10.0**decade)) for decade in shown]
    if scale.zero:
        rows.append(("0", scale.zero_y))
    return [
        f'<line class="grid" x1="{scale.left}" x2="{scale.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{scale.left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        for label, y in rows
    ]


def _power(decade: int) -> str:
    return f"{10.0**decade:g}" if -3 <= decade <= 3 else f"1e{decade}"


def _runs(points: Sequence[Point]) -> list[tuple[str, int, int]]:
    """Neighbouring layers of the same stage, as (stage, first, one past the last)."""
    runs: list[tuple[str, int, int]] = []
    for index, point in enumerate(points):
        if runs and runs[-1][0] == point.stage:
            runs[-1] = (point.stage, runs[-1][1], index + 1)
        else:
            runs.append((point.stage, index, index + 1))
    return runs


def _stage_strip(points: Sequence[Point], scale: _Scale, height: int) -> list[str]:
    parts = []
    for stage, first, end in _runs(points):
        x0, x1 = scale.x(first - 0.5), scale.x(end - 0.5)
        css = stage_class(stage)
        parts.append(
            f'<rect class="{css}" x="{x0:.1f}" y="{scale.bottom + 2:.1f}" '
            f'width="{max(x1 - x0, 0.5):.1f}" height="6"/>'
        )
        if len(stage) * LETTER < x1 - x0:
            parts.append(
                f'<text class="axis" x="{(x0 + x1) / 2:.1f}" y="{height - 34}" '
                f'text-anchor="middle">{escape(stage)}</text>'
            )
    return parts


def _layer_ticks(points: Sequence[Point], scale: _Scale, height: int) -> list[str]:
    places = [(scale.left, "start", "1"), ((scale.left + scale.right) / 2, "middle", ORDER)]
    if len(points) > 1:
        places.append((scale.right, "end", str(len(points))))
    return [
        f'<text class="axis" x="{x}" y="{height - 12}" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in places
    ]


def _mark(index: int, point: Point, scale: _Scale, labels: bool) -> str:
    x, y = scale.x(index), scale.y(point.ratio)
    title = f"<title>{escape(point.label)}</title>" if labels else ""
    if point.passed:
        css = stage_class(point.stage)
        return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="2.2">{title}</circle>'
    cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
    return f'<path class="fail" d="{cross}">{title}</path>'

"""Axes of plots, plain or logarithmic, as SVG whose colours come from the style sheet."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LEFT, RIGHT, TOP, BOTTOM = 58, 14, 30, 40  # room for labels, in SVG units
TICK_GAP = 30  # least distance of two labels of the vertical axis
LETTER = 6.6  # widest usual advance of a 12 px letter


@dataclass(frozen=True)
class Scale:
    """Numbers to places between `start` and `end`; where `log`, by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        start: float,
        end: float,
        log: bool = False,
        whole: bool = False,
    ) -> "Scale":
        """A scale on which all finite values fit; on a logarithmic one, all positive ones.

        A plain scale of `whole` numbers has ticks at whole numbers alone.
        """
        shown = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if not shown:
            return cls(0.1 if log else 0.0, 1.0, start, end, log)
        low, high = min(shown), max(shown)
        if log:
            return cls(low / 1.2, high * 1.2, start, end, True)
        room = (high - low) * 0.05 or (1.0 if whole else abs(high) * 0.05) or 1.0
        if low == high == 0:
            return cls(0.0, 1.0, start, end, whole=whole)
        # A scale that could begin at zero does, unless that hides what varies.
        low = 0.0 if 0 <= low < 0.4 * high else low - room
        return cls(low, high + room, start, end, whole=whole)

    def place(self, value: float) -> float:
        """Where a value stands; beyond the ends it stays at the nearer one."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """At most about `most` round values inside the scale, at least two where it has them."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            if last > first:
                step = -(-(last - first + 1) // max(most, 2))
                return [10.0**power for power in range(first, last + 1, step)]
            found = [
                value
                for power in range(first - 1, last + 1)
                for value in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
                if self.low <= value <= self.high
            ]
            if len(found) > 1:
                return found
        span = self.high - self.low
        rough = span / max(most, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        steps = [one * power for one in (10, 5, 2, 1, 0.5, 0.2)]
        if self.whole:
            steps = [one for one in steps if one >= 1] or [1.0]
        fitting = [index for index, step in enumerate(steps) if step >= rough * 0.999]
        wide = max(fitting, default=0)
        for step in steps[wide:]:
            first = math.ceil(self.low / step)
            count = math.floor(self.high / step + 1e-9) - first + 1
            if count > 1:
                break
        return [float(f"{(first + index) * step:.12g}") for index in range(count)]


def tick_label(value: float) -> str:
    """A tick's value in few letters."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:g}"


def frame(
    x: Scale, y: Scale, title: str, x_title: str, size: tuple[int, int], description: str
) -> list[str]:
    """The beginning of a plot: its description, titles, grid and labels; `close` ends it."""
    width, height = size
    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(description)}"><g aria-hidden="true">',
        f'<text class="axis" x="8" y="16">{escape(title)}</text>',
        f'<text class="axis" x="{x.end:.1f}" y="{height - 6}" text-anchor="end">'
        f"{escape(x_title)}</text>",
    ]
    for value in y.ticks(int((y.start - y.end) / TICK_GAP)):
        at = y.place(value)
        parts.append(
            f'<line class="grid" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="axis" x="{x.start - 8:.1f}" y="{at + 4:.1f}" text-anchor="end">'
            f"{tick_label(value)}</text>"
        )
    ticks = x.ticks(max(2, int((x.end - x.start) / 60)))
    for value in ticks:
        at, label = x.place(value), tick_label(value)
        half = len(label) * LETTER / 2
        anchor, text_at = "middle", at
        if at + half > width - 2:
            anchor, text_at = "end", width - 4.0
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{y.start:.1f}" '
            f'y2="{y.start + 4:.1f}"/>'
            f'<text class="axis" x="{text_at:.1f}" y="{y.start + 17:.1f}" text-anchor="{anchor}">'
            f"{label}</text>"
        )
    return parts


def close(parts: Sequence[str]) -> Markup:
    """The plot."""
    return Markup("".join([*parts, "</g></svg>"]))


def inside(size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where a plot's values stand: the ends of its horizontal, then of its vertical axis."""
    width, height = size
    return (LEFT, width - RIGHT), (height - BOTTOM, TOP)

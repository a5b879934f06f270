"""A map of the network: every module in its place, coloured by how near it is to its limit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDEST = 7.2  # advance of a letter, with room to the cells
ROW, GAP, HEAD, CELL_LEAST = 22, 6, 22, 5.0
LEFT, RIGHT = 8, 8
CLASSES = ("m0", "m1", "m2", "m3", "m4")
STEPS = (0.01, 0.03, 0.1, 0.3)
"""Shares of the limit at which the colour changes."""

LEGEND = (
    ("m0", "below 1 % of its limit"),
    ("m1", "to 3 %"),
    ("m2", "to 10 %"),
    ("m3", "to 30 %"),
    ("m4", "to 100 %"),
    ("mi", "above its limit, inherited"),
    ("mbad", "above its limit"),
)


@dataclass(frozen=True)
class Module:
    """A module: its path, and its value as a share of its limit.

    `inherited` where it is above that, and is known to be right when it runs alone.
    """

    path: str
    share: float
    passed: bool
    label: str
    inherited: bool = False


def colour(module: Module) -> str:
    """The style sheet's class for how near a module is to its limit."""
    if not module.passed:
        return "mi" if module.inherited else "mbad"
    return CLASSES[sum(module.share > step for step in STEPS)]


def groups(modules: Sequence[Module]) -> dict[str, list[Module]]:
    """The modules by the part of the network they are shown in, in the order they come."""
    found: dict[str, list[Module]] = {}
    for module in modules:
        found.setdefault(part_of(module.path), []).append(module)
    return found


def part_of(path: str) -> str:
    """The row that a module is drawn in: `backbone.res3`, `...transformer.decoder.layers.2`."""
    parts = path.split(".")
    if parts[0] == "backbone":
        if len(parts) > 3 and parts[1].startswith("layers"):
            return ".".join(parts[:3])
        return ".".join(parts[:2])
    for index, part in enumerate(parts):
        if part == "layers" and index + 1 < len(parts) and "transformer" in path:
            return ".".join(parts[: index + 2])
    inner = 3 if parts[2:3] == ["transformer"] else 2
    return ".".join(parts[:inner]) or "model"


def layer_map(
    rows: Mapping[str, Sequence[Module]],
    title: str,
    description: str,
    width: int,
    *,
    labels: bool = True,
) -> Markup:
    """An SVG with a line for each part of the network, and a cell for each of its modules.

    `labels` are what a mouse shows of every cell.
    """
    height = HEAD + sum(_height(row, width) + GAP for row in rows.values()) + 4
    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(description)}"><g aria-hidden="true">',
        f'<text class="axis" x="{LEFT}" y="15">{escape(title)}</text>',
    ]
    y = float(HEAD)
    for name, modules in rows.items():
        parts.append(
            f'<text class="axis" x="{LEFT}" y="{y + 15:.1f}">{escape(_short(name, width))}</text>'
        )
        for index, module in enumerate(modules):
            x, top, size = _place(index, len(modules), y, width)
            label = f"<title>{escape(module.label)}</title>" if labels else ""
            parts.append(
                f'<rect class="cell {colour(module)}" x="{x:.1f}" y="{top:.1f}" '
                f'width="{size:.1f}" height="{ROW - 4}">{label}</rect>'
            )
        y += _height(modules, width) + GAP
    return Markup("".join([*parts, "</g></svg>"]))


def _label_width(width: int) -> float:
    return min(0.42 * width, 330)


def _short(name: str, width: int) -> str:
    """The end of a name that fits before the cells."""
    room = int((_label_width(width) - LEFT) / WIDEST)
    return name if len(name) <= room else "…" + name[len(name) - room + 1 :]


def _grid(count: int, width: int) -> tuple[int, float]:
    """Cells in a line, and the width of one."""
    room = width - _label_width(width) - RIGHT
    size = min(34.0, max(CELL_LEAST + 3, room / max(count, 1)))
    return max(1, int(room / size)), size


def _height(modules: Sequence[Module], width: int) -> float:
    line, _ = _grid(len(modules), width)
    return ROW * math.ceil(len(modules) / line)


def _place(index: int, count: int, y: float, width: int) -> tuple[float, float, float]:
    line, size = _grid(count, width)
    return (
        _label_width(width) + (index % line) * size,
        y + (index // line) * ROW + 1,
        size,
    )

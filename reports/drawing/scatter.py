"""Two values of many things against each other, such as a class's PQ on both sides."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from reports.drawing.axes import Scale, close, frame, inside


def scatter_plot(
    points: Sequence[tuple[str, float, float, str]],
    title: str,
    x_title: str,
    description: str,
    size: tuple[int, int],
) -> Markup:
    """An SVG of (name, x, y, colour class), with the line on which both are equal."""
    across, up = inside(size)
    values = [value for _, x, y, _ in points for value in (x, y)]
    x = Scale.of(values, *across)
    y = Scale(x.low, x.high, *up)
    parts = frame(x, y, title, x_title, size, description)
    parts.append(
        f'<path class="limit" d="M{x.place(x.low):.1f} {y.place(x.low):.1f}'
        f'L{x.place(x.high):.1f} {y.place(x.high):.1f}"/>'
    )
    for name, first, second, css in points:
        parts.append(
            f'<circle class="{css}" cx="{x.place(first):.1f}" cy="{y.place(second):.1f}" r="3">'
            f"<title>{escape(name)}: {first:.2f}, {second:.2f}</title></circle>"
        )
    return close(parts)

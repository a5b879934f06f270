"""Draws the loss curves of training runs, both sides in one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maskformer.family import MASKFORMER
from maskformer.runs.run_record import read_run
from parity.files import replacing

COLOURS = ("#d55e00", "#0072b2")
DASHES = ("-", (0, (4, 2)))
WINDOW = 11
"""Rows over which the line of a run is the median."""


def draw_curves(folders: Mapping[str, Sequence[Path]], output: Path) -> None:
    """Writes an SVG with a panel for each loss, one colour a side, a line for each of its runs.

    A line is the median over `WINDOW` rows; the rows of the first run of each side are dots.
    The file appears whole; equal runs give equal bytes with one version of matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = {side: [read_run(folder) for folder in group] for side, group in folders.items()}
    first = next(iter(runs.values()))[0]
    names = [name for name in MASKFORMER.losses if name in first.names("train")]
    settings = {"svg.hashsalt": "training_curves", "svg.fonttype": "none"}
    with matplotlib.rc_context(settings):
        columns = min(2, len(names))
        rows = -(-len(names) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.5 * columns, 3 * rows), layout="constrained", squeeze=False
        )
        for panel, name in zip(axes.flat, names, strict=False):
            for (side, group), colour, dash in zip(runs.items(), COLOURS, DASHES, strict=False):
                for number, run in enumerate(group):
                    steps, values = run.column(name)
                    if number == 0:
                        panel.plot(steps, values, ".", color=colour, markersize=2, alpha=0.35)
                    panel.plot(
                        steps,
                        smoothed(values),
                        color=colour,
                        linestyle=dash,
                        linewidth=1.3,
                        alpha=0.9 if number == 0 else 0.5,
                        label=side if number == 0 else None,
                    )
            panel.set_yscale("log")
            panel.set_title(name, fontsize=10)
            panel.set_xlabel("step")
            panel.grid(alpha=0.3)
        for panel in axes.flat[len(names) :]:
            panel.set_axis_off()
        axes.flat[0].legend(frameon=False)
        with replacing(output) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None})
        plt.close(figure)


def smoothed(values: np.ndarray) -> np.ndarray:
    """The median of the `WINDOW` values around each, of fewer at the ends; as many as `values`."""
    half = WINDOW // 2
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )

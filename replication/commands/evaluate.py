"""`parity evaluate`: PQ and mIoU of either side on a data set, or of both with their difference."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.commands import options

if TYPE_CHECKING:
    from rich.table import Table

    from reports.chapters.evaluation_result import EvaluationResult, ScoreComparison


def register(app: typer.Typer) -> None:
    """Adds `parity evaluate` to `app`."""
    app.command(
        "evaluate",
        epilog="Example: parity evaluate --config scenes_tiny --weights seeded:0 "
        "--data runs/scenes --side both --out reports/out/scenes",
    )(command)


def command(
    data: options.Data,
    config: options.Config = None,
    config_file: options.ConfigFile = None,
    classes: options.Classes = None,
    settings: options.Settings = None,
    weights: options.Weights = "seeded:0",
    port_weights: options.PortWeights = None,
    side: options.Side = "both",
    split: options.Split = "val",
    first: Annotated[int | None, typer.Option(help="The first N images only.")] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Multi-scale and mirrored testing (semantic configs).")
    ] = False,
    margin: Annotated[
        float, typer.Option(help="Points of PQ or mIoU that count as equivalent.")
    ] = 0.1,
    products: Annotated[
        int,
        typer.Option(
            help="1, 3 or 6: compare TensorFlow with itself, where products are made in so many "
            "passes of bfloat16, as on a TPU."
        ),
    ] = 0,
    worst: Annotated[int, typer.Option(help="Images to draw into --out.")] = 4,
    workers: options.Workers = 2,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Run a model over a data set and score it; with both sides, compare them image by image.

    Exit status: 0 evaluated or equal, 1 the sides differ by more than rounding, 2 wrong usage or
    input.
    """
    from replication.evaluation.run import Request, evaluate
    from replication.sides.side import sides_of

    entry = options.resolved(config, config_file, options.overrides(settings))
    entry = options.with_classes(entry, classes, data)
    request = Request(
        config=entry.model,
        inputs=entry.inputs,
        weights=weights,
        port_weights=port_weights,
        data=data,
        sides=sides_of(side),
        split=split,
        limit=first,
        augmented=tta,
        worst=worst,
        margin=margin / 100,
        products=products,
        workers=workers,
        command=options.command_line(),
    )
    result = evaluate(request, out)
    passed = result.verdict != "different"
    options.end(result, as_json, lambda: print_result(result, out), passed)


def print_result(result: "EvaluationResult", out: Path | None = None) -> None:
    """Prints the scores, the classes, and with two sides what differs."""
    from rich.console import Console

    console = Console(markup=False)
    console.print(_scores_table(result))
    console.print(_classes_table(result))
    for line in summary(result):
        print(line)
    if out is not None:
        print(f"report: {out / 'report.html'}")
        for name in result.pictures:
            print(f"picture: {out / name}")


def summary(result: "EvaluationResult") -> list[str]:
    """The verdict and, with two sides, what differs, in a few lines."""
    seconds = ", ".join(f"{name} {one.seconds:.1f} s" for name, one in result.sides.items())
    lines = [f"{result.images} images: {seconds}"]
    if result.random:
        lines.append("the weights are random numbers: scores tell the sides apart, not quality")
    found = result.comparison
    if found is None:
        return lines
    for name, one in found.scores.items():
        lines.append(f"{name}, {found.of}: {difference_in_words(one)}")
    first, second = result.sides
    lines += [
        f"{name} of {second} with {first} as the truth: {100 * value:.3f}"
        for name, value in found.agreement.items()
    ]
    panoptic, labels = found.panoptic_pixels, found.label_pixels
    lines.append(
        f"images that differ: {found.images_that_differ} of {result.images}; "
        f"{panoptic} panoptic and {labels} label pixels of {found.pixels:,}, "
        f"{found.segments} segments without a partner"
    )
    lines.append(f"pixels that rounding does not explain: {found.unexplained}")
    lines.append(f"verdict: {result.verdict}")
    return lines


def difference_in_words(one: "ScoreComparison") -> str:
    """How far two sides' score is apart, and whether that is equivalent, in a line."""
    from maskformer.metrics.statistics import Missing

    difference, equivalence = one.difference, one.equivalence
    if isinstance(difference, Missing):
        return f"no interval: {difference.reason}"
    interval = difference.interval
    text = (
        f"{100 * interval.value:+.3f} points, {100 * interval.confidence:.0f} % interval "
        f"[{100 * interval.low:+.3f}, {100 * interval.high:+.3f}]"
    )
    if isinstance(equivalence, Missing):
        return f"{text}; equivalence not testable ({equivalence.reason})"
    shown = "shown" if equivalence.holds else "not shown"
    return (
        f"{text}; equivalence within {100 * equivalence.margin:g} points {shown} "
        f"(p = {equivalence.p_value:.2g})"
    )


def _scores_table(result: "EvaluationResult") -> "Table":
    from rich.table import Table

    title = f"{result.config}, {result.weights}, {result.data}, {result.split}"
    table = Table(title=title, caption="percent; intervals: bootstrap over images")
    table.add_column("score")
    for name in result.sides:
        table.add_column(name, justify="right")
        table.add_column("interval", justify="right")
    rows = list(next(iter(result.sides.values())).panoptic)
    for group in rows:
        own = [side.panoptic.get(group) for side in result.sides.values()]
        for key, label in (("pq", f"PQ {group}"), ("sq", "  SQ"), ("rq", "  RQ")):
            table.add_row(label, *_cells(result, label, [getattr(one, key, None) for one in own]))
    for label, key in (("mIoU", "miou"), ("fwIoU", "fwiou"), ("mACC", "macc"), ("pACC", "pacc")):
        values = [getattr(side, key) for side in result.sides.values()]
        table.add_row(label, *_cells(result, label, values))
    return table


def _cells(result: "EvaluationResult", label: str, values: Sequence[float | None]) -> Iterator[str]:
    for side, value in zip(result.sides.values(), values, strict=True):
        found = side.interval(label)
        yield "" if value is None else f"{100 * value:.2f}"
        yield f"{100 * found.low:.2f} to {100 * found.high:.2f}" if found else ""


def _classes_table(result: "EvaluationResult") -> "Table":
    from rich.table import Table

    table = Table(title="Classes", caption="percent; empty: does not occur")
    table.add_column("class")
    table.add_column("kind")
    sides = result.sides
    panoptic = any(one.panoptic for one in sides.values())
    for name in sides:
        for score in ("PQ", "IoU") if panoptic else ("IoU",):
            table.add_column(f"{name} {score}", justify="right")
    for rows in zip(*(one.per_class for one in sides.values()), strict=True):
        keys = ("pq", "iou") if panoptic else ("iou",)
        figures = [getattr(row, key) for row in rows for key in keys]
        if all(figure is None for figure in figures):
            continue
        cells = ("" if figure is None else f"{100 * figure:.2f}" for figure in figures)
        table.add_row(rows[0].name, "thing" if rows[0].isthing else "stuff", *cells)
    return table

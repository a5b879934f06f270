"""`parity score`: panoptic quality and mIoU of predictions that any program wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.errors import InputError
from replication.commands import options

if TYPE_CHECKING:
    from replication.evaluation.submissions import ScoreResult
    from reports.chapters.evaluation_result import SideScores


def register(app: typer.Typer) -> None:
    """Adds `parity score` to `app`."""
    app.command("score")(command)


def command(
    truth: Annotated[Path, typer.Argument(help="COCO panoptic JSON of the truth.")],
    predictions: Annotated[
        list[Path], typer.Argument(help="COCO panoptic JSON of predictions; two are compared.")
    ],
    truth_folder: Annotated[
        Path | None, typer.Option(help="PNGs of the truth; a folder of the JSON's name without it.")
    ] = None,
    folder: Annotated[
        list[Path] | None, typer.Option(help="PNGs of each prediction, in their order.")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Points of PQ or mIoU that count as equivalent.")
    ] = 0.1,
    workers: options.Workers = 2,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Score panoptic predictions of any program, per class and image, with intervals.

    Counts are those of panopticapi; mIoU is of the labels that the segments give, where a void
    pixel is never right. With two predictions, the paired difference of the second to the first.

    Example: parity score truth/panoptic_val.json mine/panoptic.json theirs/panoptic.json
    """
    from replication.evaluation.submissions import open_truth, score_files

    if not 1 <= len(predictions) <= 2 or len(set(predictions)) < len(predictions):
        raise InputError(
            f"{len(predictions)} predictions are given", "expected: one, or two different ones"
        )
    folders = folder or [None] * len(predictions)
    if len(folders) != len(predictions):
        raise InputError(
            f"--folder is given {len(folders)} times", f"there are {len(predictions)} predictions"
        )
    result = score_files(
        open_truth(truth, truth_folder),
        list(zip(predictions, folders, strict=True)),
        margin=margin / 100,
        resamples=2000,
        workers=workers,
    )
    options.keep(result, out, "score.json", report=False)
    options.end(result, as_json, lambda: _print(result), name="score")


def _print(result: "ScoreResult") -> None:
    from rich.table import Table

    from replication.commands.evaluate import difference_in_words
    from replication.console.tables import print_table

    for name, one in result.predictions.items():
        table = Table(title=f"{name}, {result.images} images", caption="percent")
        for title in ("score", "value", "95 % interval"):
            table.add_column(title, justify="left" if title == "score" else "right")
        for group, values in one.panoptic.items():
            table.add_row(f"PQ {group}", *_cells(one, f"PQ {group}"))
            for key in ("sq", "rq"):
                table.add_row(f"  {key.upper()}", f"{100 * getattr(values, key):.2f}", "")
        table.add_row("mIoU", *_cells(one, "mIoU"))
        print_table(table)
        table = Table(title="Classes", caption="percent; empty: does not occur")
        for title in ("class", "PQ", "SQ", "RQ", "IoU"):
            table.add_column(title, justify="left" if title == "class" else "right")
        for row in one.per_class:
            values = (row.pq, row.sq, row.rq, row.iou)
            if any(value is not None for value in values):
                table.add_row(row.name, *("" if v is None else f"{100 * v:.2f}" for v in values))
        print_table(table)
    for name, found in result.comparison.scores.items() if result.comparison else ():
        print(f"{name}, second - first: {difference_in_words(found)}")


def _cells(one: "SideScores", name: str) -> tuple[str, str]:
    found = one.interval(name)
    bounds = f"{100 * found.low:.2f} to {100 * found.high:.2f}" if found else ""
    return f"{100 * one.of(name):.2f}", bounds

"""`parity inspect`: what a checkpoint file is and what is wrong with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.records import parts
from replication.commands import options
from replication.console.tables import print_table

if TYPE_CHECKING:
    from weight_conversion.inspection import Inspection

NUMBERS = ("minimum", "maximum", "mean", "std")


def register(app: typer.Typer) -> None:
    """Adds `parity inspect` to `app`."""
    app.command("inspect")(show)


def show(
    file: Annotated[Path, typer.Argument(help="Checkpoint file or folder of any known kind.")],
    ema: options.Ema = False,
    key: options.Key = None,
    prefix: options.Prefix = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what a checkpoint is, which zoo config fits, what it holds, and its problems.

    Example: parity inspect model_final_6f60dc.pkl
    """
    from replication.console.progress import bytes_shown
    from weight_conversion.inspection import inspect
    from weight_conversion.unwrapping import Choice

    with bytes_shown("reading", not as_json) as progress:
        found = inspect(file, choice=Choice(ema, key, prefix), progress=progress)
    result = parts(found)
    options.keep(result, out, "inspection.json", report=False)
    options.end(result, as_json, lambda: _print(found), name="checkpoint")


def _print(found: "Inspection") -> None:
    from rich.console import Console

    print_table(_table(found, NUMBERS), narrow=_table(found, ()))
    console = Console(soft_wrap=True, markup=False)
    part = "backbone of " if found.is_backbone else ""
    console.print(f"kind: {found.kind}, names: {found.naming}", highlight=False)
    console.print(f"fits: {part}{', '.join(found.fits) or 'no config of the zoo'}")
    for entry in found.files:
        console.print(f"file: {entry.name}, {entry.size:,} bytes, sha256 {entry.sha256}")
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)
    for name, reason in found.left_out.items():
        console.print(f"left out: {name} ({reason})", highlight=False)
    for problem in found.problems:
        console.print(f"problem: {problem}", style="bold", highlight=False)


def _table(found: "Inspection", numbers: tuple[str, ...]):
    from rich.table import Table

    table = Table(
        title=found.path,
        caption=f"{len(found.tensors)} tensors, {found.parameters:,} values, {found.bytes:,} bytes",
    )
    table.add_column("tensor", overflow="fold", min_width=36 if numbers else 30)
    table.add_column("shape")
    table.add_column("dtype")
    for column in (*numbers, "not finite"):
        table.add_column(column, justify="right")
    for one in found.tensors:
        counted = [getattr(one, name) for name in numbers]
        values = ["" if value is None else f"{value:.4g}" for value in counted]
        shape = " x ".join(map(str, one.shape)) or "scalar"
        table.add_row(one.name, shape, one.dtype, *values, str(one.not_finite or ""))
    return table

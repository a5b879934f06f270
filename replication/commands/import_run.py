"""`parity import-run`: a run of Detectron2, or any TensorBoard log, as a run of our record."""

from pathlib import Path
from typing import Annotated

import typer

from replication.commands import options
from replication.runs.imported import import_run


def register(app: typer.Typer) -> None:
    """Adds `parity import-run` to `app`."""
    app.command(
        "import-run",
        epilog="Example: parity import-run output/metrics.json --config coco_r50 "
        "--out runs/imported",
    )(command)


def command(
    source: Annotated[
        Path, typer.Argument(help="metrics.json, a TensorBoard event file, or their folder.")
    ],
    out: options.OutFolder,
    config: options.Config = None,
    config_file: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Import Detectron2's metrics.json or TensorBoard event files as a recorded run.

    Losses lose the weights that Detectron2 multiplies them with, iterations become updates done;
    values without a name in the record are kept as other/NAME.
    """
    from maskformer.runs.run_record import read_run

    import_run(source, out, options.config_text(config, config_file))
    run = read_run(out)
    result = {
        "folder": str(out),
        "source": run.description["source"],
        "rows": len(run.rows),
        "last_step": max(row.step for row in run.rows),
        "train": run.names("train"),
        "eval": {name: run.last(name) for name in run.names("eval")},
    }
    lines = [
        f"{out}: {result['rows']} rows up to step {result['last_step']} of {source}",
        f"training: {', '.join(result['train'])}",
        *(f"last {name}: {value:.2f}" for name, value in result["eval"].items()),
    ]
    options.end(result, as_json, lambda: "\n".join(lines), name="imported-run")

"""`parity import-run`: a run of Detectron2, or any TensorBoard log, as a run of our record."""

import json
from pathlib import Path
from typing import Annotated

import typer

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
    out: Annotated[Path, typer.Option(help="Folder of the imported run.", metavar="DIR")],
    config: Annotated[str, typer.Option(help="Zoo configuration that was trained.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Import Detectron2's metrics.json or TensorBoard event files as a recorded run.

    Losses lose the weights that Detectron2 multiplies them with, iterations become updates done;
    values without a name in the record are kept as other/NAME.
    """
    from maskformer.runs.run_record import read_run

    import_run(source, out, config)
    run = read_run(out)
    result = {
        "folder": str(out),
        "source": run.description["source"],
        "rows": len(run.rows),
        "last_step": max(row.step for row in run.rows),
        "train": run.names("train"),
        "eval": {name: run.last(name) for name in run.names("eval")},
    }
    if as_json:
        print(json.dumps(result))
        return
    print(f"{out}: {result['rows']} rows up to step {result['last_step']} of {source}")
    print(f"training: {', '.join(result['train'])}")
    for name, value in result["eval"].items():
        print(f"last {name}: {value:.2f}")

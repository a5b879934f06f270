"""`parity demo`: the full-size model, two photographs, every layer compared, and the report."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from replication.audit import Request, audit, summary, write_json
from replication.progress import Steps

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
SHORT_SIDE = 320  # pixels; the function is the same at any size, the demo is over sooner
OUT = Path("reports/out/demo")
COMMAND = "parity demo"
SCENES = 32
TRAINED, TRAINED_SIZE = "tiny", "64x96"


def photographs() -> tuple[Path, ...]:
    """The two photographs that scikit-learn ships with its data sets."""
    from sklearn import datasets

    folder = Path(datasets.__file__).parent / "images"
    return tuple(folder / name for name in PHOTOGRAPHS)


def register(app: typer.Typer) -> None:
    """Adds `parity demo`."""
    app.command("demo", epilog="Example: parity demo --out reports/out/demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.", metavar="DIR")] = OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Audit the 45-million-parameter COCO R50 MaskFormer on two photographs, and report.

    Then both sides of a small model make one training step, predict 32 procedural scenes, and are
    scored alike.
    Exit status: 0 equal, 1 different.
    """
    from maskformer import zoo
    from parity.claims import strict
    from replication import evaluate, training_audit
    from reports.render import write_report

    request = Request(
        config=zoo.model_config("coco_r50"),
        weights="seeded:0",
        images=photographs(),
        short_side=SHORT_SIDE,
        capture_effect=True,
        command=COMMAND,
    )
    print(
        "MaskFormer R50, COCO panoptic, seeded weights, in PyTorch and TensorFlow, on "
        f"{' and '.join(PHOTOGRAPHS)}",
        file=sys.stderr,
    )
    steps = Steps(total=10 + training_audit.STEPS)
    result = audit(request, steps)
    write_json(result, out)
    entry = zoo.get(TRAINED)
    training = training_audit.training_result(
        entry.model, entry.solver, TRAINED_SIZE, COMMAND, steps
    )
    write_json(training, out, "training.json")
    with steps(f"both sides on {SCENES} scenes"):
        scenes = evaluate.evaluate_scenes(SCENES, visible=False)
    write_json(scenes, out, "scenes.json")
    report = write_report([result, training, scenes], out)
    if as_json:
        print(
            json.dumps(strict({**result, "training": training, "scenes": scenes}), allow_nan=False)
        )
    else:
        _print_table(result, training)
        print(summary(result))
        print("\n".join(training_audit.summary(training)))
        print("\n".join(["scenes:", *evaluate.summary(scenes)]))
        print(f"seconds: {sum(steps.timings.values()):.0f}")
        print(f"report: {report}")
    verdicts = {one["verdict"] for one in (result, training, scenes)}
    raise typer.Exit(0 if verdicts == {"equal"} else 1)


def _print_table(result: dict[str, Any], training: dict[str, Any]) -> None:
    """The ladder of claims, and the worst tensor of each stage."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    claims = Table(title="Claims")
    for name in ("claim", "verdict", "measured", "limit", "cases"):
        claims.add_column(name, justify="left" if name == "claim" else "right")
    for claim in (*result["claims"], *training["claims"]):
        figures = (claim["value"], claim["limit"], claim["cases"])
        claims.add_row(claim["title"], claim["verdict"], *(f"{float(v):.3g}" for v in figures))
    console.print(claims)
    executions = list(result["float32"])
    stages = Table(title="Worst tensor of each stage")
    stages.add_column("stage")
    for name in ("tensors", "float64 gap", "limit", *(f"float32 {one}" for one in executions)):
        stages.add_column(name, justify="right")
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for layer in result["layers"]:
        by_stage.setdefault(layer["stage"], []).append(layer)
    for stage, layers in by_stage.items():
        worst = max(layers, key=lambda layer: float(layer["float64"]["gap"]))
        ratios = [
            f"{max(float(layer['float32'][name]['ratio']) for layer in layers):.2f}x"
            for name in executions
        ]
        figures = (worst["float64"]["gap"], worst["float64"]["limit"])
        stages.add_row(stage, str(len(layers)), *(f"{float(v):.2g}" for v in figures), *ratios)
    console.print(stages)

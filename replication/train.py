"""`parity train`: trains either side, or both from the same weights, and compares the runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


def register(app: typer.Typer) -> None:
    """Adds `parity train` to `app`."""
    app.command(
        "train",
        epilog="Example: parity train --side both --config scenes_tiny --data runs/scenes "
        "--steps 2000 --out runs/both",
    )(command)


def command(
    out: Annotated[Path, typer.Option(help="Folder of the run, or of both.", metavar="DIR")],
    data: Annotated[
        Path | None, typer.Option(help="Data set in COCO panoptic or ADE20K layout.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Name of a zoo configuration.")] = None,
    side: Annotated[str, typer.Option(help="torch, tf or both.")] = "both",
    steps: Annotated[
        int | None, typer.Option(help="Updates; the config's own unless given.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per update.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of data, initialisation and dropout.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    capacity: Annotated[int | None, typer.Option(help="Targets per image.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps; 0: at the end only.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps; 0: at the end only.")] = None,
    record_every: Annotated[int | None, typer.Option(help="Steps between rows.")] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints that stay.")] = None,
    initial: Annotated[str | None, typer.Option(help="seeded:N, or a checkpoint.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split to train on.")] = None,
    eval_split: Annotated[str | None, typer.Option(help="Split to evaluate on.")] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(help="Another solver setting, such as base_lr=0.001.", metavar="NAME=VALUE"),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of a trainer; 0: all cores.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what --out holds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train, with losses and the time that is left, and evaluate.

    With both sides the trainings start from the same weights, see the same examples in the same
    order, and run one after the other; the end is a comparison of losses and scores. Exit status: 0
    trained, and no score of both differs beyond its interval; 1 one does; 2 wrong usage or input.
    """
    from replication.sides import sides_of
    from replication.training_runs import Request, compare_runs, train

    given = {
        "config": config,
        "data": None if data is None else str(data),
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "dtype": dtype,
        "capacity": capacity,
        "eval_every": eval_every,
        "checkpoint_every": checkpoint_every,
        "record_every": record_every,
        "keep": keep,
        "initial": initial,
        "train_split": train_split,
        "eval_split": eval_split,
    }
    given = {name: value for name, value in given.items() if value is not None}
    request = Request(
        out, sides_of(side), given, tuple(solver or ()), threads, resume, visible=not as_json
    )
    try:
        folders = train(request)
    except KeyboardInterrupt:
        print(f"stopped: continue with parity train --side {side} --out {out} --resume")
        raise typer.Exit(130) from None
    result = compare_runs(folders)
    if len(folders) == 2:
        text = json.dumps(result, indent=1, allow_nan=False)
        (out / "comparison.json").write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        print_result(result, folders)
    raise typer.Exit(1 if result["verdict"] == "different" else 0)


def print_result(result: dict[str, Any], folders: dict[str, Path]) -> None:
    """Prints the scores and, of two runs, how far losses and scores are apart."""
    from rich.console import Console

    console = Console()
    console.print(_scores(result))
    if "comparison" in result:
        console.print(_losses(result["comparison"]))
        for line in summary(result["comparison"]):
            print(line)
        print(f"verdict: {result['verdict']}")
    for name, folder in folders.items():
        print(f"{name}: {folder}")


def summary(comparison: dict[str, Any]) -> list[str]:
    """What two runs share, and their scores' differences with intervals, a line each."""
    lines = []
    if not comparison["same_data"]:
        lines.append("warning: the two runs were trained on different data")
    for name, one in comparison["scores"].items():
        if "reason" in one:
            lines.append(f"{name}, {comparison['of']}: no interval ({one['reason']})")
            continue
        interval = one["interval"]
        lines.append(
            f"{name}, {comparison['of']}: {100 * interval['value']:+.2f} points, "
            f"{100 * interval['confidence']:.0f} % interval of paired images "
            f"[{100 * interval['low']:+.2f}, {100 * interval['high']:+.2f}]"
        )
    return lines


def _scores(result: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title=f"{result['config']}, {result['steps']} steps", caption="percent")
    table.add_column("score")
    for name in result["sides"]:
        table.add_column(name, justify="right")
    sides = list(result["sides"].values())
    for name in sides[0]["scores"]:
        table.add_row(name, *(_number(one["scores"].get(name)) for one in sides))
    for name, digits in (("seconds", 0), ("step_seconds", 3), ("data_wait_share", 3)):
        table.add_row(name, *(f"{one[name]:.{digits}f}" for one in sides))
    return table


def _losses(comparison: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(
        title="Loss curves",
        caption="gap: |difference| / mean; smoothed: medians over a twentieth of the run",
    )
    for name in ("loss", "first step", "median gap", "largest gap", "smoothed", "end, each side"):
        table.add_column(name, justify="left" if name == "loss" else "right")
    for name, one in comparison["losses"].items():
        gaps = (one[key] for key in ("first_gap", "median_gap", "largest_gap", "smoothed_gap"))
        ends = " ".join(f"{value:.4g}" for value in one["end"])
        table.add_row(name, *(f"{gap:.2g}" for gap in gaps), ends)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

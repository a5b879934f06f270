"""`parity train`: trains either side, or both from the same weights, and compares the runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from parity.errors import InputError
from parity.reading.content import read_json
from replication.commands import options
from replication.console import endings
from replication.console.signals import Terminated

if TYPE_CHECKING:
    from rich.table import Table

    from replication.runs.trainers import Request
    from reports.chapters.seeds import SeedsResult
    from reports.chapters.training_runs import RunComparison, RunsResult

CURVES = "curves.svg"
OWN_CONFIG = "own_config.json"
"""What --classes makes of the config: every verb takes it as --config-file."""


def register(app: typer.Typer) -> None:
    """Adds `parity train` to `app`."""
    app.command(
        "train",
        epilog="Example: parity train --side both --config scenes_tiny --data runs/scenes "
        "--steps 2000 --out runs/both",
    )(command)


def command(
    out: options.OutFolder,
    data: options.Data = None,
    config: options.Config = None,
    config_file: options.ConfigFile = None,
    classes: options.Classes = None,
    settings: options.Settings = None,
    side: options.Side = "both",
    steps: options.Steps = None,
    batch: options.Batch = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    capacity: Annotated[int | None, typer.Option(help="Targets per image.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps; 0: at the end only.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps; 0: at the end only.")] = None,
    record_every: Annotated[int | None, typer.Option(help="Steps between rows.")] = None,
    micro_batches: Annotated[
        int | None, typer.Option(help="Parts of a batch, one after the other, to save memory.")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints that stay.")] = None,
    initial: Annotated[str | None, typer.Option(help="seeded:N, or a checkpoint.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split to train on.")] = None,
    eval_split: Annotated[str | None, typer.Option(help="Split to evaluate on.")] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(help="Another solver setting, such as base_lr=0.001.", metavar="NAME=VALUE"),
    ] = None,
    threads: options.Threads = 0,
    seeds: Annotated[
        int | None, typer.Option(help="So many seeds from --seed on, and a test over them.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Of that test, in points of panoptic quality.")
    ] = None,
    resume: options.Resume = False,
    as_json: options.AsJson = False,
) -> None:
    """Train, with losses and the time that is left, and evaluate.

    With both sides the trainings start from the same weights, see the same examples in the same
    order, and run one after the other; the end is a comparison of losses and scores. Exit status: 0
    trained, and no score of both differs beyond its interval; 1 one does; 2 wrong usage or input.

    With --seeds both sides are trained from each seed, and two one-sided t-tests over the seeds
    show whether the final panoptic qualities are equivalent: exit status 0, or 1 where it is not
    shown.
    """
    from replication.runs.comparison import compare_runs
    from replication.runs.curves import draw_curves
    from replication.runs.seeds import MARGIN, write_comparison
    from replication.runs.trainers import Request, train
    from replication.sides.side import sides_of

    named = config is not None or config_file is not None
    text = options.config_text(config, config_file) if named else None
    if settings and config is None and config_file is not None:
        text = str(config_file.resolve())  # also where it is a published one: it is to be changed
    if classes is not None or settings:
        text = _own_config(text, options.overrides(settings), classes, data, out)
    given = {
        "config": text,
        "data": None if data is None else str(data),
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "dtype": dtype,
        "capacity": capacity,
        "eval_every": eval_every,
        "checkpoint_every": checkpoint_every,
        "record_every": record_every,
        "micro_batches": micro_batches,
        "keep": keep,
        "initial": initial,
        "train_split": train_split,
        "eval_split": eval_split,
    }
    given = {name: value for name, value in given.items() if value is not None}
    request = Request(
        out, sides_of(side), given, tuple(solver or ()), threads, resume, visible=not as_json
    )
    if seeds is None and margin is not None:
        raise InputError("--margin needs --seeds", "one run of each side is no test over seeds")
    try:
        if seeds is not None:
            _over_seeds(request, seeds, MARGIN if margin is None else margin, as_json)
        folders = train(request)
    except (KeyboardInterrupt, Terminated) as error:
        print(f"stopped: continue with parity train --side {side} --out {out} --resume")
        raise typer.Exit(endings.status_of(error)) from None
    result = compare_runs(folders)
    if len(folders) == 2:
        write_comparison(result, out)
        draw_curves({name: [folder] for name, folder in folders.items()}, out / CURVES)
    passed = result.verdict != "different"
    options.end(result, as_json, lambda: print_result(result, folders), passed)


def _own_config(
    base: str | None, settings: list[str], classes: str | None, data: Path | None, out: Path
) -> str:
    """Writes the config of own classes and settings to the folder of the run; its absolute path.

    The file is small and names what was asked for, so that it may stay where the run is refused.
    Raises InputError without a config, and as `options.with_classes` does.
    """
    from maskformer.model import own_config, zoo
    from maskformer.model.detectron2_config import entry_of, read
    from parity.records import write_json

    if base is None:
        raise InputError(
            "--classes and --set need a config to change",
            "neither --config nor --config-file is given",
            "to resume leave them out: the run's folder has its config",
        )
    if settings and not zoo.is_file(base):
        raise InputError(
            f"--set is given with --config {base}", "it belongs to --config-file X.yaml"
        )
    entry = read(base, settings) if settings else entry_of(base)
    entry = options.with_classes(entry, classes, data)
    path = out / OWN_CONFIG
    content = own_config.own_config(base, entry.classes, settings)
    if path.is_file() and read_json(path) != content:
        raise InputError(
            f"{path} says something else", "the folder holds a run of it", "choose another folder"
        )
    return str(write_json(content, out, OWN_CONFIG).resolve())


def _over_seeds(request: "Request", count: int, margin: float, as_json: bool) -> NoReturn:
    """Trains, compares, tells and ends the verb; 0 where the sides are shown to be equivalent."""
    from parity.records import write_json
    from replication.runs.curves import draw_curves
    from replication.runs.seeds import RESULT, train_seeds

    if len(request.sides) != 2:
        raise InputError(
            f"--seeds {count} compares two sides, --side is {request.sides[0]}",
            "one side has nothing to be equivalent to",
            "Give --side both.",
        )
    first = request.given.get("seed", 0)
    seeds = range(first, first + count)
    result = train_seeds(request, seeds, margin)
    write_json(result.to_json(), request.out, RESULT)
    draw_curves(
        {name: [request.out / f"seed_{seed}" / name for seed in seeds] for name in request.sides},
        request.out / CURVES,
    )
    passed = result.verdict == "equivalent"
    options.end(result, as_json, lambda: _print_seeds(result, request.out), passed)


def _print_seeds(result: "SeedsResult", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    sides = list(next(iter(result.seeds.values())).sides)
    table = Table(title=f"{result.config}, {result.steps} steps: panoptic quality")
    for name in ("seed", *sides, result.of, "95 % interval of paired images", "loss, smoothed"):
        table.add_column(name, justify="right")
    for seed, one in result.seeds.items():
        values = [one.sides[side].scores["panoptic_quality"] for side in sides]
        images = one.comparison.intervals.get("panoptic_quality")
        bounds = f"{100 * images.low:+.2f} to {100 * images.high:+.2f}" if images else "none"
        gap = one.comparison.losses["loss"].smoothed_gap
        difference = f"{values[1] - values[0]:+.2f}"
        table.add_row(seed, *map(_number, values), difference, bounds, f"{gap:.2g}")
    Console(markup=False).print(table)
    for name, found in result.scores.items():
        interval, control = found.interval, found.between_seeds
        print(
            f"{name}, {result.of}: {found.mean:+.2f} points over {len(result.seeds)} "
            f"seeds, standard deviation {found.standard_deviation:.2f}, "
            f"{100 * interval.confidence:.0f} % interval [{interval.low:+.2f}, "
            f"{interval.high:+.2f}]; two seeds of one side differ by "
            + ", ".join(f"{one.mean:.2f} ({side})" for side, one in control.items())
        )
    print(
        f"equivalence within {result.margin:g} points: p = {result.p_value:.2g}, "
        f"level {result.alpha:g}"
    )
    print(f"curves: {out / CURVES}")
    print(f"verdict: {result.verdict}")


def print_result(result: "RunsResult", folders: dict[str, Path]) -> None:
    """Prints the scores and, of two runs, how far losses and scores are apart."""
    from rich.console import Console

    console = Console(markup=False)
    console.print(_scores(result))
    if result.comparison is not None:
        console.print(_losses(result.comparison))
        for line in summary(result.comparison):
            print(line)
        print(f"verdict: {result.verdict}")
    for name, folder in folders.items():
        print(f"{name}: {folder}")


def summary(comparison: "RunComparison") -> list[str]:
    """What two runs share, and their scores' differences with intervals, a line each."""
    from maskformer.metrics.statistics import Missing

    lines = []
    if not comparison.same_data:
        lines.append("warning: the two runs were trained on different data")
    for name, one in comparison.scores.items():
        if isinstance(one, Missing):
            lines.append(f"{name}, {comparison.of}: no interval ({one.reason})")
            continue
        interval = one.interval
        lines.append(
            f"{name}, {comparison.of}: {100 * interval.value:+.2f} points, "
            f"{100 * interval.confidence:.0f} % interval of paired images "
            f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"
        )
    return lines


def _scores(result: "RunsResult") -> "Table":
    from rich.table import Table

    table = Table(title=f"{result.config}, {result.steps} steps", caption="percent")
    table.add_column("score")
    for name in result.sides:
        table.add_column(name, justify="right")
    sides = list(result.sides.values())
    for name in sides[0].scores:
        table.add_row(name, *(_number(one.scores.get(name)) for one in sides))
    for name, digits in (("seconds", 0), ("step_seconds", 3), ("data_wait_share", 3)):
        table.add_row(name, *(f"{getattr(one, name):.{digits}f}" for one in sides))
    return table


def _losses(comparison: "RunComparison") -> "Table":
    from rich.table import Table

    table = Table(
        title="Loss curves",
        caption="gap: |difference| / mean; smoothed: medians over a twentieth of the run",
    )
    for name in ("loss", "first step", "median gap", "largest gap", "smoothed", "end, each side"):
        table.add_column(name, justify="left" if name == "loss" else "right")
    for name, one in comparison.losses.items():
        gaps = (
            getattr(one, key) for key in ("first_gap", "median_gap", "largest_gap", "smoothed_gap")
        )
        ends = " ".join(f"{value:.4g}" for value in one.end)
        table.add_row(name, *(f"{gap:.2g}" for gap in gaps), ends)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

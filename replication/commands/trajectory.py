"""`parity trajectory`: trains both models side by side and measures how far they come apart."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from parity.errors import InputError
from replication.commands import options

if TYPE_CHECKING:
    from parity.training.trajectory import Update
    from replication.training.trajectory import Request
    from reports.chapters.trajectory import TrajectoryResult


def summary(result: "TrajectoryResult") -> str:
    """The result in a few lines that a person reads on a terminal."""
    from replication.training.trajectory import MEASURES, companion_title

    other = result.beside
    lines = [
        f"verdict: {result.verdict} ({len(result.steps)} steps of {result.config}, "
        f"{result.dtype}, base learning rate {result.base_lr:g}, batch {result.batch} of "
        f"{result.size}, TensorFlow {result.execution})"
    ]
    for one in result.claims:
        at = "" if one.step is None else f" at step {one.step}"
        lines.append(f"{one.verdict}: {one.title}: {one.value:.3g}{at}, limit {one.limit:g}")
    lines.append(f"worst step, TensorFlow | {companion_title(other)}:")
    for measure, title in MEASURES.items():
        figures = [result.worst[measure][name] for name in ("port", other)]
        text = " | ".join(f"{one.value:.3g} (step {one.step})" for one in figures)
        lines.append(f"  {title}: {text}")
    first, last = result.steps[0], result.steps[-1]
    lines.append(f"loss of the reference: {first.total:.6g} first, {last.total:.6g} last")
    if result.dtype == "float32":
        ours, theirs = (getattr(last, name).weight_gap for name in ("port", other))
        faster = "faster" if ours > theirs else "no faster"
        lines.append(
            f"TensorFlow strays {faster} than PyTorch: its weights end "
            f"{ours / theirs if theirs else math.inf:.2f} times as far from float64"
        )
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Adds `parity trajectory`."""

    @app.command(
        name="trajectory",
        epilog="Example: parity trajectory --config tiny --steps 100 --dtype float64",
    )
    def command(
        config: options.ConfigOrTiny = None,
        config_file: options.ConfigFile = None,
        steps: options.Steps = 100,
        dtype: options.Dtype = "float64",
        batch: options.Batch = 1,
        size: options.Size = "64x96",
        lr: Annotated[
            str, typer.Option(help="Base learning rate, or `published`.", metavar="X|published")
        ] = "published",
        weights: options.Weights = "seeded:0",
        execution: options.Execution = "graph",
        out: options.Out = None,
        as_json: options.AsJson = False,
    ) -> None:
        """Train both models from the same weights on the same batches and measure the gaps.

        Exit status: 0 they stay together, 1 they do not, 2 wrong usage or input.
        """
        from maskformer.family import family_of
        from maskformer.model.detectron2_config import entry_of
        from replication.training.trajectory import (
            DTYPES,
            EXECUTIONS,
            Request,
            solver_for,
            trajectory,
        )

        options.one_of("--dtype", dtype, DTYPES)
        options.one_of("--execution", execution, EXECUTIONS)
        options.at_least_one("--steps", steps)
        options.at_least_one("--batch", batch)
        config = options.config_text(config, config_file, options.TINY)
        model = entry_of(config).model
        if family_of(model).matching(model) is None:
            raise InputError(
                f"{config} has a per-pixel head",
                "a trajectory compares matchings",
                "name a configuration with a mask head, such as tiny",
            )
        request = Request(
            config=model,
            solver=solver_for(config, lr),
            steps=steps,
            dtype=dtype,
            batch=batch,
            size=size,
            weights=weights,
            execution=execution,
            command=options.command_line(),
        )
        with _progress(request) as advance:
            result = trajectory(request, advance)
        options.keep(result, out, "trajectory.json")
        options.end(result, as_json, lambda: summary(result), result.verdict == "holds")


@contextlib.contextmanager
def _progress(request: "Request") -> "Iterator[Callable[[Update], None]]":
    """A bar of updates on a terminal, else a line for every tenth of them, on standard error."""
    from replication.console.progress import bar_of
    from replication.training.trajectory import companion

    other = companion(request.dtype)
    with bar_of("building both models", request.steps) as (bar, task):
        told = not bar.console.is_terminal
        if told:
            print("building both models ...", file=sys.stderr, flush=True)

        def advance(row: "Update") -> None:
            done, beside = row.step + 1, getattr(row, other)
            text = f"loss gap {row.port.loss_gap:.1e}, {other} {beside.loss_gap:.1e}"
            bar.update(task, completed=done, description=text)
            tenth = max(1, request.steps // 10)
            if told and (done % tenth == 0 or done == 1):
                print(f"[{done}/{request.steps}] {text}", file=sys.stderr, flush=True)

        yield advance

"""`parity initial-weights`: compares what both trainers draw before the first step."""

from typing import TYPE_CHECKING, Annotated

import typer

from parity.errors import InputError
from replication.commands import options

if TYPE_CHECKING:
    from reports.chapters.initial_weights import InitialWeightsResult


def summary(result: "InitialWeightsResult") -> str:
    """The result in a few lines that a person reads on a terminal."""
    lines = []
    for row in result.configurations:
        lines.append(f"{row.verdict}: {row.config}, {row.parameters} parameters")
        if row.verdict != "holds":
            lines += [f"  {one.key}: {one.cause}" for one in row.shown]
    return "\n".join([*lines, f"{result.seeds} draws of each side: {result.verdict}"])


def register(app: typer.Typer) -> None:
    """Adds `parity initial-weights`."""

    @app.command(name="initial-weights", epilog="Example: parity initial-weights --config tiny")
    def command(
        config: options.ConfigOrTiny = None,
        config_file: options.ConfigFile = None,
        every: Annotated[
            bool, typer.Option("--all", help="Every configuration of the zoo, one by one.")
        ] = False,
        seeds: Annotated[int, typer.Option(help="Draws of each side, at least 2.")] = 4,
        out: options.Out = None,
        as_json: options.AsJson = False,
    ) -> None:
        """Compare the distributions that both trainers draw their first weights from.

        Exit status: 0 the same ones, 1 others, 2 wrong usage or input.
        """
        from maskformer.model import zoo
        from replication.training.initial_weights import result

        if seeds < 2:
            raise InputError(
                f"--seeds is {seeds}",
                "one draw cannot tell whether a parameter is drawn",
                "give at least 2",
            )
        if every and (config or config_file):
            raise InputError("--all takes every configuration", "leave --config out")
        chosen = [options.config_text(config, config_file, options.TINY)]
        names = list(zoo.names()) if every else chosen
        done = iter(range(1, len(names) + 1))
        found = result(
            names,
            seeds,
            options.command_line(),
            lambda text: options.say(f"[{next(done)}/{len(names)}] {text}"),
        )
        options.keep(found, out, "initial_weights.json")
        options.end(found, as_json, lambda: summary(found), found.verdict == "holds")

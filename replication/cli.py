"""The command line `parity`: one module per verb, heavy imports only when a verb runs."""

import sys
from importlib.metadata import metadata
from typing import Annotated

import typer

from maskformer.errors import InputError
from replication import (
    audit,
    compare,
    convert,
    data,
    demo,
    evaluate,
    explain,
    faults,
    import_run,
    inspect,
    predict,
    preflight,
    report,
    train,
    trajectory,
    verify,
    zoo,
)
from replication.progress import without_notes

app = typer.Typer(
    name="parity",
    help="Prove that two implementations of a model compute the same function, layer by layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        installed = metadata("maskformer-replication")
        print(installed["Name"], installed["Version"])
        raise typer.Exit


@app.callback()
def parity(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print name and version.", callback=_print_version),
    ] = False,
) -> None:
    """Makes every verb a subcommand, also where there is only one."""


for verb in (
    demo,
    audit,
    trajectory,
    zoo,
    inspect,
    convert,
    data,
    evaluate,
    predict,
    preflight,
    faults,
    explain,
    train,
    import_run,
    report,
    verify,
    compare,
):
    verb.register(app)


def main() -> None:
    """Runs `parity`: exit 0 the claim holds, 1 it does not, 2 wrong usage or input."""
    without_notes()
    try:
        app(prog_name="parity")
    except InputError as error:
        print(f"parity: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

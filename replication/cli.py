"""The command line `parity`: one module per verb, heavy imports only when a verb runs."""

import sys
from typing import Annotated, NoReturn

import typer

from parity import __version__
from parity.errors import InputError
from replication.commands import (
    audit,
    compare,
    convert,
    data,
    demo,
    evaluate,
    explain,
    faults,
    import_run,
    initial_weights,
    inspect,
    predict,
    preflight,
    report,
    train,
    trajectory,
    verify,
    zoo,
)
from replication.console.progress import without_notes
from replication.layers import layer_error

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
        print(f"parity {__version__}")
        raise typer.Exit


@app.callback()
def parity(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Makes every verb a subcommand, also where there is only one."""


for verb in (
    demo,
    audit,
    trajectory,
    initial_weights,
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
        _refuse(error)
    except ModuleNotFoundError as error:
        if (missing := layer_error(error)) is None:
            raise
        _refuse(missing)


def _refuse(error: InputError) -> NoReturn:
    print(f"parity: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

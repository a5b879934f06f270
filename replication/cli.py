"""The command line `parity`: one module per verb, heavy imports only when a verb runs."""

import sys
from typing import Annotated, NoReturn

import typer

from parity import __version__
from parity.errors import InputError
from replication.commands import (
    audit,
    capture,
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
    match,
    new_pair,
    predict,
    preflight,
    report,
    score,
    train,
    trajectory,
    verify,
    zoo,
)
from replication.console import endings
from replication.console.progress import without_notes
from replication.console.reference import complete_help
from replication.console.signals import Terminated, ended_by_signals

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
    capture,
    match,
    new_pair,
    trajectory,
    initial_weights,
    zoo,
    inspect,
    convert,
    data,
    evaluate,
    predict,
    score,
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
complete_help(app)


def main() -> None:
    """Runs `parity`, and ends with a status that says which of these it was.

    0 the claim holds, 1 it does not, 2 wrong usage or input, 3 the program itself failed, 130 it
    was interrupted, 143 or 129 so by SIGTERM or SIGHUP.
    """
    without_notes()
    try:
        with ended_by_signals():
            app(prog_name="parity")
    except SystemExit as end:
        # A verb that is interrupted and says itself what it keeps ends without this cause.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            _end(endings.interrupted(sys.argv), endings.INTERRUPTED)
        raise
    except (KeyboardInterrupt, Terminated) as error:
        _end(endings.interrupted(sys.argv), endings.status_of(error))
    except InputError as error:
        _end(error, endings.REFUSED)
    except Exception as error:
        known = endings.of_input(error)
        if known is None:
            _end(endings.failed(error, sys.argv), endings.FAILED)
        _end(known, endings.REFUSED)


def _end(said: InputError, status: int) -> NoReturn:
    print(f"parity: {said}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()

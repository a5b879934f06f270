"""The command line `parity`: one module per verb, heavy imports only when a verb runs."""

import errno
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
from replication.console.progress import without_notes
from replication.layers import layer_error

_OF_PLACES = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR),
        *(errno.EISDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP),
    )
)
"""What a full disk or a folder that cannot be written says, wherever it was noticed."""

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


def main() -> None:
    """Runs `parity`: exit 0 the claim holds, 1 it does not, 2 wrong usage or input."""
    without_notes()
    try:
        app(prog_name="parity")
    except InputError as error:
        _refuse(error)
    except OSError as error:
        if error.errno not in _OF_PLACES:
            raise
        _refuse(
            InputError(
                f"{error.filename or 'a file'} cannot be used",
                f"{type(error).__name__}: {error.strerror}",
                "choose another folder, or free some space",
            )
        )
    except ModuleNotFoundError as error:
        if (missing := layer_error(error)) is None:
            raise
        _refuse(missing)


def _refuse(error: InputError) -> NoReturn:
    print(f"parity: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

"""`parity match`: what of two models belongs together, found without a map and printed as one."""

from typing import Annotated, Any

import typer

from replication.commands import options

PairOption = Annotated[
    str, typer.Argument(help="FILE.py:name or module:name of a parity.Pair.", metavar="PAIR")
]


def register(app: typer.Typer) -> None:
    """Adds `parity match`."""

    @app.command(name="match", epilog="Example: parity match compare.py:pair")
    def command(pair: PairOption, as_json: options.AsJson = False) -> None:
        """Find which modules, tensors and weights of two models belong together.

        It is printed as Python, to be kept and edited: each line with its evidence, then what could
        not be decided.

        Exit status: 0 all is decided, 1 something is asked, 2 wrong usage or input.
        """
        import parity
        from replication.sides.pair_source import load_pair

        found = parity.match(load_pair(pair))
        options.end(as_data(found), as_json, lambda: str(found), not found.questions, name="match")


def as_data(found: Any) -> dict[str, Any]:
    """The match as strict JSON."""
    return {
        "shared": found.shared,
        "modules": [_line(one) for one in found.modules],
        "weights": [_line(one) for one in found.tensors],
        "questions": [str(one) for one in found.questions],
        "coverage": None if found.coverage is None else str(found.coverage),
        "python": str(found),
    }


def _line(one: Any) -> dict[str, Any]:
    return {
        "port": one.ours,
        "reference": one.theirs,
        "evidence": one.evidence,
        "sure": one.sure,
    }

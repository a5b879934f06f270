"""`parity new-pair`: a commented file that says which two models are compared, and on what."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from parity.errors import InputError
from replication.commands import options

TEXT = '''"""{reference} beside {port}.

Compare them with `parity audit --pair {file}:pair`; `parity match {file}:pair` shows what of both
belongs together.
"""

import numpy as np
{imports}

import parity


def pair():
    # The model that is right, with its weights: biases of zero and norms of one hide mistakes.
    reference = {made}

    # What it is called with: positional arrays, or a dict of named ones. Give two of a batch, sides
    # that differ, and no constants. {takes}
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 48)).astype(np.float32)

    # The port is built by a function, once for each precision. It keeps weights that it has from
    # the reference, as a converter gives them; weights of its own are replaced by the reference's.
    def port():
        return {built}

    # Where something cannot be paired for certain, the audit asks: see `parity.Names`, `Weights`.
    # Images turn from NCHW to NHWC by themselves; give `port_inputs` where the port's differ.
    return parity.Pair(reference, port, (images,))
'''


def register(app: typer.Typer) -> None:
    """Adds `parity new-pair`."""

    @app.command(
        name="new-pair", epilog="Example: parity new-pair models:Net port.models:Net --file pair.py"
    )
    def command(
        reference: Annotated[
            str, typer.Argument(help="Class or function of the reference.", metavar="REFERENCE")
        ],
        port: Annotated[str, typer.Argument(help="The port's.", metavar="PORT")],
        out: Annotated[Path, typer.Option("--file", help="File to write.", metavar="FILE")] = Path(
            "pair.py"
        ),
        as_json: options.AsJson = False,
    ) -> None:
        """Write a commented file that pairs two models, given as module:Class or FILE.py:Class.

        Exit status: 0 written, 2 wrong usage or input.
        """
        from parity.files import replacing
        from replication.sides.pair_source import load

        if out.exists():
            raise InputError(
                f"{out} exists already", "it is not overwritten", "give another --file"
            )
        text = TEXT.format(
            reference=reference,
            port=port,
            file=out,
            imports="\n".join([_import(reference, "Reference"), _import(port, "Port")]),
            made=_made(load(reference), "Reference") + _mode(load(reference)),
            built=_made(load(port), "Port"),
            takes=_takes(load(reference)),
        )
        with replacing(out) as path:
            path.write_text(text, encoding="utf-8")
        told = f"{out}: complete it, then run parity audit --pair {out}:pair"
        made = {"file": str(out), "pair": f"{out}:pair"}
        options.end(made, as_json, lambda: told, name="pair-file")


def _import(source: str, name: str) -> str:
    place, _, kind = source.rpartition(":")
    module = Path(place).stem if place.endswith(".py") else place
    return f"from {module} import {kind} as {name}"


def _made(kind: Any, name: str) -> str:
    """The call that makes a model, with a line for what must be given."""
    needed = [
        one.name
        for one in inspect.signature(kind).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    return f"{name}({', '.join(f'{one}=...' for one in needed)})"


def _mode(kind: Any) -> str:
    return ".eval()" if hasattr(kind, "eval") else ""


def _takes(kind: Any) -> str:
    """What a call of the model takes, where its class says it."""
    forward = getattr(kind, "forward", None) or getattr(kind, "call", None)
    if forward is None:
        return ""
    names = [one for one in inspect.signature(forward).parameters if one != "self"]
    return f"It takes {', '.join(names)}."

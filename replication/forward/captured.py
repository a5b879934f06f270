"""`parity capture` and audits of what it kept: our pair, of which one side runs elsewhere."""

import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from parity.errors import InputError
from parity.files import output_folder
from parity.steps import Steps
from replication.forward.run import Request, prepare

if TYPE_CHECKING:
    from parity.auditing.pair import Pair
    from parity.auditing.result import AuditResult
    from parity.captures.capturing import Asked
    from parity.captures.judging import Folder

PACKAGES = {"port": "tensorflow", "reference": "torch"}
LAYERS = {"port": "tf", "reference": "torch"}


@dataclass(frozen=True)
class Source:
    """What is captured: a pair, and what is asked of it."""

    pair: "Pair"
    asked: "Asked"


def of_request(request: Request, side: str, asked: "Asked", steps: Steps) -> Source:
    """The pair of a request, of which `side` is captured.

    Raises InputError for another reference than the built-in one.
    """
    if request.reference != "builtin":
        raise InputError(
            f"--reference is {request.reference}",
            "its modules have other names than the port's, which are found from both",
            "leave it out; audit it where both are installed",
        )
    case = prepare(request, steps)
    known = ("config", "config_sha256", "reference")
    facts = {name: case.options.provenance[name] for name in known}
    training = None
    if request.train is not None:
        from replication.sides.side import PORT, REFERENCE, implementation
        from replication.training.captured import StepCase

        step = StepCase(request.config, request.train, case.batch, case.sizes)
        of_model = step.of(side, implementation(PORT if side == "port" else REFERENCE))
        training = lambda built, inputs: of_model(built.model)  # noqa: E731
    return Source(
        case.pair,
        replace(
            asked,
            training=training,
            facts={**facts, **asked.facts},
            decided=case.options.decided,
            inputs=case.options.inputs,
        ),
    )


def set_threads(side: str, count: int | None, named: bool) -> None:
    """Lets the framework of one side use `count` threads, and does not ask for the other.

    That of a `named` pair's side is known when its model is built, which is too late: frameworks
    that are loaded later are told by the environment.
    """
    if count is None:
        return
    from replication.process.threads import THREADS
    from replication.sides.side import IMPLEMENTATIONS, PORT, REFERENCE, implementation

    if not named:
        implementation(PORT if side == "port" else REFERENCE).set_threads(count)
        return
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    for one in IMPLEMENTATIONS.values():
        if one.package in sys.modules:
            one.set_threads(count)


def captured_side(source: Source, side: str, folder: Path, steps: Steps) -> Path:
    """Captures one side; the folder."""
    from parity.captures.capturing import capture_with

    return capture_with(source.pair, side, folder, source.asked, steps)


def opened(folders: "dict[str, Path]") -> "dict[str, Folder]":
    """Captured sides by name, each whole. Raises InputError as `parity.captures.judging.opened`."""
    from parity.captures import judging

    return {side: judging.opened(folder, side) for side, folder in folders.items()}


def audited(
    sides: "dict[str, Folder]", source: Source | None, command: str, steps: Steps
) -> "AuditResult":
    """The audit of captured sides by name; `source` makes one that lacks.

    What is made for that is kept for no longer than the audit. Raises InputError, before it is
    made, where it would be no partner.
    """
    from parity.captures.capturing import announced
    from parity.captures.judging import judged
    from parity.captures.kept import both_trained, check_partners

    if len(sides) == 2:
        return judged(sides["reference"], sides["port"], command, steps)
    (other,) = {"reference", "port"} - sides.keys()
    told = {side: found.capture for side, found in sides.items()}
    told[other] = announced(source.pair, other, source.asked)
    check_partners(told["reference"], told["port"])
    trained = {side: found.capture.step is not None for side, found in sides.items()}
    both_trained(**trained, **{other: source.asked.training is not None})
    with output_folder(None) as place:
        made = captured_side(source, other, place / other, steps)
        sides = {**sides, **opened({other: made})}
        return judged(sides["reference"], sides["port"], command, steps)


def plan(side: str, words: list[str], files: list[Path], named: bool) -> str:
    """A shell script that captures one side where only its framework is installed.

    Args:
        words: of `parity capture`, without --out.
        files: what these words name, which has to be there.
        named: whether they name a pair, whose own file says of which framework each side is.
    """
    from parity import __version__
    from parity.provenance import git_state

    package = PACKAGES[side]
    state = git_state(Path(__file__).resolve().parent) or {}
    commit = state.get("commit") or "unknown"
    of_pair = "what this side of the pair imports"
    needed = of_pair if named else f"{package} and what the layer `{LAYERS[side]}` lists"
    lines = [
        "#!/bin/sh",
        f"# Captures the {side} alone, to be judged where the other side is:",
        f"#     parity audit ... --{side}-trace FOLDER",
        "# Run it in a clone of this repository, in an environment that has",
        f"# {needed}:",
        "#     sh SCRIPT [FOLDER]",
        f"# Written by version {__version__}, commit {commit}; the other version is refused.",
        "set -eu",
        'PYTHON="${PYTHON:-python}"',
        'OUT="${1:-captured_' + side + '}"',
    ]
    if not named:
        lines += [
            f"\"$PYTHON\" -c 'import {package}' || {{",
            f'    echo "{package} is not installed for $PYTHON: set PYTHON to one that has it" >&2',
            "    exit 2",
            "}",
        ]
    for file in files:
        told = f"{file} is not here: copy it to this place, under this name"
        lines.append(
            f"test -e {shlex.quote(str(file))} || {{ echo {shlex.quote(told)} >&2; exit 2; }}"
        )
    lines += [
        f'"$PYTHON" -m replication.cli capture {shlex.join(words)} --out "$OUT"',
        'echo "captured: $OUT"',
    ]
    return "\n".join(lines) + "\n"

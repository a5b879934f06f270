"""`parity capture`: one side of a pair, run where its framework is, and kept to be judged."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from parity.errors import InputError
from parity.steps import Steps
from replication.commands import options
from replication.forward.executions import EXECUTIONS

if TYPE_CHECKING:
    from parity.auditing.result import AuditResult
    from parity.captures.capturing import Asked
    from replication.forward.captured import Source

BOTH = "float64,float32"
EVERY = ",".join(EXECUTIONS)


def register(app: typer.Typer) -> None:
    """Adds `parity capture`."""
    app.command(
        name="capture",
        epilog="Example: parity capture --config tiny --side port --size 64x96 --out runs/port",
    )(command)


def command(
    config: options.ConfigOrTiny = None,
    config_file: options.ConfigFile = None,
    pair: options.OtherPair = None,
    side: Annotated[str, typer.Option(help="port or reference.")] = "port",
    weights: options.Weights = "seeded:0",
    images: options.Images = None,
    size: options.Size = None,
    batch: options.Batch = 1,
    short_side: options.ShortSide = None,
    precision: Annotated[str, typer.Option(help="float64, float32, or both by commas.")] = BOTH,
    execution: options.Execution = EVERY,
    device: Annotated[
        str, typer.Option(help="cpu, gpu or tpu, where float32 runs; float64 runs on the cpu.")
    ] = "cpu",
    train: Annotated[
        bool, typer.Option("--train", help="Also losses, gradients and an update, in float64.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Write a shell script that does this elsewhere, to --out."),
    ] = False,
    threads: options.Threads = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Run one side where only its framework is, and keep every tensor in the folder --out.

    `parity audit --port-trace DIR` or `--reference-trace DIR` judges it where the other side is;
    with both, where neither is. With --plan, --out is a script that captures on another machine.

    Exit status: 0 captured, 2 wrong usage or input.
    """
    from parity.captures.capturing import DEVICES, PRECISIONS, SIDES, Asked
    from replication.forward import captured

    for option, value, known in (("--side", side, SIDES), ("--device", device, DEVICES)):
        options.one_of(option, value, known)
    precisions = tuple(part.strip() for part in precision.split(","))
    for one in precisions:
        options.one_of("--precision", one, PRECISIONS)
    if out is None:
        raise InputError(
            "nothing says where to keep it",
            "--out is the new folder, or with --plan the script",
            "for example --out runs/port",
        )
    if plan:
        _plan(side, images or [], weights, out, as_json)
    described = Described(
        config, config_file, pair, weights, images, size, batch, short_side, train
    )
    quiet = Steps(quiet=as_json)
    captured.set_threads(side, threads)
    source = described.source(
        side, Asked(precisions, described.executions(execution), device), quiet
    )
    folder = captured.captured_side(source, side, out, quiet)
    result = {"side": side, "folder": str(folder), "precisions": precisions, "device": device}
    options.end(result, as_json, lambda: f"captured: {folder}", name="captured")


@dataclass(frozen=True)
class Described:
    """What the options say of a pair: one that somebody names, or a configuration's."""

    config: str | None
    config_file: Path | None
    pair: str | None
    weights: str
    images: list[Path] | None
    size: str | None
    batch: int | None
    short_side: int | None
    train: bool = False

    @property
    def given(self) -> list[str]:
        """The options that were given."""
        named = {
            "--config": self.config,
            "--config-file": self.config_file,
            "--pair": self.pair,
            "--weights": self.weights != "seeded:0",
            "--images": self.images,
            "--size": self.size,
            "--batch": self.batch != 1,
            "--short-side": self.short_side,
            "--train": self.train,
        }
        return [name for name, value in named.items() if value]

    def executions(self, text: str) -> tuple[str, ...] | None:
        """Those of --execution; None for all that a named pair's framework has."""
        if self.pair is not None and text == EVERY:
            return None
        return tuple(part.strip() for part in text.split(","))

    def source(self, side: str, asked: "Asked", steps: Steps) -> "Source":
        """The pair, of which `side` is captured, with what is asked of it."""
        from replication.forward import captured

        if self.pair is not None:
            from parity.captures.pairs import training_of
            from replication.sides.pair_source import load_pair, load_training

            excluded = [name for name in self.given if name not in ("--pair", "--train")]
            if excluded:
                raise InputError(
                    f"--pair does not go with {', '.join(excluded)}",
                    "models, weights and inputs are those of the pair",
                    "leave them out",
                )
            pair = load_pair(self.pair)
            if self.train:
                asked = replace(asked, training=training_of(pair, load_training(self.pair), side))
            return captured.Source(pair, replace(asked, title=self.pair))
        from replication.forward.run import Request

        entry = options.resolved(self.config, self.config_file, usual=options.TINY)
        request = Request(
            config=entry.model,
            train=entry.solver if self.train else None,
            weights=self.weights,
            images=tuple(self.images or ()),
            size=self.size or "128x160",
            batch=self.batch,
            short_side=self.short_side,
            command=options.command_line(),
        )
        return captured.of_request(request, side, asked, steps)


def audit_captured(
    folders: Mapping[str, Path | None],
    described: Described,
    excluded: list[str],
    execution: str,
    ending: tuple[Path | None, bool, Callable[["AuditResult"], str]],
) -> NoReturn:
    """Audits what was captured, and ends the verb `parity audit`.

    Args:
        folders: of "reference" and "port", None where a side was not captured.
        described: the other side, where there is one.
        excluded: options that were given and cannot be followed.
        execution: how a port is run that was not captured.
        ending: the folder of --out, whether to print JSON, and what tells a result to people.
    """
    from parity.captures.capturing import Asked
    from replication.forward import captured

    out, as_json, tell = ending
    found = {name: folder for name, folder in folders.items() if folder is not None}
    if len(found) == 2:
        excluded = [*excluded, *described.given]
    if excluded:
        raise InputError(
            f"a captured side does not go with {', '.join(excluded)}",
            "it does not run again, and has its own weights and inputs",
            "leave them out",
        )
    steps = Steps(quiet=as_json)
    source = None
    if len(found) == 1:
        (side,) = {"reference", "port"} - found.keys()
        asked = Asked(executions=described.executions(execution))
        source = described.source(side, asked, steps)
    result = captured.audited(found, source, options.command_line(), steps)
    options.keep(result, out, "audit.json")
    options.end(result, as_json, lambda: tell(result), result.verdict == "equal")


def _plan(side: str, images: list[Path], weights: str, out: Path, as_json: bool) -> None:
    """Writes the script, and ends the verb."""
    from parity.files import replacing
    from replication.forward import captured

    words = _without(sys.argv[2:], {"--plan": 0, "--out": 1, "--json": 0})
    files = [*images, *([] if weights.startswith("seeded:") else [Path(weights)])]
    text = captured.plan(side, words, files)
    with replacing(out) as place:
        place.write_text(text, encoding="utf-8")
        place.chmod(0o755)
    told = {"script": str(out), "side": side}
    options.end(told, as_json, lambda: f"script: {out}", name="capture-plan")


def _without(words: list[str], options_taken: dict[str, int]) -> list[str]:
    """The words of a command line without some options and as many values of each."""
    kept, index = [], 0
    while index < len(words):
        name, equals, _ = words[index].partition("=")
        if name in options_taken:
            index += 1 if equals else 1 + options_taken[name]
        else:
            kept.append(words[index])
            index += 1
    return kept

"""`parity capture`: one side of a pair, run where its framework is, and kept to be judged."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from parity.errors import InputError
from parity.steps import Steps
from replication.commands import options
from replication.forward.executions import EXECUTIONS

if TYPE_CHECKING:
    from maskformer.model.zoo import Entry
    from parity.auditing.result import AuditResult
    from parity.captures.capturing import Asked
    from replication.forward.captured import Source

BOTH = "float64,float32"
EVERY = ",".join(EXECUTIONS)
ALONE = EXECUTIONS[:1]
"""How a reference runs."""
DRAWN = "128x160"
"""The size of synthetic images where none is given."""


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
    out: options.FileOrFolder = None,
    as_json: options.AsJson = False,
) -> None:
    """Run one side where only its framework is, and keep every tensor in the folder --out.

    `parity audit --port-trace DIR` or `--reference-trace DIR` judges it where the other side is;
    with both, where neither is. With --plan, --out is a script that captures on another machine.

    Exit status: 0 captured, 2 wrong usage or input.
    """
    from parity.captures.capturing import DEVICES, PRECISIONS, SIDES, Asked, check_asked
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
    if out.exists():
        raise InputError(f"{out} exists already", "it is not overwritten", "give another --out")
    if threads is not None:
        options.at_least_one("--threads", threads)
    described = Described(
        config, config_file, pair, weights, images, size, batch, short_side, train
    )
    described.check()
    asked = Asked(precisions, described.executions(side, execution, precisions), device)
    check_asked(side, asked, trained=train)
    if plan:
        _plan(side, described, out, as_json)
    quiet = Steps(quiet=as_json)
    captured.set_threads(side, threads, named=pair is not None)
    folder = captured.captured_side(described.source(side, asked, quiet), side, out, quiet)
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
            "--size": self.size is not None,
            "--batch": self.batch != 1,
            "--short-side": self.short_side is not None,
            "--train": self.train,
        }
        return [name for name, value in named.items() if value]

    @property
    def files(self) -> list[Path]:
        """The files that the options name."""
        module = self.pair.rpartition(":")[0] if self.pair is not None else ""
        named = [self.config_file, Path(module) if module.endswith(".py") else None]
        own = None if self.weights.startswith("seeded:") else Path(self.weights)
        return [one for one in (*named, *(self.images or ()), own) if one is not None]

    @property
    def drawn(self) -> str:
        """The size of synthetic images."""
        return DRAWN if self.size is None else self.size

    def check(self) -> None:
        """Raises InputError for options that nothing would follow, before anything is loaded."""
        if self.pair is not None:
            self._check_pair(self.pair)
            return
        options.check_images(self.given)
        from maskformer.data.images import parse_size

        self._entry()
        options.at_least_one("--batch", self.batch)
        options.at_least_one("--short-side", 1 if self.short_side is None else self.short_side)
        for one in self.drawn.split(","):
            parse_size(one)

    def _check_pair(self, pair: str) -> None:
        excluded = [name for name in self.given if name not in ("--pair", "--train")]
        why = "models, weights and inputs are those of the pair"
        options.alone("--pair", excluded, why, "leave them out")
        place, _, name = pair.rpartition(":")
        lacking = place.endswith(".py") and not Path(place).is_file()
        if lacking or not (place and name):
            raise InputError(
                f"--pair {pair} names nothing",
                f"{place} is no file" if lacking else "expected FILE.py:name or module:name",
                "for example --pair port/compare.py:pair",
            )

    def _entry(self) -> "Entry":
        return options.resolved(self.config, self.config_file, usual=options.TINY)

    def executions(self, side: str, text: str, precisions: Sequence[str]) -> tuple[str, ...] | None:
        """Those of --execution; None for all that the framework has.

        Raises InputError where the side, in these precisions, does not run so.
        """
        if text == EVERY:
            return None
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        if "float32" not in precisions:
            raise InputError(
                f"--execution {text} has no effect",
                "it says how float32 runs, and float64 runs alone",
                "leave it out",
            )
        if side == "reference" and names != ALONE:
            raise InputError(
                f"--execution is {text!r}", f"a reference runs {ALONE[0]} alone", "leave it out"
            )
        if self.pair is None:
            for one in names:
                options.one_of("--execution", one, EXECUTIONS)
        return names

    def source(self, side: str, asked: "Asked", steps: Steps) -> "Source":
        """The pair, of which `side` is captured, with what is asked of it."""
        from replication.forward import captured

        if self.pair is not None:
            from parity.captures.pairs import training_of
            from replication.sides.pair_source import load_pair, load_training

            pair = load_pair(self.pair)
            if self.train:
                asked = replace(asked, training=training_of(pair, load_training(self.pair), side))
            return captured.Source(pair, replace(asked, title=self.pair))
        from replication.forward.run import Request

        entry = self._entry()
        request = Request(
            config=entry.model,
            train=entry.solver if self.train else None,
            weights=self.weights,
            images=tuple(self.images or ()),
            size=self.drawn,
            batch=self.batch,
            short_side=self.short_side,
            command=options.command_line(),
        )
        return captured.of_request(request, side, asked, steps)


def audit_captured(
    folders: Mapping[str, Path | None],
    described: Described,
    excluded: list[str],
    how: tuple[str, int | None],
    ending: tuple[Path | None, bool, Callable[["AuditResult"], str]],
) -> NoReturn:
    """Audits what was captured, and ends the verb `parity audit`.

    Args:
        folders: of "reference" and "port", None where a side was not captured.
        described: the other side, where there is one.
        excluded: options that were given and cannot be followed.
        how: the values of --execution, by which a port is run that was not captured, and --threads.
        ending: the folder of --out, whether to print JSON, and what tells a result to people.
    """
    from parity.captures.capturing import PRECISIONS, Asked
    from replication.forward import captured

    out, as_json, tell = ending
    execution, threads = how
    found = {name: folder for name, folder in folders.items() if folder is not None}
    if len(found) == 2:
        more = {"--execution": execution != EVERY, "--threads": threads is not None}
        excluded = [*excluded, *described.given, *(name for name in more if more[name])]
    options.alone(
        "a captured side",
        excluded,
        "it does not run again, and has its own weights and inputs",
        "leave them out",
    )
    if threads is not None:
        options.at_least_one("--threads", threads)
    steps = Steps(quiet=as_json)
    source = None
    if len(found) == 1:
        described.check()
    sides = captured.opened(found)
    if len(found) == 1:
        (kept,) = sides.values()
        (side,) = {"reference", "port"} - sides.keys()
        # float32 of one side alone would be compared with nothing
        precisions = PRECISIONS if kept.capture.has_float32 else ("float64",)
        asked = Asked(precisions, described.executions(side, execution, precisions))
        captured.set_threads(side, threads, named=described.pair is not None)
        source = described.source(side, asked, steps)
    result = captured.audited(sides, source, options.command_line(), steps)
    options.keep(result, out, "audit.json")
    options.end(result, as_json, lambda: tell(result), result.verdict == "equal")


def _plan(side: str, described: Described, out: Path, as_json: bool) -> None:
    """Writes the script, and ends the verb."""
    from parity.files import replacing
    from replication.forward import captured

    words = _without(sys.argv[2:], {"--plan": 0, "--out": 1, "--json": 0})
    text = captured.plan(side, words, described.files, named=described.pair is not None)
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

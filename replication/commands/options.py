"""What the verbs share: options that mean the same in each, and how a result is told and kept."""

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from parity.errors import InputError, printable

if TYPE_CHECKING:
    from maskformer.model.zoo import Entry
    from parity.results import Result
    from reports.evidence import Evidence


REFUSAL = "maskformer-replication/refusal/1"
TINY = "tiny"
"""The configuration of verbs that measure the harness, or a small model, where none is named."""


def _option(kind: Any, words: str, *names: str, **more: Any) -> Any:
    return Annotated[kind, typer.Option(*names, help=words, **more)]


def check_folder(out: Path | None) -> Path | None:
    """--out as it was given. Raises InputError, before any work, where it can be no folder that
    files are written to."""
    if out is None:
        return None
    place = out
    while not os.path.lexists(place):
        place = place.parent
    try:
        with contextlib.suppress(FileNotFoundError):
            out.stat()  # a name that is too long, or below a file
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=place):
            pass
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be written",
            f"{type(error).__name__}: {error.strerror}",
            "choose another folder, or free some space",
        ) from None
    return out


_NAME = "Name of a zoo configuration, see `parity zoo`."
Config = _option(str | None, _NAME)
ConfigOrTiny = _option(str | None, _NAME, show_default=TINY)
ConfigFile = _option(
    Path | None,
    "Instead: the original's YAML, own classes in JSON, or a Hugging Face folder.",
    metavar="FILE",
)
OtherPair = _option(
    str | None,
    "FILE.py:name or module:name: any two models, a parity.Pair.",
    "--pair",
    metavar="PAIR",
)
Classes = _option(
    str | None,
    "data, or a data set's folder: its classes in place of the config's.",
    metavar="data|DIR",
)
Settings = _option(
    list[str] | None,
    "A key of the YAML with another value; may be repeated.",
    "--set",
    metavar="KEY=VALUE",
)
Weights = _option(str, "seeded:N, or a checkpoint file.")
PortWeights = _option(
    str | None,
    "The port's own checkpoint, such as a converted one; else it has --weights.",
    metavar="CHECKPOINT",
)
Ema = _option(bool, "Take the moving average of a checkpoint.", "--ema")
Key = _option(str | None, "The key below which a checkpoint holds the weights to take.")
Prefix = _option(str | None, "Take the weights whose names begin so, without it: model.")
Side = _option(str, "torch, tf or both.")
Dtype = _option(str | None, "float32 or float64; to convert to, float16 too.")
Execution = _option(
    str,
    "How TensorFlow runs: eager, graph or xla; a list by commas where several are run. audit: also "
    "bfloat16.",
)
Size = _option(str | None, "HxW of the synthetic images; audit takes several by commas.")
Images = _option(list[Path] | None, "Image files, several after one another.", metavar="FILE...")
ShortSide = _option(int | None, "Resize --images to this short side, in pixels.")
Batch = _option(int | None, "Images in a batch.")
Steps = _option(int | None, "How many updates; train's are the config's own without it.")
Data = _option(Path | None, "Data set in COCO panoptic or ADE20K layout.")
Split = _option(str | None, "One split, or the beginning of its name.", "--split")
Seed = _option(int | None, "Of everything that is drawn.")
Threads = _option(int | None, "Threads to compute with; all cores without it.")
Workers = _option(int, "Threads or processes beside the model.")
_OUT = {"words": "Folder for the result, and for its report.", "metavar": "DIR"}
Out = _option(Path | None, callback=check_folder, **_OUT)
OutFolder = _option(Path, callback=check_folder, **_OUT)
FileOrFolder = _option(Path | None, **_OUT)
"""Of a verb that may write a file there, or nothing at all."""
Resume = _option(bool, "Continue what is in --out, instead of starting anew.", "--resume")
AsJson = _option(bool, "Print one JSON object.", "--json")


def resolved(
    config: str | None,
    config_file: Path | None,
    overrides: Collection[str] = (),
    usual: str | None = None,
) -> "Entry":
    """The entry that --config names or --config-file describes; where neither is given, `usual`.

    Raises InputError as `detectron2_config.resolve` does.
    """
    from maskformer.model.detectron2_config import resolve

    if config is None and config_file is None:
        config = usual
    return resolve(config, config_file, list(overrides))


def overrides(settings: Collection[str] | None) -> list[str]:
    """The words KEY VALUE of --set. Raises InputError for what is no KEY=VALUE."""
    words = []
    for text in settings or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InputError(
                f"--set {text!r} is no setting",
                "expected KEY=VALUE",
                "for example --set SOLVER.MAX_ITER=100",
            )
        words += [key, value]
    return words


def with_classes(entry: "Entry", classes: str | None, data: Path | None) -> "Entry":
    """The entry for the classes that --classes says; as it is where the option is not given.

    Raises InputError where "data" is said without --data, and as the data's reader does.
    """
    if classes is None:
        return entry
    from maskformer.data.evaluation_data import classes_of
    from maskformer.model import own_config

    if classes == "data" and data is None:
        raise InputError(
            "--classes data needs --data", "its classes are to be taken", "or name a folder"
        )
    folder = data if classes == "data" else Path(classes)
    return own_config.with_classes(entry, classes_of(folder, entry.model))


def config_text(config: str | None, config_file: Path | None, usual: str | None = None) -> str:
    """The same as a text that can be recorded and handed to other processes.

    The name of a zoo entry, else the absolute path of the file, as `detectron2_config.entry_of`
    takes it. Raises InputError as `resolved` does.
    """
    from maskformer.model import zoo

    entry = resolved(config, config_file, usual=usual)
    known = config_file is None or zoo.ENTRIES.get(entry.name) == entry
    return entry.name if known else str(config_file.resolve())


def one_of(option: str, value: str, known: Collection[str]) -> None:
    """Raises InputError where the value of an option is none of those that are known."""
    if value not in known:
        raise InputError(
            f"{option} is {value!r}", f"expected one of {', '.join(known)}", "choose one of them"
        )


def at_least_one(option: str, value: int) -> None:
    """Raises InputError where a count is less than 1."""
    if value < 1:
        raise InputError(f"{option} is {value}", "expected at least 1", f"for example {option} 1")


def check_images(given: Collection[str]) -> None:
    """Raises InputError for options that images of files, or synthetic ones, do not follow."""
    beside = "--images" in given
    idle = ("--size", "--batch") if beside else ("--short-side",)
    if vain := [name for name in given if name in idle]:
        raise InputError(
            f"{', '.join(vain)} has no effect {'beside' if beside else 'without'} --images",
            "images of files have a size of their own, synthetic ones have that of --size",
            "leave it out",
        )


def given(context: typer.Context) -> list[str]:
    """The options of a verb that the command line gives, in the order of the help."""
    sources = {
        one.opts[0]: context.get_parameter_source(one.name) for one in context.command.params
    }
    return [name for name, source in sources.items() if source.name == "COMMANDLINE"]


def alone(mode: str, excluded: Sequence[str], why: str, action: str) -> None:
    """Raises InputError that names all options which were given beside a mode in vain."""
    if excluded:
        raise InputError(f"{mode} does not go with {', '.join(excluded)}", why, action)


def command_line() -> str:
    """The command that runs, for the record."""
    return shlex.join(["parity", *sys.argv[1:]])


def say(text: str) -> None:
    """Prints a line of progress on standard error."""
    print(_lines(text), file=sys.stderr, flush=True)


def sound(groups: Sequence[Sequence[Path]], as_json: bool) -> "list[tuple[Evidence, ...]]":
    """The evidence in each group of files and folders.

    Where a verdict or another part does not follow from what was measured, or is not what the
    report lists in which it lies, the places are named and the verb ends with status 1.
    """
    from reports.loading import load
    from reports.verification.recheck import unfounded

    found = [load(list(group)) for group in groups]
    problems = [one for group in found for one in unfounded(group)]
    if problems:
        refusal = {
            "schema": REFUSAL,
            "verdict": "refuted",
            "problems": [dataclasses.asdict(one) for one in problems],
        }
        lines = [
            *map(str, problems),
            f"refuted: {len(problems)} places are not what was measured; nothing was written",
        ]
        end(refusal, as_json, lambda: "\n".join(lines), passed=False)
    return found


def _lines(text: str) -> str:
    """Lines as a terminal shows them: what is no letter is spelt out."""
    return "\n".join(printable(line, None) for line in text.split("\n"))


def keep(
    result: "Result | Mapping[str, Any]", out: Path | None, name: str, report: bool = True
) -> None:
    """Writes a result, and a report of it, to the folder of --out, if there is one."""
    if out is None:
        return
    from parity.records import plain, write_json

    write_json(plain(result), out, name)
    if report:
        from reports.render import write_report

        say(f"report: {write_report([result], out)}")


def end(
    result: Any,
    as_json: bool,
    tell: Callable[[], str | None],
    passed: bool = True,
    name: str = "",
) -> NoReturn:
    """Prints a result as one JSON object on one line, or what `tell` returns, and ends the verb.

    A `tell` that prints for itself returns None. The exit status is 0 where it `passed`, else 1.
    `name` is that of the object's format, of a result that names none itself. Raises ValueError
    where nobody does.
    """
    if as_json:
        from parity.records import plain, strict

        told = plain(result)
        if "schema" not in told:
            if not name:
                raise ValueError("what is told as JSON names no schema")
            told = {"schema": f"maskformer-replication/{name}/1", **told}
        print(json.dumps(strict(told), allow_nan=False))
    elif (text := tell()) is not None:
        print(_lines(text))
    raise typer.Exit(0 if passed else 1)

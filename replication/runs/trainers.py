"""Runs the trainers of both sides as processes of their own, and compares what they recorded."""

import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import replication
from maskformer.data.evaluation_data import open_data
from maskformer.model.zoo import is_file
from maskformer.runs.run_record import METRICS, has_run
from maskformer.runs.run_settings import RunSettings, settle, solver_changes, training_words
from parity.errors import InputError
from parity.files import hold, replacing
from parity.reading.content import parse_json, read_json
from replication.console.progress import steps_shown
from replication.console.signals import ended_by_signals
from replication.sides.implementation import TrainerPlace
from replication.sides.side import implementation
from replication.sides.torch_side import initial_state
from replication.sides.weights import load_for_other_classes, load_weights

LOG = "log.txt"
SETTINGS = "settings.json"
CONFIG = "config.json"
"""What the YAML file of a run said when the run began."""

INITIAL = "initial.safetensors"

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_END = 20


@dataclass(frozen=True)
class Request:
    """What to train: `given` are settings of `RunSettings`, `solver` texts NAME=VALUE.

    `threads` are a trainer's, 0 for all cores; `visible` whether progress is shown.
    """

    out: Path
    sides: tuple[str, ...]
    given: Mapping[str, Any]
    solver: tuple[str, ...] = ()
    threads: int = 0
    resume: bool = False
    visible: bool = True


def train(request: Request) -> dict[str, Path]:
    """Trains the sides one after the other; the folder of each run by side.

    One side's folder is `out`; those of both are below it. A trainer that ends with an error leaves
    its message in an InputError; what it had saved can be resumed.
    Raises InputError for settings, data, weights and folders that cannot be used.
    """
    both = len(request.sides) == 2
    folders = {name: request.out / name if both else request.out for name in request.sides}
    settings = _settings(request)
    command = again(settings, request)
    for split in (settings.train_split, settings.eval_split):
        open_data(Path(settings.data), split, settings.entry.model)
    for folder in folders.values():
        if has_run(folder) and not request.resume:
            raise InputError(
                f"{folder} already holds a run",
                "--resume is not given",
                "Choose another folder, or continue the run with --resume.",
            )
    takes_backbone = implementation(request.sides[0]).check_backbone
    own = bool(settings.entry.classes) and settings.initial is not None
    shares = both or own or (settings.initial is not None and takes_backbone is None)
    if settings.initial is not None and not own and not (request.out / INITIAL).is_file():
        # As the run will read them, before anything is written.
        check = load_weights if shares else takes_backbone
        check(settings.initial, settings.entry.model)
    for folder in folders.values():
        if folder.is_dir():
            os.close(hold(folder))  # refuses a folder in which a trainer is at work
    begin = _initial(settings) if shares and not (request.out / INITIAL).is_file() else None
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        with replacing(request.out / SETTINGS) as temporary:
            temporary.write_text(json.dumps(settings.to_dict(), indent=1), encoding="utf-8")
        if is_file(settings.config):
            with replacing(request.out / CONFIG) as temporary:
                temporary.write_text(_described(settings), encoding="utf-8")
        if shares:
            if begin is not None:
                _write_initial(begin, request.out / INITIAL)
            settings = dataclasses.replace(settings, initial=str(request.out / INITIAL))
        for name, folder in folders.items():
            place = TrainerPlace(folder, request.out, request.threads, request.visible)
            words = [*implementation(name).trainer(settings, place), f"--command={command}"]
            _watch(name, words, folder, settings.steps, request.visible)
    except OSError as error:
        raise InputError(
            f"{request.out} cannot be written",
            f"{type(error).__name__}: {error.strerror or error}",
            "Choose another folder, or free some space.",
        ) from None
    return folders


def again(settings: RunSettings, request: Request) -> str:
    """The command that trains so again, in a folder that is to be named."""
    side = "both" if len(request.sides) == 2 else request.sides[0]
    words = training_words(settings.to_dict(), side)
    if request.threads:
        words += ["--threads", str(request.threads)]
    return shlex.join([*words, "--out", "DIR"])


def _settings(request: Request) -> RunSettings:
    """The settings that both sides get: from the words, and to resume from the file beside them."""
    given = dict(request.given)
    if request.solver:
        given["solver"] = solver_changes(request.solver)
    before = None
    if request.resume and (request.out / SETTINGS).is_file():
        before = RunSettings.from_dict(read_json(request.out / SETTINGS))
    settings = settle(given, before)
    if before and is_file(settings.config):
        _refuse_a_changed_file(settings, request.out / CONFIG)
    return settings


def _refuse_a_changed_file(settings: RunSettings, kept: Path) -> None:
    if kept.is_file() and kept.read_text(encoding="utf-8") != _described(settings):
        raise InputError(
            f"{settings.config} has changed since the run was started",
            f"{kept} says what it was",
            "Resume with the file as it was, or choose another folder.",
        )


def _described(settings: RunSettings) -> str:
    return json.dumps(settings.entry.to_dict(), indent=1)


def _initial(settings: RunSettings) -> Mapping[str, np.ndarray]:
    """The complete initial weights that both sides start from.

    Without `settings.initial` they are the reference's own initialisation from the run's seed. Of a
    model with own classes they also stand for what a checkpoint lacks: the head's classes are left
    out where it has another number of them, which is said.
    """
    config = settings.entry.model
    if settings.initial is None:
        return initial_state(config, settings.seed)
    if not settings.entry.classes or settings.initial.startswith("seeded:"):
        return load_weights(settings.initial, config).state
    found, left_out = load_for_other_classes(settings.initial, config)
    for name, reason in left_out.items():
        print(f"left out of {settings.initial}: {name} ({reason})", file=sys.stderr, flush=True)
    return {**initial_state(config, settings.seed), **found}


def _write_initial(state: Mapping[str, np.ndarray], path: Path) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, temporary)


def _watch(name: str, words: list[str], folder: Path, steps: int, visible: bool) -> None:
    """Runs a trainer to its end, showing what it records; its output goes to `LOG`.

    Raises InputError with the message it ended with. An interruption from the keyboard ends it.
    """
    environment = child_environment()
    with (folder / LOG).open("ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=log, stderr=log, env=environment
        )
        try:
            with ended_by_signals(), steps_shown(name, steps, visible) as show:
                while process.poll() is None:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                    show(*last_row(folder))
        finally:
            _end(process)
    if process.returncode:
        message = last_message((folder / LOG).read_bytes()[start:].decode(errors="replace"))
        if process.returncode == 2:
            raise InputError(message[0], *(line.strip() for line in message[1:]))
        raise InputError(
            f"the {name} trainer ended with status {process.returncode}",
            message[-1].strip(),
            f"{folder / LOG} says more; what was saved can be continued with --resume.",
        )


def _end(process: subprocess.Popen) -> None:
    """Ends a trainer that still runs, whether it listens or not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def child_environment() -> dict[str, str]:
    """The environment in which a Python process finds the packages of this project first."""
    paths = [str(Path(replication.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def last_row(folder: Path) -> tuple[int, Mapping[str, Any]]:
    """Step and values of the last complete training row in a run's file, (0, {}) without any."""
    try:
        with (folder / METRICS).open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 2**14))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return 0, {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = parse_json(line, "a row of the run")
            if row["split"] == "train":
                return row["step"], row
    return 0, {}


def last_message(text: str) -> list[str]:
    """The last error of a program's output: a line, and up to two indented lines after it.

    Frameworks may print more behind it. Without any such lines, the last line.
    """
    lines = [line for line in text.splitlines() if line.strip()] or ["it printed nothing"]
    indented = [line.startswith("  ") for line in lines] + [False]
    starts = [i for i in range(len(lines)) if indented[i + 1] and not indented[i]]
    if not starts:
        return lines[-1:]
    end = starts[-1] + 1
    while indented[end] and end < starts[-1] + 3:
        end += 1
    return lines[starts[-1] : end]

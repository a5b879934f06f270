"""Runs the trainers of both sides as processes of their own, and compares what they recorded."""

import contextlib
import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskformer import statistics
from maskformer.errors import InputError
from maskformer.evaluation_data import open_data
from maskformer.panoptic_format import replacing
from maskformer.run_record import METRICS, Run, has_run, read_run
from maskformer.run_scores import COUNTS, read_counts
from maskformer.run_settings import RunSettings, training_words
from maskformer.zoo import is_file
from replication.progress import images_shown

SCHEMA = "maskformer-replication/training-runs/1"
LOG = "log.txt"
SETTINGS = "settings.json"
CONFIG = "config.json"
"""What the YAML file of a run said when the run began."""

INITIAL = "initial.safetensors"
RECORDS = "records"
LOSSES = ("loss", "loss_ce", "loss_mask", "loss_dice", "loss_sem_seg")

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BETWEEN_LINES = 10.0
_WINDOWS = 20
_IMAGES_PER_SHARD = 1000


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
    shares = both or (request.sides == ("tf",) and settings.initial is not None)
    if settings.initial is not None and not (request.out / INITIAL).is_file():
        _refuse_weights_that_do_not_fit(settings, shares)
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        with replacing(request.out / SETTINGS) as temporary:
            temporary.write_text(json.dumps(settings.to_dict(), indent=1), encoding="utf-8")
        if is_file(settings.config):
            with replacing(request.out / CONFIG) as temporary:
                temporary.write_text(_described(settings), encoding="utf-8")
        if shares:
            shared = _write_initial(settings, request.out / INITIAL)
            settings = dataclasses.replace(settings, initial=str(shared))
        for name, folder in folders.items():
            words = [*_words(name, settings, folder, request), f"--command={command}"]
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
    from torch_reference.train import settle, solver_changes

    given = dict(request.given)
    if request.solver:
        given["solver"] = solver_changes(request.solver)
    before = None
    if request.resume and (request.out / SETTINGS).is_file():
        before = RunSettings.from_dict(json.loads((request.out / SETTINGS).read_text()))
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


def _refuse_weights_that_do_not_fit(settings: RunSettings, complete: bool) -> None:
    """Reads the initial weights as the run will, before anything is written.

    PyTorch alone takes those of a backbone too; what both sides share is `complete`.
    """
    import torch_reference
    from replication.pair import load_weights
    from torch_reference.initial_weights import load_initial

    config = settings.entry.model
    if complete:
        load_weights(settings.initial, config)
    else:
        load_initial(torch_reference.build(config), settings.initial)


def _write_initial(settings: RunSettings, path: Path) -> Path:
    """The complete initial weights as one file that both sides start from, written once.

    Without `settings.initial` they are the reference's own initialisation from the run's seed.
    """
    if path.is_file():
        return path
    import torch
    from safetensors.torch import save_file

    import torch_reference
    from replication.pair import load_weights

    config = settings.entry.model
    if settings.initial is None:
        torch.manual_seed(settings.seed)
        state = torch_reference.build(config).state_dict()
    else:
        given = load_weights(settings.initial, config).state
        state = {key: torch.from_numpy(np.array(array)) for key, array in given.items()}
    with replacing(path) as temporary:
        save_file({key: value.contiguous() for key, value in state.items()}, temporary)
    return path


def _words(name: str, settings: RunSettings, folder: Path, request: Request) -> list[str]:
    """The command line of one side's trainer, with everything that it reads."""
    if name == "torch":
        words = ["torch_reference.train", "--out", str(folder), "--resume"]
        words += ["--threads", str(request.threads)]
        for key, value in settings.to_dict().items():
            if key != "solver" and value is not None:
                words += [f"--{key.replace('_', '-')}", str(value)]
        for key, value in settings.to_dict()["solver"].items():
            words += ["--solver", f"{key}={json.dumps(value)}"]
        return words
    from tf_impl.experiments import experiment_name

    overrides = folder / "overrides.yaml"
    with replacing(overrides) as temporary:
        temporary.write_text(json.dumps(_overrides(settings, request)), encoding="utf-8")
    return [
        "tf_impl.train",
        f"--experiment={experiment_name(settings.config)}",
        "--mode=train_and_eval",
        f"--model_dir={folder}",
        f"--config_file={overrides}",
    ]


def _overrides(settings: RunSettings, request: Request) -> dict[str, Any]:
    """The settings in the Model Garden's terms (JSON is YAML), records and weights written."""
    from tf_impl.experiments import optimization_of

    records = {
        split: str(_write_records(settings, split, request))
        for split in (settings.train_split, settings.eval_split)
    }
    return {
        "task": {
            "train_data": {
                "input_path": records[settings.train_split],
                "global_batch_size": settings.batch,
                "capacity": settings.capacity,
            },
            "validation_data": {"input_path": records[settings.eval_split]},
            "seed": settings.seed,
            "normalisation": settings.normalisation,
            "init_checkpoint": _tf_weights(settings, request.out),
        },
        "trainer": {
            "train_steps": settings.steps,
            "steps_per_loop": settings.record_every,
            "summary_interval": settings.record_every,
            "checkpoint_interval": settings.checkpoint_every or settings.steps,
            "validation_interval": settings.eval_every or settings.steps,
            "max_to_keep": settings.keep,
            "optimizer_config": optimization_of(settings.solver_config()).as_dict(),
        },
        "runtime": {
            "deterministic": True,
            "threads": request.threads,
            "mixed_precision_dtype": settings.dtype,
        },
    }


def _write_records(settings: RunSettings, split: str, request: Request) -> Path:
    """The folder of a split's records; an interrupted packing is continued."""
    from tf_impl.tfrecord import write_records

    data = open_data(Path(settings.data), split, settings.entry.model)
    folder = request.out / RECORDS / data.split
    shards = -(-len(data.images) // _IMAGES_PER_SHARD)
    with images_shown(f"pack {data.split}", len(data.images), request.visible) as advance:
        write_records(data.images, folder, data.split, shards, advance=advance)
    return folder


def _tf_weights(settings: RunSettings, out: Path) -> str:
    """The prefix of a TensorFlow checkpoint of the initial weights, empty without any."""
    if settings.initial is None:
        return ""
    from weight_conversion.convert import convert
    from weight_conversion.tf_checkpoint import prefix_of

    target = out / "initial_tf"
    if not target.is_dir():
        convert(Path(settings.initial), target, "tf", settings.entry.model, dtype=settings.dtype)
    return str(prefix_of(target))


def _watch(name: str, words: list[str], folder: Path, steps: int, visible: bool) -> None:
    """Runs a trainer to its end, showing what it records; its output goes to `LOG`.

    Raises InputError with the message it ended with. An interruption from the keyboard ends it.
    """
    root = str(Path(__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (folder / LOG).open("ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=log, stderr=log, env=environment
        )
        try:
            with steps_shown(name, steps, visible) as show:
                while process.poll() is None:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                    show(*last_row(folder))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        message = last_message((folder / LOG).read_bytes()[start:].decode(errors="replace"))
        if process.returncode == 2:
            raise InputError(message[0], *(line.strip() for line in message[1:]))
        raise InputError(
            f"the {name} trainer ended with status {process.returncode}",
            message[-1].strip(),
            f"{folder / LOG} says more; what was saved can be continued with --resume.",
        )


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
            row = json.loads(line)
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


@contextlib.contextmanager
def steps_shown(
    title: str, total: int, visible: bool
) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """A bar of steps with losses and time left; lines now and then where there is no terminal.

    Yields the function to call with the last step and its row.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    began, printed, first = time.perf_counter(), time.perf_counter(), 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
        console=console,
        disable=not (visible and console.is_terminal),
    ) as bar:
        task = bar.add_task(title, total=total, losses="")

        def show(step: int, row: Mapping[str, Any]) -> None:
            nonlocal printed, first
            losses = ", ".join(f"{k} {row[k]:.4g}" for k in LOSSES if row.get(k) is not None)
            bar.update(task, completed=step, losses=losses)
            now = time.perf_counter()
            first = first or step
            if not visible or console.is_terminal or now - printed < _SECONDS_BETWEEN_LINES:
                return
            printed = now
            left = "starting" if step < total else "evaluating"
            if first < step < total:
                minutes = (now - began) / (step - first) * (total - step) / 60
                left = f"{minutes:.1f} min left"
            print(
                f"{title}: step {step} of {total}, {losses or 'no row yet'}, {left}",
                file=sys.stderr,
                flush=True,
            )

        yield show


def compare_runs(folders: Mapping[str, Path], resamples: int = 2000) -> dict[str, Any]:
    """The result object (`SCHEMA`), strict JSON: what each run reached, and two runs' difference.

    The verdict is "trained" for one run; for two it is "agree" where the 95 % interval of every
    score's difference over paired images holds 0, "different" where one does not, and "not judged"
    where the evaluation has too few images for an interval.
    """
    runs = {name: read_run(folder) for name, folder in folders.items()}
    first = next(iter(runs.values()))
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": "trained",
        "config": first.description["settings"]["config"],
        "steps": int(first.column("loss")[0].max()),
        "command": first.description.get("command"),
        "sides": {name: _reached(run) for name, run in runs.items()},
    }
    if len(runs) == 2:
        comparison = _compare(folders, runs, resamples)
        judged = [one["interval"] for one in comparison["scores"].values() if "interval" in one]
        agree = all(interval["low"] <= 0 <= interval["high"] for interval in judged)
        verdict = "agree" if agree else "different"
        result |= {"verdict": verdict if judged else "not judged", "comparison": comparison}
    return result


def _reached(run: Run) -> dict[str, Any]:
    scores = {name: run.last(name) for name in run.names("eval")}
    _, seconds = run.column("step_seconds")
    _, waits = run.column("data_wait_share")
    return {
        "folder": str(run.folder),
        "metrics_sha256": run.sha256,
        "scores": {k: None if v is None or math.isnan(v) else v for k, v in scores.items()},
        "seconds": run.rows[-1].seconds,
        "step_seconds": float(np.median(seconds)),
        "data_wait_share": float(np.average(waits, weights=seconds)),
    }


def _compare(
    folders: Mapping[str, Path], runs: Mapping[str, Run], resamples: int
) -> dict[str, Any]:
    names, (a, b) = list(runs), runs.values()
    counts = [read_counts(folder / COUNTS) for folder in folders.values()]
    scores: dict[str, Any] = {}
    if counts[0].names == counts[1].names:
        for name in counts[0].values():
            try:
                one, other = (c.samples()[name] for c in counts)
                found = statistics.compare(other, one, resamples=resamples)
                scores[name] = dataclasses.asdict(found)
            except InputError as error:
                scores[name] = {"reason": str(error).splitlines()[0]}
    return {
        "of": f"{names[1]} - {names[0]}",
        "same_data": a.description["data_sha256"] == b.description["data_sha256"],
        "losses": {
            name: loss_gap(a, b, name)
            for name in LOSSES
            if name in a.names("train") and name in b.names("train")
        },
        "scores": scores,
    }


def loss_gap(a: Run, b: Run, name: str) -> dict[str, Any]:
    """How far two loss curves are apart, as |a - b| / mean(a, b).

    At the first step both have, as median and largest over all of them, and the largest between
    medians over twentieths of the run; `end` is the last of these medians, of each run.
    """
    steps, x, y = _common(a.column(name), b.column(name))
    gaps = _gap(x, y)
    parts = np.array_split(np.arange(len(steps)), min(_WINDOWS, len(steps)))
    medians = [np.array([np.median(curve[part]) for part in parts]) for curve in (x, y)]
    return {
        "steps": len(steps),
        "first_gap": float(gaps[0]),
        "median_gap": float(np.median(gaps)),
        "largest_gap": float(gaps.max()),
        "smoothed_gap": float(_gap(*medians).max()),
        "end": [float(one[-1]) for one in medians],
    }


def _common(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    steps, i, j = np.intersect1d(first[0], second[0], return_indices=True)
    if not len(steps):
        raise InputError(
            "the two runs have no step in common",
            f"one recorded {first[0][:3].tolist()} ..., the other {second[0][:3].tolist()} ...",
            "Record both at the same steps: --record-every.",
        )
    return steps, first[1][i], second[1][j]


def _gap(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    mean = (np.abs(x) + np.abs(y)) / 2
    return np.divide(np.abs(x - y), mean, out=np.zeros_like(mean), where=mean > 0)

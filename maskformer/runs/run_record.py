"""The record of a training run, one schema for both sides: `run.json` and `metrics.jsonl`.

`run.json` says what ran (`SCHEMA`): the side, the settings, versions, hashes of data and weights,
and, where it was started by one, the command that runs it again.
`metrics.jsonl` has one object per line: {"step": int, "split": "train" | "eval", "seconds": float,
...values}. Steps count updates that are done: the row of step 1 is that of the first update. An
evaluation's row has the step of the weights it used. Seconds are wall time since the run's start,
without the time between an interruption and its resumption. A value that is not finite is null.

The values, by name:

- loss: the weighted sum that is minimised; loss_ce, loss_mask, loss_dice, and loss_ce_0 ... of the
  auxiliary outputs: the unweighted parts as the criterion names them (per-pixel heads:
  loss_sem_seg, loss_sem_seg_0 ...). Over replicas: the mean.
- learning_rate/GROUP: the rate of this update; groups are "backbone" and "head".
- gradient_norm: Euclidean norm of the gradient of all parameters, after the reduction over replicas
  and before clipping.
- matched_class_accuracy: of the pairs that the last decoder layer's matching makes, the share whose
  query has its largest class logit, no-object included, at the target's class.
- no_object_rate: of all queries of the batch, the share whose largest class logit is no-object.
- matched_iou: mean over the same pairs of |P and T| / |P or T|, where P are the pixels of the
  query's mask with a logit above 0, T the target's at the mask's size, by the nearest rule that the
  matcher uses; pairs whose T is empty at that size are left out.
  All three are of the training batch before the update, over all replicas, in 0..1; null where
  there are no pairs.
- panoptic_quality, panoptic_quality_things, panoptic_quality_stuff, mean_iou: of the evaluation
  split, in percent (`maskformer.metrics.panoptic_quality`, `maskformer.metrics.semantic_iou`).
- examples_per_second, step_seconds: since the previous training row, waiting for data included,
  evaluation and saving left out.
- data_wait_share: the share of step_seconds that the process waited for data, 0..1.
- memory_bytes: of the process, its largest resident size so far; of an accelerator, its own.
- overflow: targets of the batch that had no place, `capacity` being too small.
- other/NAME: a value of an imported run that has no name here.
"""

import errno
import hashlib
import json
import math
import os
import re
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from parity.errors import InputError
from parity.files import hold, replacing
from parity.reading import bounds
from parity.reading.content import parse_json, read_bytes, read_json

SCHEMA = "maskformer-replication/run/1"
DESCRIPTION = "run.json"
METRICS = "metrics.jsonl"
SIDES = ("torch", "tf", "imported")
SPLITS = ("train", "eval")
REQUIRED = ("side", "settings", "versions", "data_sha256", "checkpoint_sha256", "git_commit")
"""What `run.json` must say, beside the schema; values may be null where there is none."""

SENTINELS = ("matched_class_accuracy", "no_object_rate", "matched_iou")
SCORES = ("panoptic_quality", "panoptic_quality_things", "panoptic_quality_stuff", "mean_iou")
_NAMES = re.compile(
    r"loss(_(ce|mask|dice|sem_seg)(_\d+)?)?|learning_rate/[a-z_]+|gradient_norm|"
    + "|".join(SENTINELS + SCORES)
    + r"|examples_per_second|step_seconds|data_wait_share|memory_bytes|overflow|other/\S+"
)


@dataclass(frozen=True)
class Row:
    """One line of `metrics.jsonl`; a value that is not finite is NaN."""

    step: int
    split: str
    seconds: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A recorded run: what `run.json` says, and the rows in their order."""

    folder: Path
    description: Mapping[str, Any]
    rows: tuple[Row, ...]

    def column(self, name: str, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
        """Steps int64 [N] and values float64 [N] of the rows of `split` that have the value."""
        found = [r for r in self.rows if r.split == split and name in r.values]
        steps = np.array([row.step for row in found], np.int64)
        return steps, np.array([row.values[name] for row in found], np.float64)

    def last(self, name: str, split: str = "eval") -> float | None:
        """The value of the last row of `split` that has it, or None."""
        _, values = self.column(name, split)
        return float(values[-1]) if len(values) else None

    def names(self, split: str) -> list[str]:
        """Names of the values of `split`, in order of appearance."""
        return list(dict.fromkeys(n for r in self.rows if r.split == split for n in r.values))

    @property
    def sha256(self) -> str:
        """The hash of `metrics.jsonl`."""
        return hashlib.sha256((self.folder / METRICS).read_bytes()).hexdigest()


class RunRecord:
    """Appends rows to a run's record; every row is complete in the file when `write` returns."""

    def __init__(self, stream: IO[bytes], seconds: float, held: int) -> None:
        """For `open`: a stream at the end of complete rows, the seconds of the last, the lock."""
        self._stream = stream
        self._let_go = weakref.finalize(self, os.close, held)
        self._start = time.perf_counter() - seconds

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        description: Mapping[str, Any],
        resume_step: int | None = None,
    ) -> "RunRecord":
        """The record of a new run, or of one that continues after `resume_step` updates.

        A new run writes `run.json`. A resumed one keeps it, adds {"step", "versions", "git_commit"}
        to its list "resumed", and cuts off, in one replacement of the file, the rows of later steps
        and a torn last line. `resume_step` 0 begins again where no checkpoint was saved.

        Args: description: JSON-able, with the keys `REQUIRED`.
        Raises InputError where the folder cannot be written, already holds a run (without
        `resume_step`), holds none that this description continues, or another process has its
        record open: the folder is locked until the record is closed, also by a kill.
        """
        folder = Path(folder)
        _check_description(description, "the description")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = hold(folder)
        except OSError as error:
            raise _not_writable(folder, error) from None
        try:
            return cls(*_opened(folder, description, resume_step), held)
        except BaseException as error:
            os.close(held)
            if isinstance(error, OSError):
                raise _not_writable(folder, error) from None
            raise

    def write(
        self, step: int, split: str, values: Mapping[str, float], seconds: float | None = None
    ) -> None:
        """Appends one row. Values are numbers under the names of this module.

        `seconds` are those of an imported row, by default the time since the run's start.

        Raises ValueError for an unknown name or split, InputError where the disk is full.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, but should be one of {SPLITS}")
        seconds = self.seconds if seconds is None else seconds
        row: dict[str, Any] = {"step": int(step), "split": split, "seconds": seconds}
        for name, value in values.items():
            if not is_known(name):
                raise ValueError(f"{name!r} is no name of a recorded value")
            number = float(value)
            row[name] = number if math.isfinite(number) else None
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            if self._stream.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise InputError(
                f"the record of step {step} cannot be written",
                f"{type(error).__name__}: {error.strerror or error}",
                "Free some space and resume the run.",
            ) from None

    @property
    def seconds(self) -> float:
        """Seconds since the run's start, to the millisecond."""
        return round(time.perf_counter() - self._start, 3)

    def close(self) -> None:
        """Closes the file; nothing can be written afterwards."""
        self._stream.close()
        self._let_go()

    def __enter__(self) -> "RunRecord":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_known(name: str) -> bool:
    """Whether the record has such a value."""
    return _NAMES.fullmatch(name) is not None


def read_run(folder: str | os.PathLike[str]) -> Run:
    """The run recorded in `folder`; a torn last line, of a run that was killed, is left out.

    Raises InputError where there is no run, and for a broken line elsewhere.
    """
    folder = Path(folder)
    description = _read_description(folder)
    return Run(folder, description, tuple(row for _, row in _complete_lines(folder)))


def has_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a run was started in `folder`."""
    return (Path(folder) / DESCRIPTION).is_file()


def _start(folder: Path, description: Mapping[str, Any], resume_step: int | None) -> None:
    if has_run(folder):
        raise InputError(
            f"{folder} already holds a run",
            f"{folder / DESCRIPTION} exists",
            "Choose another folder, or resume the run.",
        )
    if resume_step:
        raise InputError(
            f"{folder} holds no run to resume at step {resume_step}",
            f"{folder / DESCRIPTION} does not exist",
            "Start the run anew in an empty folder.",
        )
    # The rows first: a folder with a description always has a file of rows.
    (folder / METRICS).write_bytes(b"")
    _write_description(folder, {"schema": SCHEMA, **description})


def _append(folder: Path) -> IO[bytes]:
    # Unbuffered: what a full disk refused must not be written again when the file is closed.
    return (folder / METRICS).open("ab", buffering=0)


def _opened(
    folder: Path, description: Mapping[str, Any], resume_step: int | None
) -> tuple[IO[bytes], float]:
    """A stream at the end of a record's complete rows, and the seconds of the last of them."""
    if resume_step is None or not (folder / DESCRIPTION).exists():
        _start(folder, description, resume_step)
        return _append(folder), 0.0
    before = _read_description(folder)
    if before["side"] != description["side"]:
        raise InputError(
            f"{folder} is a run of the {before['side']} side",
            f"this is the {description['side']} side",
            "Choose another folder.",
        )
    if before["data_sha256"] != description["data_sha256"]:
        raise InputError(
            f"{folder} was started with other data",
            f"its hash was {before['data_sha256']}, is {description['data_sha256']}",
            "Resume with the data it was started with.",
        )
    kept = list(_complete_lines(folder, resume_step))
    with replacing(folder / METRICS) as temporary:
        temporary.write_bytes(b"".join(line for line, _ in kept))
    resumed = {"step": resume_step} | {key: description[key] for key in ("versions", "git_commit")}
    _write_description(folder, {**before, "resumed": [*before.get("resumed", []), resumed]})
    return _append(folder), kept[-1][1].seconds if kept else 0.0


def _not_writable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder} cannot be written",
        f"{type(error).__name__}: {error.strerror or error}",
        "Choose another folder, or free some space.",
    )


def _write_description(folder: Path, description: Mapping[str, Any]) -> None:
    text = json.dumps(description, indent=1, allow_nan=False)
    with replacing(folder / DESCRIPTION) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(
            f"{folder} holds no run",
            f"{path} does not exist",
            "Give the folder that a training or an import wrote.",
        )
    description = read_json(path, bounds.RECORD_BYTES, "description of a run")
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        raise InputError(f"{path} is not the description of a run", f"expected: schema {SCHEMA!r}")
    _check_description(description, str(path))
    return description


def _check_description(description: Mapping[str, Any], where: str) -> None:
    if missing := [key for key in REQUIRED if key not in description]:
        raise InputError(f"{where} does not say: {', '.join(missing)}")
    if description["side"] not in SIDES:
        raise InputError(f"{where} is of the side {description['side']!r}", f"one of {SIDES}")


def _complete_lines(folder: Path, until: int | None = None) -> Iterator[tuple[bytes, Row]]:
    """Lines up to step `until` and their rows; a last line that is torn ends them."""
    path = folder / METRICS
    content = read_bytes(path, bounds.RECORD_BYTES, "record") if path.is_file() else b""
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        row = _row(line, path, number)
        if until is None or row.step <= until:
            yield line, row


def _row(line: bytes, path: Path, number: int) -> Row:
    try:
        values = dict(parse_json(line, f"line {number} of {path}"))
        step, split = values.pop("step"), values.pop("split")
        seconds = float(values.pop("seconds"))
        numbers = {k: math.nan if v is None else float(v) for k, v in values.items()}
        if not isinstance(step, int) or split not in SPLITS:
            raise ValueError(f"step {step!r}, split {split!r}")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(
            f"{path}, line {number} is not a row of a record",
            " ".join(f"{type(error).__name__}: {error}".split()),
            'expected: {"step": 1, "split": "train", "seconds": 0.5, "loss": ...}',
        ) from None
    return Row(step, split, seconds, numbers)


LOSSES = ("loss", "loss_ce", "loss_mask", "loss_dice", "loss_sem_seg")

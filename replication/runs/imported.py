"""Runs that other programs recorded, read from their own files."""

import hashlib
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DETECTRON2 = "metrics.json"


EVENTS = "events.out.tfevents.*"


RENAMED = {
    "total_loss": "loss",
    "lr": "learning_rate/head",
    "time": "step_seconds",
    "panoptic_seg/PQ": "panoptic_quality",
    "panoptic_seg/PQ_th": "panoptic_quality_things",
    "panoptic_seg/PQ_st": "panoptic_quality_stuff",
    "sem_seg/mIoU": "mean_iou",
}
"""Detectron2's names. Its "lr" is that of most parameter groups, which are the head's."""


@dataclass(frozen=True)
class Values:
    """What a source says of one step, by the source's names. `step` counts updates done."""

    step: int
    values: Mapping[str, float]
    seconds: float


def import_run(source: Path, out: Path, config: str) -> None:
    """Writes the run of `source` to `out`, all at once.

    Raises InputError for an unknown config, a source that is missing, broken or empty, and a folder
    that already holds a run.
    """
    from maskformer.model import zoo
    from maskformer.model.detectron2_config import entry_of
    from maskformer.runs.run_record import RunRecord, has_run
    from parity.errors import InputError
    from parity.files import output_folder

    weights = loss_weights(entry_of(config).model)
    files = source_files(source)
    steps = latest(read_detectron2(files[0]) if files[0].suffix == ".json" else read_events(files))
    if not steps:
        raise InputError(
            f"{source} holds no values",
            f"{len(files)} files were read: {', '.join(path.name for path in files[:3])}",
            "Give the log of a training that has begun.",
        )
    if has_run(out):
        raise InputError(f"{out} already holds a run", "nothing was written", "Choose another.")
    description = {
        "side": "imported",
        "settings": {"config": config},
        "versions": {},
        "data_sha256": None,
        "checkpoint_sha256": None,
        "git_commit": None,
        "command": shlex.join(
            ["parity", "import-run", str(source), *zoo.config_words(config), "--out", "DIR"]
        ),
        "source": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    try:
        with output_folder(out) as folder, RunRecord.open(folder, description) as record:
            for one in steps:
                for split, values in rows(one, weights):
                    record.write(one.step, split, values, one.seconds)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written",
            f"{type(error).__name__}: {error.strerror}",
            "choose another folder, or free some space",
        ) from None


def source_files(source: Path) -> list[Path]:
    """The log that `source` is or holds: one metrics.json, or event files, oldest first."""
    from parity.errors import InputError

    if source.is_dir():
        if (source / DETECTRON2).is_file():
            return [source / DETECTRON2]
        if found := sorted(source.glob(EVENTS)):
            return found
        raise InputError(
            f"{source} holds no log",
            f"expected: {DETECTRON2}, or {EVENTS}",
            "Give the output folder of a training.",
        )
    if not source.is_file():
        raise InputError(f"{source} does not exist", f"expected: {DETECTRON2}, or {EVENTS}")
    return [source]


def read_detectron2(path: Path) -> Iterator[Values]:
    """The lines of a metrics.json; a torn last line is left out.

    Detectron2 numbers iterations from 0 and writes after the update, so that iteration 19 means 20
    updates. It writes no clock: seconds add up its "time" per iteration, and are an estimate.
    Raises InputError naming the line that is no such object.
    """
    from parity.errors import InputError
    from parity.reading import bounds
    from parity.reading.content import parse_json, read_bytes

    seconds, before = 0.0, 0
    lines = read_bytes(path, bounds.RECORD_BYTES, "log").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = parse_json(line, "it")
            step = int(content.pop("iteration")) + 1
            values = {k: float(v) for k, v in content.items() if v is not None}
            seconds += values.get("time", 0.0) * max(step - before, 0)
            before = step
            yield Values(step, values, round(seconds, 3))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            if number == len(lines) and number > 1 and not line.endswith(b"\n"):
                return
            raise InputError(
                f"{path}, line {number} is not one of Detectron2's",
                " ".join(f"{type(error).__name__}: {error}".split()),
                'expected: {"iteration": 19, "total_loss": 98.5, "lr": 0.0001, ...}',
            ) from None


def read_events(paths: Iterable[Path]) -> Iterator[Values]:
    """The scalars of event files, one `Values` for each run of equal steps.

    Steps of names that begin with train/ or eval/, which our trainers write, count updates; others
    are taken for Detectron2's iterations. Raises InputError for a damaged file.
    """
    from itertools import groupby

    from maskformer.runs.event_files import read_scalars

    start = None
    for path in paths:
        for step, group in groupby(read_scalars(path), key=lambda scalar: scalar.step):
            scalars = list(group)
            own = scalars[0].name.partition("/")[0] in ("train", "eval")
            start = scalars[0].wall_time if start is None else start
            values = {scalar.name: scalar.value for scalar in scalars}
            yield Values(step if own else step + 1, values, round(scalars[0].wall_time - start, 3))


def latest(found: Iterable[Values]) -> list[Values]:
    """Values in the order of steps; a log that goes back, of a resumed run, replaces what it had.

    Values of one step are put together.
    """
    kept: list[Values] = []
    for one in found:
        while kept and kept[-1].step > one.step:
            kept.pop()
        if kept and kept[-1].step == one.step:
            before = kept.pop()
            one = Values(one.step, {**before.values, **one.values}, before.seconds)
        kept.append(one)
    return kept


def rows(one: Values, weights: Mapping[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """Split and values, by the names of the record, of what a source says of one step."""
    from maskformer.runs.run_record import SCORES, is_known

    found: dict[str, dict[str, float]] = {"train": {}, "eval": {}}
    waited = one.values.get("data_time", math.nan) / one.values.get("time", math.nan)
    if math.isfinite(waited):
        found["train"]["data_wait_share"] = waited
    for name, value in one.values.items():
        split, _, own = name.partition("/")
        if split in found and is_known(own):
            found[split][own] = value
            continue
        named = RENAMED.get(name, name)
        if not is_known(named):
            named = "other/" + "_".join(named.split())
        value /= weights.get(name.rstrip("_0123456789"), 1.0)
        found["eval" if named in SCORES else "train"][named] = value
    yield from ((split, values) for split, values in found.items() if values)


def loss_weights(config: Any) -> dict[str, float]:
    """What Detectron2's log has each loss multiplied by, by the name without its layer."""
    loss = config.loss
    return {
        "loss_ce": loss.class_weight,
        "loss_mask": loss.mask_weight,
        "loss_dice": loss.dice_weight,
    }

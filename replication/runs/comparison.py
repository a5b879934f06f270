"""What the recorded runs of both sides say of each other."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskformer.family import MASKFORMER
from maskformer.metrics import statistics
from maskformer.metrics.run_scores import COUNTS, read_counts
from maskformer.runs.run_record import Run, read_run
from parity.errors import InputError
from parity.results import TRAINING_RUNS as SCHEMA

_WINDOWS = 20


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
            for name in MASKFORMER.losses
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

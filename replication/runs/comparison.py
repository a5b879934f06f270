"""What the recorded runs of both sides say of each other."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from maskformer.family import MASKFORMER
from maskformer.metrics import statistics
from maskformer.metrics.run_scores import COUNTS, read_counts
from maskformer.runs.run_record import Run, read_run
from parity.errors import InputError
from reports.chapters.training_runs import LossGap, Reached, RunComparison, RunsResult

_WINDOWS = 20


def compare_runs(folders: Mapping[str, Path], resamples: int = 2000) -> RunsResult:
    """What each run reached, and two runs' difference.

    The verdict is "trained" for one run; for two it is "agree" where the 95 % interval of every
    score's difference over paired images holds 0, "different" where one does not, and "not judged"
    where the evaluation has too few images for an interval.
    """
    runs = {name: read_run(folder) for name, folder in folders.items()}
    first = next(iter(runs.values()))
    result = RunsResult(
        verdict="",
        config=first.description["settings"]["config"],
        steps=int(first.column("loss")[0].max()),
        command=first.description.get("command"),
        sides={name: _reached(run) for name, run in runs.items()},
        comparison=_compare(folders, runs, resamples) if len(runs) == 2 else None,
    )
    return dataclasses.replace(result, verdict=result.judged)


def _reached(run: Run) -> Reached:
    scores = {name: run.last(name) for name in run.names("eval")}
    _, seconds = run.column("step_seconds")
    _, waits = run.column("data_wait_share")
    return Reached(
        folder=str(run.folder),
        metrics_sha256=run.sha256,
        scores={k: None if v is None or math.isnan(v) else v for k, v in scores.items()},
        seconds=run.rows[-1].seconds,
        step_seconds=float(np.median(seconds)),
        data_wait_share=float(np.average(waits, weights=seconds)),
    )


def _compare(folders: Mapping[str, Path], runs: Mapping[str, Run], resamples: int) -> RunComparison:
    names, (a, b) = list(runs), runs.values()
    counts = [read_counts(folder / COUNTS) for folder in folders.values()]
    scores = {}
    if counts[0].names == counts[1].names:
        for name in counts[0].values():
            scores[name] = statistics.known(
                lambda of=name: statistics.compare(
                    *(c.samples()[of] for c in reversed(counts)), resamples=resamples
                )
            )
    return RunComparison(
        of=f"{names[1]} - {names[0]}",
        same_data=a.description["data_sha256"] == b.description["data_sha256"],
        losses={
            name: loss_gap(a, b, name)
            for name in MASKFORMER.losses
            if name in a.names("train") and name in b.names("train")
        },
        scores=scores,
    )


def loss_gap(a: Run, b: Run, name: str) -> LossGap:
    """How far two loss curves are apart, as |a - b| / mean(a, b).

    At the first step both have, as median and largest over all of them, and the largest between
    medians over twentieths of the run; `end` is the last of these medians, of each run.
    """
    steps, x, y = _common(a.column(name), b.column(name))
    gaps = _gap(x, y)
    parts = np.array_split(np.arange(len(steps)), min(_WINDOWS, len(steps)))
    medians = [np.array([np.median(curve[part]) for part in parts]) for curve in (x, y)]
    return LossGap(
        steps=len(steps),
        first_gap=float(gaps[0]),
        median_gap=float(np.median(gaps)),
        largest_gap=float(gaps.max()),
        smoothed_gap=float(_gap(*medians).max()),
        end=tuple(float(one[-1]) for one in medians),
    )


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

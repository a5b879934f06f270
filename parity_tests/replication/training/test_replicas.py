"""Two TensorFlow replicas, two PyTorch ranks and one process make the same update in float64."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskformer.model import zoo

ROOT = Path(__file__).parents[3]
SOLVER = zoo.get("tiny").solver
CASES = ("plain", "empty")  # the second image of "empty" has no target
LIMIT = 1e-12  # relative, of losses, and of gradients in units of their clipped norm
# Adam divides an error of the gradient by at least epsilon; the result is in units of the rate.
UPDATE_LIMIT = LIMIT * SOLVER.clip_value / SOLVER.eps


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What a process of its own has computed, by kind."""
    folder = tmp_path_factory.mktemp("replicas")
    found = {}
    for kind in ("torch", "one", "tf"):
        output = folder / f"{kind}.npz"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "parity_tests.replication.training.replica_runs",
                kind,
                str(output),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found[kind] = dict(np.load(output))
    return found


def problems(ours, theirs, mode, other=None):
    """What differs in loss, gradient norm (before clipping) or updated weights.

    `theirs` is taken in the normalisation `other`, by default the same.
    """
    lines = []
    for case in CASES:
        mine, yours = f"{mode}/{case}", f"{other or mode}/{case}"
        for name in ("total", "norm"):
            gap = abs(float(ours[f"{mine}/{name}"]) / float(theirs[f"{yours}/{name}"]) - 1)
            if not gap <= LIMIT:
                lines.append(f"{mine}/{name} is {gap:.3g}, but should be below {LIMIT:g}")
        prefix = f"{yours}/weight/"
        for key in (key.removeprefix(prefix) for key in theirs if key.startswith(prefix)):
            moved = ours[f"{mine}/weight/{key}"] - theirs[f"{prefix}{key}"]
            gap = np.abs(moved).max() / SOLVER.base_lr
            if not gap <= UPDATE_LIMIT:
                lines.append(f"{mine}/{key} is {gap:.3g}, but should be below {UPDATE_LIMIT:g}")
    return lines


@pytest.mark.parametrize("mode", ["ddp_mean", "global"])
def test_two_replicas_equal_two_ranks(runs, mode):
    for case in CASES:
        assert runs["tf"][f"{mode}/{case}/norms_differ"] == 0
        assert runs["tf"][f"{mode}/{case}/copies_differ"] == 0
    assert problems(runs["tf"], runs["torch"], mode) == []


def test_global_normalisation_is_that_of_one_process(runs):
    assert problems(runs["torch"], runs["one"], "global") == []
    assert problems(runs["tf"], runs["one"], "global") == []


def test_wrong_normalisation_is_detected(runs):
    """The twin: the mean over replicas is not the loss of the whole batch."""
    lines = problems(runs["tf"], runs["torch"], "ddp_mean", other="global")
    assert sum("/total" in line or "/norm" in line for line in lines) == 4
    assert problems(runs["torch"], runs["one"], "ddp_mean") != []

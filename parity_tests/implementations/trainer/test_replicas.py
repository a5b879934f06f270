"""Two gloo ranks under torchrun train as one process does with the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskformer.runs.run_record import read_run
from maskformer.scenes.scenes import write_scenes
from torch_reference import checkpointing
from torch_reference.trainer import CHECKPOINTS

ROOT = Path(__file__).parents[3]
LIMIT = 1e-9  # relative, of losses and norms; of weights in units of their tensor's largest
RATE = 1e-6  # a bias that began at 0 is as large as the updates; rounding errors have that unit


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Four training images whose smallest segments are large."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 5, seed=36, size=96, val_share=0.2)
    return folder


def trained(folder, data, ranks, normalisation, steps):
    """Checkpoint and record of a run on `ranks` processes with a global batch of 4."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    words = [
        "-m",
        "parity_tests.implementations.trainer.rank",
        str(folder),
        str(data),
        "4",
        normalisation,
    ]
    done = subprocess.run(
        [sys.executable, *(launcher if ranks > 1 else []), *words, str(steps)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-20000:]
    newest = checkpointing.list_checkpoints(folder / CHECKPOINTS)[-1]
    record = read_run(folder)
    assert record.column("loss")[0].tolist() == list(range(1, steps + 1))
    return checkpointing.load(newest), record


def gaps(ours, theirs):
    """The largest relative gap of weights, and of the rows' losses, norms and sentinels."""
    weights = max(
        float((ours[0].model[key] - value).abs().max() / value.abs().max().clamp(min=RATE))
        for key, value in theirs[0].model.items()
        if value.is_floating_point()
    )
    names = [
        name
        for name in theirs[1].names("train")
        if name.startswith(("loss", "gradient", "matched", "no_object", "overflow"))
    ]
    rows = 0.0
    for name in names:
        a, b = (torch.tensor(run.column(name)[1]) for run in (ours[1], theirs[1]))
        rows = max(rows, float(((a - b).abs() / b.abs().clamp(min=1e-12)).max()))
    return {"weights": weights, "rows": rows}


def compared(tmp_path, data, steps, modes):
    """Gaps between two ranks and one process, by normalisation."""
    one = trained(tmp_path / "one", data, 1, "global", steps)
    return {mode: gaps(trained(tmp_path / mode, data, 2, mode, steps), one) for mode in modes}


def test_two_steps_on_two_ranks(scenes, tmp_path):
    found = compared(tmp_path, scenes, 2, ["global"])
    assert max(found["global"].values()) <= LIMIT, found


@pytest.mark.slow
def test_twenty_steps_on_two_ranks(scenes, tmp_path):
    """With global normalisation they are one process; with the original's not, which is seen."""
    found = compared(tmp_path, scenes, 20, ["global", "ddp_mean"])
    assert max(found["global"].values()) <= LIMIT, found
    assert found["ddp_mean"]["rows"] > 1e3 * LIMIT, found

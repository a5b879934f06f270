"""A few scenes are learnt by heart from scratch: the check before any long run."""

import time

import numpy as np
import pytest

from maskformer.runs.run_record import read_run
from maskformer.scenes.scenes import write_scenes
from parity_tests.implementations.trainer import small as runs
from torch_reference.trainer import Machine, run

STEPS = 500
SECONDS = 900


@pytest.fixture
def four(tmp_path):
    """Four training images whose smallest segments still have a pixel of a mask."""
    write_scenes(tmp_path / "four", 5, seed=36, size=192, val_share=0.2)
    return tmp_path / "four"


@pytest.mark.slow
@pytest.mark.usefixtures("determinism")
def test_four_scenes_reach_a_panoptic_quality_of_90(four, tmp_path):
    settings = runs.settings(
        four, steps=STEPS, batch=4, capacity=32, eval_split="train", checkpoint_every=0
    )
    began = time.perf_counter()
    scores = run(settings, tmp_path / "run", machine=Machine(threads=2))
    seconds = time.perf_counter() - began
    print(f"\nPQ {scores['panoptic_quality']:.1f} after {STEPS} steps, {seconds:.0f} s")
    assert scores["panoptic_quality"] >= 90
    assert seconds < SECONDS
    record = read_run(tmp_path / "run")
    assert record.column("matched_class_accuracy")[1][-20:].mean() > 0.95


def losses(data, out, **solver):
    """The loss of 16 steps with the small model and a warm-up of two."""
    solver = {"warmup_iters": 2, **solver}
    settings = runs.settings(data, steps=16, batch=4, checkpoint_every=0, solver=solver)
    run(settings, out)
    return read_run(out).column("loss")[1]


@pytest.mark.usefixtures("small", "determinism")
def test_the_loss_of_a_few_scenes_falls(scenes, tmp_path):
    """The small twin, and what it would show without learning."""
    learnt = losses(scenes, tmp_path / "learnt")
    still = losses(scenes, tmp_path / "still", base_lr=0.0)
    assert np.median(learnt[-4:]) < 0.8 * learnt[0]
    assert np.median(still[-4:]) > 0.9 * still[0]

"""Four scenes are learnt by heart from scratch: the sentinel that comes before any long run."""

import json
import os
import subprocess
import sys
import time

import pytest

from parity_tests.implementations.task import runs

STEPS = 500
SECONDS = 900


@pytest.mark.slow
def test_four_scenes_reach_a_panoptic_quality_of_90(tmp_path):
    """The documented command, on two cores, evaluated on the images it was trained on."""
    data = runs.write_data(tmp_path / "data", images=5, size=192, seed=36)  # four to train on
    train = data / "train2017"
    changes = {
        "task.train_data.input_path": train,
        "task.validation_data.input_path": train,
        "trainer.train_steps": STEPS,
        "trainer.validation_interval": STEPS,
        "trainer.optimizer_config.learning_rate.warmup_poly.max_iter": STEPS,
    }
    began = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "tf_impl.train", "--experiment=maskformer_scenes_tiny"),
            *("--mode=train_and_eval", f"--model_dir={tmp_path / 'run'}"),
            "--params_override=" + ",".join(f"{name}={value}" for name, value in changes.items()),
        ],
        cwd=runs.ROOT,
        env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr[-3000:]
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["command"].startswith("python -m tf_impl.train --experiment=maskformer_scenes")
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["split"] == "eval"
    print(f"\nPQ {rows[-1]['panoptic_quality']:.1f} after {STEPS} steps, {seconds:.0f} s")
    assert rows[-1]["panoptic_quality"] >= 90
    assert seconds < SECONDS

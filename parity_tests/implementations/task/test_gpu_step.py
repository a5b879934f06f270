"""The exported programs run under JAX: the same loss as torch, and the next step is the next."""

import json
import os
import subprocess
import sys

import pytest

from parity_tests.implementations.task import runs

pytest.importorskip("jax")


def benchmark(*words):
    """The result of the benchmark's command line."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_step", "--json", *words],
        cwd=runs.ROOT,
        env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_without_a_gpu_it_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = benchmark()
    assert found["measured"] is False
    assert found["reason"].startswith("no GPU that both see: torch sees 0")


@pytest.mark.slow
def test_the_exported_step_has_the_losses_of_torch():
    """On a CPU; a step that forgot what it wrote would have the first loss again."""
    found = benchmark(
        *("--platform", "cpu", "--config", "scenes_tiny", "--size", "64x96", "--batch", "1"),
        *("--rounds", "3", "--no-compile"),
    )
    rows = found["programs"]["train_step"]
    ours, theirs = rows["jax"]["losses"], rows["torch eager"]["losses"]
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1:] == pytest.approx(theirs[1:], rel=1e-3)
    assert len(set(ours)) == 4
    assert set(found["programs"]["inference"]) == {"jax", "torch eager"}

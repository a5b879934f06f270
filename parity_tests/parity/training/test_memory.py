"""A training audit holds a small multiple of what one training step needs; the rest is on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MOST = 2.5  # times what the training step of the larger model needs


def measured(*words: str) -> float:
    """What an audit holds at most, in units of the larger model's training step."""
    run = subprocess.run(
        [sys.executable, "-m", "parity_tests.parity.training.memory_case", *words],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        # So that the process has no more than what is held: else the heap keeps what was freed.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    found = json.loads(run.stdout.splitlines()[-1])
    return found["audit"] / found["step"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of Linux")
def test_a_training_audit_holds_little_more_than_a_training_step():
    assert measured() < MOST


@pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of Linux")
def test_traces_that_stay_in_memory_are_noticed():
    assert measured("--in-memory") > MOST

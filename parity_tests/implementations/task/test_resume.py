"""A run that was interrupted and continued is the uninterrupted run, bit for bit."""

import random
import time

import pytest

from parity_tests.implementations.task import runs


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    return runs.finish(runs.start("resume", folder), folder)


def test_a_resumed_run_is_the_uninterrupted_one(resumed):
    assert resumed["tensors"] > 300  # weights, both moments, counters
    assert resumed["differences"] == []
    assert not resumed["rows_differ"]
    assert resumed["steps"] == [1, 2, 3]


def test_damaged_checkpoints_are_skipped_with_a_warning(resumed):
    """The newest is torn, the one before has a flipped bit."""
    assert resumed["resumed"] == 1
    assert [name for text in resumed["warnings"] for name in ("ckpt-3", "ckpt-2") if name in text]
    assert len(resumed["warnings"]) == 2


def test_a_forgotten_data_position_is_noticed(resumed):
    """The twin: training continues, but with the examples of the first step."""
    assert resumed["differences_of_fault"] > 100


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path):
    """kill -9 at random moments, while saving included."""
    steps = 70
    runs.write_data(tmp_path / "data")
    runs.finish(runs.start("train_steps", tmp_path, "whole", steps), tmp_path)
    killed = tmp_path / "killed"
    rng = random.Random(0)
    kills = 0
    while kills < 10:
        before = len(runs.rows_of(killed)) if (killed / "metrics.jsonl").exists() else 0
        process = runs.start("train_steps", tmp_path, "killed", steps)
        target = before + rng.randint(1, 3)
        while process.poll() is None:
            rows = killed / "metrics.jsonl"
            if rows.exists() and rows.read_bytes().count(b"\n") >= target:
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
    runs.finish(runs.start("train_steps", tmp_path, "killed", steps), tmp_path)
    assert kills == 10
    expected = runs.weights_of(tmp_path / "whole", steps)
    assert runs.differences(expected, runs.weights_of(killed, steps)) == []
    assert runs.rows_of(tmp_path / "whole") == runs.rows_of(killed)

"""Two replicas, in one process or in two, train as one process does on the whole batch."""

import shutil
import signal
import time

import numpy as np
import pytest

from parity_tests.implementations.task import runs
from parity_tests.loopback import free_ports

LIMIT = 1e-9  # relative, in float64: sums in another order, and Adam's division by small roots

SINGLE = 2.0**-20  # of a sum of a few dozen float32 ratios, 2**-24 each


def problems(folder, name, steps):
    """What differs from the run on one device: losses, norms, sentinels, and the last weights."""
    found = []
    for mine, theirs in zip(runs.rows_of(folder / name), runs.rows_of(folder / "one"), strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            limit = SINGLE if key == "matched_iou" else LIMIT
            if isinstance(value, float) and abs(mine[key] - value) > limit * abs(value):
                found.append(f"{key} at step {mine['step']}")
    expected = runs.weights_of(folder / "one", steps)
    for key, array in runs.weights_of(folder / name, steps).items():
        # Moments of gradients that are zero in theory are rounding alone.
        if not key.startswith("model/"):
            continue
        gap = np.linalg.norm(array - expected[key])
        if not gap <= LIMIT * np.linalg.norm(expected[key]):
            found.append(key)
    return found


def start_workers(folder, steps):
    """Starts both on loopback."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    return [runs.start("worker", folder, index, hosts, steps) for index in (0, 1)]


def two_workers(folder, steps):
    """Runs both to the end."""
    runs.finish_all(start_workers(folder, steps), folder)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    runs.finish(runs.start("together", folder, 2), folder)
    return folder


def test_two_replicas_train_as_one(short):
    assert len(runs.rows_of(short / "one")) == 2
    assert problems(short, "mirrored", 2) == []


def test_a_weight_that_is_off_is_noticed(short, monkeypatch):
    """The twin: one weight of one replica's run, off by a part in a hundred million."""
    read = runs.weights_of

    def tampered(folder, step):
        weights = read(folder, step)
        if folder.name == "mirrored":
            key = next(k for k in weights if k.startswith("model/") and "mask_embed" in k)
            weights[key] = weights[key] * (1 + 1e-8)
        return weights

    monkeypatch.setattr(runs, "weights_of", tampered)
    assert len(problems(short, "mirrored", 2)) == 1


@pytest.mark.slow
def test_twenty_steps_of_two_replicas_and_of_two_workers(tmp_path):
    runs.finish(runs.start("together", tmp_path, 20), tmp_path)
    runs.finish(runs.start("unlike", tmp_path, 20), tmp_path)
    two_workers(tmp_path, 20)
    for name in ("one", "mirrored", "workers"):
        assert len(runs.rows_of(tmp_path / name)) == 20
    assert problems(tmp_path, "mirrored", 20) == []
    assert problems(tmp_path, "workers", 20) == []
    # Means over replicas are not what one process computes.
    found = problems(tmp_path, "wrong", 20)
    assert "loss at step 1" in found
    assert len(found) > 50


def test_two_workers_train_as_one(short):
    two_workers(short, 2)
    assert problems(short, "workers", 2) == []


@pytest.mark.slow
def test_a_worker_may_be_silent_for_longer_than_ten_seconds(short):
    """TensorFlow's own limit would end the run, as would a worker that is dead."""
    shutil.rmtree(short / "workers", ignore_errors=True)
    workers = start_workers(short, 12)
    record = short / "workers" / "metrics.jsonl"
    while not (record.exists() and record.read_text()):
        assert all(process.poll() is None for process in workers), "a worker ended early"
        time.sleep(0.1)
    workers[1].send_signal(signal.SIGSTOP)
    time.sleep(20)
    workers[1].send_signal(signal.SIGCONT)
    runs.finish_all(workers, short)
    assert len(runs.rows_of(short / "workers")) == 12

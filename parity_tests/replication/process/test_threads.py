"""Processes beside each other compute with no more threads together than there are cores."""

import os
import subprocess
import sys

import pytest
import torch

from replication.process import threads

ASKED = f"import os; print([os.environ.get(name) for name in {threads.THREADS!r}])"


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for name in threads.THREADS:
        monkeypatch.delenv(name, raising=False)


def started(environment=None):
    """What a process that starts now is told of threads."""
    run = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, check=True, env=environment
    )
    return run.stdout.strip()


@pytest.mark.usefixtures("four_cores")
def test_sharing_cores_ends_with_its_context():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert threads.told_threads() == 0
        with threads.sharing_cores(2):
            assert torch.get_num_threads() == threads.told_threads() == 2
            assert started() == str(["2", None, None])
        assert torch.get_num_threads() == 4
        assert started() == str([None] * 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("four_cores")
def test_what_the_environment_says_of_threads_stays(monkeypatch):
    monkeypatch.setenv(threads.PYTORCH, "3")
    with threads.sharing_cores(4):
        assert os.environ[threads.PYTORCH] == "3"
    assert os.environ[threads.PYTORCH] == "3"
    assert threads.shared_cores(4)[threads.PYTORCH] == "3"
    assert threads.shared_cores(8)["TF_NUM_INTEROP_THREADS"] == "1"

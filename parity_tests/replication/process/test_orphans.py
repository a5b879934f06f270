"""A process that ends with its parent, however that ends."""

import signal
import subprocess
import sys

import pytest

from parity_tests.replication.runs.test_trainers import ROOT

PARENT = """
import subprocess, sys
words = "import time; {begins}; print('ready', flush=True); time.sleep({seconds})"
subprocess.Popen([sys.executable, "-c", words]).wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of it")
@pytest.mark.parametrize("ends", [True, False])
def test_process_ends_with_its_killed_parent(ends):
    begins = "from parity.orphans import end_with_parent; end_with_parent()" if ends else "1"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(begins=begins, seconds=30 if ends else 2)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        # The output is at its end when the child, which has inherited it, is.
        if ends:
            assert parent.communicate(timeout=10) == (b"", None)
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                parent.communicate(timeout=0.5)


def test_process_whose_parent_has_ended_ends_at_once():
    words = "from parity.orphans import end_with_parent; end_with_parent(1); print('goes on')"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"")

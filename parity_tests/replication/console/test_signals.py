"""A process that is asked to end takes with it those that it has begun."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from parity_tests.replication.runs.test_trainers import ROOT, is_alive
from replication.console.signals import Terminated, ended_by_signals

PARENT = """
import contextlib, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from replication.console.signals import ended_by_signals

if __name__ == "__main__":
    context = ended_by_signals() if sys.argv[1] == "ended" else contextlib.nullcontext()
    with context, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


GRANDPARENT = """
import subprocess, sys
from replication.console.signals import ended_by_signals
from replication.process.fresh_process import in_fresh_process

def work():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        try:
            print(child.pid, flush=True)
            child.wait()
        finally:
            child.kill()

if __name__ == "__main__":
    with ended_by_signals():
        in_fresh_process(work)
"""


@pytest.fixture
def begun(tmp_path):
    """begun(how, *ignored signals): a process whose child is at work, and the child's number."""
    script = tmp_path / "parent.py"
    groups = []

    def begin(how, *ignored):
        script.write_text(GRANDPARENT if how == "fresh" else PARENT)

        def ignore():
            for one in ignored:
                signal.signal(one, signal.SIG_IGN)

        process = subprocess.Popen(
            [sys.executable, script, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            preexec_fn=ignore,
        )
        groups.append(process)
        return process, int(process.stdout.readline())

    yield begin
    for process in groups:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_a_pool_does(begun, number):
    process, worker = begun("ended")
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert f"Terminated: signal {int(number)}" in told
    assert not is_alive(worker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_what_a_fresh_process_has_begun(begun, number):
    process, grandchild = begun("fresh")
    process.send_signal(number)
    process.communicate(timeout=30)  # until all have closed what they inherited
    assert process.returncode != 0
    assert not is_alive(grandchild)


def test_without_the_context_a_pool_goes_on(begun):
    process, worker = begun("left")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert is_alive(worker)


def test_an_ignored_signal_stays_ignored(begun):
    """As under nohup, where a training goes on when its terminal is closed."""
    process, worker = begun("ended", signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert is_alive(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert not is_alive(worker)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_that_a_collection_of_garbage_swallows_comes_again(number, error):
    reached = []

    def callback(*_):
        gc.callbacks.remove(callback)
        signal.raise_signal(number)

    def work():
        gc.callbacks.append(callback)
        gc.collect()
        reached.append("the work goes on as if there had been no signal")
        time.sleep(20)

    with ended_by_signals(), pytest.raises(error):
        work()
    assert reached


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)]
    hook = sys.unraisablehook
    with ended_by_signals(), pytest.raises(Terminated) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.status == 143
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)] == before
    assert sys.unraisablehook is hook

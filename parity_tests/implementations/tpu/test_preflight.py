"""Compilations share a machine's memory: one that others left no room for begins again alone."""

import fcntl
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tf_impl.tpu import preflight
from tf_impl.tpu.lowering import Program

RUNS = "import sys, time; open(sys.argv[1], 'a').write('.'); time.sleep(2); print('made')"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine.available: a function of the bytes that are free; locks are in a folder of its own.

    machine.processes: those that were started.
    """
    found = SimpleNamespace(available=lambda: preflight.LEAST_FREE, processes=[])

    class Noted(preflight.subprocess.Popen):
        def __init__(self, *words, **more):
            super().__init__(*words, **more)
            found.processes.append(self)

    memory = SimpleNamespace
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(available=found.available()))
    monkeypatch.setattr(preflight.subprocess, "Popen", Noted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return found


@pytest.fixture
def other(machine):
    """The lock of another compilation, beside which a first one finds no memory."""
    lock = preflight._lock_file("running")
    fcntl.flock(lock, fcntl.LOCK_SH)
    machine.available = lambda: 0 if len(machine.processes) == 1 else preflight.LEAST_FREE
    with lock:
        yield lock


def run(path: Path):
    return preflight._run([sys.executable, "-c", RUNS, str(path)])


def starts(path: Path) -> int:
    return len(path.read_text())


def test_a_compilation_with_room_ends_by_itself(machine, tmp_path):
    assert run(tmp_path / "starts").stdout == "made\n"
    assert starts(tmp_path / "starts") == 1


def test_a_compilation_that_takes_all_memory_alone_is_given_up(machine, tmp_path):
    machine.available = lambda: 0
    assert run(tmp_path / "starts") is None
    assert len(machine.processes) == 1
    assert machine.processes[0].returncode != 0


def test_a_compilation_beside_another_begins_again_after_it(machine, other, tmp_path):
    """It waits: what the other holds is given back only then."""
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run, tmp_path / "starts")
        with pytest.raises(TimeoutError):
            ending.result(timeout=4)
        assert len(machine.processes) == 1
        other.close()
        assert ending.result().stdout == "made\n"
    assert len(machine.processes) == 2


def test_a_compilation_that_waits_to_be_alone_is_not_passed_by_others(machine, other, tmp_path):
    """What comes while it waits begins after it, not beside what it waits for."""
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(run, tmp_path / "first")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=3)
        coming = pool.submit(run, tmp_path / "second")
        with pytest.raises(TimeoutError):
            coming.result(timeout=1)
        assert len(machine.processes) == 1
        other.close()
        assert [one.result().stdout for one in (waiting, coming)] == ["made\n"] * 2
    assert [one.args[-1].rpartition("/")[2] for one in machine.processes] == [
        "first",
        "first",
        "second",
    ]


@pytest.mark.parametrize(
    ("said", "printed", "status", "kind", "reason"),
    [
        ("memory", b"warming up\n{}\nlibtpu: bye \xff\n{ }\n7\n", 0, "memory", "too large"),
        ("other", b"{}\n", 0, "refused", "too large"),
        ("", b"libtpu: bye\n", 0, "other", "the compiler ended: exit status 0"),
        ("", b"", 9, "other", "the compiler ended: exit status 9"),
    ],
)
def test_the_compilers_answer_is_found_among_what_libtpu_prints(
    machine, monkeypatch, said, printed, status, kind, reason
):
    answer = json.dumps({"compiles": False, "reason": "too large", "kind": said, "needed": 9})
    printed = printed.replace(b"{}", answer.encode())
    program = f"import sys; sys.stdout.buffer.write({printed!r}); sys.exit({status})"
    watched = preflight._watched
    command = [sys.executable, "-c", program]
    monkeypatch.setattr(preflight, "missing_compiler", lambda: None)
    monkeypatch.setattr(preflight, "_watched", lambda _: watched(command))
    found = preflight.compile_for(Program(b"", 1), "v5e:2x2")
    assert (found.compiles, found.kind, found.reason) == (False, kind, reason)


def test_of_two_compilations_one_goes_on(machine, tmp_path):
    """Both see that memory is short; the end of one gives the other room."""

    def available() -> int:
        running = [one for one in machine.processes if one.poll() is None]
        return 0 if len(running) > 1 else preflight.LEAST_FREE

    machine.available = available
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(run, [tmp_path / "one", tmp_path / "two"]))
    assert [one.stdout for one in ends] == ["made\n"] * 2
    assert sorted(one.returncode == 0 for one in machine.processes) == [False, True, True]

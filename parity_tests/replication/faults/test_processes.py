"""Faults that several processes plant are known as one after another: all, once, in their order."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from parity.errors import InputError
from parity.faults import Fault
from replication.cli import app
from replication.faults import processes
from replication.faults.benches.finding import Finding

CATALOGUE = "parity_tests.replication.faults.test_processes"


class SumBench:
    """1 + 1, by a port that a fault has count on."""

    def __init__(self):
        self.found = 2

    def audit(self):
        return Finding(() if self.found == 2 else ("sum",), (), {})


class BrokenBench(SumBench):
    """A port that is wrong without a fault."""

    def __init__(self):
        self.found = 3


class LeavingBench(SumBench):
    """A port that stays wrong after a fault."""

    @property
    def found(self):
        return self._found

    @found.setter
    def found(self, value):
        self._found = max(value, getattr(self, "_found", 0))


@contextmanager
def counted_on(bench):
    bench.found += 1
    yield
    bench.found -= 1


def fault(name, bench):
    return Fault(name, "sum", "", bench, counted_on, places=("sum",))


FAULTS = [
    *(fault(f"sum-{index}", "sum") for index in range(5)),
    fault("other", "other"),
    fault("broken", "broken"),
    fault("leaving", "leaving"),
]
BENCHES = {
    "sum": lambda config, size: SumBench(),
    "other": lambda config, size: SumBench(),
    "broken": lambda config, size: BrokenBench(),
    "leaving": lambda config, size: LeavingBench(),
}
SOUND = [one.id for one in FAULTS[:6]]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


def run(*words):
    return CliRunner().invoke(app, ["faults", "run", *words, "--catalogue", CATALOGUE])


def test_faults_of_several_processes_are_known_as_one_after_another(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FAULTS_OF_A_PROCESS", 3)
    outcomes = []
    for count in ("1", "2"):
        found = run(*SOUND, "--processes", count, "--out", str(tmp_path / count), "--json")
        assert found.exit_code == 1, found.output  # no place is named, no cause given
        outcomes.append(json.loads(found.stdout.splitlines()[-1])["outcomes"])
        told = [line for line in found.stderr.splitlines() if line.startswith("[")]
        assert sorted(line.split("/")[0] for line in told) == [f"[{i}" for i in range(1, 7)]
    one, several = ([{**each, "seconds": 0} for each in every] for every in outcomes)
    assert several == one
    assert [each["id"] for each in several] == SOUND


@given(st.lists(st.integers(0, 5), min_size=1, max_size=150), st.integers(1, 4))
def test_parts_hold_every_fault_once_and_no_more_than_a_process_may(benches, count):
    faults = [fault(f"f{index}", f"bench {bench}") for index, bench in enumerate(benches)]
    parts = processes.parts_of(faults, count)
    assert sorted(name for part in parts for name in part) == sorted(one.id for one in faults)
    largest = max(benches.count(one) for one in benches)
    assert max(map(len, parts)) <= processes.FAULTS_OF_A_PROCESS
    assert max(map(len, parts)) <= max(largest, -(-len(faults) // count))


def test_small_benches_share_a_process_and_the_last_ones_are_small():
    names = [fault(f"{bench}-{index}", bench) for bench in "abcdefgh" for index in range(8)]
    assert [len(part) for part in processes.parts_of(names, 2)] == [32, 16, 8, 8]
    assert [len(part) for part in processes.parts_of(names, 1)] == [32, 32]
    assert len(processes.parts_of(names[:16], 2)) == 2


def test_what_one_process_knows_is_not_planted_again(tmp_path):
    words = ("--processes", "2", "--out", str(tmp_path))
    run(*SOUND[:3], *words)
    again = run(*SOUND, *words, "--resume")
    told = [line for line in again.stderr.splitlines() if line.startswith("[")]
    assert [line.split("/")[0] for line in told] == ["[4", "[5", "[6"]


def test_a_process_whose_sound_port_fails_says_so():
    found = run("sum-0", "broken", "--processes", "2")
    assert isinstance(found.exception, InputError)
    assert str(found.exception).startswith("the sound port fails in broken\n  claims: sum\n")


def test_a_process_that_fails_is_our_failure():
    found = run("sum-0", "leaving", "--processes", "2")
    assert isinstance(found.exception, RuntimeError)
    assert "leaving fails without a fault after its faults" in str(found.exception)

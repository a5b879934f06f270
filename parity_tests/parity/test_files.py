"""A conversion that is killed leaves nothing in the way of the next one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity import files as atomic
from parity_tests.weight_conversion.samples import CONFIG, state, write_safetensors
from weight_conversion.convert import convert
from weight_conversion.receipt import receipt_path
from weight_conversion.verification import verify

ROOT = Path(__file__).parent.parent.parent
KILLED = """
import os, signal, sys
from pathlib import Path
from parity_tests.weight_conversion.samples import CONFIG
from weight_conversion.convert import convert

def kill(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], CONFIG, progress=kill)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("source") / "a.safetensors", state())


@pytest.mark.parametrize(("to", "name"), [("safetensors", "b.safetensors"), ("hf", "hf")])
def test_leftovers_of_a_killed_conversion_are_removed_by_the_next(to, name, source, tmp_path):
    target = tmp_path / name
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(target), to], cwd=ROOT, check=False
    )
    assert child.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".{name}.")
    assert left.name.endswith(".partial")
    said: list[str] = []
    convert(source, target, to, CONFIG, say=said.append)
    assert said == [f"removed {left}, left by a killed conversion"]
    assert not left.exists()
    assert verify(receipt_path(target, to)) == []
    convert(source, target, to, CONFIG, say=said.append)
    assert len(said) == 1, "a conversion without leftovers had something to say"


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def leftover(target: Path, process: int, kind: str) -> Path:
    with atomic.temporary(target, False) as path:
        own = path.name
    name = own.replace(f"-{os.getpid()}.partial", f"-{process}.{kind}")
    assert name != own
    return target.parent / name


def test_what_a_living_process_or_another_target_has_there_stays(dead, tmp_path) -> None:
    target = tmp_path / "a.safetensors"
    kept = [
        leftover(target, os.getppid(), "partial"),
        leftover(tmp_path / "b.safetensors", dead, "partial"),
        tmp_path / f".a.safetensors.elsewhere-{dead}.partial",
        tmp_path / ".a.safetensors.partial",
    ]
    gone = leftover(target, dead, "partial")
    for path in (*kept, gone):
        path.write_text("x")
    assert atomic.remove_leftovers(target) == [f"removed {gone}, left by a killed conversion"]
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("replaced", [False, True])
def test_an_earlier_result_that_was_set_aside_is_put_back(replaced, dead, tmp_path) -> None:
    target = tmp_path / "hf"
    old = leftover(target, dead, "old")
    old.mkdir()
    (old / "receipt.json").write_text("earlier")
    if replaced:
        shutil.copytree(old, target)
        (target / "receipt.json").write_text("later")
    (line,) = atomic.remove_leftovers(target)
    assert line.startswith(f"removed {old}" if replaced else f"put {target} back")
    assert (target / "receipt.json").read_text() == ("later" if replaced else "earlier")
    assert list(tmp_path.iterdir()) == [target]

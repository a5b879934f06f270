"""A trainer ends with the program that started it, and its folder has one trainer at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskformer.runs.run_record import RunRecord
from parity.errors import InputError
from parity.files import hold, replacing

ROOT = Path(__file__).parents[3]
DESCRIBED = """{
    "schema": "x", "side": "torch", "settings": {}, "versions": {}, "data_sha256": None,
    "checkpoint_sha256": None, "git_commit": None,
}"""
SLEEPER = """
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""
STARTER = """
import sys
from pathlib import Path
from replication.runs import trainers
trainers._watch("torch", ["sleeper", sys.argv[1]], Path(sys.argv[2]), 1, False)
"""
HOLDER = f"""
import sys, time
from maskformer.runs.run_record import RunRecord, SCHEMA
described = {DESCRIBED} | {{"schema": SCHEMA}}
record = RunRecord.open(sys.argv[1], described)
print("held", flush=True)
time.sleep(600)
"""


def started(program: str, *words: object, **more: object) -> subprocess.Popen:
    path = os.pathsep.join((str(ROOT), *map(str, more.pop("path", ()))))
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        **more,
    )


def waited_for(path: Path) -> int:
    for _ in range(600):
        if path.is_file() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_trainer_as_well(number: int, tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    said = tmp_path / "pid"
    parent = started(STARTER, said, tmp_path, path=[tmp_path], stderr=subprocess.DEVNULL)
    trainer = waited_for(said)
    assert is_alive(trainer)
    parent.send_signal(number)
    assert parent.wait(60) != 0
    assert not is_alive(trainer)


def test_a_folder_has_one_record_open_and_a_dead_process_holds_none(tmp_path: Path) -> None:
    from maskformer.runs.run_record import SCHEMA

    holder = started(HOLDER, tmp_path / "run", stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    described = eval(DESCRIBED) | {"schema": SCHEMA}
    with pytest.raises(InputError, match="is being written"):
        RunRecord.open(tmp_path / "run", described, 0)
    with pytest.raises(InputError, match="is being written"):
        hold(tmp_path / "run")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with RunRecord.open(tmp_path / "run", described, 0):
        pass
    os.close(hold(tmp_path / "run"))


def test_leftovers_of_dead_processes_go_at_the_next_start_in_any_destination(tmp_path) -> None:
    program = "import os, sys; from parity.files import replacing\n"
    program += "with replacing(sys.argv[1]) as path: path.write_text('x'); os._exit(9)"
    child = started(program, tmp_path / "a.json")
    assert child.wait() == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.json.")
    (tmp_path / f".b.json.elsewhere-{child.pid}.partial").write_text("another machine's")
    again = "import sys; from parity.files import replacing\n"
    again += "with replacing(sys.argv[1]) as path: path.write_text('y')"
    assert started(again, tmp_path / "other.json").wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".b.json.elsewhere-{child.pid}.partial",
        "other.json",
    ]


def test_what_this_process_is_writing_stays(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as path:
        path.write_text("x")
        with replacing(tmp_path / "b.json") as other:
            other.write_text("y")
        assert path.is_file()

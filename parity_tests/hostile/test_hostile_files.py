"""Every hostile file gives one error of three lines, or the right result, in time and memory.

Each is read in a process of its own, forked from this one, so that what it costs can be measured.
"""

import contextlib
import gc
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

import reports.loading  # noqa: F401
from parity.errors import InputError
from parity_tests.hostile.checkpoint_files import CHECKPOINTS, read_all
from parity_tests.hostile.json_files import HOSTILE, JSON, made
from parity_tests.hostile.other_files import OTHERS

SECONDS = 2
MEGABYTES = 500
_KILLED = 60  # seconds: a machine that is busy is no fault


def measured(read: Callable[[], object], seconds: float = SECONDS) -> str:
    """What `read` ends with: "right", or the error's text; and that it stays within the bounds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(_KILLED)
        status = 1
        with contextlib.suppress(BaseException):
            os.close(reader)
            # What the process that was copied ever held is none of the reader's.
            Path("/proc/self/clear_refs").write_text("5")
            gc.freeze()
            before, start = _most_held(), time.process_time()
            text = _outcome(read)
            cost = f"{_most_held() - before} {time.process_time() - start}\n".encode()
            os.write(writer, cost + text.encode("utf-8", "backslashreplace")[:60_000])
            status = 0
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        cost, _, text = stream.read().decode().partition("\n")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"it ended with {status}: {text}"
    grown, spent = cost.split()
    assert int(grown) < MEGABYTES * 1024, f"{int(grown) / 1024:.0f} MB: {text}"
    assert float(spent) < seconds, f"{float(spent):.1f} s: {text}"
    return text


def _most_held() -> int:
    """The most memory that this process has held, in KiB."""
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(line)


def _outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except InputError as error:
        return str(error)
    except BaseException:
        return f"TRACEBACK {traceback.format_exc()}"
    return "right"


def judged(text: str, message: str | None) -> None:
    if message is None:
        assert text == "right"
        return
    assert message in text, text
    lines = text.splitlines()
    assert len(lines) <= 4, text
    assert len(text) < 10_000, text
    assert "refused" not in lines[0] or "obtain the file again" not in text
    text.encode("utf-8")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_hostile_checkpoint_gives_one_error(name: str, tmp_path: Path) -> None:
    make, message = CHECKPOINTS[name]
    make(tmp_path / "file.any")
    judged(measured(lambda: read_all(tmp_path / "file.any")), message)


@pytest.mark.parametrize("name", OTHERS)
def test_a_hostile_file_gives_one_error(name: str, tmp_path: Path) -> None:
    make, read, message = OTHERS[name]
    make(tmp_path / "file.any")
    judged(measured(lambda: read(tmp_path / "file.any")), message)


@pytest.mark.parametrize("name", JSON)
def test_every_reader_of_json_gives_one_error(name: str, tmp_path: Path) -> None:
    for number, (kind, text) in enumerate(HOSTILE.items()):
        read = made(name, text, tmp_path / str(number))
        told = measured(read)
        assert told != "right", kind
        judged(told, "")


def test_there_are_many_hostile_files() -> None:
    assert len(CHECKPOINTS) + len(OTHERS) >= 60


def test_what_takes_too_long_is_noticed() -> None:
    with pytest.raises(AssertionError, match=" s: "):
        measured(lambda: sum(range(10**8)), seconds=0.2)


def test_what_takes_too_much_memory_is_noticed() -> None:
    with pytest.raises(AssertionError, match=" MB: "):
        measured(lambda: bytearray(b"x" * (MEGABYTES << 20)))


def test_a_crash_is_noticed() -> None:
    with pytest.raises(AssertionError, match="it ended with"):
        measured(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert "TRACEBACK" in measured(lambda: sys.modules["nothing of this name"])

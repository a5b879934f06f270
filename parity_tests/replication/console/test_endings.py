"""The program ends with a status that says which it was: a verdict, an input, itself, a stop."""

import errno
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parity_tests.test_repository import ROOT
from replication.console import endings


@pytest.fixture
def raising(monkeypatch):
    """raising(error): `parity zoo` raises it from now on."""

    def plant(error):
        def broken(*_, **__):
            raise error

        monkeypatch.setattr("maskformer.model.zoo.get", broken)

    return plant


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("two\nlines\x1b[31m"), MemoryError(), ZeroDivisionError()]
)
def test_a_fault_of_the_program_is_a_3_in_three_lines_with_a_traceback_in_a_file(
    error, raising, parity, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    raising(error)
    status, out, err = parity("zoo", "coco_r50")
    assert (status, out) == (3, "")
    fact, evidence, action = err.splitlines()
    assert fact.startswith(f"parity: the program itself failed: {type(error).__name__}")
    assert "\x1b" not in err
    path = Path(re.search(r"traceback is in (\S+)", evidence)[1])
    text = path.read_text(encoding="utf-8")
    assert text.startswith("parity ")
    assert "parity zoo coco_r50" in text
    assert f"{type(error).__name__}" in text.splitlines()[-1] or "lines" in text
    assert "raise error" in text
    assert "report it" in action


def test_without_room_for_the_file_the_traceback_is_printed(raising, parity, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    raising(KeyError("x"))
    status, _, err = parity("zoo", "coco_r50")
    assert status == 3
    assert "Traceback" in err
    assert "No space left on device" in err


def test_what_was_given_wrongly_stays_a_2(raising, parity, tmp_path):
    """The twin: an input, a usage and a full disk are no faults of the program."""
    assert parity("zoo", "no_such_config")[0] == 2
    assert parity("verify", tmp_path)[0] == 2
    assert parity("zoo", "--no-such-option")[0] == 2
    for error in (
        OSError(errno.ENOSPC, "No space left on device", "/out"),
        FileExistsError(errno.EEXIST, "File exists", "/out"),  # a folder below a file
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/out"),  # as of /proc/x
        RuntimeError("/out; No space left on device [Op:SaveV2]"),  # as TensorFlow says it
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors does
    ):
        raising(error)
        status, _, err = parity("zoo", "coco_r50")
        named = "a file" if "I/O" in str(error) else "/out"
        assert (status, f"{named} cannot be used" in err) == (2, True), err


def test_an_interruption_is_a_130_and_says_what_is_kept(raising, parity, tmp_path):
    raising(KeyboardInterrupt())
    status, _, err = parity("zoo", "coco_r50")
    assert (status, len(err.splitlines())) == (130, 3)
    assert "nothing is kept: no folder was given with --out" in err


@pytest.mark.parametrize("words", [("--out", "{out}"), ("--out={out}",)])
def test_what_is_kept_is_counted_in_the_folder_of_out(words, tmp_path):
    given = ["parity", "audit", *(word.format(out=tmp_path) for word in words)]
    (tmp_path / "one").write_text("")
    assert f"{tmp_path} holds 1 files" in str(endings.interrupted(given))
    missing = ["parity", "audit", "--out", str(tmp_path / "none")]
    assert "was not written" in str(endings.interrupted(missing))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_in_a_real_process_ends_with_its_own_status(number, status):
    program = (
        "import sys, time\n"
        "from replication import cli\n"
        "def wait(*_, **__):\n"
        "    print('waiting', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "import maskformer.model.zoo as zoo\n"
        "zoo.get = wait\n"
        "sys.argv = ['parity', 'zoo', 'coco_r50']\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline() == "waiting\n"
    time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[0]) == (
        status,
        "parity: interrupted before it came to a verdict",
    )

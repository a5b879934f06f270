"""Measurements of the harness that Ctrl-C ends: told in three lines, and nothing known is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from replication.cli import app
from replication.faults import clean as clean_audits
from replication.faults import runs as fault_runs
from reports.chapters.clean import CleanOutcome

CLEAN = ("faults", "clean", "--execution", "eager")


def ended(group: int, seconds: float = 10.0) -> bool:
    """Whether no process of the group is left, at the latest after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_clean_audits_that_are_interrupted_say_where_the_finished_ones_are(tmp_path, monkeypatch):
    first, second = clean_audits.cases(2, "tiny", ("eager",), 0)
    known = CleanOutcome(
        case=first,
        verdict="equal",
        failed=(),
        claims=10,
        float64=0.1,
        float32={"eager": 1.0},
        seconds=1.0,
    )
    left = []

    def one_more(cases):
        left.extend(cases)
        yield known
        raise KeyboardInterrupt

    monkeypatch.setattr(clean_audits, "_outcomes", one_more)
    run = CliRunner().invoke(app, [*CLEAN, "--runs", "2", "--out", str(tmp_path)])
    assert run.exit_code == 130
    assert run.stdout == ""
    assert run.stderr.splitlines()[-3:] == [
        "parity: interrupted before all 2 audits were run",
        f"  1 finished entries are in {tmp_path / clean_audits.NOTES}",
        "  repeat the command with --resume to go on from there",
    ]
    left.clear()
    CliRunner().invoke(app, [*CLEAN, "--runs", "2", "--out", str(tmp_path), "--resume"])
    assert left == [second]


def test_an_interruption_says_where_nothing_was_kept(monkeypatch):
    monkeypatch.setattr(fault_runs, "run_faults", interrupted)
    run = CliRunner().invoke(app, ["faults", "run", "adam-epsilon-hat"])
    assert run.exit_code == 130
    assert run.stderr.splitlines() == [
        "parity: interrupted before all 1 faults were run",
        "  nothing is kept: without --out there is no folder for it",
        "  give --out FOLDER, and what is known when a run is ended stays there",
    ]


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_without_a_traceback_and_resume_goes_on(tmp_path):
    command = [sys.executable, "-c", "from replication.cli import main; main()", *CLEAN]
    command += ["--runs", "2", "--out", str(tmp_path)]
    notes = tmp_path / clean_audits.NOTES
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while run.poll() is None and not (notes.is_file() and notes.read_text()):
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        _, told = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 130, told
    assert "Traceback" not in told
    assert told.splitlines()[-3] == "parity: interrupted before all 2 audits were run"
    assert ended(run.pid)
    before = notes.read_text()
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, check=True)
    assert notes.read_text().startswith(before)
    assert len(before.splitlines()) == 1
    assert json.loads(resumed.stdout)["runs"] == 2

"""What needs which packages: each works in a process that refuses to import any other."""

import json
import subprocess
import sys

import numpy as np
import pytest

from parity_tests.implementations.trainer.test_train_verb import recorded as recorded_run
from parity_tests.reports import recorded
from parity_tests.reports.test_samples import SAMPLE
from parity_tests.test_repository import ROOT
from reports.loading import of_result
from reports.render import write_report

JUDGING = {"numpy"}
EQUIVALENCE = JUDGING | {"scipy"}
RECHECKING = JUDGING | {"markupsafe"}
RENDERING = RECHECKING | {"jinja2"}
PICTURES = RENDERING | {"PIL"}
TYPER = {
    "typer",
    "annotated_doc",
    "annotated_types",
    "click",
    "pydantic",
    "pydantic_core",
    "rich",
    "shellingham",
    "typing_extensions",
    "typing_inspection",
}
"""The command line: Typer, and what it needs itself."""

ALONE = """
import sys
from importlib.abc import MetaPathFinder

OURS = {"maskformer", "parity", "reports", "replication", "weight_conversion"}
ALLOWED = set(sys.stdlib_module_names) | OURS | set(sys.argv.pop(1).split(","))

class Refusal(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        standard = name.startswith("_sysconfigdata")  # the standard library's, named by the machine
        if name.partition(".")[0] not in ALLOWED and not standard:
            raise ModuleNotFoundError(f"{name} is refused")

sys.meta_path.insert(0, Refusal())
"""
JUDGE = """
import json
from pathlib import Path
from parity.measurements import judge

claims = json.loads(Path(sys.argv[1]).read_text())["claims"]
assert [judge(one["measured"]).verdict for one in claims] == [one["verdict"] for one in claims]
"""
RECHECK = """
from pathlib import Path
from reports.loading import load
from reports.verification.recheck import recheck

found = load([Path(sys.argv[1])])
assert found and all(recheck(one) == [] for one in found)
"""
RENDER = """
from pathlib import Path
from reports.loading import load
from reports.render import write_report

write_report(load([Path(sys.argv[1])]), Path(sys.argv[2]))
"""
VERIFY = """
from replication.cli import main

sys.argv = ["parity", "verify", sys.argv[1]]
main()
"""


def alone(program, allowed, *words):
    """The program in a process that may import the standard library, this project and these."""
    command = [sys.executable, "-c", ALONE + program, ",".join(sorted(allowed)), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "audit.json"
    path.write_bytes(of_result(recorded.audit()).files[""])
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report without pictures."""
    folder = tmp_path_factory.mktemp("report")
    write_report(recorded.results(), folder)
    return folder


def assert_needs(program, allowed, *words):
    """Asserts that the program works with these packages alone; returns what it said."""
    run = alone(program, allowed, *words)
    assert run.returncode == 0, run.stderr
    return run


def test_judging_needs_numpy(audit):
    assert_needs(JUDGE, JUDGING, audit)
    assert "numpy is refused" in alone(JUDGE, set(), audit).stderr


def test_judging_an_equivalence_needs_scipy_too(tmp_path):
    measured = {"rule": "equivalence", "differences": {"0": 0.1, "1": -0.2, "2": 0.3}}
    measured |= {"margin": 6.0, "limit": 0.05}
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"claims": [{"measured": measured, "verdict": "holds"}]}))
    assert_needs(JUDGE, EQUIVALENCE, path)
    assert "scipy is refused" in alone(JUDGE, JUDGING, path).stderr


def test_what_a_result_says_is_checked_by_numpy_and_what_its_kind_draws_with(audit, report):
    assert_needs(RECHECK, RECHECKING, audit)
    assert_needs(RECHECK, RECHECKING, report / "evidence")
    assert_needs(RECHECK, RECHECKING, SAMPLE / "evidence")


def test_a_report_needs_its_templates_and_pillow_for_pictures(audit, tmp_path):
    assert_needs(RENDER, RENDERING, audit, tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file()
    assert "is refused" in alone(RENDER, JUDGING, audit, tmp_path / "other").stderr
    assert_needs(RENDER, PICTURES, SAMPLE / "evidence", tmp_path / "sample")
    refused = alone(RENDER, RENDERING, SAMPLE / "evidence", tmp_path / "other").stderr
    assert "PIL is refused" in refused


SAID = {"settings": {"config": "scenes_tiny", "seed": 0}, "command": "parity train --side both"}


def test_intervals_of_the_scores_of_two_runs_need_scipy(tmp_path):
    for side, quality in (("torch", 0.7), ("tf", 0.6)):
        folder = recorded_run(tmp_path / "runs" / side, side, np.linspace(10, 1, 40), quality)
        description = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(description | SAID))
    assert_needs(RENDER, RENDERING | {"scipy"}, tmp_path / "runs", tmp_path / "report")
    refused = alone(RENDER, RENDERING, tmp_path / "runs", tmp_path / "other").stderr
    assert "scipy is refused" in refused


def test_the_command_that_verifies_needs_what_made_the_report_and_typer(report):
    assert "verified: every file" in assert_needs(VERIFY, RENDERING | TYPER, report).stdout
    assert "verified: every file" in assert_needs(VERIFY, PICTURES | TYPER, SAMPLE).stdout


@pytest.mark.parametrize("name", ["torch", "tensorflow", "matplotlib", "PIL"])
def test_an_import_that_is_not_stated_is_noticed(report, name):
    run = alone(f"import {name}\n{VERIFY}", RENDERING | TYPER, report)
    assert run.returncode != 0
    assert f"{name} is refused" in run.stderr

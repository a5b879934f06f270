"""The pytest plugin: claims of another project's tests are judged, fail the test, and are kept."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity.measurements import judge

ROOT = Path(__file__).parents[2]
SUITE = """
import numpy as np
import pytest
from parity.metrics import perturb_ulp

X = np.random.default_rng(0).normal(size=(4, 50))
W = np.random.default_rng(1).normal(size=(50, 50))


def moved():
    return [{"y": perturb_ulp(X, 0) @ perturb_ulp(W, 1)}]


def test_equal(parity_evidence):
    parity_evidence.same_function("linear", {"y": np.einsum("ij,jk", X, W)}, {"y": X @ W}, moved())


def test_single(parity_evidence):
    single = {"y": X.astype("float32") @ W.astype("float32")}
    other = {"y": np.einsum("ij,jk", X.astype("float32"), W.astype("float32"))}
    parity_evidence.same_precision("linear", other, single, {"y": X @ W})


@pytest.mark.parametrize("count", [0, 1])
def test_count(parity_evidence, count):
    found = ["a"] * count
    parity_evidence.claim("none", "No tensor is lost", {"rule": "none", "of": 3, "found": found},
                          "a lost tensor", rung="weights")


def test_without_evidence():
    assert True
"""
FAULTY = """
def test_transposed(parity_evidence):
    parity_evidence.same_function("linear", {"y": X @ W.T}, {"y": X @ W}, moved())


def test_missing(parity_evidence):
    parity_evidence.same_function("linear", {}, {"y": X @ W}, moved())


def test_more(parity_evidence):
    parity_evidence.same_function("linear", {"y": X @ W, "z": X}, {"y": X @ W}, moved())
"""


def run_python(folder, *words):
    """What a Python process prints that runs in `folder` and finds this project's packages."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return run.stdout


@pytest.fixture
def suite(tmp_path):
    """run(text, *words): another project's suite in `tmp_path`: what it prints, tests by outcome.

    A process of its own, not pytest's `pytester`, which forgets modules that others have imported.
    """

    def run(text, *words):
        (tmp_path / "test_other.py").write_text(text)
        printed = run_python(tmp_path, "-m", "pytest", "-p", "parity.pytest_plugin", "-q", *words)
        counts = re.findall(r"(\d+) (passed|failed|error)", printed.splitlines()[-1])
        return printed, {outcome: int(count) for count, outcome in counts}

    return run


def test_claims_of_a_suite_are_judged_and_kept(suite, tmp_path):
    printed, outcomes = suite(SUITE, "--parity-out", "evidence")
    assert outcomes == {"passed": 4, "failed": 1}
    assert re.search(r"^parity: 4 claims in .*suite\.json", printed, re.M)
    written = json.loads((tmp_path / "evidence" / "suite.json").read_text())
    assert (written["schema"], written["verdict"]) == (
        "maskformer-replication/suite/2",
        "different",
    )
    assert [one["verdict"] for one in written["claims"]].count("fails") == 1
    for one in written["claims"]:
        judged = judge(one["measured"])
        assert (judged.verdict, judged.cases) == (one["verdict"], one["cases"])
        rung, test = one["id"].split("/", 1)
        assert rung in ("activations", "precision", "weights")
        assert one["command"] == f"pytest {test.rpartition('::')[0]}"
    assert written["command"].endswith("--parity-out evidence")


def test_a_fault_fails_its_test_and_is_recorded(suite, tmp_path):
    """The twin: a transposed matrix, a tensor that is missing, one that is too many."""
    _, outcomes = suite(SUITE + FAULTY, "--parity-out", "evidence")
    assert outcomes == {"passed": 4, "failed": 4}
    written = json.loads((tmp_path / "evidence" / "suite.json").read_text())
    failed = {one["id"].split("::")[1] for one in written["claims"] if one["verdict"] == "fails"}
    assert failed == {"test_transposed", "test_missing", "test_more", "test_count[1]"}


def test_workers_hand_their_claims_to_the_main_process(suite, tmp_path):
    assert suite(SUITE, "--parity-out", "one")[1] == {"passed": 4, "failed": 1}
    assert suite(SUITE, "--parity-out", "two", "-n", "2")[1] == {"passed": 4, "failed": 1}
    one, two = (json.loads((tmp_path / name / "suite.json").read_text()) for name in ("one", "two"))
    assert one["claims"] == two["claims"]


def test_without_a_folder_claims_are_judged_and_nothing_is_written(suite, tmp_path):
    before = set(tmp_path.iterdir())
    assert suite(SUITE)[1] == {"passed": 4, "failed": 1}
    assert not list(tmp_path.rglob("suite.json"))
    assert before <= set(tmp_path.iterdir())


def test_a_claim_recorded_twice_is_refused(suite):
    text = """
def test_twice(parity_evidence):
    for _ in range(2):
        parity_evidence.claim("a", "A", {"rule": "none", "of": 1, "found": []}, "why")
"""
    assert "give each claim its own name" in suite(text)[0]


def test_the_plugin_loads_no_framework(tmp_path):
    program = (
        "import sys, parity.pytest_plugin\n"
        "print(sorted({'torch', 'tensorflow', 'tf_keras', 'jax'} & set(sys.modules)))"
    )
    assert run_python(tmp_path, "-c", program) == "[]\n"


def test_the_plugin_is_an_entry_point_of_the_package():
    text = (ROOT / "pyproject.toml").read_text()
    section = re.search(r"\[project\.entry-points\.pytest11\]\n(.+)", text).group(1)
    assert section == '"parity.pytest_plugin" = "parity.pytest_plugin"'


def test_a_report_takes_the_evidence_of_a_suite_and_is_verified(suite, tmp_path, parity):
    suite(SUITE, "--parity-out", "evidence")
    status, out, _ = parity("report", tmp_path / "evidence", "--out", tmp_path / "report")
    assert (status, "fails: No tensor is lost" in out) == (1, True)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "1 of 4 claims fail: No tensor is lost." in page
    assert parity("verify", tmp_path / "report")[0] == 0
    path = tmp_path / "report" / "evidence" / "01-suite.json"
    path.write_text(path.read_text().replace('"different"', '"equal"'))
    status, out, _ = parity("verify", tmp_path / "report")
    assert status == 1
    assert "evidence/01-suite.json: verdict is 'equal', but should be 'different'" in out

"""What is installed is the product, complete, and it works without this repository."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from parity_tests.test_repository import FLOORS, ROOT, tracked

LEFT_OUT = ("parity_tests", "benchmarks", "examples")
PRODUCT = sorted(set(FLOORS) - set(LEFT_OUT))
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {LEFT_OUT!r}:
            raise ImportError(f"{{name}} is not installed")
sys.meta_path.insert(0, Refuse())
"""
RUN = "import sys; sys.argv[0] = 'parity'; from replication.cli import main; main()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the tracked files, built as pip builds it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        if name.partition("/")[0] in (*FLOORS, name):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-c", BUILD, str(out)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return zipfile.ZipFile(out / run.stdout.split()[-1])


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The folder in which the wheel is unpacked."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def python(site: Path, cwd: Path, program: str, *words: str) -> subprocess.CompletedProcess:
    """Runs the program where only the wheel's packages are, and those that it depends on."""
    return subprocess.run(
        [sys.executable, "-c", REFUSE + program, *words],
        cwd=cwd,
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_the_product_and_nothing_else(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    samples = "reports/samples/"
    wanted = {n for n in tracked() if n.partition("/")[0] in PRODUCT and not n.startswith(samples)}
    assert held == wanted


def test_a_metric_fault_is_found_outside_the_repository(site, tmp_path):
    run = python(site, tmp_path, RUN, "faults", "run", "metric-half-matches", "--json")
    assert run.returncode == 0, run.stderr
    (outcome,) = json.loads(run.stdout)["outcomes"]
    assert outcome["detected"]
    assert outcome["place_exact"]
    assert list(tmp_path.iterdir()) == []


def test_processes_of_an_installation_find_its_packages(site, tmp_path):
    program = (
        "from replication.runs import trainers as t; print(t.child_environment()['PYTHONPATH'])"
    )
    run = python(site, tmp_path, program)
    assert run.stdout.split(":")[0].strip() == str(site), run.stderr


@pytest.mark.parametrize("package", LEFT_OUT)
def test_an_import_of_what_is_not_installed_is_noticed(site, tmp_path, package):
    run = python(site, tmp_path, f"import {package}")
    assert f"ImportError: {package} is not installed" in run.stderr


def test_without_its_golden_numbers_the_installation_does_not_work(site, tmp_path):
    broken = tmp_path / "site"
    broken.mkdir()
    for folder in PRODUCT:
        (broken / folder).symlink_to(site / folder)
    (broken / "replication").unlink()
    missing = shutil.ignore_patterns("golden_pq.json")
    shutil.copytree(site / "replication", broken / "replication", ignore=missing)
    run = python(broken, tmp_path, "import replication.faults.benches.metric")
    assert "golden_pq.json" in run.stderr.splitlines()[-1]

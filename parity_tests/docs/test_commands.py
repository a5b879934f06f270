"""Every command of the documents is run: quick ones here, long ones, in order, when asked for."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.docs.documents import LISTED, ROOT, documented, shorter
from parity_tests.reports import recorded
from reports.evidence import json_bytes

SECONDS = 1500  # the longest that one command may take


def allowed(command):
    """A claim may fail by limits that a reader chooses, and a statistical one after so few steps.

    All else must succeed.
    """
    return (0, 1) if "--limit" in command or command.startswith("parity train") else (0,)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A folder with what the quick commands take: recorded results, an imported run's file."""
    folder = tmp_path_factory.mktemp("quick")
    for name, content in (
        ("runs/photo/audit.json", recorded.audit()),
        ("runs/scenes_both/evaluation.json", recorded.evaluation()),
        ("runs/before/audit.json", recorded.audit()),
        ("runs/after/audit.json", recorded.audit()),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json_bytes(content))
    (folder / "output").mkdir()
    rows = [{"iteration": 19 + 20 * n, "total_loss": 9.0 - n, "lr": 1e-4} for n in range(3)]
    (folder / "output" / "metrics.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.mark.parametrize("command", LISTED["fast"])
def test_quick_command_runs_as_documented(quick, monkeypatch, parity, command):
    monkeypatch.chdir(quick)
    program, *words = shlex.split(shorter(command).replace(PUBLISHED, STAND_IN))
    assert program == "parity"
    if "reports/out/mine" in words and words[0] != "report" and not Path("reports").exists():
        parity("report", "runs/photo", "runs/scenes_both", "--out", "reports/out/mine")
    if "reports/out/mine/evidence" in words and not Path("reports").exists():
        parity("report", "runs/photo", "runs/scenes_both", "--out", "reports/out/mine")
    status, out, err = parity(*words)
    assert status in allowed(command), out + err


# A published name states the md5 of its file, which no file of the project's own can have.
PUBLISHED, STAND_IN = "model_final_6f60dc.pkl", "stand_in.pkl"


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """One folder for all long commands, with a photograph and a checkpoint like the original's."""
    from safetensors.numpy import save_file

    from maskformer.model import zoo
    from replication.sides.weights import load_weights
    from replication.story.stages import photographs
    from weight_conversion.convert import convert

    folder = tmp_path_factory.mktemp("documented")
    shutil.copy(photographs()[0], folder / "photo.jpg")
    for name in ("parity_tests", "benchmarks", "pyproject.toml", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    config = zoo.model_config("coco_r50")
    save_file(load_weights("seeded:7", config).state, folder / "weights.safetensors")
    convert(folder / "weights.safetensors", folder / STAND_IN, "torch", config)
    scenes = load_weights("seeded:1", zoo.model_config("scenes_tiny"))
    save_file(scenes.state, folder / "scenes.safetensors")
    for name in ("before", "after"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "audit.json").write_bytes(json_bytes(recorded.audit()))
    (folder / "output").mkdir()
    (folder / "output" / "metrics.json").write_text('{"iteration": 19, "total_loss": 9.0}\n')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in documented() if c not in LISTED["elsewhere"]])
def test_command_runs_as_documented(workplace, command):
    """In the order of the documents, so that a command finds what an earlier one made."""
    program, *words = shlex.split(shorter(command).replace(PUBLISHED, STAND_IN))
    programs = {
        "parity": [sys.executable, "-c", "from replication.cli import main; main()"],
        "python": [sys.executable],
        "pytest": [sys.executable, "-m", "pytest"],
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    run = subprocess.run(
        [*programs[program], *words],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode in allowed(command), (
        f"{command}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    )

"""`parity capture`: what is run elsewhere by a script, without the other framework, is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maskformer.model import zoo
from parity.errors import InputError
from parity_tests.parity.captures import test_captured_steps as captured_steps
from replication.cli import app
from replication.commands.capture import _without
from weight_conversion.spec import expected, expected_of_tensorflow

ROOT = Path(__file__).parents[3]
SMALL = ("--config", "scenes_tiny", "--size", "64x64", "--batch", "2")
CASE = (*SMALL, "--execution", "eager", "--train")


def without(package, folder):
    """The environment of a machine on which a package is not installed."""
    place = folder / f"without_{package}"
    (place / package).mkdir(parents=True, exist_ok=True)
    words = f"raise ModuleNotFoundError('No module named {package}', name={package!r})\n"
    (place / package / "__init__.py").write_text(words)
    path = os.pathsep.join([str(place), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "PYTHON": sys.executable}


def run(words, environment, folder):
    return subprocess.run(
        words, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


def parity(*words, environment=None, folder=ROOT):
    given = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return run([sys.executable, "-m", "replication.cli", *map(str, words)], given, folder)


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """Both sides, each captured where the other's framework is not; the port by its script."""
    folder = tmp_path_factory.mktemp("captured")
    script = folder / "capture.sh"
    done = parity("capture", "--side", "port", *CASE, "--plan", "--out", script)
    assert done.returncode == 0, done.stderr
    done = run(["sh", str(script), "port"], without("torch", folder), folder)
    assert done.returncode == 0, done.stderr
    done = parity(
        *("capture", "--side", "reference", *CASE, "--out", "reference"),
        environment=without("tensorflow", folder),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_two_sides_captured_apart_are_equal(captured):
    """In float64 and float32, of every tensor, where neither framework is installed."""
    environment = without("torch", captured)
    both = without("tensorflow", captured)["PYTHONPATH"]
    environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}{os.pathsep}{both}"
    words = ("--reference-trace", "reference", "--port-trace", "port", "--out", "judged", "--json")
    done = parity("audit", *words, environment=environment, folder=captured)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["verdict"], result["provenance"]["config"]) == ("equal", "scenes_tiny")
    assert result["taps"] > 200
    assert {*result["float32"]} == {"eager"}
    held = {one["id"] for one in result["claims"] if one["verdict"] == "holds"}
    assert {"weights", "same_function", "same_precision_eager", "same_decisions_eager"} <= held
    assert {f"train_{name}" for name in ("losses", "gradients", "update")} <= held
    done = parity("verify", "judged", folder=captured)
    assert done.returncode == 0, done.stdout


def test_a_captured_port_is_judged_beside_a_reference_that_runs(captured):
    words = ("--port-trace", "port", *CASE)
    done = parity("audit", *words, folder=captured)
    assert done.returncode == 0, done.stderr
    assert "verdict: equal" in done.stdout


def test_a_wrong_partner_is_refused_in_three_lines(captured):
    """Other weights, and other images."""
    for other, word in (("--weights", "seeded:1"), ("--batch", "1")):
        words = ("--port-trace", "port", *CASE, other, word)
        done = parity("audit", *words, folder=captured)
        assert done.returncode == 2
        lines = done.stderr.strip().splitlines()[-3:]
        assert lines[0] == "parity: the captured sides are not of one pair"
        assert ("weights:" if other == "--weights" else "input synthetic 1:") in lines[1]


def test_a_side_without_a_training_step_is_no_partner(captured):
    words = ("--port-trace", "port", *SMALL, "--execution", "eager")
    done = parity("audit", *words, folder=captured)
    assert done.returncode == 2
    assert "the captured reference has no training step" in done.stderr


def test_a_script_says_what_it_lacks(captured):
    done = run(
        ["sh", str(captured / "capture.sh"), "other"], without("tensorflow", captured), captured
    )
    assert done.returncode == 2
    assert "tensorflow is not installed" in done.stderr
    assert not (captured / "other").exists()


def test_a_script_needs_the_files_that_it_names(tmp_path):
    script = tmp_path / "capture.sh"
    words = ("--config", "tiny", "--images", "there/photo.jpg", "--plan", "--out", script)
    assert parity("capture", *words).returncode == 0
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHON": sys.executable}
    done = run(["sh", str(script)], environment, tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "there/photo.jpg is not here: copy it to this place, under this name\n",
    )


@pytest.mark.parametrize("name", ["tiny", "coco_swin_tiny", "ade20k_pp"])
def test_tensorflow_alone_knows_what_a_checkpoint_holds(name):
    config = zoo.model_config(name)
    ours, theirs = expected_of_tensorflow(config), expected(config)
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        other = theirs[key]
        assert (one.shape, one.dtype, one.layout) == (other.shape, other.dtype, other.layout)
        assert (one.constant is None) == (other.constant is None)


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["capture", "--config", "tiny"], "nothing says where to keep it"),
        (["capture", "--side", "both", "--out", "x"], "--side is 'both'"),
        (["capture", "--precision", "int8", "--out", "x"], "--precision is 'int8'"),
        (["capture", "--device", "npu", "--out", "x"], "--device is 'npu'"),
        (
            ["capture", "--pair", "x.py:pair", "--config", "tiny", "--out", "x"],
            "--pair does not go with --config",
        ),
        (
            ["audit", "--port-trace", "x", "--isolate"],
            "a captured side does not go with --isolate",
        ),
        (
            ["audit", "--port-trace", "x", "--reference-trace", "y", "--config", "tiny"],
            "a captured side does not go with --config",
        ),
        (
            ["audit", "--port-trace", "x", "--reference-trace", "y"],
            "y is no captured side",
        ),
    ],
)
def test_wrong_words_are_refused(words, fact):
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, InputError)
    lines = str(done.exception).splitlines()
    assert (lines[0], len(lines)) == (fact, len(lines))


def test_a_script_repeats_what_was_asked_without_where_it_was_written():
    words = ["--plan", "--config", "tiny", "--out", "a.sh", "--json", "--size=64x96", "--out=b.sh"]
    kept = _without(words, {"--plan": 0, "--out": 1, "--json": 0})
    assert kept == ["--config", "tiny", "--size=64x96"]


def test_a_named_pair_is_captured_with_its_training(tmp_path):
    """Each side alone; then one of them beside the other, which runs."""
    words = ["--pair", f"{captured_steps.__name__}:pair", "--train"]
    how = ["--precision", "float64"]
    for side in ("reference", "port"):
        made = ["capture", *words, *how, "--side", side, "--out", str(tmp_path / side)]
        done = CliRunner().invoke(app, made)
        assert done.exit_code == 0, done.output
    both = [f"--{side}-trace={tmp_path / side}" for side in ("reference", "port")]
    done = CliRunner().invoke(app, ["audit", *both, "--json"])
    assert done.exit_code == 0, done.output
    held = {one["id"] for one in json.loads(done.stdout)["claims"] if one["verdict"] == "holds"}
    assert {f"train_{name}" for name in ("losses", "gradients", "update")} <= held

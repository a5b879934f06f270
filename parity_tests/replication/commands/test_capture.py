"""`parity capture`: what is run elsewhere by a script, without the other framework, is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maskformer.model import zoo
from maskformer.model.own_config import own_config
from parity.errors import InputError
from parity_tests.parity.captures import test_captured_steps as captured_steps
from replication.cli import app
from replication.commands.capture import _without
from replication.forward import captured as captured_sides
from weight_conversion.spec import expected, expected_of_tensorflow

ROOT = Path(__file__).parents[3]
SMALL = ("--config", "scenes_tiny", "--size", "64x64", "--batch", "2")
CASE = (*SMALL, "--execution", "eager", "--train")


IDLE = (
    (["--side", "reference", "--execution", "zzz"], "--execution is 'zzz'"),
    (["--execution", "zzz"], "--execution is 'zzz'"),
    (["--precision", "float64", "--execution", "xla"], "--execution xla has no effect"),
    (["--precision", "float32", "--train"], "a training step is captured in float64"),
    (["--precision", "float64", "--device", "tpu"], "nothing is captured on a TPU"),
    (["--side", "reference", "--device", "gpu"], "a reference is not captured on a GPU"),
    (["--short-side", "32"], "--short-side has no effect without --images"),
    (["--images", "a.png", "--size", "32x32"], "--size has no effect beside --images"),
    (["--images", "a.png", "--batch", "2"], "--batch has no effect beside --images"),
    (["--images", "a.png", "--short-side", "0"], "--short-side is 0"),
    (["--batch", "0"], "--batch is 0"),
    (["--size", ""], "--size '' is no size"),
    (["--size", "zz"], "--size 'zz' is no size"),
    (["--config", "nothere"], "no config is called 'nothere'"),
    (["--threads", "-3"], "--threads is -3"),
    (["--pair", "nothere.py:pair"], "--pair nothere.py:pair names nothing"),
    (["--pair", "module"], "--pair module names nothing"),
    (["--pair", "x.py:pair", "--weights", "w.pt"], "--pair does not go with --weights"),
)


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
        assert "reference, float64" not in done.stderr  # nothing has run for that
        lines = done.stderr.strip().splitlines()[-3:]
        assert lines[0] == "parity: the captured sides are not of one pair"
        assert ("weights:" if other == "--weights" else "input synthetic 1:") in lines[1]


def test_a_side_without_a_training_step_is_no_partner(captured):
    words = ("--port-trace", "port", *SMALL, "--execution", "eager")
    done = parity("audit", *words, folder=captured)
    assert done.returncode == 2
    assert "the captured reference has no training step" in done.stderr
    assert "reference, float64" not in done.stderr


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
        (["audit", "--port-trace", "x", "--config", "tiny"], "x is no captured side"),
        (["audit", "--port-trace", "x", "--threads", "0"], "--threads is 0"),
        *(
            (["audit", "--port-trace", "x", *words], f"a captured side does not go with {words[0]}")
            for words in (["--set", "A=B"], ["--classes", "data"], ["--extreme-inputs"])
        ),
        *(
            (
                ["audit", "--port-trace", "x", "--reference-trace", "y", *words],
                f"a captured side does not go with {words[0]}",
            )
            for words in (["--execution", "eager"], ["--threads", "1"])
        ),
        *((["capture", *words, "--out", "x"], fact) for words, fact in IDLE),
        *((["capture", "--plan", *words, "--out", "x"], fact) for words, fact in IDLE),
    ],
)
def test_wrong_words_are_refused(words, fact, monkeypatch, tmp_path):
    """Before anything is loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(captured_sides, "of_request", lambda *given: pytest.fail("it was loaded"))
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, InputError)
    assert str(done.exception).splitlines()[0] == fact
    assert not Path("x").exists()


def test_what_is_there_is_not_replaced_by_a_script(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    words = ["capture", "--plan", "--out", str(tmp_path / "notes.txt")]
    done = CliRunner().invoke(app, words)
    assert str(done.exception).splitlines()[0] == f"{tmp_path / 'notes.txt'} exists already"
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "words", [["--pair", "two.py:pair"], ["--config-file", "own.json"], ["--weights", "w.pt"]]
)
def test_a_script_tests_for_each_file_that_it_needs(words, tmp_path, monkeypatch):
    """And imports TensorFlow where the port is ours; a pair's own file imports what it needs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.py").write_text("raise AssertionError('it is not imported here')")
    (tmp_path / "own.json").write_text(
        json.dumps(own_config("tiny", [zoo.OwnClass(1, "cat", True)]))
    )
    done = CliRunner().invoke(app, ["capture", "--plan", *words, "--out", "capture.sh"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "capture.sh").read_text()
    assert f"test -e {words[1].partition(':')[0]} ||" in text
    assert ("import tensorflow" in text) == (words[0] != "--pair")


TWO = """
import numpy, torch
import parity

torch.manual_seed(0)
model = torch.nn.Linear(4, 2).eval()
inputs = (numpy.ones((3, 4), "float32"),)
pair = parity.Pair(model, model, inputs, inputs, names=parity.Names())
"""


def test_threads_of_a_pair_need_its_own_framework_alone(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    words = ("--pair", "two.py:pair", "--precision", "float64", "--threads", "1", "--out", "port")
    environment = without("tensorflow", tmp_path)
    environment.pop("OMP_NUM_THREADS", None)
    done = parity("capture", *words, environment=environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "port" / "capture.json").read_text())
    assert kept["provenance"]["torch"]["threads"] == 1


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

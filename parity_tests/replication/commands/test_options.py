"""Every verb takes the shared options, and the command line says what it is."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import typer

from maskformer.model import zoo
from maskformer.model.detectron2_config import entry_of, read
from parity.errors import InputError
from replication.cli import app
from replication.commands import options
from replication.console.reference import commands

MEASURING = {
    *("audit", "trajectory", "evaluate", "train", "preflight", "explain", "compare", "verify"),
    *("capture", "convert", "predict", "inspect", "demo", "report", "import-run"),
    *("faults run", "faults clean", "data inspect", "score", "initial-weights"),
}
"""What measures, judges or predicts; `audit --all` and `convert --verify` are options of theirs."""

OTHERS = {"zoo", "faults list", "match", "new-pair"} | {
    f"data {what}" for what in ("scenes", "convert", "tfrecord")
}
"""What lists or makes something; it tells it as JSON too."""

# The smallest model that a YAML file can name, of the classes of the procedural scenes.
SMALL = """
MODEL:
  META_ARCHITECTURE: MaskFormer
  BACKBONE: {FREEZE_AT: 0, NAME: D2SwinTransformer}
  SWIN: {EMBED_DIM: 12, DEPTHS: [1, 1, 1, 1], NUM_HEADS: [1, 2, 3, 4], WINDOW_SIZE: 2}
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
  SEM_SEG_HEAD:
    NAME: MaskFormerHead
    IN_FEATURES: [res2, res3, res4, res5]
    NUM_CLASSES: %d
    CONVS_DIM: 32
    MASK_DIM: 16
  MASK_FORMER: {HIDDEN_DIM: 32, NHEADS: 2, DIM_FEEDFORWARD: 32, DEC_LAYERS: 2, DROPOUT: 0.0}
DATASETS: {TRAIN: [scenes_train], TEST: [scenes_val]}
SOLVER:
  MAX_ITER: 4
  WARMUP_ITERS: 0
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: full_model, CLIP_VALUE: 0.01}
INPUT:
  FORMAT: RGB
  MIN_SIZE_TRAIN: [64]
  MIN_SIZE_TEST: 64
  CROP: {ENABLED: True, TYPE: absolute, SIZE: [64, 64]}
  SIZE_DIVISIBILITY: 64
"""


COMMANDS = dict(commands(typer.main.get_group(app)))


def lacking(verb, command):
    """The options that the rule asks of a verb and that it lacks."""
    has = {name for parameter in command.params for name in parameter.opts}
    needed = {"--json"} | ({"--config-file"} if "--config" in has else set())
    if verb in MEASURING:
        needed |= {"--out"}
    return needed - has


def test_every_verb_is_known_to_the_rule():
    assert COMMANDS.keys() == MEASURING | OTHERS
    assert not MEASURING & OTHERS


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_has_the_shared_options(verb):
    assert not lacking(verb, COMMANDS[verb])


def test_a_verb_without_them_is_noticed():
    """The twin: a verb that measures and knows zoo names alone."""
    broken = typer.Typer()

    @broken.command()
    def audit(config: Annotated[str, typer.Option()] = "tiny") -> None: ...

    assert lacking("audit", typer.main.get_command(broken)) == {"--json", "--config-file", "--out"}


@pytest.fixture
def yaml(tmp_path) -> Path:
    """The YAML file of a small model that no entry of the zoo has."""
    from maskformer.scenes.scenes import CATEGORIES

    path = tmp_path / "own.yaml"
    path.write_text(SMALL % len(CATEGORIES), encoding="utf-8")
    return path


def test_a_file_stands_for_its_entry_in_another_process(yaml, monkeypatch):
    monkeypatch.chdir(yaml.parent)
    text = options.config_text(None, Path("own.yaml"))
    assert text == str(yaml)
    assert entry_of(text) == read(yaml)
    assert options.config_text("tiny", None) == "tiny"
    assert options.config_text(None, None, usual="tiny") == "tiny"
    assert options.config_text(None, yaml, usual="tiny") == text


def test_a_file_of_a_published_model_is_its_entry(yaml, monkeypatch):
    monkeypatch.setitem(zoo.ENTRIES, "own", read(yaml))
    assert options.config_text(None, yaml) == "own"


@pytest.mark.parametrize("given", [(None, None), ("tiny", Path("own.yaml"))])
def test_one_config_is_needed(given):
    with pytest.raises(InputError, match="either --config NAME or --config-file"):
        options.config_text(*given)


def test_a_trajectory_keeps_its_result_and_report(parity, yaml, tmp_path):
    out = tmp_path / "out"
    words = ("trajectory", "--config-file", yaml, "--steps", 1, "--size", "64x64", "--lr", "1e-6")
    status, text, _ = parity(*words, "--out", out, "--json")
    assert status == 0
    assert json.loads((out / "trajectory.json").read_text()) == json.loads(text)
    assert json.loads(text)["config"] == "own"
    assert {"report.html", "report.md", "report.json"} <= {path.name for path in out.iterdir()}


def test_a_config_file_is_trained_and_must_not_change(parity, yaml, tmp_path):
    from maskformer.runs.run_record import read_run
    from maskformer.scenes.scenes import write_scenes

    write_scenes(tmp_path / "scenes", 4, seed=3, size=64, val_share=0.25)
    out = tmp_path / "run"
    words = ("train", "--side", "torch", "--data", tmp_path / "scenes", "--out", out)
    few = ("--batch", 1, "--threads", 1, "--json")
    status, text, error = parity(*words, "--config-file", yaml, "--steps", 1, *few)
    assert status == 0, error
    assert json.loads(text)["steps"] == 1
    assert f"parity train --config-file {yaml} --side torch" in json.loads(text)["command"]
    assert read_run(out).description["settings"]["config"] == str(yaml)
    yaml.write_text(yaml.read_text().replace("MASK_DIM: 16", "MASK_DIM: 8"))
    status, _, error = parity(*words, "--resume", *few)
    assert status == 2
    assert "own.yaml has changed since the run was started" in error


def test_the_module_runs_the_command_line():
    words = [sys.executable, "-m", "replication.cli", "--version"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert run.stdout == f"parity {version('maskformer-replication')}\n"


def test_the_module_refuses_an_unknown_configuration():
    words = [sys.executable, "-m", "replication.cli", "audit", "--config", "no_such"]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("parity: ")
    assert "no_such" in run.stderr


@pytest.mark.parametrize("words", [("-h",), ("train", "-h"), ("faults", "run", "-h")])
def test_short_help_is_help(parity, words):
    status, text, _ = parity(*words)
    assert status == 0
    assert "Usage: parity" in " ".join(text.split())

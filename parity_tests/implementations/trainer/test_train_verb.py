"""`parity train`: the front for both trainers, and the comparison of two recorded runs."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maskformer.metrics.panoptic_quality import PanopticCounts
from maskformer.metrics.run_scores import COUNTS, ImageCounts
from maskformer.metrics.semantic_iou import SemanticCounts
from maskformer.runs.run_record import REQUIRED, RunRecord, read_run
from parity.errors import InputError
from parity.records import json_text
from replication.runs import trainers as training_runs
from replication.runs.comparison import compare_runs, loss_gap
from replication.runs.trainers import Request, last_message, last_row
from reports.chapters.training_runs import RunsResult
from torch_reference.train import command_line

IMAGES, CLASSES = 24, 4


def recorded(folder, side, curve, quality):
    """A run with this loss curve, whose images find each segment with probability `quality`."""
    said = {**dict.fromkeys(REQUIRED), "side": side, "settings": {"config": "scenes_tiny"}}
    rng = np.random.default_rng(5)  # the same draws: images that are hard are so for both
    found = rng.random((IMAGES, CLASSES)) < quality
    truth = np.ones((IMAGES, CLASSES), np.int64)
    counts = ImageCounts(
        tuple(map(str, range(IMAGES))),
        np.array([True, True, False, False]),
        SemanticCounts(found * 90, truth * 100, truth * 100),
        PanopticCounts(found * 1, truth - found, truth - found, found * 0.9),
    )
    with RunRecord.open(folder, {**said, "versions": {}, "data_sha256": "d"}) as record:
        for step, loss in enumerate(curve, 1):
            values = {"loss": loss, "step_seconds": 0.5, "data_wait_share": 0.1}
            record.write(step, "train", values)
        record.write(len(curve), "eval", counts.values())
    counts.save(folder / COUNTS)
    return folder


def test_equal_runs_agree(tmp_path):
    curve = np.linspace(10, 1, 60)
    folders = {name: recorded(tmp_path / name, name, curve, 0.7) for name in ("torch", "tf")}
    result = compare_runs(folders, resamples=200)
    assert result.verdict == "agree"
    assert result.comparison.same_data
    assert result.comparison.losses["loss"].largest_gap == 0
    assert result.comparison.scores["panoptic_quality"].interval.value == 0
    assert result.sides["torch"].scores["panoptic_quality"] == pytest.approx(
        read_run(folders["torch"]).last("panoptic_quality")
    )
    assert RunsResult.from_json(json.loads(json_text(result.to_json()))) == result


def test_a_worse_run_is_different(tmp_path):
    curve = np.linspace(10, 1, 60)
    folders = {
        "torch": recorded(tmp_path / "torch", "torch", curve, 0.9),
        "tf": recorded(tmp_path / "tf", "tf", curve, 0.5),
    }
    result = compare_runs(folders, resamples=200)
    assert result.verdict == "different"
    assert result.comparison.scores["panoptic_quality"].interval.high < 0


def test_one_run_is_trained(tmp_path):
    folder = recorded(tmp_path / "torch", "torch", [3.0, 2.0], 0.7)
    result = compare_runs({"torch": folder})
    assert result.verdict == "trained"
    assert result.comparison is None


def test_the_gap_of_two_curves_is_the_defined_one(tmp_path):
    a = read_run(recorded(tmp_path / "a", "torch", [10.0, 4.0, 2.0], 0.7))
    b = read_run(recorded(tmp_path / "b", "tf", [10.0, 6.0, 2.0, 1.0], 0.7))
    gap = loss_gap(a, b, "loss")
    assert gap.steps == 3
    assert (gap.first_gap, gap.median_gap, gap.largest_gap) == (0, 0, 2 / 5)
    assert gap.end == (2.0, 2.0)


def test_curves_without_a_common_step_are_refused(tmp_path):
    a = read_run(recorded(tmp_path / "a", "torch", [1.0], 0.7))
    b = read_run(recorded(tmp_path / "b", "tf", [], 0.7))
    with pytest.raises(InputError, match="no step in common"):
        loss_gap(a, b, "loss")


def test_the_last_row_of_a_growing_file_is_found(tmp_path):
    assert last_row(tmp_path) == (0, {})
    folder = recorded(tmp_path / "run", "torch", [3.0, 2.0], 0.7)
    with (folder / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 3, "spl')
    step, row = last_row(folder)
    assert (step, row["loss"]) == (2, 2.0)


def test_a_trainer_is_started_where_the_packages_are():
    first = Path(training_runs.child_environment()["PYTHONPATH"].split(os.pathsep)[0])
    for module in ("torch_reference/train.py", "tf_impl/train.py"):
        assert (first / module).is_file()


def test_the_last_message_is_the_trainers_error():
    assert last_message("noise\n more\nfact\n  evidence\n  action\n") == [
        "fact",
        "  evidence",
        "  action",
    ]
    assert last_message("fact\n  evidence\nWARNING: more\n") == ["fact", "  evidence"]
    assert last_message("one\ntwo\n") == ["two"]
    assert last_message("") == ["it printed nothing"]


def test_training_and_resuming_one_side(parity, scenes, tmp_path):
    out = tmp_path / "run"
    words = ("train", "--side", "torch", "--config", "scenes_tiny", "--data", scenes, "--out", out)
    status, text, error = parity(*words, "--steps", 2, "--batch", 1, "--threads", 1, "--json")
    assert status == 0, error
    result = json.loads(text)
    assert result["verdict"] == "trained"
    assert result["steps"] == 2
    assert set(result["sides"]) == {"torch"}
    command = read_run(out).description["command"]
    assert command == (
        f"parity train --config scenes_tiny --side torch --data {scenes} --steps 2 --batch 1 "
        "--seed 0 --threads 1 --out DIR"
    )
    assert result["command"] == command
    status, _, error = parity(*words)
    assert status == 2
    assert "already holds a run" in error


def test_a_trainer_without_a_front_records_its_own_command_line(monkeypatch):
    words = ["--config", "scenes_tiny", "--data", "my data"]
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = "python -m torch_reference.train --config scenes_tiny --data 'my data'"
    assert command_line(words) == alone
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert command_line(words) == alone.replace("python", "torchrun --nproc-per-node 2")


@pytest.mark.parametrize("side", ["torch", "tf", "both"])
@pytest.mark.parametrize(
    ("given", "solver"),
    [
        ({}, ()),
        ({"steps": 7, "seed": 3, "dtype": "float64", "record_every": 2, "keep": 1}, ()),
        ({"initial": "seeded:4", "train_split": "a b", "capacity": 5}, ("base_lr=0.5",)),
        ({"eval_every": 3}, ("steps=[3, 4]", "schedule=WarmupPolyLR")),
    ],
)
def test_the_recorded_command_has_the_same_settings(parity, monkeypatch, side, given, solver):
    sides = {"both": ("torch", "tf")}.get(side, (side,))
    given = {"config": "scenes_tiny", "data": "some data", **given}
    asked = Request(None, sides, given, solver, threads=2)
    settings = training_runs._settings(asked)
    command = training_runs.again(settings, asked)

    def train(request):
        assert str(request.out) == "DIR"
        assert (request.sides, request.threads) == (sides, 2)
        assert training_runs._settings(request) == settings
        raise InputError("nothing is trained")

    monkeypatch.setattr(training_runs, "train", train)
    status, _, error = parity(*shlex.split(command)[1:])
    assert (status, error.strip()) == (2, "parity: nothing is trained")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--side", "jax"), "--side is 'jax'"),
        (("--side", "torch"), "--config is missing"),
        (("--side", "both", "--config", "scenes_tiny", "--data", "none"), "none is not a folder"),
        (("--side", "tf", "--config", "scenes", "--data", "none"), "no config is called 'scenes'"),
        (
            ("--side", "torch", "--config", "scenes_tiny", "--data", "none", "--steps", "0"),
            "steps is 0",
        ),
    ],
)
def test_wrong_words_are_one_clear_error(parity, tmp_path, words, fact):
    status, _, error = parity("train", "--out", tmp_path / "run", *words)
    assert status == 2
    assert fact in error
    assert len(error.strip().splitlines()) <= 3
    assert not (tmp_path / "run").exists()


def test_the_trainers_own_error_reaches_the_user(parity, scenes, tmp_path):
    """The loss is looked at by the trainer's process alone."""
    status, _, error = parity(
        *("train", "--side", "torch", "--config", "scenes_tiny", "--data", scenes),
        *("--out", tmp_path / "run", "--steps", 3, "--record-every", 1),
        *("--solver", "base_lr=1e30", "--solver", "warmup_iters=0"),
    )
    assert status == 2
    message = error.strip().splitlines()[-3:]
    assert message[0].startswith("parity: the training diverged at step")
    assert all(line.startswith("  ") for line in message[1:])


@pytest.mark.parametrize("side", ["torch", "tf", "both"])
@pytest.mark.parametrize("kind", ["missing", "of another model"])
def test_refused_initial_weights_leave_nothing_behind(parity, scenes, tmp_path, side, kind):
    given = tmp_path / "given.safetensors"
    if kind == "of another model":
        save_file({"weight": torch.zeros(2)}, given)
    status, _, error = parity(
        *("train", "--side", side, "--config", "scenes_tiny", "--data", scenes),
        *("--out", tmp_path / "run", "--steps", 1, "--initial", given),
    )
    assert status == 2
    assert "parity: " in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_both_sides_start_alike_and_are_compared(parity, scenes, tmp_path):
    out = tmp_path / "run"
    status, text, error = parity(
        *("train", "--side", "both", "--config", "scenes_tiny", "--data", scenes, "--out", out),
        *("--steps", 3, "--batch", 2, "--dtype", "float64", "--json"),
    )
    assert status in (0, 1), error
    result = json.loads(text)
    assert json.loads((out / "comparison.json").read_text()) == result
    comparison = result["comparison"]
    assert comparison["same_data"]
    assert comparison["losses"]["loss"]["first_gap"] < 1e-9
    runs = [read_run(out / side).description for side in ("torch", "tf")]
    assert {one["settings"]["seed"] for one in runs} == {0}
    (command,) = {one["command"] for one in runs}
    assert "--side both" in command
    assert f"--data {scenes} " in command
    assert "--dtype float64" in command

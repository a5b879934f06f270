"""The PyTorch trainer: exact resumption, what it records, and what it refuses."""

import dataclasses
import json
import math
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import torch_reference
from maskformer.metrics.run_scores import COUNTS, read_counts
from maskformer.model import zoo
from maskformer.model.solver import learning_rate
from maskformer.runs.event_files import read_scalars
from maskformer.runs.run_record import SCORES, SENTINELS, RunRecord, read_run
from maskformer.scenes.scenes import write_scenes
from parity.errors import InputError
from parity_tests.implementations.trainer import small as runs
from torch_reference import checkpointing, train
from torch_reference.trainer import CHECKPOINTS, EVENTS, Machine, run

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.usefixtures("small", "determinism")]
TIMED = {"examples_per_second", "step_seconds", "data_wait_share", "memory_bytes"}


class StoppedError(Exception):
    """Stands for an interruption."""


def stop_at(step):
    """A progress function that interrupts the run after the row of `step`."""

    def progress(at, split, values):
        if at == step:
            raise StoppedError

    return progress


def final(folder):
    """The newest checkpoint."""
    return checkpointing.load(checkpointing.list_checkpoints(folder / CHECKPOINTS)[-1])


def differences(ours, theirs):
    """What differs between two runs: weights, optimizer, random states, data plan, rows, scores."""
    mine, yours = final(ours), final(theirs)
    found = [
        name for name in ("step", "plan", "threads") if getattr(mine, name) != getattr(yours, name)
    ]
    for part in ("model", "optimizer"):
        a, b = getattr(mine, part), getattr(yours, part)
        found += [f"{part} {key}" for key in a | b if not torch.equal(a[key], b[key])]
    found += [
        f"random {rank}"
        for rank, (a, b) in enumerate(zip(mine.random, yours.random, strict=True))
        if not torch.equal(a, b)
    ]
    rows = [
        [
            (r.step, r.split, {k: v for k, v in r.values.items() if k not in TIMED})
            for r in read_run(folder).rows
        ]
        for folder in (ours, theirs)
    ]
    found += ["rows"] * (repr(rows[0]) != repr(rows[1]))
    a, b = (read_counts(folder / COUNTS) for folder in (ours, theirs))
    found += ["counts"] * (not np.array_equal(a.semantic.right, b.semantic.right))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scenes):
    """An uninterrupted run of eight steps."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.ENTRIES, runs.NAME, runs.entry())
        run(runs.settings(scenes), folder)
    return folder


def test_the_record_has_every_value(whole, small):
    record = read_run(whole)
    assert record.description["side"] == "torch"
    assert record.description["settings"]["steps"] == 8
    assert len(record.description["data_sha256"]) == 64
    steps, losses = record.column("loss")
    assert steps.tolist() == list(range(1, 9))
    weights = small.model.loss
    parts = record.rows[0].values
    total = sum(
        weight * sum(v for k, v in parts.items() if k.startswith(f"loss_{name}"))
        for name, weight in (
            ("ce", weights.class_weight),
            ("mask", weights.mask_weight),
            ("dice", weights.dice_weight),
        )
    )
    assert math.isclose(total, losses[0], rel_tol=1e-5)
    assert {"gradient_norm", "overflow", *TIMED, *SENTINELS} <= set(parts)
    assert all(0 <= parts[name] <= 1 for name in SENTINELS)
    solver = runs.settings("").solver_config()
    for step, value in zip(*record.column("learning_rate/head"), strict=True):
        assert value == learning_rate(solver, int(step) - 1)
    evaluated, _ = record.column("mean_iou", "eval")
    assert evaluated.tolist() == [4, 8]
    assert set(record.names("eval")) == set(SCORES)
    assert record.last("mean_iou") == read_counts(whole / COUNTS).values()["mean_iou"]


def test_tensorboard_has_the_same_values(whole):
    found = {
        (s.step, s.name): s.value for path in (whole / EVENTS).iterdir() for s in read_scalars(path)
    }
    row = read_run(whole).rows[2]
    assert {(row.step, f"train/{k}") for k in row.values} <= set(found)
    assert np.float32(row.values["loss"]) == np.float32(found[3, "train/loss"])


def test_the_last_checkpoints_are_kept_and_their_weights_are_usable(whole, small):
    names = [path.name for path in checkpointing.list_checkpoints(whole / CHECKPOINTS)]
    assert names == ["step_000000003", "step_000000006", "step_000000008"]
    model = torch_reference.build(small.model)
    model.load_state_dict(load_file(whole / CHECKPOINTS / names[-1] / checkpointing.MODEL))


@pytest.mark.parametrize("step", [2, 5, 6])
def test_an_interrupted_run_equals_the_whole_one(whole, scenes, tmp_path, step):
    """Before the first checkpoint, between two, and in the step that would save one."""
    settings = runs.settings(scenes)
    with pytest.raises(StoppedError):
        run(settings, tmp_path / "run", progress=stop_at(step))
    torch.manual_seed(step)  # what the process did meanwhile
    run(settings, tmp_path / "run", resume=True)
    assert differences(tmp_path / "run", whole) == []
    assert read_run(tmp_path / "run").description["resumed"][0]["step"] == (step - 1) // 3 * 3


@pytest.mark.parametrize("part", ["random", "plan", "optimizer"])
def test_a_forgotten_part_of_the_state_is_noticed(whole, scenes, tmp_path, part, monkeypatch):
    """The twin: resumption without one of them is not the same run."""
    settings = runs.settings(scenes)
    with pytest.raises(StoppedError):
        run(settings, tmp_path / "run", progress=stop_at(7))
    load = checkpointing.load
    forgotten = {
        "random": lambda c: {"random": (torch.get_rng_state(),)},
        "plan": lambda c: {"plan": {}},
        "optimizer": lambda c: {"optimizer": {}},
    }[part]
    monkeypatch.setattr(
        checkpointing, "load", lambda path: dataclasses.replace(load(path), **forgotten(load(path)))
    )
    run(settings, tmp_path / "run", resume=True)
    monkeypatch.undo()
    monkeypatch.setitem(zoo.ENTRIES, runs.NAME, runs.entry())
    assert differences(tmp_path / "run", whole) != []


def test_a_corrupt_checkpoint_is_skipped_with_a_warning(whole, scenes, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    newest = tmp_path / "run" / CHECKPOINTS / "step_000000008" / checkpointing.MODEL
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    run(runs.settings(scenes), tmp_path / "run", resume=True)
    warning = capsys.readouterr().err
    assert "warning: skipped" in warning
    assert "step_000000008 is not a whole checkpoint" in warning
    assert read_run(tmp_path / "run").description["resumed"][0]["step"] == 6
    assert differences(tmp_path / "run", whole) == []


def test_a_finished_run_has_nothing_to_do(whole, scenes, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    scores = run(runs.settings(scenes), tmp_path / "run", resume=True)
    assert scores == read_counts(whole / COUNTS).values()
    assert differences(tmp_path / "run", whole) == []


def test_reading_ahead_in_workers_changes_nothing(whole, scenes, tmp_path):
    settings = runs.settings(scenes)
    with pytest.raises(StoppedError):
        run(settings, tmp_path / "run", progress=stop_at(5), machine=Machine(workers=1))
    run(settings, tmp_path / "run", resume=True, machine=Machine(workers=1))
    assert differences(tmp_path / "run", whole) == []


def killed_runs(out, data, steps, kills, rng):
    """Kills a run at random moments `kills` times, then lets it end; the number of restarts."""
    command = [
        sys.executable,
        "-m",
        "parity_tests.implementations.trainer.small",
        str(out),
        str(data),
        str(steps),
    ]
    restarts = 0
    while True:
        done = rows_done(out)
        kill = [str(done + int(rng.integers(1, 4))), str(rng.uniform(0, 0.2))]
        last = restarts >= kills
        process = subprocess.run(
            command + ([] if last else kill), cwd=ROOT, capture_output=True, text=True
        )
        if process.returncode == 0:
            return restarts
        assert process.returncode == -signal.SIGKILL, process.stderr
        restarts += 1


def rows_done(out):
    """Steps in the record of a run that may not have begun."""
    try:
        return int(read_run(out).column("loss")[0].max(initial=0))
    except InputError:
        return 0


@pytest.mark.slow
def test_ten_kills_leave_no_trace(scenes, tmp_path):
    steps = 40
    run(runs.settings(scenes, steps=steps, checkpoint_every=2), tmp_path / "whole")
    restarts = killed_runs(tmp_path / "run", scenes, steps, 10, np.random.default_rng(0))
    assert restarts == 10
    assert differences(tmp_path / "run", tmp_path / "whole") == []


def test_a_kill_leaves_no_trace(scenes, tmp_path):
    """The small twin of the ten kills."""
    run(runs.settings(scenes, steps=6, checkpoint_every=2), tmp_path / "whole")
    assert killed_runs(tmp_path / "run", scenes, 6, 1, np.random.default_rng(1)) == 1
    assert differences(tmp_path / "run", tmp_path / "whole") == []


def test_another_seed_is_another_run(whole, scenes, tmp_path):
    run(runs.settings(scenes, seed=1), tmp_path / "run")
    assert len(differences(tmp_path / "run", whole)) > 50


def test_per_pixel_and_float64_runs(scenes, tmp_path, monkeypatch):
    entry = runs.entry()
    model = entry.model.replace(
        head="PerPixelBaselineHead",
        pixel_decoder={"name": "BasePixelDecoder", "transformer_enc_layers": 0},
        predictor={"in_feature": "res5"},
        inference={"panoptic_on": False},
    )
    inputs = dataclasses.replace(entry.inputs, mapper="mask_former_semantic")
    entry = dataclasses.replace(entry, model=model, inputs=inputs)
    monkeypatch.setitem(zoo.ENTRIES, runs.NAME, entry)
    run(runs.settings(scenes, steps=2, dtype="float64"), tmp_path / "run")
    record = read_run(tmp_path / "run")
    assert record.names("eval") == ["mean_iou"]
    assert "loss_sem_seg" in record.names("train")
    assert final(tmp_path / "run").model["backbone.stem.conv1.weight"].dtype == torch.float64


def refused(settings, out, fact, **options):
    """Asserts that a run ends with an error of three lines that begins with `fact`."""
    with pytest.raises(InputError, match=fact) as error:
        run(settings, out, **options)
    assert 2 <= len(str(error.value).splitlines()) <= 3
    return str(error.value)


def test_missing_data_is_one_clear_error(scenes, tmp_path):
    refused(runs.settings(tmp_path / "none"), tmp_path / "run", "none is not a folder")
    assert not (tmp_path / "run").exists()


def test_a_precision_of_the_other_side_is_one_clear_error(scenes, tmp_path):
    refused(runs.settings(scenes, dtype="bfloat16"), tmp_path / "run", "does not train in bfloat16")


def test_data_of_other_classes_is_one_clear_error(scenes, tmp_path, monkeypatch, small):
    other = dataclasses.replace(small, model=zoo.model_config("tiny"))
    monkeypatch.setitem(zoo.ENTRIES, runs.NAME, other)
    refused(
        runs.settings(scenes), tmp_path / "run", "tiny predicts 13 classes, the data set has 17"
    )


def test_initial_weights_of_other_classes_are_one_clear_error(scenes, tmp_path, small):
    path = tmp_path / "other.safetensors"
    model = torch_reference.build(small.model.replace(num_classes=9, inference={"thing_ids": ()}))
    save_file(model.state_dict(), path)
    text = refused(
        runs.settings(scenes, initial=str(path)), tmp_path / "run", "do not fit scenes_tiny"
    )
    assert "class_embed.weight is [10, 64], but should be [18, 64]" in text


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("none.pth", None, "do not exist"),
        ("text.pth", b"text", "cannot be read"),
        ("text.safetensors", b"text", "cannot be read"),
    ],
)
def test_unreadable_initial_weights_are_one_clear_error(scenes, tmp_path, name, content, fact):
    if content:
        (tmp_path / name).write_bytes(content)
    refused(runs.settings(scenes, initial=str(tmp_path / name)), tmp_path / "run", fact)


def test_initial_weights_of_each_kind(scenes, tmp_path, small):
    model = torch_reference.build(small.model)
    backbone = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": model.state_dict()}, tmp_path / "whole.pth")
    save_file(backbone, tmp_path / "backbone.safetensors")
    losses = set()
    for initial in ("whole.pth", "backbone.safetensors", "seeded:7", None):
        given = initial if initial in (None, "seeded:7") else str(tmp_path / initial)
        out = tmp_path / f"run {initial}"
        run(runs.settings(scenes, steps=1, initial=given), out)
        losses.add(read_run(out).rows[0].values["loss"])
        has_file = initial not in (None, "seeded:7")
        assert (read_run(out).description["checkpoint_sha256"] is not None) == has_file
    assert len(losses) == 4


def test_an_unwritable_folder_is_one_clear_error(scenes, tmp_path):
    (tmp_path / "file").touch()
    refused(runs.settings(scenes, steps=1), tmp_path / "file" / "run", "cannot be written")


def test_a_full_disk_is_one_clear_error_and_leaves_no_half(scenes, tmp_path):
    """A limit on the size of files stands for a full disk: the checkpoint does not fit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        refused(
            runs.settings(scenes, steps=3),
            tmp_path / "run",
            "the checkpoint of step 3 cannot be written",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "run" / CHECKPOINTS).iterdir()) == []
    run(runs.settings(scenes, steps=3), tmp_path / "run", resume=True)
    assert final(tmp_path / "run").step == 3


def test_a_record_that_no_longer_fits_is_one_clear_error(scenes, tmp_path, monkeypatch):
    """The folder is there, its file of rows takes nothing more."""
    opened = RunRecord.open

    def full(*arguments):
        record = opened(*arguments)
        record.close()
        record._stream = open("/dev/full", "ab", buffering=0)  # noqa: SIM115, as the record's own
        return record

    monkeypatch.setattr(RunRecord, "open", full)
    refused(runs.settings(scenes), tmp_path / "run", "the record of step 1 cannot be written")


def test_a_diverging_run_stops_with_one_clear_error(scenes, tmp_path):
    settings = runs.settings(scenes, solver={"base_lr": 1e30, "warmup_iters": 0})
    refused(settings, tmp_path / "run", "the training diverged at step 2")


def test_resuming_with_other_threads_or_data_is_one_clear_error(whole, scenes, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    settings = runs.settings(scenes)
    refused(
        settings, tmp_path / "run", "the run has 1 threads", resume=True, machine=Machine(threads=2)
    )
    write_scenes(tmp_path / "other", 8, seed=4, size=64, val_share=0.25)
    other = dataclasses.replace(settings, data=str(tmp_path / "other"))
    refused(other, tmp_path / "run", "was started with other data", resume=True)


def test_the_command_line_trains_and_resumes(scenes, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--config", runs.NAME, "--data", str(scenes), "--out", str(out), "--threads", "1"]
    words += ["--steps", "2", "--batch", "2", "--solver", "base_lr=0.01"]
    assert train.main(words) == 0
    printed = capsys.readouterr().out
    assert "step 2 of 2: loss" in printed
    assert "waiting for data" in printed
    assert "panoptic_quality" in printed
    said = json.loads((out / "run.json").read_text())
    assert said["settings"]["solver"] == {"base_lr": 0.01}
    assert said["settings"]["capacity"] == 12
    assert train.main(["--out", str(out), "--resume", "--threads", "1"]) == 0


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ((), "--config is missing"),
        (("--config", "scenes_tin", "--data", "x"), "no config is called 'scenes_tin'"),
        (("--config", runs.NAME, "--data", "x", "--solver", "fast"), "--solver 'fast' is no set"),
        (("--config", runs.NAME, "--data", "none", "--steps", "2"), "none is not a folder"),
        (("--config", runs.NAME, "--data", "x", "--device", "tpu"), "the device 'tpu' is not"),
    ],
)
def test_wrong_words_are_one_clear_error(tmp_path, capsys, words, fact):
    assert train.main(["--out", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert fact in error
    assert len(error.strip().splitlines()) <= 3


def test_resuming_with_other_settings_is_one_clear_error(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    assert train.main(["--out", str(tmp_path / "run"), "--resume", "--seed", "5"]) == 2
    assert "seed: 0 before, 5 now" in capsys.readouterr().err


def test_an_update_in_parts_is_that_of_the_whole_batch(tmp_path, monkeypatch):
    """In float64, without dropout, where losses are global; the record says in how many parts.

    Images are large enough for no target to vanish, which would be matched by rounding.
    """
    scenes = tmp_path / "scenes"
    write_scenes(scenes, 5, seed=36, size=96, val_share=0.2)
    entry = runs.entry()
    model = entry.model.replace(predictor={"dropout": 0.0})
    sizes = {"min_sizes_train": (72,), "max_size_train": 96}
    inputs = dataclasses.replace(entry.inputs, **sizes)
    large = dataclasses.replace(entry, model=model, inputs=inputs)
    monkeypatch.setitem(zoo.ENTRIES, runs.NAME, large)
    how = {"steps": 1, "batch": 2, "dtype": "float64", "normalisation": "global"}
    for parts in (1, 2):
        folder = tmp_path / str(parts)
        run(runs.settings(scenes, **how, micro_batches=parts), folder)
        assert read_run(folder).description["settings"]["micro_batches"] == parts
    whole, parts = (
        next(row.values for row in read_run(tmp_path / name).rows if row.split == "train")
        for name in ("1", "2")
    )
    assert whole.keys() == parts.keys()
    for name in whole.keys() - TIMED:
        assert parts[name] == pytest.approx(whole[name], rel=1e-9), name


def test_parts_that_a_process_cannot_share_are_refused(scenes, tmp_path):
    with pytest.raises(InputError, match="micro_batches is 3\n"):
        run(runs.settings(scenes, micro_batches=3), tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""A user's mistake is three lines: the fact, the evidence, what to do. Nothing has been trained."""

import json
import os
import subprocess
import sys

import pytest

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

import tensorflow as tf  # isort: skip

from parity.errors import InputError
from parity_tests.implementations.task import runs
from tf_impl import train
from tf_impl.model_garden.experiments import model_of, settings_of
from tf_impl.model_garden.task import MaskFormerTask
from tf_impl.optimizer import build_optimizer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.write_data(tmp_path_factory.mktemp("bad"), images=6)


def refused(values, model_dir, mode="train"):
    """The three lines that a run ends with."""
    values["runtime"] = {**values["runtime"], "threads": 0}
    with pytest.raises(InputError) as caught:
        train.run(runs.experiment(values), mode, str(model_dir))
    lines = str(caught.value).splitlines()
    assert 2 <= len(lines) <= 3
    return lines


def test_missing_data(data, tmp_path):
    lines = refused(runs.overrides(tmp_path / "nowhere", 2), tmp_path / "run")
    assert "has no manifest.json" in lines[0]
    assert not (tmp_path / "run").exists()


def test_no_data_named(data, tmp_path):
    values = runs.overrides(data, 2)
    values["task"]["train_data"]["input_path"] = ""
    assert refused(values, tmp_path / "run")[0] == "task.train_data.input_path is empty"


def test_a_folder_that_cannot_be_written(data, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    lines = refused(runs.overrides(data, 2), blocked / "run")
    assert lines[0] == f"--model_dir {blocked / 'run'} cannot be written"


def test_a_batch_that_replicas_cannot_share(data, tmp_path):
    values = runs.overrides(data, 2)
    values["task"]["train_data"]["global_batch_size"] = 0
    assert "batch is 0" in refused(values, tmp_path / "run")[0]


def test_evaluation_without_a_checkpoint(data, tmp_path):
    lines = refused(runs.overrides(data, 2), tmp_path / "run", "eval")
    assert "holds no checkpoint" in lines[0]


def test_another_run_in_the_folder(data, tmp_path):
    (tmp_path / "run.json").write_text(
        '{"settings": ' + _settings(runs.overrides(data, 3)) + "}", encoding="utf-8"
    )
    lines = refused(runs.overrides(data, 2), tmp_path)
    assert lines[0] == "the run was started with other settings"
    assert "steps: 3 before, 2 now" in lines[1]


def test_a_full_disk(data, tmp_path, monkeypatch):
    """What TensorFlow had begun to write is gone, what it names itself by is not shown."""

    def full(**_):
        (tmp_path / "run" / "ckpt-1_temp").mkdir()
        (tmp_path / "run" / "ckpt-1_temp" / "part-00000-of-00001").touch()
        text = "{{function_node Save}} ckpt-1: No space left on device"
        raise tf.errors.ResourceExhaustedError(None, None, text)

    monkeypatch.setattr(train.train_lib, "run_experiment", full)
    lines = refused(runs.overrides(data, 2), tmp_path / "run")
    assert lines[0] == f"the disk of --model_dir {tmp_path / 'run'} is full"
    assert lines[1].strip() == "ckpt-1: No space left on device"
    assert not list((tmp_path / "run").glob("ckpt*"))


def test_a_damaged_record_inside_the_pipeline(data, tmp_path, monkeypatch):
    """An error of Python inside tf.data is wrapped by TensorFlow on its way."""

    def read(**_):
        def broken(x):
            raise InputError("image 7 is damaged", "at byte 12", "Write it again.")

        tf.numpy_function(broken, [1], tf.int64)

    monkeypatch.setattr(train.train_lib, "run_experiment", read)
    lines = refused(runs.overrides(data, 2), tmp_path / "run")
    assert [line.strip() for line in lines] == [
        "image 7 is damaged",
        "at byte 12",
        "Write it again.",
    ]


def _settings(values):
    return json.dumps(settings_of(runs.experiment(values)).to_dict())


def task_with(data, checkpoint, **changes):
    values = runs.overrides(data, 2)
    values["task"]["init_checkpoint"] = str(checkpoint)
    runs.merge(values["task"], changes)
    return MaskFormerTask(runs.experiment(values).task)


def test_initial_weights_of_other_classes_and_of_a_backbone(data, tmp_path):
    source = task_with(data, "")
    weights = source.build_model()
    prefix = tf.train.Checkpoint(model=weights, backbone=weights.backbone).save(tmp_path / "ckpt")

    fitting = task_with(data, tmp_path)
    model = fitting.build_model()
    model.backbone.stem.conv1.weight.assign_add(tf.ones_like(model.backbone.stem.conv1.weight))
    fitting.initialize(model)
    for one, other in zip(model.variables, weights.variables, strict=True):
        assert tf.reduce_all(one == other)

    other = task_with(data, prefix, model={"num_classes": 5, "inference": {"thing_ids": [0]}})
    with pytest.raises(InputError, match="does not fit scenes_tiny"):
        other.initialize(other.build_model())

    backbone = task_with(
        data,
        prefix,
        init_checkpoint_modules="backbone",
        model={"num_classes": 5, "inference": {"thing_ids": [0]}},
    )
    model = backbone.build_model()
    backbone.initialize(model)
    assert tf.reduce_all(model.backbone.stem.conv1.weight == weights.backbone.stem.conv1.weight)

    missing = task_with(data, tmp_path / "nothing")
    with pytest.raises(InputError, match="there is no TensorFlow checkpoint"):
        missing.initialize(model)


def test_settings_that_this_loop_does_not_have(data, tmp_path):
    values = runs.overrides(data, 2, trainer={"train_tf_while_loop": True})
    assert "train_tf_while_loop" in refused(values, tmp_path)[0]
    values = runs.overrides(data, 2, runtime={"mixed_precision_dtype": "float16"})
    assert "'float16'" in refused(values, tmp_path)[0]
    values = runs.overrides(data, 2, runtime={"distribution_strategy": "two"})
    assert "'two'" in refused(values, tmp_path)[0]


def test_the_optimizer_is_the_published_one(data):
    """From the Model Garden's factory: the same kind, groups and constants as `build_optimizer`."""
    task = task_with(data, "")
    params = runs.experiment(runs.overrides(data, 2))
    model = task.build_model()
    made = task.create_optimizer(params.trainer.optimizer_config)
    expected = build_optimizer(model, task.solver(params.trainer.optimizer_config))
    expected.build(model.trainable_variables)
    assert type(made) is type(expected)
    assert made._groups == expected._groups
    assert len(made._groups) == len(model.trainable_variables)
    ours, theirs = made.get_config(), expected.get_config()
    assert ours == theirs
    assert model_of(params.task) == model.config


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--experiment=maskformer_coco_r50"], "the experiment or a setting does not exist"),
        (
            ["--experiment=maskformer_scenes_tiny", "--params_override=trainer.train_stepz=2"],
            "the experiment or a setting does not exist",
        ),
        (
            ["--experiment=maskformer_scenes_tiny", "--tpu=no-such-tpu"],
            "the TPU 'no-such-tpu' cannot be opened",
        ),
    ],
    ids=["experiment", "setting", "tpu"],
)
def test_the_command_line_prints_three_lines(data, tmp_path, words, fact):
    command = [sys.executable, "-m", "tf_impl.train", "--mode=train", f"--model_dir={tmp_path}"]
    if "setting" not in fact:
        words = [*words, f"--params_override=task.train_data.input_path={data / 'train2017'}"]
    done = subprocess.run(
        [*command, *words],
        cwd=runs.ROOT,
        env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    lines = done.stderr.strip().splitlines()
    assert lines[-3].startswith(fact)
    assert "Traceback" not in done.stderr

"""Every zoo entry is an experiment that trains it with its own solver."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

import tf_impl

from official.core import exp_factory  # isort: skip

from maskformer.model import zoo
from maskformer.model.detectron2_config import read
from maskformer.model.solver import SolverConfig
from parity.errors import InputError
from parity_tests.maskformer.model.test_detectron2_config import BASE
from tf_impl.model_garden import experiments

CONFIGS = sorted((Path(tf_impl.__file__).parent / "configs").glob("*.yaml"))


def of(entry_name):
    return exp_factory.get_exp_config(experiments.experiment_name(entry_name))


@pytest.mark.parametrize("name", zoo.names())
def test_an_experiment_is_its_entry(name):
    entry, params = zoo.get(name), of(name)
    params.validate()
    batch = params.task.train_data.global_batch_size
    assert experiments.model_of(params.task) == entry.model
    assert experiments.inputs_of(params.task) == entry.inputs
    assert experiments.solver_of(params.trainer.optimizer_config, batch) == entry.solver
    assert params.trainer.train_steps == entry.solver.max_iter
    settings = experiments.settings_of(params)
    assert settings.solver_config() == entry.solver
    assert settings.solver == {}


def test_names_follow_one_rule():
    assert experiments.experiment_name("coco_r50") == "maskformer_coco_panoptic_r50"
    assert experiments.experiment_name("ade20k_r50") == "maskformer_ade20k_r50"
    assert experiments.experiment_name("cocostuff_r50") == "maskformer_cocostuff_r50"
    names = {experiments.experiment_name(name) for name in zoo.names()}
    assert len(names) == len(zoo.names())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "SGD", "momentum": 0.5, "clip_type": "none"},
        {"schedule": "WarmupPolyLR", "steps": (), "power": 0.5, "warmup_method": "constant"},
        {"steps": (3, 7), "gamma": 0.5, "warmup_iters": 2, "max_iter": 9, "betas": (0.8, 0.9)},
    ],
)
def test_any_solver_survives_the_round_trip(changes):
    solver = dataclasses.replace(SolverConfig(), **changes)
    if solver.optimizer == "SGD":  # has neither betas nor epsilon
        solver = dataclasses.replace(solver, betas=(0.9, 0.999), eps=1e-8)
    config = experiments.optimization_of(solver)
    found = experiments.solver_of(config, solver.ims_per_batch)
    ignored = {} if solver.clip_type != "none" else {"clip_value": solver.clip_value}
    assert dataclasses.replace(found, **ignored) == solver


def test_an_override_reaches_model_solver_and_record():
    params = of("coco_r50")
    params.override(
        {
            "task": {"model": {"predictor": {"num_queries": 7}}},
            "trainer": {
                "train_steps": 90,
                "optimizer_config": {
                    "learning_rate": {"warmup_multi_step": {"base_lr": 1.0, "max_iter": 90}}
                },
            },
        }
    )
    assert experiments.model_of(params.task).predictor.num_queries == 7
    settings = experiments.settings_of(params)
    assert settings.solver["base_lr"] == 1.0
    assert settings.solver_config().max_iter == 90


def test_an_unknown_setting_is_refused():
    with pytest.raises(KeyError, match="num_querries"):
        of("tiny").override({"task": {"model": {"predictor": {"num_querries": 7}}}})


def test_a_schedule_that_ends_before_the_run_is_refused():
    params = of("tiny")
    params.trainer.train_steps *= 2
    with pytest.raises(InputError, match="the schedule ends at step"):
        experiments.settings_of(params)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_fits_its_experiment(path):
    """It says hardware, time and score; the score is the zoo's."""
    text = path.read_text()
    name = re.search(r"^# Experiment: (\w+)", text).group(1)
    assert re.search(r"^# Hardware:   \S", text, re.M)
    assert re.search(r"^# Time:       \S", text, re.M)
    params = exp_factory.get_exp_config(name)
    params.override(yaml.safe_load(text))
    experiments.model_of(params.task)
    experiments.settings_of(params)
    experiments.policy_of(params.runtime)
    for data in (params.task.train_data, params.task.validation_data):
        experiments.shapes_of(data.buckets)
    published = zoo.get(params.task.entry).published
    expected = re.search(r"^# Expected:   (?:(PQ|mIoU) ([\d.]+)|no published)", text, re.M)
    if published:
        assert expected.group(1) == published.metric
        assert float(expected.group(2)) == published.value
    else:
        assert expected.group(2) is None


def test_a_yaml_file_is_an_experiment_by_its_path(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(BASE, encoding="utf-8")
    experiments.register_file(str(path))
    entry, params = read(path), of(str(path))
    assert params.task.entry == str(path)
    assert experiments.model_of(params.task) == entry.model
    assert experiments.solver_of(params.trainer.optimizer_config, 16) == entry.solver

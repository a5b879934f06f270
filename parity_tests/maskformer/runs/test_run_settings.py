"""Settings of a run: what they allow, and that they survive being written down."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskformer.data.augmentation import draw, example_generator, output_shape
from maskformer.data.batching import COCO_BUCKETS, choose_bucket
from maskformer.model import zoo
from maskformer.runs.run_settings import RunSettings, buckets, check_resumable
from parity.errors import InputError

SETTINGS = RunSettings("tiny", "scenes", steps=20, batch=4, capacity=20)


@given(
    st.builds(
        RunSettings,
        config=st.sampled_from(["tiny", "coco_r50", "ade20k_r50"]),
        data=st.text(),
        steps=st.integers(1, 10**6),
        batch=st.integers(1, 64),
        capacity=st.integers(1, 200),
        seed=st.integers(0, 2**31),
        initial=st.none() | st.text(),
        solver=st.fixed_dictionaries(
            {}, optional={"base_lr": st.floats(0, 1), "steps": st.just((3, 5))}
        ),
    )
)
def test_settings_survive_json(settings):
    again = RunSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert again.solver_config() == settings.solver_config()


def test_the_schedule_ends_with_the_run_unless_stated():
    assert SETTINGS.solver_config().max_iter == 20
    longer = dataclasses.replace(SETTINGS, solver={"max_iter": 160_000})
    assert longer.solver_config().max_iter == 160_000
    short = dataclasses.replace(SETTINGS, config="coco_swin_tiny")
    assert short.solver_config().warmup_iters == 20
    assert SETTINGS.solver_config().base_lr == SETTINGS.entry.solver.base_lr


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"config": "coco_r5"}, "no config is called 'coco_r5'"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"batch": True}, "batch is True"),
        ({"seed": -1}, "seed is -1"),
        ({"keep": 0}, "keep is 0"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"normalisation": "mean"}, "normalisation is 'mean'"),
        ({"solver": {"lr": 1.0}}, "the solver has no setting 'lr'"),
        ({"solver": {"base_lr": "fast"}}, "solver.base_lr is 'fast'"),
        ({"solver": {"max_iter": 10}}, "the schedule ends at step 10, the run at 20"),
        ({"data": 3}, "data is 3"),
        ({"train": "x"}, "a run has no setting 'train'"),
    ],
)
def test_wrong_settings_are_refused(change, fact):
    with pytest.raises(InputError, match="^" + fact):
        RunSettings.from_dict({**SETTINGS.to_dict(), **change})


def test_a_missing_setting_is_named():
    values = SETTINGS.to_dict()
    del values["batch"]
    with pytest.raises(InputError, match=r"^the run's setting 'batch' is missing"):
        RunSettings.from_dict(values)


def test_a_run_continues_with_its_own_settings_only():
    moved = dataclasses.replace(SETTINGS, data="elsewhere", eval_every=5, keep=1)
    check_resumable(SETTINGS, moved)
    other = dataclasses.replace(SETTINGS, seed=1, solver={"base_lr": 1.0})
    with pytest.raises(InputError, match=r"seed: 0 before, 1 now; solver: .*base_lr"):
        check_resumable(SETTINGS, other)


@pytest.mark.parametrize("name", zoo.names())
def test_every_training_example_fits_a_bucket(name):
    inputs = dataclasses.replace(zoo.get(name).inputs)
    if inputs.crop is not None:
        unlimited = dataclasses.replace(inputs.crop, single_category_max_area=1.0)
        inputs = dataclasses.replace(inputs, crop=unlimited)
    shapes = buckets(inputs)
    for index, size in enumerate([(480, 640), (640, 426), (240, 320), (320, 180), (1000, 1000)]):
        for epoch in range(5):
            steps = draw(inputs, example_generator(0, epoch, index), *size)
            assert choose_bucket(*output_shape(steps, *size), shapes) in shapes


def test_buckets_of_the_published_configs():
    assert buckets(zoo.get("coco_r50").inputs) == COCO_BUCKETS
    assert buckets(zoo.get("ade20k_r50").inputs) == ((512, 512),)
    assert buckets(zoo.get("cityscapes_r101").inputs) == ((512, 1024),)

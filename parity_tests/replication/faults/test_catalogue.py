"""The catalogue is complete, every fault can still be planted, and what is planted goes away."""

import json
from functools import cache

import numpy as np
import pytest
import tf_keras
from typer.testing import CliRunner

import tf_impl
from maskformer.model import zoo
from maskformer.model.config import SwinConfig
from parity.errors import InputError
from parity.frameworks.tensorflow.modules import named_modules
from replication.cli import app
from replication.faults.benches import registry as fault_benches
from replication.faults.benches.data import PIPELINES
from replication.faults.catalogue.every import FAULTS
from weight_conversion.layouts import tf_variables

STAGES = {
    "input", "backbone", "pixel_decoder", "transformer", "heads", "matching", "loss", "gradient",
    "update", "schedule", "data", "inference", "evaluation", "metric",
}  # fmt: skip
MODELS = dict.fromkeys(("swin", "dropout", "canvases", "extreme"), fault_benches.SWIN)
SEED = {
    "SAME padding": "stem-same-padding",
    "norm eps 1e-3": "layer-norm-epsilon-1e-3",
    "no attention biases": "attention-without-biases",
    "extra encoder norm": "extra-encoder-norm",
    "memory after conv, GN and ReLU": "memory-after-convolution",
    "feature-derived position mask": "position-mask-from-features",
    "no-object class first": "no-object-first",
    "GN eps": "group-norm-epsilon-1e-3",
    "TF nearest": "fpn-nearest-centres",
    "no-object weight 0.001": "loss-no-object-0.001",
    "bilinear soft targets in the matcher": "matcher-bilinear-targets",
    "NaN cost replaced by 80": "matcher-nan-for-80",
    "clip 0.1": "clip-0.1",
    "decay on norms and embeddings": "decay-on-norms",
    "Adam epsilon": "adam-epsilon-hat",
    "CE normalised globally": "loss-normalised-globally",
    "crowd as targets": "data-crowds-are-targets",
    "cropped-away segments as class 0": "data-cropped-segments-class-0",
    "long side capped": "data-long-side-at-96",
    "crop probability 0.7": "data-crop-probability-0.7",
    "images cast to bfloat16": "images-bfloat16",
    "evaluation at a squashed square": "data-squashed-test-image",
    "float(loss) in the train step": "loss-as-a-number",
    "deep supervision off by default": "auxiliary-left-out",
}
"""What the published TensorFlow replication had wrong, and the fault that imitates it."""


class Models:
    """What planting needs of a bench, without a reference."""

    prepare = None

    def __init__(self, model: tf_keras.Model) -> None:
        self.settings = {name: config for name, (config, *_) in PIPELINES.items()}
        self.modules = [named_modules(model)]
        self.variables = [tf_variables(model)]


@cache
def models(backbone: SwinConfig | None) -> Models:
    """One model for all benches of a backbone: each holds 200 MB."""
    config = zoo.model_config("tiny")
    if backbone is not None:
        config = config.replace(backbone=backbone)
    return Models(tf_impl.build(config, "float64"))


def test_catalogue_has_enough_faults_with_names_of_their_own():
    assert len(FAULTS) >= 80
    assert len({one.id for one in FAULTS}) == len(FAULTS)
    assert {one.stage for one in FAULTS} == STAGES
    assert all(one.what and one.places for one in FAULTS)


def test_everything_that_the_published_replication_had_wrong_is_a_fault():
    known = {one.id: one for one in FAULTS}
    assert all("2404.18801" in known[fault].imitates for fault in SEED.values())


@pytest.mark.parametrize("bench", dict.fromkeys(one.bench for one in FAULTS))
def test_every_fault_can_be_planted_and_goes_away(bench):
    target = models(MODELS.get(bench))
    before = {key: variable.numpy() for key, (variable, _) in target.variables[0].items()}
    own = {path: dict(vars(module)) for path, module in target.modules[0].items()}
    for fault in (one for one in FAULTS if one.bench == bench):
        with fault.plant(target):
            pass
        for key, (variable, _) in target.variables[0].items():
            np.testing.assert_array_equal(variable.numpy(), before[key], err_msg=fault.id)
        for path, module in target.modules[0].items():
            left = set(vars(module)) - set(own[path])
            assert not left, f"{fault.id} left {left} at {path}"


def test_list_shows_the_catalogue():
    run = CliRunner().invoke(app, ["faults", "list", "--json"])
    assert run.exit_code == 0
    listed = json.loads(run.stdout)["faults"]
    assert [one["id"] for one in listed] == [one.id for one in FAULTS]


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["no-such-fault"], "no fault is called 'no-such-fault'"),
        ([], "which faults?"),
        (["--all", "no-object-first"], "which faults?"),
        (["--all", "--catalogue", "no.such.module"], "no.such.module is no catalogue of faults"),
    ],
)
def test_run_refuses_what_it_cannot_plant(words, fact):
    run = CliRunner().invoke(app, ["faults", "run", *words])
    assert isinstance(run.exception, InputError)
    assert str(run.exception).startswith(fact)

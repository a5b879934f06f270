"""A training step that was captured on each side alone is judged: losses, gradients, updates."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch

import parity
from parity.auditing.pair import Built, cast
from parity.captures.capturing import Asked, capture_with
from parity.captures.judging import judge_captured
from parity.captures.pairs import training_of
from parity.captures.training import Trained
from parity.errors import InputError
from parity.frameworks import registry
from parity.steps import Steps
from parity.training.sides import Holding, Side
from parity_tests.parity.captures.test_captures import TOKENS, made

QUIET = Steps(quiet=True)
KEYS = {"up.kernel": "up.weight", "down.kernel": "down.weight"}


def side(model, of_port, loss, make):
    """A side as training needs it; kernels of the port are matrices the other way round."""
    framework = registry.of(model)
    turned = (lambda array: [array.T]) if of_port else None
    holdings = []
    for path, one in framework.variables(model).items():
        key = KEYS.get(path, path) if of_port else path
        move = turned if turned and one.read().ndim == 2 else lambda array: [array]
        holdings.append(Holding((key,), (path,), move, move))
    inputs = cast((TOKENS,), "float64")
    axes = lambda path, kind, name, rank: "NSC"[:rank] if rank == 3 else "AB"[:rank]  # noqa: E731
    return Side(Built(framework, model, "float64"), inputs, (), loss, make, holdings, axes, None)


def reference_training(model):
    one = side(
        model,
        False,
        lambda outputs: {"square": outputs.square().mean()},
        lambda parameters: torch.optim.AdamW([one for _, one in parameters], 1e-3),
    )

    def losses():
        with torch.no_grad():
            return {"square": float(model(torch.from_numpy(one.inputs[0])).square().mean())}

    return Trained(one, losses)


def port_training(factor=1.0, epsilon=1e-8, extra=()):
    def trained(model):
        def loss(outputs):
            return {"square": factor * tf.reduce_mean(tf.square(outputs))}

        def make(model):
            return tf_keras.optimizers.experimental.SGD(0.1) if extra else Torch(epsilon)

        one = side(model, True, loss, make)

        def losses():
            value = float(loss(model(tf.constant(one.inputs[0])))["square"])
            return {"square": value, **dict.fromkeys(extra, 1.0)}

        return Trained(one, losses)

    return trained


class Torch(tf_keras.optimizers.Optimizer):
    """AdamW's first update as PyTorch makes it: the bias correction before epsilon is added."""

    def __init__(self, epsilon):
        super().__init__("torch", weight_decay=None)
        self._learning_rate = self._build_learning_rate(1e-3)
        self.own_epsilon = epsilon

    def update_step(self, gradient, variable):
        step = gradient / (tf.abs(gradient) + self.own_epsilon)
        variable.assign(variable * (1 - 1e-3 * 1e-2) - 1e-3 * step)

    def get_config(self):
        return {}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps") / "reference"
    asked = Asked(("float64",), training=lambda built, inputs: reference_training(built.model))
    return capture_with(made(), "reference", folder, asked, QUIET)


def judged(reference, tmp_path, training):
    given = training and (lambda built, inputs: training(built.model))
    asked = Asked(("float64",), training=given)
    port = capture_with(made(), "port", tmp_path / "port", asked, QUIET)
    return judge_captured(reference, port, "parity audit", QUIET)


def failing(result):
    return {one.id for one in result.failing}


def test_a_right_step_holds(reference, tmp_path):
    result = judged(reference, tmp_path, port_training())
    assert failing(result) == set()
    step = {one.id: one.cases for one in result.claims if one.id.startswith("train_")}
    assert {*step} == {f"train_{w}" for w in ("losses", "gradients", "update")} | {
        "train_gradients_pairing"
    }
    assert step["train_update"] == 4
    assert not any("losses, gradients" in text for text in result.not_verified)


@pytest.mark.parametrize(
    ("wrong", "claims"),
    [
        ({"factor": 1.0 + 1e-9}, {"train_losses", "train_gradients"}),
        ({"epsilon": 1e-7}, {"train_update"}),
        ({"extra": ("other",)}, {"train_gradients_pairing", "train_update"}),
    ],
)
def test_a_mistake_in_a_step_fails_its_claims(reference, tmp_path, wrong, claims):
    assert failing(judged(reference, tmp_path, port_training(**wrong))) == claims


def test_one_step_alone_is_refused(reference, tmp_path):
    with pytest.raises(InputError, match="the captured port has no training step"):
        judged(reference, tmp_path, None)


def test_a_step_is_captured_in_float64(tmp_path):
    asked = Asked(("float32",), training=lambda built, inputs: port_training()(built.model))
    with pytest.raises(InputError, match="a training step is captured in float64"):
        capture_with(made(), "port", tmp_path / "port", asked, QUIET)


def test_what_is_not_asked_for_is_not_verified(tmp_path):
    pair = made()
    folders = [
        parity.capture(pair, name, tmp_path / name, precisions=("float64",), quiet=True)
        for name in ("reference", "port")
    ]
    result = judge_captured(*folders, "parity audit", QUIET)
    assert "losses, gradients and weight updates" in result.not_verified
    assert not any(one.id.startswith("train_") for one in result.claims)
    assert replace(result).verdict == "equal"
    assert np.isfinite(result.float64.worst_gap)


def as_training(factor=1.0, epsilon=1e-8):
    """How both sides of the pair are trained, as its file says."""
    return parity.Training(
        (np.zeros(TOKENS.shape, np.float32),),
        lambda outputs, wanted: {"square": (outputs - wanted).square().mean()},
        lambda outputs, wanted: {"square": factor * tf.reduce_mean(tf.square(outputs - wanted))},
        lambda parameters: torch.optim.AdamW([one for _, one in parameters], 1e-3),
        lambda model: Torch(epsilon),
    )


pair, training = made, as_training  # as `module:pair` names them


def of_a_pair(tmp_path, **mistakes):
    """Both sides of a named pair, captured apart with its training."""
    folders = []
    for name, training in (("reference", as_training()), ("port", as_training(**mistakes))):
        asked = Asked(("float64",), training=training_of(made(), training, name))
        folders.append(capture_with(made(), name, tmp_path / name, asked, QUIET))
    return judge_captured(*folders, "parity audit", QUIET)


def test_a_step_of_a_named_pair_holds(tmp_path):
    result = of_a_pair(tmp_path)
    assert failing(result) == set()
    cases = {one.id: one.cases for one in result.claims}
    assert (cases["train_losses"], cases["train_update"]) == (1, 4)


@pytest.mark.parametrize(
    ("wrong", "claims"),
    [
        ({"factor": 1.0 + 1e-9}, {"train_losses", "train_gradients"}),
        ({"epsilon": 1e-7}, {"train_update"}),
    ],
)
def test_a_mistake_in_the_step_of_a_named_pair_fails(tmp_path, wrong, claims):
    assert failing(of_a_pair(tmp_path, **wrong)) == claims

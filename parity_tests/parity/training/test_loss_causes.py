"""A number that is fitted needs two others that agree; a factor says what it may be."""

from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from parity.causes.torch_losses import argument_mistakes, fitted_arguments, target_mistakes
from parity.training.loss_causes import far, fitted, scaled

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 4)))
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])


def values(loss, logits=LOGITS):
    """The loss and its gradient."""
    leaf = logits.clone().requires_grad_()
    found = loss(leaf)
    (gradient,) = torch.autograd.grad(found, leaf)
    return {"term loss": found.detach().numpy(), "model:grad_output": gradient.numpy()}


def test_one_number_is_never_explained_by_a_factor():
    one = {"term loss": np.array(2.0)}
    assert scaled(one, {"term loss": np.array(3.0)}) is None
    both = values(lambda x: F.cross_entropy(x, LABELS))
    tripled = {name: 3.0 * value for name, value in both.items()}
    assert scaled(both, tripled) == "the loss is multiplied by 3"


def test_a_factor_that_is_a_count_is_said_to_be_one():
    mean, total = (
        values(lambda x, how=how: F.cross_entropy(x, LABELS, reduction=how))
        for how in ("mean", "sum")
    )
    assert "a sum instead of a mean over 6" in scaled(mean, total)
    assert "a mean instead of a sum over 6" in scaled(total, mean)


def test_a_doubled_gradient_is_no_other_loss():
    sound = values(lambda x: F.cross_entropy(x, LABELS))
    doubled = {**sound, "model:grad_output": 2 * sound["model:grad_output"]}
    assert scaled(sound, doubled) == "the gradient is doubled"


def test_what_one_side_lacks_is_no_factor_of_the_rest():
    sound = values(lambda x: F.cross_entropy(x, LABELS))
    more = {**sound, "term size": np.array(2.0)}
    assert scaled(more, sound) is None
    assert scaled(sound, more) is None
    doubled = {name: 2 * value for name, value in sound.items()}
    nothing = {**sound, "term size": np.array(0.0)}
    assert scaled(nothing, doubled) == "the loss is multiplied by 2"


def test_a_number_is_fitted_where_all_values_agree():
    ours = values(lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.07))

    def run(smoothing):
        return values(lambda x: F.cross_entropy(x, LABELS, label_smoothing=smoothing))

    assert fitted(run, ours, 0.0) == pytest.approx(0.07, abs=1e-12)
    other = values(lambda x: F.mse_loss(x, torch.zeros_like(x)))
    assert fitted(run, other, 0.0) is None


def test_nothing_is_fitted_to_one_number():
    def run(factor):
        return {"term loss": np.array(factor)}

    assert fitted(run, {"term loss": np.array(3.0)}, 1.0) is None


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"reduction": "sum"}, "a sum instead of a mean"),
        ({"label_smoothing": 0.1}, "label smoothing is 0.1 instead of 0"),
        ({"ignore_index": 1}, "class 1 is ignored"),
    ],
)
def test_other_arguments_of_a_loss_are_tried(wrong, text):
    def run():
        return values(lambda x: F.cross_entropy(x, LABELS))

    ours = values(lambda x: F.cross_entropy(x, LABELS, **wrong))
    found = []
    for mistake in argument_mistakes(run):
        with mistake.planted():
            if far(ours, run()) <= 1e-9:
                found.append(mistake.text)
    assert found == [f"cross_entropy: {text}"]


def test_other_targets_are_tried():
    def run():
        return values(lambda x: F.cross_entropy(x, LABELS))

    ours = values(lambda x: F.cross_entropy(x, (LABELS + 1) % 4))
    found = []
    for mistake in target_mistakes(run):
        with mistake.planted(), suppress(IndexError):  # a class that there is not
            if far(ours, run()) <= 1e-9:
                found.append(mistake.text)
    assert found == ["cross_entropy: the class order is rolled by 1"]


def test_one_entry_of_class_weights_is_fitted():
    def run():
        return values(lambda x: F.cross_entropy(x, LABELS))

    weights = torch.tensor([1.0, 1.0, 2.5, 1.0], dtype=torch.float64)
    ours = values(lambda x: F.cross_entropy(x, LABELS, weights))
    found = []
    for text, plant, start in fitted_arguments(run):

        def planted(value, plant=plant):
            with plant(value):
                return run()

        number = fitted(planted, ours, start)
        if number is not None:
            found.append((text, round(number, 9)))
    assert found == [("cross_entropy: class 2 weighs {} instead of 1", 2.5)]

"""Inputs that hide mistakes are told, and others are not."""

import numpy as np
import pytest
from torch import nn
from torch.nn import functional as F

from parity.auditing.advice import easy
from parity.auditing.hard_inputs import harder, with_hard_inputs
from parity.audits import Pair, audit
from parity.errors import InputError
from parity.names import Names
from parity_tests.parity.strangers.models import numbers, varied


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((numbers(2, 3, 45, 45),), ["square"]),
        ((numbers(2, 3, 64, 96),), ["32 divides"]),
        ((numbers(1, 3, 45, 52),), ["batch of 1"]),
        ((np.repeat(numbers(1, 3, 45, 52), 2, 0),), ["the same in all of its batch"]),
        ({"ids": np.ones((2, 7), int)}, ["everywhere"]),
        ((numbers(2, 3, 45, 52), numbers(2, 7)), []),
    ],
)
def test_easy_inputs_are_told(inputs, words):
    found = easy(inputs)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


@pytest.mark.parametrize(
    "inputs",
    [
        (np.ones((1, 3, 64, 64), np.float32),),
        {"images": numbers(1, 64, 96, 3), "mask": np.ones((1, 64, 96), bool)},
        (np.zeros((3, 3, 33, 33), np.float32), np.zeros((3, 33, 33), bool)),
        {"ids": np.arange(7)[None], "attention_mask": np.ones((1, 7), int)},
    ],
)
def test_harder_inputs_hide_nothing_that_is_told_and_are_always_the_same(inputs):
    made = harder(inputs)
    assert easy(made) == []
    arrays, again = (
        list(one.values()) if isinstance(one, dict) else one for one in (made, harder(inputs))
    )
    assert all(np.array_equal(one, other) for one, other in zip(arrays, again, strict=True))
    assert {len(one) for one in arrays} in ({2}, {3})
    first = arrays[0]
    if first.ndim == 4:
        assert abs(first.mean()) > first.std() / 2
        sides = first.shape[2:] if first.shape[1] == 3 else first.shape[1:3]
        assert sides[0] % 2 != sides[1] % 2
        assert all(mask.shape[1:] == sides for mask in arrays[1:])
    for mask in arrays[1:]:
        hidden = [int((row != mask[0].flat[0]).sum()) for row in mask]
        assert hidden[0] == 0
        assert min(hidden[1:]) > 0


class Net(nn.Module):
    """Wrong in ways that square images of one size, around 0, do not show."""

    def __init__(self, mistake=""):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 2)
        self.mistake = mistake

    def forward(self, x):
        if self.mistake == "square":
            x = x.transpose(2, 3).reshape(x.shape).transpose(2, 3).reshape(x.shape)
        y = self.stem(x)
        if self.mistake == "even":
            y = y[:, :, : x.shape[2] // 2, : x.shape[3] // 2]
        if self.mistake == "batch":
            y = y - y.mean(0, keepdim=True) * (len(y) > 1)
        return self.head(F.relu(y).mean((2, 3)))


def outcome(mistake, images, **how):
    def port():
        made = varied(Net)
        made.mistake = mistake
        return made

    pair = Pair(varied(Net), port(), (images,), names=Names(), **how)
    return audit(pair, executions=(), quiet=True).verdict


@pytest.mark.parametrize("mistake", ["square", "even", "batch"])
def test_mistakes_that_easy_inputs_hide_are_seen_on_harder_ones(mistake):
    images = numbers(1, 3, 64, 64)
    assert outcome(mistake, images) == "equal"
    assert outcome(mistake, images, hard_inputs=True) == "different"
    assert outcome("", images, hard_inputs=True) == "equal"


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64 * 64, 2)

    def forward(self, x):
        return self.layer(x.flatten(2))


def test_what_the_reference_cannot_take_stays_and_is_said():
    found = with_hard_inputs(Pair(varied(Fixed), Fixed, (numbers(1, 3, 64, 64),)))
    assert found.pair.inputs[0].shape == (2, 3, 64, 64)
    assert found.told[0] == "input 0: 1x3x64x64 became 2x3x64x64"
    assert found.told[1].startswith("sides stay: with others the reference fails, RuntimeError")


def test_the_ports_own_inputs_follow_in_their_order_of_axes():
    images, mask = numbers(1, 3, 64, 64), np.ones((1, 5), np.int64)
    theirs = {"pixel_values": images, "attention_mask": mask}
    ours = ({"images": images.transpose(0, 2, 3, 1), "mask": mask.astype(np.int32)},)

    class Both(nn.Module):
        def forward(self, pixel_values, attention_mask):
            return pixel_values.mean((1, 2, 3)) + attention_mask.sum(1)

    pair = Pair(Both().eval(), Both, theirs, port_inputs=ours)
    made = with_hard_inputs(pair).pair
    (port,) = made.port_inputs
    np.testing.assert_array_equal(port["images"], made.inputs["pixel_values"].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(port["mask"], made.inputs["attention_mask"])
    assert port["mask"].dtype == np.int32
    other = Pair(Both().eval(), Both, theirs, port_inputs=({"images": images[:, :1]},))
    with pytest.raises(InputError, match="cannot be made harder"):
        with_hard_inputs(other)

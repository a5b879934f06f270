"""Mistakes that ports are published with are named; each pair has the mistake in another model."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from parity.audits import Pair, audit
from parity.causes.explain import explain_values
from parity.causes.resizing import weights
from parity.names import Names
from parity_tests.parity.strangers.models import numbers, varied


def causes(build, inputs, mistake):
    """Path and cause of each place in a port that is the reference but for one mistake."""

    def port():
        made = varied(build)
        made.mistake = mistake
        return made

    pair = Pair(varied(build), port(), inputs, names=Names())
    result = audit(pair, executions=(), quiet=True)
    return [
        (one.path, re.sub(r".*\.py:\d+: `.*`: ", "", one.cause or ""))
        for one in result.localisations
    ]


class Mistaken(nn.Module):
    mistake = ""


class Reading(Mistaken):
    """Reads a memory in a function of its own, not in a module."""

    def __init__(self):
        super().__init__()
        self.encoder, self.norm, self.mixed = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        before = self.encoder(x)
        memory = self.norm(before)
        other = self.mixed(memory)
        if self.mistake == "before":
            memory = before
        if self.mistake == "after":
            memory = other
        read = torch.softmax(x @ memory.transpose(1, 2) / 6**0.5, -1) @ memory
        return torch.tanh(read) * x + other


@pytest.mark.parametrize(
    ("mistake", "key"), [("before", "encoder:output"), ("after", "mixed:output")]
)
def test_another_tensor_of_the_reference_is_named_before_pairs_of_mistakes(mistake, key):
    found = causes(Reading, (numbers(2, 5, 6),), mistake)
    assert found == [("model", "output is taken in place of norm:output")] or found[0][1].endswith(
        "output"
    )
    assert key


class Placing(Mistaken):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(6, 6)
        self.rows = nn.Parameter(torch.randn(5, 6))

    def forward(self, x, mask):
        placed = self.project(x) + self.rows
        if self.mistake == "added":
            placed = placed + mask[..., None]
        if self.mistake == "hidden":
            placed = placed - 7.5 * (1 - mask[..., None])
        if self.mistake == "widened":
            placed = torch.cat([placed, placed], -1)
        return placed


@pytest.mark.parametrize(
    ("mistake", "words"),
    [("added", "plus mask"), ("hidden", "the opposite of mask times -7.5")],
)
def test_a_mask_that_is_added_to_positions_is_named(mistake, words):
    mask = np.ones((2, 5), np.float32)
    mask[0, 3:], mask[1, 1:] = 0, 0
    found = causes(Placing, (numbers(2, 5, 6), mask), mistake)
    assert [path for path, _ in found] == ["model"]
    assert words in found[0][1]


def test_a_result_of_another_width_beside_a_mask_is_placed():
    found = causes(Placing, (numbers(2, 5, 6), np.ones((2, 5), np.float32)), "widened")
    assert [path for path, _ in found] == ["model"]


class Scores(Mistaken):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x, hidden):
        def heads(t):
            return t.reshape(*t.shape[:2], 2, 3).transpose(1, 2)

        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        size = 6 if self.mistake == "scale" else 3
        scores = q @ k.transpose(-1, -2) * size**-0.5
        fill = -10.0 if self.mistake == "fill" else -torch.inf
        scores = scores.masked_fill(hidden[:, None, None], fill)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [("scale", "multiplied by 0.7071067812"), ("fill", "masked with -10 instead of -inf")],
)
def test_scale_and_mask_value_of_attention_are_named(mistake, words):
    hidden = np.zeros((2, 5), bool)
    hidden[0, 3:], hidden[1, 4:] = True, True
    ((path, cause),) = causes(Scores, (numbers(2, 5, 6), hidden), mistake)
    assert (path, words in cause) == ("model", True), cause


class Enlarged(Mistaken):
    aa = False

    def forward(self, x):
        size = (9, 7) if not self.aa else (4, 5)
        if self.mistake:
            edges = {"repeated": self.mistake == "repeated"}
            rows, columns = (
                torch.from_numpy(weights(a, b, "bicubic", **edges)).to(x.dtype)
                for a, b in zip(x.shape[-2:], size, strict=True)
            )
            return torch.einsum("ip,ncpq,jq->ncij", rows, x, columns)
        return F.interpolate(x, size, mode="bicubic", antialias=self.aa)


class Reduced(Enlarged):
    aa = True


@pytest.mark.parametrize(
    ("build", "mistake", "words"),
    [
        (Enlarged, "none", "bicubic with the coefficient -0.5 instead of -0.75"),
        (Enlarged, "repeated", "-0.5 instead of -0.75, and the last pixel repeated"),
        (Reduced, "none", "bicubic with the coefficient -0.5, not antialiased"),
    ],
)
def test_another_cubic_is_named(build, mistake, words):
    ((_, cause),) = causes(build, (numbers(2, 3, 6, 8),), mistake)
    assert cause.endswith(words)


class Windows(Mistaken):
    first = "pad"

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        height, width = x.shape[1:3]
        pads = (0, 0, 0, -width % 4, 0, -height % 4)
        if (self.first == "pad") != bool(self.mistake):
            y = torch.roll(F.pad(x, pads), (-2, -2), (1, 2))
            y = self.inner(y)
            return torch.roll(y, (2, 2), (1, 2))[:, :height, :width]
        y = F.pad(torch.roll(x, (-2, -2), (1, 2)), pads)
        return torch.roll(self.inner(y)[:, :height, :width], (2, 2), (1, 2))


class RolledWindows(Windows):
    first = "roll"


@pytest.mark.parametrize(
    ("build", "words"),
    [(Windows, "rolled before it is padded"), (RolledWindows, "padded before it is rolled")],
)
def test_the_order_of_padding_and_rolling_is_named(build, words):
    ((path, cause),) = causes(build, (numbers(2, 6, 7, 4),), "other order")
    assert (path, cause) == ("model", words)


class Activated(Mistaken):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        others = {
            "gelu": F.gelu,
            "gelu (tanh)": lambda x: F.gelu(x, approximate="tanh"),
            "silu": F.silu,
        }
        return self.outer(others.get(self.mistake, F.relu)(self.inner(x)))


@pytest.mark.parametrize("other", ["gelu", "gelu (tanh)", "silu"])
def test_another_activation_than_that_of_the_configuration_is_named(other):
    assert causes(Activated, (numbers(3, 6),), other) == [("model", f"{other} instead of relu")]
    assert causes(Activated, (numbers(3, 6),), "") == []


class Batch(Mistaken):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("spread", torch.ones(4))

    def forward(self, x):
        mean, spread = self.mean, self.spread
        if self.mistake:
            mean, spread = x.mean((0, 2)), x.var((0, 2), correction=0)
        return F.batch_norm(x, mean, spread, self.weight, self.bias, False, 0.1, 1e-5)


def test_statistics_of_the_batch_in_inference_are_named():
    ((_, cause),) = causes(Batch, (numbers(3, 4, 9),), "batch")
    assert cause == "with the statistics of this batch instead of the stored ones"


class Embedded(Mistaken):
    def __init__(self):
        super().__init__()
        self.words, self.places, self.kinds = (nn.Embedding(n, 6) for n in (11, 9, 3))
        self.norm = nn.LayerNorm(6)

    def forward(self, tokens, kinds):
        steps = torch.arange(tokens.shape[1]) + (2 if self.mistake == "offset" else 0)
        kinds = self.kinds(kinds)
        if self.mistake == "dropped":
            kinds = kinds.new_zeros(())
        return self.norm(self.words(tokens) + kinds + self.places(steps))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [("dropped", "its second term is left out"), ("offset", "plus 2")],
)
def test_an_embedding_that_is_dropped_or_counted_from_elsewhere_is_named(mistake, words):
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 11, (2, 5)), rng.integers(0, 3, (2, 5))
    ((path, cause),) = causes(Embedded, inputs, mistake)
    assert (path, words in cause) == ("model", True), cause


class Pixels(Mistaken):
    def __init__(self):
        super().__init__()
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x):
        height, width = {"root": (6, 6), "exchanged": (9, 4)}.get(self.mistake, (4, 9))
        y = x.transpose(1, 2).reshape(len(x), 4, height, width)
        return self.deep(y).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("root", "6 x 6, the root of their number, instead of 4 x 9"),
        ("exchanged", "9 x 4, height and width exchanged, instead of 4 x 9"),
    ],
)
def test_sides_that_are_exchanged_or_taken_as_a_root_are_named(mistake, words):
    ((path, cause),) = causes(Pixels, (numbers(2, 36, 4),), mistake)
    assert (path, cause) == ("model", f"an axis is split into {words}")


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (Reading, (numbers(2, 5, 6),)),
        (Enlarged, (numbers(2, 3, 6, 8),)),
        (RolledWindows, (numbers(2, 6, 7, 4),)),
        (Pixels, (numbers(2, 36, 4),)),
    ],
)
def test_without_a_mistake_nothing_is_named(build, inputs):
    assert causes(build, inputs, "") == []


class Turning(Mistaken):
    """Uses tables of positions that its caller makes; the port makes its own, within."""

    def forward(self, x, table):
        if self.mistake:
            steps = torch.arange(x.shape[1], dtype=x.dtype)
            table = torch.sin(steps[:, None] * torch.arange(1, 7, dtype=x.dtype) / 7)
        return torch.tanh(x * table)


class Tables(Mistaken):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = Turning(), Turning(), nn.Linear(6, 3)

    def forward(self, x):
        rates = torch.arange(1, 7, dtype=x.dtype) / 7
        steps = torch.arange(x.shape[1], dtype=x.dtype)
        table = torch.sin(steps[:, None] * (rates * 0.25))
        self.first.mistake = self.second.mistake = self.mistake
        return self.head(self.second(self.first(x, table), table))


def test_a_mistake_in_what_a_caller_makes_for_a_module_is_named():
    found = causes(Tables, (numbers(2, 5, 6),), "not scaled")
    assert [path for path, _ in found] == ["first", "second"]
    assert all(cause == "its second factor is left out" or "by 4" in cause for _, cause in found)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
def test_padding_by_elements_of_the_map_is_named(mode):
    """As of an odd map whose last rows a port repeats; channels are the last axis."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 7, 3)))
    pads = (0, 0, 0, 2, 1, 3)
    found = explain_values(
        lambda: {"y": F.pad(x, pads).numpy()},
        {"y": np.pad(x.numpy(), ((0, 0), (1, 3), (0, 2), (0, 0)), mode=mode)},
        1e-12,
    )
    name = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    assert [one.text.rpartition(": ")[2] for one in found] == [f"{name} padding instead of 0"]

"""Objects that a call changes, such as a cache of keys and values, are what they were before it
whenever a module runs alone."""

import numpy as np
import pytest
import torch
from torch import nn

from parity.audits import Pair, audit
from parity.calls import structures
from parity.names import Names
from parity_tests.parity.strangers.models import numbers, varied


class Cache:
    """Keys and values of all positions so far, by layer."""

    def __init__(self):
        self.layers = {}

    def grown(self, layer, keys, values):
        if layer in self.layers:
            before = self.layers[layer]
            keys = torch.cat([before[0], keys], 1)
            values = torch.cat([before[1], values], 1)
        self.layers[layer] = (keys, values)
        return keys, values


class Attention(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.mistake = layer, ""
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x, mask, cache):
        keys, values = cache.grown(self.layer, self.k(x), self.v(x))
        scores = self.q(x) @ keys.transpose(1, 2) * (1.0 if self.mistake else 6**-0.5)
        return torch.softmax(scores + mask, -1) @ values


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Attention(layer) for layer in range(2))

    def forward(self, x):
        cache, mask = Cache(), torch.full((x.shape[1], x.shape[1]), -1e9).triu(1)
        for block in self.blocks:
            x = x + block(x, mask, cache)
        return x


def found(mistaken):
    def port():
        made = varied(Decoder)
        for block in made.blocks:
            block.mistake = mistaken
        return made

    pair = Pair(varied(Decoder), port(), (numbers(2, 5, 6),), names=Names())
    return audit(pair, executions=(), isolate=True, quiet=True)


def test_a_module_that_fills_a_cache_is_judged_alone():
    result = found("")
    assert result.verdict == "equal"
    alone = next(one for one in result.claims if one.id == "isolated_function")
    assert alone.holds
    assert not [text for text in result.not_verified if "blocks" in text]


def test_a_mistake_in_a_module_that_fills_a_cache_is_named():
    result = found("scale")
    assert [one.path for one in result.localisations] == ["blocks.0", "blocks.1"]
    causes = [one.cause for one in result.localisations]
    assert all("its second factor is left out" in one for one in causes), causes


class Odd:
    """An object that cannot be copied."""

    def __init__(self):
        self.number = 1

    def __copy__(self):
        raise TypeError("not to be copied")


def test_states_share_tensors_and_nothing_else():
    tensor, odd = torch.ones(3), Odd()
    cache = Cache()
    cache.layers[0], cache.itself, cache.odd = [tensor], cache, odd
    kept = structures.held({"cache": cache, "size": 3, "module": nn.ReLU()})
    cache.layers[1] = "later"
    first, second = (structures.fill(kept, lambda slot: None)["cache"] for _ in "ab")
    assert first is not second
    assert first.layers == {0: [tensor]}
    assert first.layers[0][0] is tensor
    assert first.itself is first
    assert first.odd is odd
    first.layers[0].append("changed")
    assert second.layers == {0: [tensor]}
    assert kept["size"] == 3
    assert isinstance(kept["module"], nn.ReLU)


@pytest.mark.parametrize("value", [3, "x", None, np.ones(2), torch.ones(2), torch.float32, len])
def test_what_no_call_changes_is_no_state(value):
    assert structures.held(value) is value

"""A module that is given tensors of several ranks, as heads are given each layer's and a stack."""

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.frameworks.torch.weights import vary


class Heads(nn.Module):
    """A head on the last layer, and on the stack of those before: with two layers of one number of
    elements. With `turned` the stack is the other way round."""

    def __init__(self, layers: int, turned: bool = False) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(6, 6) for _ in range(layers))
        self.head, self.turned = nn.Linear(6, 4), turned

    def forward(self, x):
        found = []
        for layer in self.body:
            x = torch.tanh(layer(x))
            found.append(x)
        stack = torch.stack(found[:-1])
        return {"last": self.head(x), "others": self.head(stack.flip(1) if self.turned else stack)}


def audited(layers, turned=False):
    torch.manual_seed(0)
    reference = vary(Heads(layers).eval())
    tokens = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    port = Heads(layers, turned).eval
    pair = parity.Pair(reference, port, (tokens,), weights=parity.Weights())
    return parity.audit(pair, executions=(), isolate=True, quiet=True)


@pytest.mark.parametrize("layers", [2, 3])
def test_a_module_that_is_given_tensors_of_several_ranks_is_compared(layers):
    result = audited(layers)
    assert (result.verdict, result.localisations) == ("equal", ())


def test_another_order_in_the_stack_is_found():
    result = audited(2, turned=True)
    assert [one.edge for one in result.localisations] == ["head@1:input"]

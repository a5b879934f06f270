"""Weights that one side packs into one array: found, printed as rules, moved by them, or asked."""

import numpy as np
import pytest
import torch
from torch import nn

from parity import Joint, Pair, audit, match
from parity.frameworks.torch.weights import vary

TOKENS = (np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32),)
HEADS = 2


class Packed(nn.Module):
    """Queries, keys and values of one layer, in one piece each or head by head."""

    def __init__(self, by_head: bool = False, turned: bool = False) -> None:
        super().__init__()
        self.norm, self.out, self.by_head = nn.LayerNorm(8), nn.Linear(8, 8), by_head
        self.weight = nn.Parameter(torch.randn(24, 8).T if turned else torch.randn(24, 8))
        self.bias = nn.Parameter(torch.randn(24))
        self.turned = turned

    def parts(self, array: torch.Tensor, axis: int) -> list[torch.Tensor]:
        if not self.by_head:
            return list(array.chunk(3, axis))
        apart = array.movedim(axis, -1).unflatten(-1, (HEADS, 3, 4))
        return [apart[..., one, :].flatten(-2).movedim(-1, axis) for one in range(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.T if self.turned else self.weight
        q, k, v = self.parts(nn.functional.linear(self.norm(x), weight, self.bias), -1)
        return self.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.last = nn.LayerNorm(8), nn.Linear(8, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scale(x)
        return self.last(
            torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1) @ self.value(x)
        )


def both(**how: bool) -> tuple[nn.Module, nn.Module]:
    """The packed model and the other, with the same numbers."""
    torch.manual_seed(0)
    packed, apart = vary(Packed(**how).eval()), Apart().eval()
    with torch.no_grad():
        for name, at in (("scale", packed.norm), ("last", packed.out)):
            for key, tensor in at.state_dict().items():
                apart.state_dict()[f"{name}.{key}"].copy_(tensor)
        weight = packed.weight.T if packed.turned else packed.weight
        for key, tensor in (("weight", weight), ("bias", packed.bias)):
            for name, value in zip(("query", "key", "value"), packed.parts(tensor, 0), strict=True):
                apart.state_dict()[f"{name}.{key}"].copy_(value)
    return packed, apart


WAYS = [{}, {"by_head": True}, {"turned": True}, {"turned": True, "by_head": True}]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("packs", ["reference", "port"])
def test_packed_weights_are_printed_as_a_rule_that_moves_them(how, packs):
    sides = both(**how)[:: 1 if packs == "reference" else -1]
    found = match(Pair(*sides, TOKENS))
    assert found.shared
    assert not found.questions
    kept: dict = {}
    exec(str(found), kept)
    assert len(kept["weights"].joints) == 2
    fresh = (Packed(**how), Apart())[:: 1 if packs == "reference" else -1][1].eval()
    pair = Pair(sides[0], fresh, TOKENS, names=kept["names"], weights=kept["weights"])
    assert audit(pair, executions=(), quiet=True).verdict == "equal"


def test_a_rule_with_two_parts_exchanged_is_noticed():
    """The twin of the one above."""
    packed, apart = both()
    kept: dict = {}
    exec(str(match(Pair(packed, apart, TOKENS))), kept)
    names = ("key", "query", "value")
    joints = [
        Joint.packed([key], [f"{name}.{key}" for name in names]) for key in ("weight", "bias")
    ]
    weights = kept["weights"].__class__(kept["weights"].variables, joints=joints)
    pair = Pair(packed, Apart().eval(), TOKENS, names=kept["names"], weights=weights)
    assert audit(pair, executions=(), quiet=True).verdict == "different"


def test_packed_weights_that_are_not_shared_are_asked_for_by_name_and_shape():
    torch.manual_seed(1)
    text = "\n".join(map(str, match(Pair(both()[0], Apart().eval(), TOKENS)).questions))
    assert "weight [24, 8], bias [24]" in text
    assert "`Weights(joints=[parity.Joint.packed(...)])`" in text

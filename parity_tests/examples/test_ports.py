"""KerasHub's ports are paired by their weights alone: nearly all layers, none of them wrongly."""

import os

import pytest

pytest.importorskip("keras_hub")
from examples import ports
from parity import match

QUICK = ("bert", "gpt2", "qwen2", "vit")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ports.CASES]
)
def test_layers_of_a_port_are_paired(name):
    found = match(ports.pair(name))
    assert found.shared
    assert found.questions == ()
    assert all(one.sure for one in found.tensors)
    assert not [key for key in found.weights.reference_only if "tied" not in key]
    owners = {one.ours.rpartition(".")[0] for one in found.tensors}
    packed = {one.ours.rpartition(".")[0] for one in found.tensors if "parts" in one.evidence}
    paired = {one.ours for one in found.modules}
    # A layer may hold what is one parameter among others of a module of the reference.
    holders: dict[str, set[str]] = {}
    for one in found.tensors:
        ours, theirs = (path.rpartition(".")[0] for path in (one.ours, one.theirs))
        holders.setdefault(theirs, set()).add(ours)
    several = {ours for one in holders.values() if len(one) > 1 for ours in one}
    left = owners - packed - paired - several
    assert len(left) <= 0.01 * len(owners), left
    # KerasHub names layers after transformers' blocks: their numbers must agree.
    for one in found.tensors:
        numbers = [[c for c in path if c.isdigit()] for path in (one.ours, one.theirs)]
        if "stack" not in one.ours and numbers[0] and numbers[1]:
            assert numbers[0][0] == numbers[1][0], one


def test_a_case_has_few_lines():
    assert len(ports.CASES) >= 13
    assert os.path.isdir(
        ports.port(ports.CASES["gpt2"], ports.reference(ports.CASES["gpt2"], 0, {})).folder.name
    )

"""KerasHub's ports are paired by their weights alone: nearly all layers, none of them wrongly."""

import functools
import os

import pytest

pytest.importorskip("keras_hub")
from examples import ports
from examples.ports import segformer
from examples.ports.study import PORTS
from parity import audit, match

QUICK = ("bert", "gpt2", "qwen2", "vit")


@functools.cache
def matched(name):
    return match(PORTS[name]())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in PORTS]
)
def test_layers_of_a_port_are_paired(name):
    found = matched(name)
    assert found.coverage.alone == ()
    assert found.shared
    assert found.questions == ()
    assert all(one.sure for one in found.tensors)
    assert not [key for key in found.weights.reference_only if "tied" not in key]
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


@pytest.mark.slow
def test_nearly_all_tensors_that_layers_return_are_compared():
    every = [matched(name).coverage for name in PORTS]
    made = sum(len(one.activations) for one in every)
    unseen = [key for one in every for key in one.unseen]
    assert len(unseen) <= 0.05 * made, unseen


def test_what_is_said_to_be_compared_is():
    name = "bert"
    found = matched(name)
    sides = {line.ours: line.theirs for line in found.modules}
    rows = {(row.path, row.kind) for row in audit(PORTS[name](), executions=()).layers}
    unseen = {key.partition(":")[0] for key in found.coverage.unseen}
    for path in set(found.coverage.layers) - unseen:
        assert (sides[path], "output") in rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "places"),
    [(segformer.SQUARE, set()), (segformer.LONG, {"attention", "mlp.dwconv.dwconv"})],
)
def test_a_segformer_is_wrong_where_its_images_are_no_squares(size, places):
    result = audit(segformer.pair(size), executions=(), search="0.01s", quiet=True)
    assert result.verdict == "different"
    found = {one.path.partition("blocks.0.")[2] for one in result.localisations}
    # Its norms have another epsilon, its GELU is approximated; both whatever the size.
    assert found == {"layernorm_before", "layernorm_after", "mlp"} | places
    default = next(one for one in result.claims if one.id == "untrained_by_default")
    assert not default.holds
    assert "moving" in default.place.text

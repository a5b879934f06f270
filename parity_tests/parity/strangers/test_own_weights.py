"""Weights that a port loads itself are all found, or listed by kind before anything is measured."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

from parity import Names, Pair, Weights, audit
from parity.errors import InputError
from parity_tests.parity.strangers.models import claims, numbers, places, varied

K = tf_keras.layers
INPUTS = (numbers(2, 7, 12),)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(12), nn.Linear(12, 36)
        self.out, self.scale = nn.Linear(12, 12), nn.Parameter(torch.ones(12))

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        mixed = torch.softmax(q @ k.transpose(1, 2) / 12**0.5, -1) @ v
        return x + self.scale * self.out(mixed)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(3)), nn.Linear(12, 5)
        self.unused = nn.Linear(12, 4)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class PortBlock(K.Layer):
    def __init__(self, bias=True, scaled=True):
        super().__init__()
        self.before, self.mix = K.LayerNormalization(epsilon=1e-5), K.Dense(12, use_bias=bias)
        self.parts = [K.Dense(12) for _ in range(3)]
        self.scaled = scaled

    def build(self, shape):
        if self.scaled:
            self.factor = self.add_weight("factor", (12,))

    def call(self, x):
        y = self.before(x)
        q, k, v = (part(y) for part in self.parts)
        scores = tf.matmul(q, k, transpose_b=True) / tf.cast(12, x.dtype) ** 0.5
        mixed = self.mix(tf.matmul(tf.nn.softmax(scores), v))
        return x + (self.factor * mixed if self.scaled else mixed)


class Port(tf_keras.Model):
    def __init__(self, **how):
        super().__init__()
        self.steps, self.classes = [PortBlock(**how) for _ in range(3)], K.Dense(5)

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return self.classes(x)


def loading(model, change=lambda name, array: array, **how):
    """Builds a port that loads the weights of `model` itself, each after a change."""
    state = {name: change(name, t.numpy().copy()) for name, t in model.state_dict().items()}

    def build():
        port = Port(**how)
        port(INPUTS[0])
        for index, step in enumerate(port.steps):
            own = {
                name.removeprefix(f"blocks.{index}."): array
                for name, array in state.items()
                if name.startswith(f"blocks.{index}.")
            }
            step.before.set_weights([own["norm.weight"], own["norm.bias"]])
            for part, kernel, bias in zip(
                step.parts,
                np.split(own["qkv.weight"], 3),
                np.split(own["qkv.bias"], 3),
                strict=True,
            ):
                part.set_weights([kernel.T, bias])
            mixing = [own["out.weight"].T, own["out.bias"]]
            step.mix.set_weights(mixing if how.get("bias", True) else mixing[:1])
            if how.get("scaled", True):
                step.factor.assign(own["scale"])
        port.classes.set_weights([state["head.weight"].T, state["head.bias"]])
        return port

    return build


def audited(model, port, capsys, **pair):
    result = audit(Pair(model, port, INPUTS, **pair), executions=())
    told = capsys.readouterr().err
    before, _, _ = told.partition("reference, float64")
    return result, {line.strip() for line in before.splitlines() if "weights: " in line}


def weights_claim(result):
    return next(one for one in result.claims if one.id == "weights")


def test_packed_and_unused_weights_are_told_and_are_no_difference(capsys):
    model = varied(Model)
    result, told = audited(model, loading(model), capsys)
    assert (result.verdict, result.localisations) == ("equal", ())
    assert told == {
        "weights: unused.weight: missing in the port",
        "weights: unused.bias: missing in the port",
        "weights: 3 \N{MULTIPLICATION SIGN} blocks.*.qkv.weight: packed otherwise",
        "weights: 3 \N{MULTIPLICATION SIGN} blocks.*.qkv.bias: packed otherwise",
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_rounded_weights_are_told_by_pattern_and_are_the_cause(dtype, capsys):
    def change(name, array):
        return torch.from_numpy(array).to(dtype).float().numpy() if "norm" in name else array

    model, name = varied(Model), str(dtype).removeprefix("torch.")
    result, told = audited(model, loading(model, change), capsys)
    text = f"3 \N{MULTIPLICATION SIGN} blocks.*.norm.weight: rounded to {name}"
    assert f"weights: {text}" in told
    assert weights_claim(result).cause.startswith(text)
    assert len(weights_claim(result).measured.found) == 6
    assert places(result.to_json()) == [
        (f"blocks.{index}.norm", f"each was rounded to {name}") for index in range(3)
    ]


def test_other_values_and_a_missing_tensor_are_listed_by_kind(capsys):
    def change(name, array):
        return array + np.float32(0.1) if name.endswith("head.bias") else array

    model = varied(Model)
    result, told = audited(model, loading(model, change, bias=False), capsys)
    assert "weights: head.bias: other values" in told
    missing = "3 \N{MULTIPLICATION SIGN} blocks.*.out.bias: missing in the port"
    assert f"weights: {missing}" in told
    claim = weights_claim(result)
    assert missing in claim.cause
    assert "head.bias: other values" in claim.cause
    assert not any("unused" in name for name in claim.measured.found)


def test_declared_weights_that_do_not_match_are_all_told_before_anything_is_measured(capsys):
    model = varied(Model)
    names = Names(
        {"steps.*": "blocks.*", "steps.*.before": "blocks.*.norm", "steps.*.mix": "blocks.*.out"}
        | {"classes": "head"}
    )
    weights = Weights(reference_only={"unused.*": "never called"})
    pair = Pair(model, Port, INPUTS, names=names, weights=weights)
    with pytest.raises(InputError) as caught:
        audit(pair, executions=())
    assert "reference, float64" not in capsys.readouterr().err
    lines = str(caught.value).splitlines()
    scale = "blocks.*.scale of the reference has no variable of the port"
    assert lines[0] == "the weights of the two models do not match: 30 places"
    assert f"  3 \N{MULTIPLICATION SIGN} {scale}" in lines
    assert len(lines) < 20
    result = audit(replace(pair, undeclared=True), executions=(), quiet=True)
    assert result.verdict == "different"
    assert "blocks.*.qkv.weight" in weights_claim(result).cause


def test_what_cannot_be_paired_for_certain_may_stay_undeclared():
    model = varied(lambda: nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12)))
    port = varied(lambda: nn.Sequential(*(nn.Linear(12, 12) for _ in range(3))), 3)
    with pytest.raises(InputError, match="cannot be paired for certain"):
        audit(Pair(model, port, INPUTS), executions=(), quiet=True)
    result = audit(Pair(model, port, INPUTS, undeclared=True), executions=(), quiet=True).to_json()
    assert result["verdict"] == "different"
    assert "weights" in claims(result)
    assert any("not paired" in one for one in result["not_verified"])


class Turned(nn.Module):
    """Holds its matrix as [in, out], which its shape does not show."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(12, 12)), nn.Parameter(torch.zeros(12))

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.mark.parametrize("right", [True, False])
def test_a_matrix_in_another_order_is_wrong_only_where_its_layer_is(right):
    model = varied(lambda: nn.Sequential(Turned(), nn.LayerNorm(12)))

    def port():
        made = tf_keras.Sequential([K.Dense(12), K.LayerNormalization(epsilon=1e-5)])
        made(INPUTS[0])
        own = [tensor.numpy() for tensor in model.state_dict().values()]
        made.set_weights([own[0] if right else own[0].T, *own[1:]])
        return made

    result = audit(Pair(model, port, INPUTS), executions=(), quiet=True)
    assert result.verdict == ("equal" if right else "different")
    # A matrix that is turned as one of `nn.Linear` would be looks right until its layer is run.
    assert weights_claim(result).holds
    assert [one.path for one in result.localisations] == ([] if right else ["0"])

"""Layers whose tensors are not one to one: moved by their kinds, equal; a wrong order is named."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import parity
from parity.auditing.result import AuditResult
from parity.errors import InputError
from parity.frameworks.torch.weights import vary
from parity.weights import Joint, Weights

K = tf_keras.layers
SEQUENCE, IMAGE = (2, 7, 6), (2, 3, 9, 8)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class Reference(nn.Module):
    def __init__(self, layer: nn.Module, run: Callable) -> None:
        super().__init__()
        self.layer, self.run = layer, run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self.layer, x)


class Port(tf_keras.Model):
    def __init__(self, layer: K.Layer, run: Callable) -> None:
        super().__init__()
        self.layer, self.run = layer, run

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.run(self.layer, x)


def plainly(layer: Any, x: Any) -> Any:
    return layer(x)


def first(layer: Any, x: Any) -> Any:
    return layer(x)[0]


def turned(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x.transpose(1, 2)).transpose(1, 2)


def attending(layer: Any, x: Any) -> Any:
    return layer(x, x, x)


@dataclass(frozen=True)
class Case:
    """A layer of PyTorch, the same of Keras, and how each is run."""

    theirs: Callable[[], nn.Module]
    ours: Callable[[], K.Layer]
    shape: tuple[int, ...]
    run: Callable = plainly
    port_run: Callable = plainly
    names: dict = field(default_factory=dict)
    axes: dict = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)
    one_way: int = 0

    def pair(self, **changes: Any) -> parity.Pair:
        torch.manual_seed(0)
        reference = Reference(vary(self.theirs()), self.run).eval()
        names = parity.Names({"layer": "layer"}, **self.names)
        settings = {"names": names, "weights": self.weights, "axes": self.axes, **changes}
        return parity.Pair(
            reference, lambda: Port(self.ours(), self.port_run), (drawn(*self.shape),), **settings
        )


def recurrent(theirs: Callable, ours: Callable, one_way: int) -> Case:
    names = {
        "tensors": {"layer:output": "0"},
        "reference_only": {"layer:output.1*": "the last states are not compared"},
    }
    return Case(theirs, ours, SEQUENCE, first, plainly, names, one_way=one_way)


def sequence(theirs: Callable, ours: Callable) -> Case:
    return Case(theirs, ours, SEQUENCE, turned, axes={"layer:*": "NCS"})


class Three(K.Layer):
    """Attention of three Dense layers and one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (K.Dense(6) for _ in "qkvo")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        q, k, v = (
            tf.transpose(tf.reshape(one(x), (2, 7, 2, 3)), (0, 2, 1, 3))
            for one in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = tf.nn.softmax(tf.matmul(q / 3**0.5, k, transpose_b=True))
        mixed = tf.transpose(tf.matmul(scores, v), (0, 2, 1, 3))
        return self.out_proj(tf.reshape(mixed, (2, 7, 6)))


class Packed(K.Layer):
    """The same of one Dense layer for all three."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = K.Dense(18), K.Dense(6)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        apart = tf.transpose(tf.reshape(self.qkv(x), (2, 7, 3, 2, 3)), (2, 0, 3, 1, 4))
        scores = tf.nn.softmax(tf.matmul(apart[0] / 3**0.5, apart[1], transpose_b=True))
        mixed = tf.transpose(tf.matmul(scores, apart[2]), (0, 2, 1, 3))
        return self.proj(tf.reshape(mixed, (2, 7, 6)))


class Apart(nn.Module):
    """Attention with three matrices, as that of BERT."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            one(x).view(2, 7, 2, 3).transpose(1, 2) for one in (self.query, self.key, self.value)
        )
        mixed = torch.softmax(q / 3**0.5 @ k.transpose(-1, -2), -1) @ v
        return self.output(mixed.transpose(1, 2).reshape(2, 7, 6))


def attention() -> nn.Module:
    return nn.MultiheadAttention(6, 2, batch_first=True)


ONE_INPUT = {
    "tensors": {"layer:input": "query", "layer:output": ""},
    "reference_only": {"layer:input.key": "the query", "layer:input.value": "the query"},
}
CASES = {
    "packed to heads": Case(
        attention,
        lambda: K.MultiHeadAttention(2, 3),
        SEQUENCE,
        lambda layer, x: attending(layer, x)[0],
        attending,
        {
            "reference_only": {"layer:output.1": "the port returns no weights"},
            "tensors": {"layer:output": "0"},
        },
    ),
    "three to packed": Case(Apart, Packed, SEQUENCE),
    "three to heads": Case(
        Apart,
        lambda: K.MultiHeadAttention(2, 3),
        SEQUENCE,
        port_run=attending,
        names={
            "tensors": {"layer:input.query": ""},
            "port_only": {"layer:input.[kv]*": "the query"},
        },
    ),
    "rnn": recurrent(
        lambda: nn.RNN(6, 5, batch_first=True),
        lambda: K.SimpleRNN(5, return_sequences=True),
        1,
    ),
    "lstm": recurrent(
        lambda: nn.LSTM(6, 5, batch_first=True), lambda: K.LSTM(5, return_sequences=True), 1
    ),
    "lstm without bias": recurrent(
        lambda: nn.LSTM(6, 5, batch_first=True, bias=False),
        lambda: K.LSTM(5, return_sequences=True, use_bias=False),
        0,
    ),
    "gru": recurrent(
        lambda: nn.GRU(6, 5, batch_first=True), lambda: K.GRU(5, return_sequences=True), 0
    ),
    "both ways": recurrent(
        lambda: nn.LSTM(6, 5, batch_first=True, bidirectional=True),
        lambda: K.Bidirectional(K.LSTM(5, return_sequences=True)),
        2,
    ),
    "deep": recurrent(
        lambda: nn.GRU(6, 5, 2, batch_first=True),
        lambda: K.RNN([K.GRUCell(5), K.GRUCell(5)], return_sequences=True),
        0,
    ),
    "weight norm": Case(
        lambda: weight_norm(nn.Conv2d(3, 4, 3)), lambda: K.Conv2D(4, 3), IMAGE, one_way=1
    ),
    "spectral norm": Case(
        lambda: spectral_norm(nn.Linear(6, 4)), lambda: K.Dense(4), SEQUENCE, one_way=1
    ),
    "spectral norm, transposed": Case(
        lambda: spectral_norm(nn.ConvTranspose2d(3, 4, 3)),
        lambda: K.Conv2DTranspose(4, 3),
        IMAGE,
        one_way=1,
    ),
    "separable": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 4, 1)),
        lambda: K.SeparableConv2D(4, 3, depth_multiplier=2),
        IMAGE,
        one_way=1,
    ),
    "separable, one axis": sequence(
        lambda: nn.Sequential(nn.Conv1d(6, 12, 3, groups=6, bias=False), nn.Conv1d(12, 4, 1)),
        lambda: K.SeparableConv1D(4, 3, depth_multiplier=2),
    ),
    "convolution, one axis": sequence(lambda: nn.Conv1d(6, 4, 3), lambda: K.Conv1D(4, 3)),
    "depthwise, one axis": sequence(
        lambda: nn.Conv1d(6, 12, 3, groups=6), lambda: K.DepthwiseConv1D(3, depth_multiplier=2)
    ),
    "transposed, one axis": sequence(
        lambda: nn.ConvTranspose1d(6, 4, 3), lambda: K.Conv1DTranspose(4, 3)
    ),
    "folded norm": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
        lambda: K.Conv2D(4, 3),
        IMAGE,
        one_way=1,
        weights=Weights(
            joints=[
                Joint.folded(
                    [
                        "layer.0.weight",
                        *(
                            f"layer.1.{n}"
                            for n in ("weight", "bias", "running_mean", "running_var")
                        ),
                    ],
                    ["layer.kernel", "layer.bias"],
                    epsilon=1e-5,
                )
            ]
        ),
    ),
}


def audited(pair: parity.Pair) -> AuditResult:
    return parity.audit(pair, executions=(), quiet=True)


@pytest.mark.parametrize("name", CASES)
def test_layers_that_hold_their_weights_otherwise_are_equal(name):
    case = CASES[name]
    result = audited(case.pair())
    assert result.verdict == "equal", (result.unpaired, result.localisations)
    weights = result.claims[0]
    floats = [one for one in case.theirs().state_dict().values() if one.is_floating_point()]
    assert (weights.id, weights.cases) == ("weights", len(floats))
    reasons = [one for one in result.not_verified if "in one way only" in one]
    assert len(reasons) == case.one_way


@pytest.mark.parametrize("name", ["packed to heads", "lstm", "gru", "separable"])
def test_they_are_moved_without_a_map(name):
    result = audited(CASES[name].pair(names=None, weights=None))
    assert result.verdict == "equal", (result.unpaired, result.localisations)


def gates_exchanged(first: int, second: int, count: int) -> Callable[[Port], None]:
    """A port whose cell has two of its gates exchanged, in all its variables."""

    def plant(model: Port) -> None:
        for variable in model.layer.cell.weights:
            value = variable.numpy()
            parts = np.split(value, count, -1)
            parts[first], parts[second] = parts[second], parts[first]
            variable.assign(np.concatenate(parts, -1))

    return plant


@pytest.mark.parametrize(
    ("name", "exchanged", "cause"),
    [
        ("gru", (0, 1, 3), "has its gates in the order update, reset, new"),
        ("lstm", (2, 3, 4), "has its gates in the order input, forget, output, cell"),
    ],
)
def test_a_wrong_order_of_gates_is_named(name, exchanged, cause):
    result = audited(CASES[name].pair(after_loading=gates_exchanged(*exchanged)))
    assert [one.path for one in result.localisations] == ["layer"]
    assert cause in result.localisation.cause


def test_a_bias_that_was_forgotten_is_named():
    torch.manual_seed(0)
    forgotten = vary(CASES["lstm"].theirs()).bias_hh_l0.detach().numpy()

    def plant(model: Port) -> None:
        model.layer.cell.bias.assign_sub(forgotten)

    result = audited(CASES["lstm"].pair(after_loading=plant))
    assert "bias_hh_l0 is missing (zeros)" in str(result.localisation.explanations)


def test_exchanged_matrices_of_attention_are_named():
    def plant(model: Port) -> None:
        query, key = model.layer._query_dense, model.layer._key_dense
        for ours, theirs in zip(query.weights, key.weights, strict=True):
            ours_value, theirs_value = ours.numpy(), theirs.numpy()
            ours.assign(theirs_value)
            theirs.assign(ours_value)

    result = audited(CASES["packed to heads"].pair(after_loading=plant))
    assert [one.path for one in result.localisations] == ["layer"]
    assert "its parts in the order (1, 0, 2)" in result.localisation.cause


def test_a_gru_that_resets_before_its_product_is_another_function():
    case = recurrent(
        CASES["gru"].theirs, lambda: K.GRU(5, return_sequences=True, reset_after=False), 0
    )
    with pytest.raises(InputError) as caught:
        audited(case.pair())
    lines = str(caught.value).splitlines()
    assert lines[0] == "the weights of the two models do not match: 1 places"
    assert "build it with reset_after=True" in lines[1]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids))


class PortTied(tf_keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.words = K.Embedding(9, 6)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.matmul(self.words(ids), self.words.embeddings, transpose_b=True)


def tied(reference: nn.Module) -> parity.Pair:
    ids = np.array([[0, 3, 1], [4, 2, 8]])
    names = parity.Names({"words": "words"})
    return parity.Pair(reference.eval(), PortTied, (ids,), names=names, weights=Weights())


def test_a_tied_weight_needs_one_variable():
    result = audited(tied(Tied()))
    assert result.verdict == "equal"
    assert result.claims[0].cases == 2


def test_a_weight_that_is_not_tied_needs_its_own():
    apart = Tied()
    apart.head.weight = nn.Parameter(apart.words.weight.detach().clone())
    with pytest.raises(InputError, match=r"head\.weight of the reference has no variable"):
        audited(tied(apart))


def test_a_joint_of_wrong_sizes_is_refused_before_anything_is_assigned():
    joint = Joint.packed(["layer.weight"], ["layer.kernel", "layer.bias"], sizes=[2, 2])
    case = Case(lambda: nn.Linear(6, 4), lambda: K.Dense(4), SEQUENCE)
    with pytest.raises(InputError) as caught:
        audited(case.pair(weights=Weights(joints=[joint])))
    lines = str(caught.value).splitlines()
    assert lines[2] == (
        "  layer.weight [4, 6] would be [6, 2] in the port, but layer.kernel is [6, 4]"
    )

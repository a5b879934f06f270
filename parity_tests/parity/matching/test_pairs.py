"""Matching of real models: no map is needed, mistakes of maps are found, guesses are told."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

from parity import Names, Pair, Weights, audit, match
from parity.auditing.declared import check_sides
from parity.errors import InputError
from parity.frameworks.torch.weights import vary

K = tf_keras.layers
TOKENS = (np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32),)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.act(self.first(self.norm(x))))


class Port(K.Layer):
    """The same with other names, and the activation inside a layer."""

    def __init__(self, swapped: bool = False, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.scale = K.LayerNormalization(epsilon=epsilon)
        self.inner, self.outer = K.Dense(8, activation="relu"), K.Dense(8)
        self.swapped = swapped

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if self.swapped:
            return x + self.inner(self.outer(self.scale(x)))
        return x + self.outer(self.inner(self.scale(x)))


def reference() -> nn.Module:
    torch.manual_seed(0)
    return vary(nn.Sequential(Block(), Block()).eval())


def loaded(model: nn.Module, change=lambda state: None, **settings):
    """Builds the port with the weights of `model`, as a converter would, after a `change`."""
    state = {key: value.detach().numpy().copy() for key, value in model.state_dict().items()}
    change(state)

    def build() -> tf_keras.Model:
        port = tf_keras.Sequential([Port(**settings), Port(**settings)])
        port(TOKENS[0])
        for index, block in enumerate(port.layers):
            block.scale.set_weights([state[f"{index}.norm.{n}"] for n in ("weight", "bias")])
            for layer, name in ((block.inner, "first"), (block.outer, "second")):
                key = f"{index}.{name}"
                layer.set_weights([state[f"{key}.weight"].T, state[f"{key}.bias"]])
        return port

    return build


def audited(pair: Pair) -> dict:
    return audit(pair, executions=(), quiet=True).to_json()


def claim_of(result: dict, identity: str) -> dict:
    return next(one for one in result["claims"] if one["id"] == identity)


def test_a_port_with_the_weights_is_paired_by_them_and_equal():
    model = reference()
    pair = Pair(model, loaded(model), TOKENS)
    found = match(pair)
    assert found.shared
    assert not found.questions
    assert {one.ours: one.theirs for one in found.modules if one.sure} == {
        f"{index}{ours}": f"{index}{theirs}"
        for index in (0, 1)
        for ours, theirs in (
            ("", ""),
            (".scale", ".norm"),
            (".inner", ".first"),
            (".outer", ".second"),
        )
    }
    result = audited(pair)
    assert result["verdict"] == "equal", result["localisations"]
    assert claim_of(result, "weights")["cases"] == 12
    assert "by equal weights" in claim_of(result, "pairing")["derivation"]


def test_a_port_with_weights_of_its_own_is_paired_by_calls_and_says_so():
    pair = Pair(reference(), lambda: tf_keras.Sequential([Port(), Port()]), TOKENS)
    found = match(pair)
    assert not found.shared
    assert not any(one.sure for one in found.modules)
    result = audited(pair)
    assert result["verdict"] == "equal", result["localisations"]
    assert any("weights paired by order of calls" in one for one in result["not_verified"])


def test_what_was_found_is_python_that_declares_it():
    model = reference()
    pair = Pair(model, loaded(model), TOKENS)
    names: dict = {}
    exec(str(match(pair)), names)
    kept = Pair(model, loaded(model), TOKENS, names=names["names"], weights=names["weights"])
    assert audited(kept)["verdict"] == "equal"


def exchange(state: dict) -> None:
    for name in ("weight", "bias"):
        first, second = f"0.first.{name}", f"1.first.{name}"
        state[first], state[second] = state[second], state[first]


def transpose(state: dict) -> None:
    state["1.second.weight"] = state["1.second.weight"].T


def forget(state: dict) -> None:
    state["0.second.bias"] = np.zeros_like(state["0.second.bias"])


def test_two_exchanged_layers_are_found_and_named():
    model = reference()
    result = audited(Pair(model, loaded(model, exchange), TOKENS))
    assert result["verdict"] == "different"
    told = "\n".join(result["not_verified"])
    assert "1.inner has the weights of 0.first" in told
    assert "0.inner has the weights of 1.first" in told


@pytest.mark.parametrize(
    ("change", "key"), [(transpose, "1.second.weight"), (forget, "0.second.bias")]
)
def test_a_weight_that_was_converted_wrongly_is_named(change, key):
    model = reference()
    result = audited(Pair(model, loaded(model, change), TOKENS))
    weights = claim_of(result, "weights")
    assert (weights["verdict"], weights["place"]) == ("fails", key)


def test_a_swapped_order_of_calls_is_found():
    model = reference()
    result = audited(Pair(model, loaded(model, swapped=True), TOKENS))
    assert result["verdict"] == "different"
    assert {one["path"] for one in result["localisations"]} >= {"0", "1"}


def test_a_part_of_a_map_wins_and_the_rest_is_found():
    model = reference()
    given = Names({"0.scale": "0.norm"}, complete=False)
    found = match(Pair(model, loaded(model), TOKENS, names=given))
    evidence = {one.ours: one.evidence for one in found.modules}
    assert evidence["0.scale"] == "declared"
    assert evidence["1.scale"] == "equal weights"


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


def test_a_map_of_a_layer_to_an_activation_is_refused():
    pair = Pair(
        reference(),
        lambda: tf_keras.Sequential([Port(), Port()]),
        TOKENS,
        names=Names({"*": "*", "*.scale": "*.act"}),
        weights=Weights(),
    )
    text = error_of(lambda: audited(pair))
    assert text.startswith("`0.scale` is mapped to `0.act`, but only the port's has weights\n")


def test_a_module_that_could_never_be_compared_is_refused():
    names = Names({"a": "b"}, reference_only={"b:output": "why"})
    assert error_of(lambda: check_sides(names)).startswith("`a` is mapped to `b`, but nothing")
    check_sides(Names({"a": "b"}, reference_only={"b:output": "x"}, port_only={"b:*": "x"}))


def test_models_that_cannot_be_paired_for_certain_are_asked_about():
    model = reference()
    other = vary(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)).eval(), 3)
    text = error_of(lambda: audited(Pair(model, other, TOKENS)))
    assert "cannot be paired for certain" in text.splitlines()[0]
    assert "complete=False" in text


class Projection(nn.Module):
    """Multiplies from the right, as few layers of PyTorch do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@pytest.mark.parametrize("turned", [False, True])
def test_a_square_kernel_of_somebody_elses_layer_is_held_as_its_numbers_say(turned):
    torch.manual_seed(0)
    model = nn.Sequential(Projection(), nn.ReLU(), nn.Linear(8, 3)).eval()

    def build():
        kernels = [
            one.detach().numpy() for one in (model[0].weight, model[2].weight, model[2].bias)
        ]
        port = tf_keras.Sequential([K.Dense(8, use_bias=False), K.ReLU(), K.Dense(3)])
        port(TOKENS[0])
        port.layers[0].set_weights([kernels[0].T if turned else kernels[0]])
        port.layers[2].set_weights([kernels[1].T, kernels[2]])
        return port

    result = audit(Pair(model, build, TOKENS), executions=(), quiet=True)
    assert result.claimed("weights").holds
    assert result.verdict == ("different" if turned else "equal")

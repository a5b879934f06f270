"""Models as strangers write them: no alarm where they are equal, and a place where they differ."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

from parity.audits import Pair, audit
from parity.errors import InputError
from parity.frameworks.tensorflow.modules import named_modules
from parity.frameworks.torch.weights import vary
from parity.names import Names
from parity_tests.parity.strangers.models import claims, compared, numbers, places, varied

K = tf_keras.layers


class Root(nn.Module):
    def __init__(self, shift=0.0):
        super().__init__()
        self.inner, self.head, self.shift = nn.Linear(5, 4), nn.Linear(4, 3), shift

    def forward(self, x):
        return self.head(torch.sqrt(self.inner(x)) / (1.0 + self.shift))


class PortRoot(tf_keras.Model):
    def __init__(self, guard=False, infinite=False):
        super().__init__()
        self.inner, self.head = K.Dense(4), K.Dense(3)
        self.guard, self.infinite = guard, infinite

    def call(self, x):
        x = self.inner(x)
        if self.infinite:
            x = tf.where(x < 0, tf.cast(-np.inf, x.dtype), x)
        return self.head(tf.sqrt(tf.maximum(x, 0.0) if self.guard else x))


BOTH = {"inner": "inner", "head": "head"}


def test_numbers_that_are_not_finite_on_both_sides_are_equal_and_their_maker_is_named():
    result = compared(varied(Root), PortRoot, (numbers(3, 5),), BOTH, executions=("eager", "xla"))
    assert result["verdict"] == "equal"
    found = result["not_finite"]
    assert (found["reference"], found["port"], found["first"]) == ("model", "model", "head:input")


def test_numbers_that_are_not_finite_on_one_side_are_a_difference_with_a_place():
    result = compared(varied(Root), lambda: PortRoot(guard=True), (numbers(3, 5),), BOTH)
    assert [path for path, _ in places(result)] == ["model"]
    assert "non-finite numbers" in result["localisations"][0]["evidence"]
    assert "not deterministic" not in result["localisations"][0]["evidence"]


class Blurred(nn.Module):
    """A convolution with its norm and activation inside, as detectron2 writes it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x):
        return nn.functional.leaky_relu(self.norm(self.conv(x)), 0.1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.act, self.head = Blurred(), nn.GELU(), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.act(self.stem(x)).mean((2, 3)))


def gelu(x):
    return 0.5 * x * (1.0 + tf.math.erf(x * 0.5**0.5))


class Beside(tf_keras.Model):
    """The same with padding before, and norm and activations beside or inside other layers."""

    def __init__(self, slope=0.1, epsilon=1e-5, last=gelu, extra=0):
        super().__init__()
        self.pad, self.stem = K.ZeroPadding2D(1 + extra), K.Conv2D(6, 3, use_bias=False)
        self.norm = K.BatchNormalization(epsilon=epsilon)
        self.head, self.slope, self.last = K.Dense(4), slope, last

    def call(self, x):
        x = self.norm(self.stem(self.pad(x)))
        return self.head(tf.reduce_mean(self.last(tf.maximum(x, self.slope * x)), (1, 2)))


BESIDE = {"stem": "stem.conv", "norm": "stem.norm", "head": "head"}


def test_padding_norm_and_activation_may_be_inside_or_beside_a_layer():
    result = compared(varied(Net), Beside, (numbers(2, 3, 9, 12),), BESIDE)
    assert (result["verdict"], places(result)) == ("equal", [])


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.second(nn.functional.gelu(self.first(x)))


class PortFused(tf_keras.Model):
    def __init__(self, activation=gelu):
        super().__init__()
        self.first, self.second = K.Dense(6, activation=activation), K.Dense(4)

    def call(self, x):
        return self.second(self.first(x))


class Bare(nn.Module):
    """The bias is added by the model, not by its layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.offset = nn.Linear(5, 6, bias=False), nn.Parameter(torch.ones(6))

    def forward(self, x):
        return (self.layer(x) + self.offset).relu()


class PortBare(tf_keras.Model):
    def __init__(self, activation="relu"):
        super().__init__()
        self.layer = K.Dense(6, activation=activation)

    def call(self, x):
        return self.layer(x)


def test_an_activation_or_a_bias_inside_a_layer_is_equal_to_one_beside_it():
    layers = {"first": "first", "second": "second"}
    result = compared(varied(Fused), PortFused, (numbers(3, 5),), layers)
    assert (result["verdict"], places(result)) == ("equal", [])
    assert any("the border of first" in one for one in result["not_verified"])
    from parity.weights import Weights

    moved = Weights(variables={"layer.bias": "offset"})
    bare = {"layer": "layer"}
    result = compared(varied(Bare), PortBare, (numbers(3, 5),), bare, weights=moved)
    assert (result["verdict"], places(result)) == ("equal", [])


def test_causes_are_found_behind_a_border():
    layers = {"first": "first", "second": "second"}

    def tanh(x):
        return 0.5 * x * (1 + tf.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

    result = compared(varied(Fused), lambda: PortFused(tanh), (numbers(3, 5),), layers)
    assert places(result) == [("model", "gelu (tanh) instead of gelu")]
    inputs = (numbers(2, 3, 9, 12),)
    result = compared(varied(Net), lambda: Beside(epsilon=1e-3), inputs, BESIDE)
    assert places(result) == [("stem.norm", "epsilon 0.001 instead of 1e-05")]
    result = compared(varied(Net), lambda: Beside(extra=1), inputs, BESIDE)
    assert result["verdict"] == "different"
    assert places(result)


class Wrapped(nn.Module):
    """Unpacks a list in the call, which the port's module does not take alone."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.part, self.last = Wrapped(), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.part(x)))


class Stubborn(K.Layer):
    def __init__(self, factor):
        super().__init__()
        self.inner, self.factor, self.ready = K.Dense(4), factor, 0

    def call(self, x):
        if not self.ready:
            raise RuntimeError("the cache of this layer is not prepared")
        return self.factor * self.inner(x)


class PortOuter(tf_keras.Model):
    def __init__(self, factor=1.0, activation=tf.tanh):
        super().__init__()
        self.part, self.last, self.activation = Stubborn(factor), K.Dense(2), activation

    def call(self, x):
        self.part.ready = 1
        try:
            return self.last(self.activation(self.part(x)))
        finally:
            self.part.ready = 0


OUTER = {"part": "part", "part.inner": "part.inner", "last": "last"}


def test_a_module_that_cannot_run_alone_is_not_judged_but_the_one_around_it_is():
    inputs = (numbers(3, 4),)
    result = compared(varied(Outer), lambda: PortOuter(activation=tf.sin), inputs, OUTER)
    assert [path for path, _ in places(result)] == ["model"]
    result = compared(varied(Outer), lambda: PortOuter(2.0), inputs, OUTER)
    assert [path for path, _ in places(result)] == ["model"]
    assert "part cannot run alone" in result["localisations"][0]["evidence"]
    assert any(one.startswith("part by itself: ") for one in result["not_verified"])


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.LayerNorm(6)

    def forward(self, x):
        return self.deep(2 * x)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.last = Hidden(), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.hidden(x))


class PortHidden(K.Layer):
    def __init__(self, epsilon, factor):
        super().__init__()
        self.deep, self.factor = K.LayerNormalization(epsilon=epsilon), factor

    def call(self, x):
        return self.deep(self.factor * x)


class PortAround(tf_keras.Model):
    def __init__(self, epsilon=1e-5, factor=2):
        super().__init__()
        self.hidden, self.last = PortHidden(epsilon, factor), K.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"epsilon": 1e-3}, [("hidden.deep", "epsilon 0.001 instead of 1e-05")]),
        ({"factor": 3}, [("hidden", "its result is multiplied by 1.5")]),
    ],
)
def test_a_module_whose_output_is_not_recorded_hides_nothing_below_it(made, expected):
    modules = {"hidden": "hidden", "hidden.deep": "hidden.deep", "last": "last"}
    alone = {"hidden:output*": "declared"}
    more = {"reference_only": alone, "port_only": alone}
    inputs = (numbers(3, 6),)
    found = compared(varied(Around), lambda: PortAround(**made), inputs, modules, more)
    assert places(found) == expected


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.ones(7), persistent=False)
        self.register_buffer("scale", torch.tensor(8.0))
        self.norm = nn.LayerNorm(7)

    def forward(self, x):
        return self.norm(x * self.table * self.scale)


def test_vary_leaves_what_is_no_weight():
    model = vary(Scaled())
    assert (model.table == 1).all()
    assert model.scale == 8
    assert not (model.norm.weight == 1).all()
    norm = vary(nn.BatchNorm2d(4))
    assert not (norm.running_mean == 0).all()


class Still(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x)


class Moving(tf_keras.Model):
    def __init__(self, train=None):
        super().__init__()
        self.norm, self.train = K.BatchNormalization(epsilon=1e-5), train

    def call(self, x, training=True):
        return self.norm(x, training=training if self.train is None else self.train)


class DefaultsToTraining(K.BatchNormalization):
    def call(self, inputs, training=True):
        return super().call(inputs, training=training)


class Careless(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = DefaultsToTraining(epsilon=1e-5)

    def call(self, x):
        return self.norm(x)


def test_a_port_is_told_not_to_train():
    inputs = (numbers(6, 4),)
    for port in (Moving, Careless):
        result = compared(varied(Still), port, inputs, {"norm": "norm"}, executions=("eager",))
        assert (result["verdict"], claims(result)) == ("equal", [])


def test_variables_that_a_run_changes_are_found_and_named():
    result = compared(varied(Still), lambda: Moving(True), (numbers(6, 4),), {"norm": "norm"})
    (found,) = [one for one in result["claims"] if one["id"] == "unchanged_state"]
    assert found["verdict"] == "fails"
    assert found["part"] == "norm"
    assert "moving_mean" in found["place"]
    assert any("statistics of this batch" in cause for _, cause in places(result))


class Private(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self._self_attention, self._metrics_head = K.Dense(3), K.Dense(2)

    def call(self, x):
        return self._metrics_head(self._self_attention(x))


def test_layers_in_attributes_of_any_name_are_visible():
    model = Private()
    model(tf.zeros([1, 4]))
    assert list(named_modules(model)) == ["", "_self_attention", "_metrics_head"]
    model.compile("sgd", "mse")
    assert list(named_modules(model)) == ["", "_self_attention", "_metrics_head"]


def programs(folder):
    linear, x = nn.Linear(3, 2).eval(), torch.ones(1, 3)
    yield "TorchScript", torch.jit.script(linear)
    yield "TorchScript", torch.jit.trace(linear, x)
    yield "an exported program", torch.export.export(linear, (x,))
    yield "a compiled model", torch.compile(linear)
    layer = tf_keras.Sequential([K.Dense(2)])
    layer(tf.zeros([1, 3]))
    tf.saved_model.save(layer, str(folder))
    yield "a loaded SavedModel", tf.saved_model.load(str(folder))
    yield "a tf.function", tf.function(lambda x: x)
    yield "no model of a known framework", "model.pt"


def test_programs_without_modules_are_refused_in_one_error(tmp_path):
    linear = nn.Linear(3, 2).eval()
    for text, given in programs(tmp_path):
        for pair in (Pair(linear, given, (numbers(2, 3),)), Pair(given, linear, (numbers(2, 3),))):
            with pytest.raises(InputError) as caught:
                audit(pair, executions=(), quiet=True)
            assert text in str(caught.value)


def broken_port():
    return K.Dense(len(5))


class BrokenCall(tf_keras.Model):
    def call(self, x):
        return x + self.missing_part


@pytest.mark.parametrize(
    ("port", "line"),
    [(broken_port, "return K.Dense(len(5))"), (BrokenCall, "return x + self.missing_part")],
)
def test_an_exception_in_the_ports_own_code_shows_where(port, line):
    with pytest.raises(InputError) as caught:
        audit(Pair(nn.Linear(3, 2).eval(), port, (numbers(2, 3),)), executions=(), quiet=True)
    text = str(caught.value)
    assert line in text
    assert "test_strangers.py" in text
    assert "precision" not in text


class Rearranged(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        from einops import reduce

        return reduce(self.norm(x), "b n c -> b c", "mean")


class PortRearranged(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = K.LayerNormalization(epsilon=1e-5)

    def call(self, x):
        return tf.reduce_sum(self.norm(x), 1)


def test_the_line_of_a_cause_is_the_models_own():
    pytest.importorskip("einops")
    names = Names(modules={"norm": "norm"})
    pair = Pair(varied(Rearranged), PortRearranged, (numbers(2, 5, 6),), names=names)
    (found,) = audit(pair, executions=(), quiet=True).to_json()["localisations"]
    texts = [one["text"] for one in found["explanations"]]
    assert any("a sum instead of a mean" in text for text in texts)
    assert all("test_strangers.py" in text for text in texts if ".py:" in text)


class Heads(nn.Module):
    """Returns every layer's logits in one stack, a map, and attention by heads."""

    def __init__(self, form="stack"):
        super().__init__()
        self.layers, self.form = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), form

    def forward(self, x):
        found = []
        for layer in self.layers:
            x = torch.tanh(layer(x))
            found.append(x)
        n, s, c = x.shape
        if self.form == "stack":
            return {"logits": torch.stack(found)}
        if self.form == "list":
            return {"logits": found[-1], "auxiliary": found[:-1]}
        if self.form == "map":
            return {"logits": x.transpose(1, 2).reshape(n, c, s // 4, 4)}
        return {"logits": x.reshape(n, s, 2, c // 2).transpose(1, 2)}


@dataclasses.dataclass
class Answer:
    logits: object
    note: str = ""
    auxiliary: object = None


class PortHeads(tf_keras.Model):
    def __init__(self, form="list", factor=1.0):
        super().__init__()
        self.blocks, self.form, self.factor = [K.Dense(6) for _ in range(3)], form, factor

    def call(self, x):
        found = []
        for block in self.blocks:
            x = tf.tanh(block(x))
            found.append(x)
        found[1] = self.factor * found[1]
        return {
            "list": lambda: found,
            "tuple": lambda: (found[-1], found[:-1]),
            "stack": lambda: tf.stack(found),
            "record": lambda: Answer(found[-1], auxiliary=found[:-1]),
            "sequence": lambda: x,
            "last": lambda: found[-1],
            "turned": lambda: tf.transpose(x, [0, 2, 1]),
        }[self.form]()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stack", "list"),
        ("list", "tuple"),
        ("list", "record"),
        ("map", "sequence"),
        ("split", "sequence"),
    ],
)
def test_outputs_may_be_arranged_otherwise(theirs, ours):
    inputs, layers = (numbers(2, 12, 6),), {"blocks.*": "layers.*"}
    result = compared(
        varied(lambda: Heads(theirs)),
        lambda: PortHeads(ours),
        inputs,
        layers,
        executions=("graph",),
    )
    assert (result["verdict"], result["unpaired"]) == ("equal", {"reference": [], "port": []})
    assert (ours in ("record",)) or any("paired by shapes" in one for one in result["not_verified"])
    if theirs in ("stack", "list"):
        result = compared(
            varied(lambda: Heads(theirs)), lambda: PortHeads(ours, 1.5), inputs, layers
        )
        assert result["verdict"] == "different"


def test_a_stack_on_the_ports_side_is_taken_apart():
    inputs, layers = (numbers(2, 12, 6),), {"blocks.*": "layers.*"}

    class Listed(Heads):
        def forward(self, x):
            return tuple(super().forward(x)["logits"])

    result = compared(varied(Listed), lambda: PortHeads("stack"), inputs, layers)
    assert result["verdict"] == "equal"


def test_a_missing_leading_axis_is_called_that():
    layers = {"blocks.*": "layers.*"}
    result = compared(varied(Heads), lambda: PortHeads("last"), (numbers(2, 12, 6),), layers)
    assert "a leading axis is missing" in result["localisations"][0]["evidence"]


def test_a_transposed_output_is_no_arrangement():
    layers = {"blocks.*": "layers.*"}

    class Plain(Heads):
        def forward(self, x):
            return super().forward(x)["logits"][-1]

    result = compared(varied(Plain), lambda: PortHeads("turned"), (numbers(2, 12, 6),), layers)
    assert (result["verdict"], [path for path, _ in places(result)]) == ("different", ["model"])


class Pooler(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(6, 6)

    def forward(self, x):
        return torch.tanh(self.dense(x[:, 0]))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.pooler = nn.LayerNorm(6), Pooler()

    def forward(self, x):
        return self.pooler(self.norm(x))


class PortPooled(tf_keras.Model):
    """The first token is taken outside of the layer, which has its activation inside."""

    def __init__(self, epsilon=1e-5, activation="tanh"):
        super().__init__()
        self.norm = K.LayerNormalization(epsilon=epsilon)
        self.pooled = K.Dense(6, activation=activation)

    def call(self, x):
        return self.pooled(self.norm(x)[:, 0])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, []),
        ({"epsilon": 1e-3}, ["norm"]),
        ({"activation": "relu"}, ["model"]),
        ({"epsilon": 1e-3, "activation": "relu"}, ["norm", "model"]),
    ],
)
def test_a_module_whose_input_has_no_counterpart_inherits_no_difference(how, expected):
    from parity.weights import Weights

    names = {"norm": "norm", "pooled": "pooler"}
    weights = {
        f"pooled.{a}": f"pooler.dense.{b}" for a, b in (("kernel", "weight"), ("bias", "bias"))
    }
    only = {"pooler:input": "the first token is taken elsewhere"}
    result = compared(
        varied(Pooled),
        lambda: PortPooled(**how),
        (numbers(2, 5, 6),),
        names,
        {"reference_only": only, "port_only": {"pooler:input*": only["pooler:input"]}},
        weights=Weights(variables=weights),
    )
    assert [path for path, _ in places(result)] == expected


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.first(x) * torch.sigmoid(self.second(x))


class Attended(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(6), Attending()

    def forward(self, x):
        return self.mix(self.norm(x))


class PortAttending(K.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.second = K.Dense(6), K.Dense(6)

    def call(self, query, value):
        return self.first(query) * tf.sigmoid(self.second(value))


class PortAttended(tf_keras.Model):
    def __init__(self, epsilon, twice):
        super().__init__()
        self.norm, self.mix = K.LayerNormalization(epsilon=epsilon), PortAttending()
        self.twice = twice

    def call(self, x):
        y = self.norm(x)
        return self.mix(y, y if self.twice else 1.001 * y)


@pytest.mark.parametrize(
    ("epsilon", "twice", "expected"),
    [(1e-5, True, []), (1e-3, True, ["norm"]), (1e-5, False, ["mix"])],
)
def test_a_tensor_that_is_given_twice_has_one_counterpart(epsilon, twice, expected):
    names = {"norm": "norm", "mix": "mix", "mix.first": "mix.first", "mix.second": "mix.second"}
    result = compared(
        varied(Attended),
        lambda: PortAttended(epsilon, twice),
        (numbers(2, 5, 6),),
        names,
        {"tensors": {"mix:input.query": ""}, "port_only": {"mix:input.value": "the same"}},
    )
    assert [path for path, _ in places(result)] == expected

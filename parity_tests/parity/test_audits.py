"""The audit of any pair: weights by layer, one call from two models to a result, clear refusals."""

import inspect
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from parity.auditing.result import Unpaired
from parity.audits import Pair, audit, save
from parity.calls import named_arguments
from parity.errors import InputError
from parity.frameworks.tensorflow import framework as tensorflow
from parity.frameworks.torch.weights import vary
from parity.names import Names
from parity.results import Result
from parity.trace import module_of
from parity.weights import LINEAR, Layout, Weights, depthwise, load, merged_heads, split_heads

K = tf_keras.layers
SIZES = st.integers(1, 4)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


@given(SIZES, SIZES, SIZES, SIZES)
def test_layouts_lead_back_bit_for_bit(heads, size, other, kernel):
    cases: list[tuple[Layout, np.ndarray]] = [
        (LINEAR, drawn(size, other)),
        (split_heads(heads), drawn(heads * size, other)),
        (split_heads(heads), drawn(heads * size)),
        (merged_heads(heads), drawn(other, heads * size)),
        (depthwise(heads), drawn(other * heads, 1, kernel, size)),
    ]
    for layout, array in cases:
        np.testing.assert_array_equal(layout.to_reference(layout.to_port(array)), array)


class Attention(nn.MultiheadAttention):
    """torch's, with its packed weights as modules of their own."""

    def __init__(self) -> None:
        super().__init__(8, 2, batch_first=True)
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = (self.query, self.key, self.value)
        weight = torch.cat([one.weight for one in layers])
        bias = torch.cat([one.bias for one in layers])
        packed = (weight, bias, None, None, False, 0.0, self.out_proj.weight, self.out_proj.bias)
        turned = x.transpose(0, 1)
        found, _ = nn.functional.multi_head_attention_forward(
            turned, turned, turned, 8, 2, *packed, training=False
        )
        return found.transpose(0, 1)


class SelfAttention(K.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.attention = K.MultiHeadAttention(2, 4)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.attention(x, x)


ATTENTION = Names(
    {
        "0.attention._query_dense": "0.query",
        "0.attention._key_dense": "0.key",
        "0.attention._value_dense": "0.value",
        "0.attention._output_dense": "0.out_proj",
        "0": "0",
    },
    reference_only={"0.*:*put": "torch's attention calls no modules"},
    port_only={"0.*:*put": "torch's attention calls no modules"},
)
KINDS = {
    "dense": (lambda: nn.Linear(4, 6), lambda: K.Dense(6), (2, 3, 4)),
    "norm": (lambda: nn.LayerNorm(4), lambda: K.LayerNormalization(epsilon=1e-5), (2, 3, 4)),
    "embedding": (lambda: nn.Embedding(5, 4), lambda: K.Embedding(5, 4), "ids"),
    "convolution": (lambda: nn.Conv2d(4, 6, (3, 2)), lambda: K.Conv2D(6, (3, 2)), (2, 4, 7, 9)),
    "grouped": (
        lambda: nn.Conv2d(4, 6, 3, groups=2),
        lambda: K.Conv2D(6, 3, groups=2),
        (2, 4, 7, 9),
    ),
    "depthwise": (
        lambda: nn.Conv2d(4, 8, (3, 2), groups=4),
        lambda: K.DepthwiseConv2D((3, 2), depth_multiplier=2),
        (2, 4, 7, 9),
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 2, 2),
        lambda: K.Conv2DTranspose(6, 2, 2),
        (2, 4, 7, 9),
    ),
    "batch norm": (
        lambda: nn.BatchNorm2d(4),
        lambda: K.BatchNormalization(epsilon=1e-5),
        (2, 4, 7, 9),
    ),
}


def inputs_of(shape: tuple[int, ...] | str) -> tuple[np.ndarray]:
    if shape == "ids":
        return (np.array([[0, 3, 1], [4, 2, 2]]),)
    return (drawn(*shape),)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_from_the_kind_of_layer(kind):
    theirs, ours, shape = KINDS[kind]
    pair = Pair(vary(theirs().eval()), ours, inputs_of(shape))
    result = audit(pair, executions=(), quiet=True)
    assert result.verdict == "equal", result.localisations
    assert result.claims[0].cases == len(pair.reference.state_dict()) - (kind == "batch norm")


def test_weights_of_attention_are_split_into_heads():
    torch.manual_seed(0)
    reference = vary(nn.Sequential(Attention()).eval())
    layouts = {f"0.{name}.*": split_heads(2) for name in ("query", "key", "value")}
    layouts["0.out_proj.weight"] = merged_heads(2)
    unused = {key: "unused" for key in reference.state_dict() if "in_proj" in key}
    pair = Pair(
        reference,
        lambda: tf_keras.Sequential([SelfAttention()]),
        inputs_of((2, 3, 8)),
        names=ATTENTION,
        weights=Weights(layouts=layouts, reference_only=unused),
    )
    assert audit(pair, executions=(), quiet=True).verdict == "equal"


class Block(nn.Module):
    """A residual block in channels-last order, as ConvNeXt's."""

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm = nn.LayerNorm(6, eps=epsilon)
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(nn.functional.gelu(self.up(y))) * self.scale
        return x + y.permute(0, 3, 1, 2)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """GELU, whatever the precision of x."""
    return 0.5 * x * (1.0 + tf.math.erf(x * 0.5**0.5))


class PortBlock(K.Layer):
    def __init__(self, epsilon: float = 1e-6, dtype: str | None = None) -> None:
        super().__init__(dtype=dtype)
        self.conv = K.DepthwiseConv2D(3, padding="same")
        self.ln = K.LayerNormalization(epsilon=epsilon, dtype=dtype)
        self.fc1, self.fc2 = K.Dense(12), K.Dense(6)

    def build(self, shape: tf.TensorShape) -> None:
        self.gamma_ = self.add_weight("gamma", (shape[-1],))
        super().build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.gamma_ * self.fc2(gelu(self.fc1(self.ln(self.conv(x)))))


NAMES = Names(
    {"*": "*", "*.conv": "*.depthwise", "*.ln": "*.norm", "*.fc1": "*.up", "*.fc2": "*.down"}
)
WEIGHTS = Weights({"*.gamma_": "*.scale"})
LAST = {"*.norm:*": "NHWC", "*.up:*": "NHWC", "*.down:*": "NHWC"}


def blocks(port=lambda: [PortBlock(), PortBlock()], **changes) -> Pair:
    torch.manual_seed(0)
    reference = vary(nn.Sequential(Block(), Block()).eval())
    settings = {"names": NAMES, "weights": WEIGHTS, "axes": LAST, **changes}
    return Pair(reference, lambda: tf_keras.Sequential(port()), (drawn(2, 6, 8, 9),), **settings)


def test_a_pair_with_other_names_is_equal_in_every_execution():
    result = audit(blocks(), isolate=True, title="Blocks", quiet=True)
    assert (result.verdict, result.title) == ("equal", "Blocks")
    assert set(result.float32) == {"eager", "graph", "xla"}
    assert result.localisations == ()
    claims = [one.id for one in result.claims]
    assert claims[:3] == ["weights", "pairing", "same_function"]
    assert claims[-1] == "isolated_function"
    assert result.unpaired == Unpaired((), ())


def test_a_constant_in_float32_is_found():
    class Short(PortBlock):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            y = self.fc1(self.ln(self.conv(x)))
            y = 0.5 * y * tf.math.erfc(-y * float(np.float32(0.5**0.5)))
            return x + self.gamma_ * self.fc2(y)

    result = audit(blocks(lambda: [PortBlock(), Short()]), executions=(), quiet=True)
    assert [one.path for one in result.localisations] == ["1"]
    assert result.localisation.edge == "1.down:input"
    assert result.localisation.cause.endswith(": gelu with its constant in float32 instead of gelu")


def test_a_planted_epsilon_is_found_and_named_and_no_other_module_has_an_error_of_its_own():
    pair = blocks(lambda: [PortBlock(1e-5), PortBlock()])
    result = audit(pair, executions=(), isolate=True, quiet=True)
    assert result.verdict == "different"
    claims = {one.id: one for one in result.claims}

    def wrong(identity):
        judged = claims[identity].measured.verdicts()
        return {module_of(key) for key, one in judged.items() if not one.passed}

    assert wrong("isolated_function") == {"0.norm"}
    assert wrong("same_function") > {"0.norm", "1.norm"}
    assert claims["isolated_function"].place.text == "0.norm"
    (found,) = result.localisations
    assert found.path == "0.norm"
    assert found.cause.endswith("epsilon 1e-05 instead of 1e-06")


def test_a_fault_planted_after_loading_is_a_changed_scale():
    def plant(model: tf_keras.Sequential) -> None:
        model.layers[0].gamma_.assign(model.layers[0].gamma_ * 1.001)

    result = audit(blocks(after_loading=plant), executions=(), quiet=True)
    assert [one.path for one in result.localisations] == ["0"]
    assert result.claims[0].verdict == "holds"  # the weights were right when they were given


def test_wrong_axes_are_no_silent_transpose():
    result = audit(blocks(axes={}), executions=(), quiet=True)
    assert result.first_divergence == "0.norm"


def test_training_mode_is_refused():
    pair = blocks()
    pair.reference.train()
    assert error_of(lambda: audit(pair, quiet=True)) == (
        "the reference is in training mode\n"
        "  dropout and batch statistics would make every run another one\n"
        "  call reference.eval() first"
    )


def test_inputs_of_another_name_give_one_error():
    def called() -> None:
        named_arguments(inspect.signature(nn.ReLU().forward), (), {"pictures": 1}, torch.is_tensor)

    lines = error_of(called).splitlines()
    assert lines[0].startswith("a module is called with other arguments than it has: ")
    assert lines[1] == "  its parameters are input"
    assert "in their order, or by these names" in lines[2]


def test_an_unknown_execution_is_refused():
    assert error_of(lambda: audit(blocks(), executions=("tpu",), quiet=True)) == (
        "TensorFlow has no `tpu` execution\n  there are eager, graph, xla, bfloat16"
    )


def test_a_model_that_fixes_its_precision_is_told_where_to_read():
    class Fixed(PortBlock):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return x + tf.Variable(np.ones(6, np.float32)) * super().call(x)

    text = error_of(lambda: audit(blocks(lambda: [Fixed(), Fixed()]), executions=(), quiet=True))
    lines = text.splitlines()
    assert lines[0] == "the port cannot run in float64, eager"
    assert "InvalidArgumentError" in lines[1]
    assert lines[2].endswith('docs/port_your_model.md, "A model that fixes its precision"')


def test_models_without_a_common_tensor_are_refused():
    pair = Pair(
        vary(nn.Sequential(nn.Linear(4, 4)).eval()),
        lambda: tf_keras.Sequential([K.Dense(4)]),
        inputs_of((2, 3, 4)),
        names=Names({"0": "0"}, reference_only={"*": "none of it"}, port_only={"*": "none of it"}),
    )
    text = error_of(lambda: audit(pair, executions=(), quiet=True))
    assert text.startswith("no tensor of the port has a counterpart in the reference\n")
    assert text.endswith("declare in `Names` which modules and tensors belong together")


def test_weights_that_do_not_match_are_all_listed():
    text = error_of(lambda: audit(blocks(weights=Weights()), executions=(), quiet=True))
    twice = "2 \N{MULTIPLICATION SIGN}"
    assert text == (
        "the weights of the two models do not match: 4 places\n"
        f"  {twice} *.gamma_ of the port has no tensor of the reference (*.gamma_)\n"
        f"  {twice} *.scale of the reference has no variable of the port\n"
        "  declare them in `Weights`: variables, layouts, joints, reference_only or port_only"
    )


def test_nothing_is_assigned_unless_all_weights_fit():
    model = tf_keras.Sequential([K.Dense(3, bias_initializer="ones")])
    model(np.zeros((1, 2), np.float32))
    state = {"0.weight": drawn(5, 2), "0.bias": drawn(3)}
    assert error_of(lambda: load(tensorflow, model, state, Names(), Weights())).splitlines()[1] == (
        "  0.weight [5, 2] would be [2, 5] in the port, but 0.kernel is [2, 3]"
    )
    np.testing.assert_array_equal(model.layers[0].bias, 1.0)


def test_a_tensor_is_given_to_one_variable_only():
    model = tf_keras.Sequential([K.Dense(3), K.Dense(3)])
    model(np.zeros((1, 3), np.float32))
    state = {"0.weight": drawn(3, 3), "0.bias": drawn(3)}
    shared = Weights({"1.kernel": "0.weight", "1.bias": "0.bias"})
    assert error_of(lambda: load(tensorflow, model, state, Names(), shared)).splitlines()[1] == (
        "  0.weight of the reference has 2: 0.kernel, 1.kernel"
    )


def test_varied_weights_have_no_equal_numbers_and_are_repeatable():
    first, second = (vary(nn.BatchNorm2d(6), seed=3) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert all(len(one.unique()) == 6 for one in first.state_dict().values() if one.dim())
    assert bool((first.running_var > 0.5).all())


def test_a_result_is_written_whole_and_read_by_the_other_commands(tmp_path, parity):
    result = audit(blocks(lambda: [PortBlock(), PortBlock(1e-5)]), executions=(), quiet=True)
    path = save(result, tmp_path / "run")
    assert json.loads(path.read_text())["verdict"] == "different"
    assert [one.name for one in path.parent.iterdir()] == ["audit.json"]
    status, told, _ = parity("explain", path.parent)
    assert status == 1
    assert "1.norm computes something else than the reference" in told
    status, _, _ = parity("report", path.parent, "--out", tmp_path / "report")
    assert status == 1
    assert "1.norm" in (tmp_path / "report" / "report.md").read_text()
    status, told, _ = parity("verify", tmp_path / "report")
    assert status == 0, told


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    text = error_of(lambda: save(Result(verdict="equal"), tmp_path / "file" / "run"))
    assert text.splitlines()[0] == f"{tmp_path / 'file' / 'run'} cannot be written"

"""Capture changes nothing, misses nothing and names things alike in both frameworks."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

from parity.calls import selector
from parity.frameworks.tensorflow import capture as capture_tf
from parity.frameworks.torch import capture as capture_torch
from parity.metrics import gap
from parity.pairing import Comparison, compare
from parity.trace import TraceError
from parity_tests.parity import pairs, tf_side, torch_side

EXECUTIONS = ("eager", "graph", "xla")


def letters(path, kind, name, rank):
    return "ABCDE"[:rank]


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def same_bits(a, b):
    pairs_of = list(zip(leaves(a), leaves(b), strict=True))
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs_of)


@pytest.fixture(scope="module")
def recorders():
    return pairs.port32()


def inputs32(seed=0):
    return (pairs.nhwc(pairs.image(np.float32, seed)),)


def test_torch_capture_leaves_outputs_bit_identical():
    recorder = capture_torch.Recorder(pairs.reference_model(torch.float32), pairs.axes_torch)
    images = (pairs.image(np.float32),)
    outputs, trace = recorder(images)
    assert same_bits(outputs, recorder.plain(images))
    assert len(trace) > 100


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_tf_capture_leaves_outputs_bit_identical(recorders, execution):
    outputs, _ = recorders[execution](inputs32())
    assert same_bits(outputs, recorders[execution].plain(inputs32()))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_tf_capture_effect_is_measured(recorders, execution):
    effect = capture_tf.capture_effect(recorders[execution], inputs32())
    assert sorted(effect) == ["aux.0.scores", "kept", "masks", "scores"]
    assert all(found.problem is None and found.l2 < 1e-5 for found in effect.values())
    if execution == "eager":
        assert all(found.l2 == 0.0 for found in effect.values())


def test_graph_rewrites_come_back(recorders):
    before = tf.config.optimizer.get_experimental_options()
    recorders["graph"](inputs32())
    after = tf.config.optimizer.get_experimental_options()
    assert [after.get(name, True) for name in capture_tf.FETCH_DEPENDENT] == [
        before.get(name, True) for name in capture_tf.FETCH_DEPENDENT
    ]


class Fusible(tf.Module):
    """What the graph's rewrites would compute otherwise, were its tensors not read."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.conv = tf_side.Conv2d(16, 32, 3, "float32")
        self.conv.kernel.assign(rng.normal(size=(3, 3, 16, 32)))
        self.conv.bias.assign(rng.normal(size=32))
        self.dense = tf_side.Linear(32, 64, "float32")
        self.dense.weight.assign(rng.normal(size=(32, 64)))
        self.norm = tf_side.LayerNorm(64, "float32")
        self.norm.weight.assign(rng.normal(size=64))

    def __call__(self, x):
        y = tf.reshape(tf.nn.relu(self.conv(x)), [-1, 32])
        y = self.norm(tf.nn.gelu(self.dense(y), approximate=False))[:300]
        return tf.nn.softmax(tf.matmul(y, y, transpose_b=True) * 0.125)


def test_graph_capture_is_bit_identical_where_rewrites_would_fuse():
    recorder = capture_tf.Recorder(Fusible(), letters, "graph")
    x = (np.random.default_rng(1).normal(size=(1, 33, 47, 16)).astype(np.float32),)
    outputs, _ = recorder(x)
    assert same_bits(outputs, recorder.plain(x))
    # The twin: with all rewrites the same graph rounds differently, so the test above can fail.
    assert not same_bits(outputs, recorder.forward(x))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_tf_traces_once_per_signature(execution):
    recorder = capture_tf.Recorder(Fusible(), letters, execution)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(1, 8, 8, 16)).astype(np.float32)
        outputs, trace = recorder((x,))
        np.testing.assert_array_equal(trace["model:input"].array, x)
        np.testing.assert_array_equal(trace["model:output"].array, outputs)
    assert recorder.traces == (0 if execution == "eager" else 1)
    recorder((np.zeros((1, 9, 8, 16), np.float32),))
    assert recorder.traces == (0 if execution == "eager" else 2)


def test_both_frameworks_name_the_same_taps(recorders):
    _, trace, _ = pairs.reference()
    theirs = [key for key in trace if ".dropout:" not in key]
    for execution in EXECUTIONS:
        _, found = recorders[execution](inputs32())
        assert list(found) == theirs
    assert theirs[:3] == ["model:input.images", "backbone:input", "backbone.stem:input"]
    for key in (
        "fuse:input.features.res2",
        "fuse:input.extra.1",
        "fuse:output",
        "decoder.layers.1:input.query_pos",
        "decoder.layers.0.attention:input.query",
        "decoder.layers.0.attention:output",
        "decoder.norm@1:output",
        "backbone.res3.0.conv2.norm:output",
        "model:output.aux.0.scores",
    ):
        assert key in theirs


def test_executions_differ_by_rounding_only(recorders):
    _, eager = recorders["eager"](inputs32())
    for execution in ("graph", "xla"):
        _, other = recorders[execution](inputs32())
        gaps = compare(other, eager)
        assert len(gaps) == len(eager)
        assert max(found.l2 for found in gaps.values() if found.problem is None) < 1e-5


def test_a_sink_receives_what_the_trace_would_hold(recorders):
    for recorder, inputs in (
        *((recorder, inputs32()) for recorder in recorders.values()),
        (capture_torch.Recorder(pairs.reference_model(), pairs.axes_torch), (pairs.image(),)),
    ):
        _, trace = recorder(inputs)
        comparison = Comparison(trace)
        _, empty = recorder(inputs, comparison)
        assert len(empty) == 0
        assert list(comparison.gaps) == list(trace)
        assert all(found.l2 == found.max == 0.0 for found in comparison.gaps.values())
        assert (comparison.unpaired, comparison.missing()) == ([], [])


def test_a_tensor_met_again_is_stored_once(recorders):
    _, torch_trace, _ = pairs.reference()
    for trace in (torch_trace, *(recorder(inputs32())[1] for recorder in recorders.values())):
        first, again = trace["backbone.res2.0:output"], trace["backbone.res2.1:input"]
        assert again.array is first.array
        assert (first.same_as, again.same_as) == (None, first.key)


def test_torch_taps_survive_operations_in_place():
    _, trace, _ = pairs.reference()
    before = trace["backbone.res2.0.conv1:output"]
    assert before.array.min() < 0  # ReLU works in place on it afterwards
    after = trace["backbone.res2.0.conv2:input"]
    assert after.same_as is None
    np.testing.assert_array_equal(after.array, np.maximum(before.array, 0))


def test_torch_capture_without_copies_refuses_operations_in_place():
    with pytest.raises(TraceError) as caught:
        capture_torch.capture(
            torch_side.Block(4), (torch.randn(1, 4, 5, 5),), axes=letters, clone=False
        )
    assert str(caught.value) == (
        "conv1.norm:output was changed in place after it was recorded\n"
        "  the model was captured without copies\n"
        "  capture with clone=True"
    )
    model = torch_side.Attention(4)
    x = torch.randn(3, 2, 4)
    outputs, trace = capture_torch.capture(model, (x, x, x), axes=letters, clone=False)
    np.testing.assert_array_equal(outputs[0], trace["model:output"].array)
    assert outputs[1] is None


@pytest.mark.parametrize(
    ("only", "count"), [("decoder.layers.1", 19), ("decoder.*.attention", 8), ("head", 2)]
)
def test_only_selects_paths_below_or_matching(recorders, only, count):
    model = recorders["eager"].model
    _, trace = capture_tf.capture(model, inputs32(), axes=pairs.axes_tf, only=only)
    assert all(selector(only)(tap.path) for tap in trace.values())
    assert len(trace) == count


def test_named_inputs_and_integers_are_taps():
    class Pick(nn.Module):
        def forward(self, x, index, name="a", flag=None):
            return {"picked": x[:, index], "index": index + 1}

    x, index = np.arange(6.0).reshape(2, 3), np.array([2, 0])
    outputs, trace = capture_torch.capture(Pick(), {"x": x, "index": index}, axes=letters)
    assert list(trace) == [
        "model:input.x",
        "model:input.index",
        "model:output.picked",
        "model:output.index",
    ]
    assert trace["model:output.index"].array.dtype == np.int64
    np.testing.assert_array_equal(outputs["picked"], x[:, index])


def test_bfloat16_is_held_exactly_as_float32():
    x = torch.randn(3, 4).bfloat16()
    _, trace = capture_torch.capture(nn.Identity(), (x,), axes=letters)
    np.testing.assert_array_equal(trace["model:output"].array, x.float().numpy())
    _, trace = capture_tf.capture(
        tf_keras.layers.Activation("linear", dtype="bfloat16"),
        (tf.cast(x.float().numpy(), tf.bfloat16),),
        axes=letters,
    )
    np.testing.assert_array_equal(trace["model:output"].array, x.float().numpy())


def test_calls_are_only_watched_while_capturing():
    before = nn.Module.__call__, tf_keras.layers.Layer.__call__, tf_side.Affine.__call__
    pairs.port(pairs.port_model("float32"))(inputs32())

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        capture_torch.capture(Broken(), (np.ones(2),), axes=letters)
    after = nn.Module.__call__, tf_keras.layers.Layer.__call__, tf_side.Affine.__call__
    assert before == after


def test_a_model_of_keras_alone_is_followed():
    keras = tf_keras
    inner = keras.Sequential([keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")])
    x = keras.Input((5,))
    functional = keras.Model(x, keras.layers.Dense(2, name="last")(inner(x)))
    _, trace = capture_tf.capture(functional, (np.ones((2, 5), np.float32),), axes=letters)
    assert [key for key in trace if key.endswith("output")] == [
        f"{inner.name}.0:output",
        f"{inner.name}.1:output",
        f"{inner.name}:output",
        "last:output",
        "model:output",
    ]


def test_a_module_inside_a_graph_loop_is_refused():
    class Looping(tf.Module):
        def __init__(self):
            super().__init__()
            self.step = tf_side.LayerNorm(4, "float32")

        def __call__(self, x):
            return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, self.step(x)), (0, x))[1]

    with pytest.raises(TraceError) as caught:
        capture_tf.capture(Looping(), (np.ones((2, 4), np.float32),), axes=letters, execution="xla")
    assert str(caught.value) == (
        "step runs inside a loop or a branch of the graph\n"
        "  its tensors exist within tf.while_loop, tf.cond or an inner tf.function only\n"
        "  capture the module around it, or unroll the loop"
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: capture_torch.Recorder(nn.Identity(), letters, "graph"),
            "PyTorch cannot be captured in `graph` execution\n"
            "  taps come from the calls of its modules, one by one\n"
            "  use eager",
        ),
        (
            lambda: capture_tf.Recorder(tf.Module(), letters, "fast"),
            "TensorFlow has no `fast` execution\n  there are eager, graph, xla\n  name one of them",
        ),
        (
            lambda: capture_torch.capture(nn.Identity(), [np.ones(2)], axes=letters),
            "inputs are a list\n"
            "  a model is called with positional or with named arguments\n"
            "  give a tuple for positional arguments, or a dict of names",
        ),
        (
            lambda: capture_torch.capture(
                nn.Identity(), (np.ones((2, 2)),), axes=lambda *place: "NN"
            ),
            "tap model:input: axes `NN` do not name the axes of its array\n"
            "  the array has shape (2, 2)\n"
            "  give one distinct letter per axis, such as NCHW",
        ),
    ],
)
def test_wrong_use_is_told_in_three_lines(make, text):
    with pytest.raises(TraceError) as caught:
        make()
    assert str(caught.value) == text


def test_perturbed_moves_weights_and_brings_them_back():
    model = pairs.reference_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = (pairs.image(),)
    recorder = capture_torch.Recorder(model, pairs.axes_torch)
    outputs = recorder.plain(images)
    with capture_torch.perturbed(model, 3):
        moved = model.state_dict()
        assert any(not torch.equal(before[key], moved[key]) for key in before)
        assert not same_bits(recorder.plain(images), outputs)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert same_bits(recorder.plain(images), outputs)


OPERATIONS = {
    "convolution": lambda x, y: nn.functional.conv2d(x, y[:, :, :3, :3]),
    "grouped": lambda x, y: nn.functional.conv2d(x, y[:, :1, :3, :3], groups=16),
    "matmul": lambda x, y: x @ y.transpose(2, 3),
    "linear": lambda x, y: nn.functional.linear(x, y[0, 0], y[0, 0, :, 0]),
    "layer norm": lambda x, y: nn.functional.layer_norm(x, (24, 24), y[0, 0], y[0, 1]),
    "group norm": lambda x, y: nn.functional.group_norm(x, 4, y[0, 0, 0, :16], y[0, 0, 1, :16]),
    "softmax": lambda x, y: x.softmax(-1),
    "mean": lambda x, y: x.mean((1, 3)),
    "sum": lambda x, y: x.sum(),
    "einsum": lambda x, y: torch.einsum("bchw,bchv->bwv", x, y),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_reordered_sums_are_the_same_but_for_rounding(name):
    torch.manual_seed(0)
    x, y = torch.randn(2, 16, 16, 24, 24, dtype=torch.float64)
    plain = OPERATIONS[name](x, y)
    with torch.no_grad(), capture_torch.reordered():
        turned = OPERATIONS[name](x, y)
    found = gap(turned.numpy(), plain.numpy())
    assert found.l2 < 1e-14
    assert (found.max > 0) == (name != "grouped")  # a grouped convolution is left alone


def test_floors_are_of_the_size_of_one_rounding_and_only_constants_have_none():
    _, trace, floors = pairs.reference()
    assert list(floors) == list(trace)
    still = {key for key, found in floors.items() if found.l2 == 0.0}
    constants = {key for key in trace if key.endswith("input.pos")}
    integers = {"model:output.kept"}
    start = {"decoder.layers.0:input.x"}
    assert still == constants | integers | start
    assert max(found.l2 for found in floors.values()) < 1e-14

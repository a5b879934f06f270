"""Random small models in two frameworks: no alarm; with one random mistake, it is placed."""

import os

import tensorflow as tf
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from parity_tests.parity.strangers.models import compared, numbers, places, varied

K = tf_keras.layers
EXAMPLES = int(os.environ.get("PARITY_CLEAN_RUNS", "6"))
"""More are drawn at random: `--hypothesis-seed` gives others, so that they can come in parts."""

HURRIED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="PARITY_CLEAN_RUNS" not in os.environ,
)
CHANNELS = 6
ACTIVATIONS = {
    "relu": (nn.ReLU, tf.nn.relu),
    "gelu": (nn.GELU, tf.nn.gelu),
    "tanh": (nn.Tanh, tf.tanh),
    "silu": (nn.SiLU, tf.nn.silu),
    "leaky": (lambda: nn.LeakyReLU(0.1), lambda x: tf.nn.leaky_relu(x, 0.1)),
}
KINDS = ("conv", "strided", "depthwise", "batch norm", "channels", *ACTIVATIONS)


class Padded(K.Layer):
    """A convolution with torch's padding, which Keras has in a layer of its own."""

    def __init__(self, layer, fault):
        super().__init__()
        self.pad, self.conv = K.ZeroPadding2D(1), layer
        self.fault = fault

    def call(self, x):
        if self.fault:
            x = tf.roll(x, 1, 2)
        return self.conv(self.pad(x))


class Function(K.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def theirs(kind):
    if kind in ACTIVATIONS:
        return ACTIVATIONS[kind][0]()
    return {
        "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        "strided": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1),
        "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
        "batch norm": lambda: nn.BatchNorm2d(CHANNELS),
        "channels": lambda: nn.Conv2d(CHANNELS, CHANNELS, 1),
    }[kind]()


def ours(kind, fault):
    if kind in ACTIVATIONS:
        function = ACTIVATIONS[kind][1]
        return Function((lambda x: function(x) + 1e-6 * x) if fault else function)
    return {
        "conv": lambda: Padded(K.Conv2D(CHANNELS, 3), fault),
        "strided": lambda: Padded(K.Conv2D(CHANNELS, 3, 2), fault),
        "depthwise": lambda: Padded(K.DepthwiseConv2D(3), fault),
        "batch norm": lambda: K.BatchNormalization(epsilon=1e-3 if fault else 1e-5),
        "channels": lambda: K.Conv2D(CHANNELS, 1, activation="tanh" if fault else None),
    }[kind]()


class Port(tf_keras.Model):
    def __init__(self, kinds, faulty=()):
        super().__init__()
        self.steps = [ours(kind, index in faulty) for index, kind in enumerate(kinds)]
        self.head = K.Dense(3)

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return self.head(tf.reduce_mean(x, (1, 2)))


class Reference(nn.Module):
    def __init__(self, kinds):
        super().__init__()
        self.steps = nn.ModuleList(theirs(kind) for kind in kinds)
        self.head = nn.Linear(CHANNELS, 3)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return self.head(x.mean((2, 3)))


def audited(kinds, size, *faulty):
    padded = ("conv", "strided", "depthwise")
    modules = {"head": "head"}
    for index, kind in enumerate(kinds):
        path = f"steps.{index}"
        modules[f"{path}.conv" if kind in padded else path] = path
    reference = varied(lambda: Reference(kinds))
    return compared(reference, lambda: Port(kinds, faulty), (numbers(2, CHANNELS, *size),), modules)


LISTS = st.lists(st.sampled_from(KINDS), min_size=1, max_size=6)
SIZES = st.tuples(st.integers(9, 20), st.integers(9, 20))


@HURRIED
@given(LISTS, SIZES)
def test_right_ports_raise_no_alarm(kinds, size):
    result = audited(kinds, size)
    assert (result["verdict"], places(result)) == ("equal", [])


@HURRIED
@given(LISTS, SIZES, st.data())
def test_one_mistake_is_found_and_placed(kinds, size, data):
    faulty = data.draw(st.integers(0, len(kinds) - 1))
    result = audited(kinds, size, faulty)
    assert result["verdict"] == "different"
    # A mistake before a convolution with padding is made by the model around it.
    at = "model" if kinds[faulty] in ("conv", "strided", "depthwise") else f"steps.{faulty}"
    assert [path for path, _ in places(result)] == [at]


def test_a_mistake_hides_neither_a_border_after_it_nor_another_mistake():
    kinds = ["conv", "conv", "conv", "conv", "silu", "depthwise"]
    assert [path for path, _ in places(audited(kinds, (19, 10), 1))] == ["model"]
    kinds = ["conv", "conv", "silu", "batch norm", "depthwise", "conv"]
    found = places(audited(kinds, (19, 10), 1, 3))
    assert [path for path, _ in found] == ["model", "steps.3"]
    assert found[1][1] == "epsilon 0.001 instead of 1e-05"

"""Training mode with the same dropout masks on both sides: forward pass and gradients agree."""

from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.data.images import batch_images, synthetic_image
from maskformer.data.targets import synthetic_targets
from maskformer.model import zoo
from parity.frameworks.tensorflow import capture as capture_tf
from parity.frameworks.tensorflow.gradients import GradientRecorder as TFGradients
from parity.frameworks.tensorflow.masks import fed_masks
from parity.frameworks.torch import capture as capture_torch
from parity.frameworks.torch.gradients import GradientRecorder as TorchGradients
from parity.frameworks.torch.masks import FedMasks
from parity.gradients import backward_places, gradient_verdicts, unpaired_parameters
from parity.judge import FUNCTION_FACTOR, same_function
from parity.localise import localise
from parity.masks import Drawn, Masks, mask_differences
from parity.pairing import Comparison
from parity_tests.replication.training.small import small_swin
from replication.sides.tf_side import (
    PORT_AXES,
    build_port,
    port_batch,
    port_inputs,
    port_loss,
    port_parameters,
)
from replication.sides.torch_side import (
    REFERENCE_AXES,
    build_reference,
    reference_batch,
    reference_inputs,
    reference_loss,
)
from replication.sides.weights import load_weights
from tf_impl.layers import dropout
from tf_impl.modeling.swin import drop_path_rates

ENCODER = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0"
DECODER = "sem_seg_head.predictor.transformer.decoder.layers.1"


class Pair:
    """Both sides in training mode with the same masks, and the reference's traces and floors."""

    def __init__(self, config):
        weights = load_weights("seeded:0", config)
        images, sizes = batch_images([synthetic_image(32, 44, i) for i in range(2)], config)
        targets = synthetic_targets(config, sizes, images.shape[1:3])
        self.given = (config, images, sizes, targets, "float64")
        self.masks = [Masks(0, axes) for axes in (REFERENCE_AXES, PORT_AXES)]
        self.inputs = reference_inputs(images, sizes, "float64")
        self.port_inputs = {**port_inputs(images, sizes, "float64"), "training": True}
        model = build_reference(config, weights, "float64").train()
        self.reference = capture_torch.Recorder(model, REFERENCE_AXES, masks=self.masks[0])
        _, self.trace = self.reference(self.inputs)
        calls, self.drawn = self.reference.calls, self.reference.drawn
        self.floors = capture_torch.measure_floors(self.reference, self.inputs, self.trace)
        self.reference.calls = calls
        self.model = build_port(config, weights, "float64")
        self.port = capture_tf.Recorder(self.model, PORT_AXES, masks=self.masks[1])

    @cached_property
    def backward(self):
        """The reference's gradients and their floors, and both gradient recorders."""
        found = SimpleNamespace()
        model, axes = self.reference.model, REFERENCE_AXES
        loss = reference_loss(model, reference_batch(*self.given).targets)
        found.reference = TorchGradients(model, axes, loss, masks=self.masks[0])
        _, found.gradients = found.reference(self.inputs)
        calls = found.reference.calls
        found.floors = capture_torch.measure_floors(found.reference, self.inputs, found.gradients)
        found.reference.calls = calls
        loss = port_loss(self.model, port_batch(*self.given).targets)
        parameters = port_parameters(self.model)
        found.port = TFGradients(self.model, PORT_AXES, loss, parameters, masks=self.masks[1])
        return found


@pytest.fixture(scope="module")
def tiny():
    return Pair(zoo.model_config("tiny"))


@pytest.fixture(scope="module")
def swin():
    return Pair(small_swin())


@pytest.mark.parametrize(("name", "masks"), [("tiny", 16), ("swin", 45)])
def test_forward_pass_agrees_in_float64(name, masks, request):
    side = request.getfixturevalue(name)
    comparison = Comparison(side.trace)
    side.port(side.port_inputs, comparison)
    assert len(side.drawn) == masks
    assert mask_differences(side.port.drawn, side.drawn) == []
    assert comparison.missing() == []
    found = same_function(comparison.gaps, side.floors)
    assert [str(one) for one in found if not one.passed] == []


@pytest.mark.parametrize("name", [pytest.param("tiny", marks=pytest.mark.slow), "swin"])
def test_gradients_agree_in_float64(name, request):
    side = request.getfixturevalue(name)
    backward = side.backward
    comparison = Comparison(backward.gradients)
    backward.port(side.port_inputs, comparison)
    assert mask_differences(backward.port.drawn, side.drawn) == []
    assert comparison.missing() == unpaired_parameters(comparison) == []
    found = gradient_verdicts(comparison.gaps, backward.floors)
    assert [str(one) for one in found if not one.passed] == []
    noise = [one.key for one in found if one.threshold.floor * FUNCTION_FACTOR >= 1]
    assert len(noise) < 0.02 * len(found), noise


def test_masks_change_what_is_computed(tiny):
    """The claim above is about training mode: another seed gives other outputs."""
    port = capture_tf.Recorder(tiny.model, PORT_AXES, masks=Masks(1, PORT_AXES))
    comparison = Comparison(tiny.trace)
    port(tiny.port_inputs, comparison)
    assert mask_differences(port.drawn, tiny.drawn) == []
    assert comparison.gaps["model:output.pred_logits"].l2 > 1e-2


def plant(monkeypatch, side, path, make):
    module = side.port.modules_of(side.port_inputs)[path]
    monkeypatch.setitem(module.__dict__, "call", make(module, module.call))


def placed(side):
    return localise(side.reference, side.port, side.trace, side.port_inputs, side.floors)


def test_dropout_after_the_residual_sum_is_named(tiny, monkeypatch):
    def make(layer, call):
        def after(src, pos, training=False):
            query = src + pos
            attended, _ = layer.self_attn(query, query, src, training=training)
            src = layer.norm1(layer.dropout1(src + attended, training=training))
            x = layer._feed_forward(src, training)
            return layer.norm2(src + layer.dropout2(x, training=training))

        return after

    plant(monkeypatch, tiny, ENCODER, make)
    found = placed(tiny)
    assert [one.path for one in found] == [ENCODER]
    assert found[0].edge == f"{ENCODER}.dropout1:input"
    assert found[0].kind == "wiring"


def test_dropout_missing_from_attention_weights_is_named(tiny, monkeypatch):
    path = f"{DECODER}.multihead_attn"
    plant(
        monkeypatch,
        tiny,
        path,
        lambda module, call: lambda query, key, value, training=False: call(query, key, value),
    )
    (found,) = placed(tiny)
    assert (found.path, found.kind) == (path, "own")
    tiny.port(tiny.port_inputs, lambda tap: None)
    assert mask_differences(tiny.port.drawn, tiny.drawn) == [
        f"{path}@0#0: no dropout, but the reference keeps 0.9"
    ]


def test_a_gradient_that_ignores_the_mask_is_named(swin, monkeypatch):
    """Right in the forward pass, wrong backwards: the mask lets every gradient through."""
    import tensorflow as tf

    path = f"{DECODER}.dropout2"

    def make(module, call):
        def through(x, training=False):
            out = call(x, training=training)
            return tf.stop_gradient(out - x) + x

        return through

    plant(monkeypatch, swin, path, make)
    assert placed(swin) == []
    backward = swin.backward
    comparison = Comparison(backward.gradients)
    backward.port(swin.port_inputs, comparison)
    both = backward.reference, backward.port, swin.trace, backward.gradients
    (found,) = backward_places(*both, comparison, backward.floors)
    assert (found.path, found.edge) == (path, f"{path}:grad_input")


def test_a_drop_path_that_does_not_scale_is_named(swin, monkeypatch):
    path = "backbone.layers.2.blocks.1.drop_path"

    def make(module, call):
        return lambda x, training=False: call(x, training=training) * (1.0 - module.rate)

    plant(monkeypatch, swin, path, make)
    found = placed(swin)
    assert [(one.path, one.kind) for one in found] == [(path, "own")]


def test_drop_path_rates_are_torchs_to_the_bit():
    for last in (0.0, 0.2, 0.3, 0.7):
        for count in (1, 2, 5, 12, 24):
            assert drop_path_rates(last, count) == torch.linspace(0, last, count).tolist()
    drifted = np.linspace(0.0, 0.3, 12).tolist()
    assert drifted != torch.linspace(0, 0.3, 12).tolist()


@given(
    seed=st.integers(0, 9),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    keep=st.floats(0.0, 1.0),
)
def test_masks_follow_the_names_of_axes(seed, shape, keep):
    by_axes = {
        axes: Masks(seed, lambda path, kind, name, rank, axes=axes: axes)
        for axes in ("NSC", "SNC", "")
    }
    nsc = by_axes["NSC"].kept("place", "path", shape, keep)
    snc = by_axes["SNC"].kept("place", "path", (shape[1], shape[0], shape[2]), keep)
    assert np.array_equal(nsc.transpose(1, 0, 2), snc)
    flat = by_axes[""].kept("place", "path", shape, keep)
    again = by_axes[""].kept("place", "path", (shape[0] * shape[1], shape[2]), keep)
    assert np.array_equal(flat.reshape(-1, shape[2]), again)


def test_other_masks_are_told_apart():
    theirs = {"a": Drawn(6, 0.9), "b": Drawn(6, 0.9), "c": Drawn(6, 0.9), "d": Drawn(6, 0.9)}
    ours = {"a": Drawn(6, 0.9), "b": Drawn(6, 0.8), "c": Drawn(12, 0.9), "e": Drawn(6, 0.5)}
    assert mask_differences(ours, theirs) == [
        "b: keeps 0.8, but should keep 0.9",
        "c: 12 elements, but should be 6",
        "d: no dropout, but the reference keeps 0.9",
        "e: dropout that keeps 0.5, but none in the reference",
    ]


def test_fed_masks_reach_every_dropout_function():
    import tensorflow as tf
    import tf_keras

    kept = np.array([[True, False, True], [False, False, True]])
    x = np.float64([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    expected = np.where(kept, x / 0.75, 0.0)
    with FedMasks(lambda shape, keep: kept):
        assert np.array_equal(torch.dropout(torch.tensor(x), 0.25, True).numpy(), expected)
        assert np.array_equal(torch.nn.Dropout(0.25)(torch.tensor(x)).numpy(), expected)
    layer = tf_keras.layers.Dropout(0.25, dtype="float64")
    functions = [
        lambda: dropout(tf.constant(x), 0.25, True),
        lambda: tf.nn.dropout(tf.constant(x), 0.25),
        lambda: tf.nn.experimental.stateless_dropout(tf.constant(x), 0.25, [1, 2]),
        lambda: layer(tf.constant(x), training=True),
    ]
    before = tf.nn.dropout
    with fed_masks(lambda shape, keep: kept):
        for run in functions:
            np.testing.assert_allclose(run().numpy(), expected, rtol=1e-15)
    assert tf.nn.dropout is before

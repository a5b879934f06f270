"""Seven faults that ports really have, planted in the TensorFlow model: each is found and named."""

import pytest
import tensorflow as tf

import tf_impl.modeling.pixel_decoder as tf_pixel_decoder
from parity.judge import same_function
from parity.localise import localise
from parity.pairing import Comparison
from parity_tests.implementations.modeling.sides import whole, whole_inputs, whole_port

CASE = ("tiny", 5, 70, 90)
DECODER = "sem_seg_head.predictor.transformer.decoder"
PIXEL_DECODER = "sem_seg_head.pixel_decoder"


@pytest.fixture
def plant(monkeypatch):
    """plant(path, make): the TF module at `path` calls make(its call) until the test ends."""

    def planted(path, make):
        module = whole_port(*CASE).modules[path]
        wrong = make(module.call)
        monkeypatch.setitem(module.__dict__, "call", wrong)

    whole_port(*CASE)(whole_inputs(whole(*CASE)), lambda tap: None)
    return planted


def found_places():
    side = whole(*CASE)
    port = whole_port(*CASE)
    return localise(side.reference, port, side.trace, whole_inputs(side), side.floors)


def names(found):
    return [(one.path, one.kind, one.edge) for one in found]


def test_audit_of_the_sound_model_finds_nothing():
    side = whole(*CASE)
    comparison = Comparison(side.trace)
    whole_port(*CASE)(whole_inputs(side), comparison)
    verdicts = same_function(comparison.gaps, side.floors)
    assert len(verdicts) >= 250
    assert comparison.unpaired == comparison.missing() == []
    assert [str(one) for one in verdicts if not one.passed] == []
    assert found_places() == []


@pytest.mark.parametrize(
    "path",
    [f"{DECODER}.layers.1.norm2", f"{PIXEL_DECODER}.transformer.encoder.layers.0.norm1"],
)
def test_layer_norm_epsilon_is_named(plant, path):
    def make(call):
        def wrong(input):
            mean, variance = tf.nn.moments(input, [-1], keepdims=True)
            module = whole_port(*CASE).modules[path]
            return (input - mean) * tf.math.rsqrt(variance + 1e-6) * module.weight + module.bias

        return wrong

    plant(path, make)
    assert names(found_places()) == [(path, "own", f"{path}:output")]


def test_same_padding_is_named(plant):
    path = "backbone.res3.0.conv2"
    module = whole_port(*CASE).modules[path]

    def make(call):
        return lambda input: module.norm(tf.nn.conv2d(input, module.weight, 2, "SAME"))

    plant(path, make)
    (found,) = found_places()
    assert (found.path, found.kind) == (path, "own")
    assert found.edge == f"{path}.norm:input"


def test_missing_query_position_is_named(plant):
    path = f"{DECODER}.layers.1"

    def make(call):
        return lambda tgt, memory, pos, query_pos, training=False: call(
            tgt, memory, pos, tf.zeros_like(query_pos)
        )

    plant(path, make)
    assert names(found_places()) == [(path, "wiring", f"{path}.self_attn:input.query")]


def test_swapped_height_and_width_are_named(plant):
    path = f"{PIXEL_DECODER}.transformer"

    def make(call):
        return lambda src, pos_embed, training=False: tf.reshape(
            call(tf.transpose(src, (0, 2, 1, 3)), pos_embed), src.shape
        )

    plant(path, make)
    (found, *_) = found_places()
    assert (found.path, found.kind) == (path, "wiring")
    assert found.edge == f"{path}.encoder:input.src"


def test_memory_after_the_convolution_is_named(plant):
    module = whole_port(*CASE).modules[PIXEL_DECODER]

    def make(call):
        def wrong(features, training=False):
            mask_features, encoded = call(features)
            return mask_features, module.layer_4(encoded)

        return wrong

    plant(PIXEL_DECODER, make)
    (found,) = found_places()
    assert (found.path, found.kind) == (PIXEL_DECODER, "wiring")
    assert found.edge == f"{PIXEL_DECODER}:output.1"


def test_no_object_class_first_is_named(plant):
    path = "sem_seg_head.predictor.class_embed"
    plant(path, lambda call: lambda input: tf.roll(call(input), 1, -1))
    assert names(found_places()) == [(path, "own", f"{path}:output")]


def test_half_pixel_nearest_is_named(monkeypatch):
    monkeypatch.setattr(
        tf_pixel_decoder,
        "resize_nearest",
        lambda x, size: tf.image.resize(x, size, method="nearest"),
    )
    (found,) = found_places()
    assert (found.path, found.kind) == (PIXEL_DECODER, "wiring")
    assert found.edge == f"{PIXEL_DECODER}.layer_3:input"

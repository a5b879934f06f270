"""Causes of planted faults are named, in words and by the line of the reference, or none is."""

import itertools
from functools import partial, wraps

import numpy as np
import pytest
import tensorflow as tf

from parity.causes.explain import explain
from parity.localise import localise
from parity.records import plain
from parity_tests.parity import pairs

CAUSES = [
    ("backbone.down", "same padding", "SAME padding"),
    ("backbone.res2.1", "no residual", "term is left out"),
    ("fuse", "half-pixel nearest", "nearest (pixel centres) resize"),
    ("decoder.layers.1.attention", "no scale", "factor is left out"),
    ("decoder.layers.1", "no query position", "term is left out"),
    ("decoder.layers.0", "position in value", "has decoder.layers.0.attention:input.key here"),
    ("", "memory from another map", "times 1.001"),
    ("", "flipped classes", "reversed along axis 2"),
]


@pytest.fixture
def port():
    recorder = pairs.port(pairs.port_model())
    recorder((pairs.nhwc(pairs.image()),), lambda tap: None)
    return recorder


def explained(port, how=explain):
    recorder, trace, floors = pairs.reference()
    return localise(recorder, port, trace, (pairs.nhwc(pairs.image()),), floors, how)


@pytest.mark.parametrize(("path", "fault", "cause"), CAUSES)
def test_explain_names_the_cause(port, path, fault, cause):
    port.modules[path].fault = fault
    (found, *_) = explained(port)
    assert cause in found.cause
    assert found.explanations[0].removed == pytest.approx(1.0, abs=1e-6)
    assert found.evidence.endswith(f"likely: {found.cause} (removes 100% of the gap)")
    assert plain(found)["explanations"][0]["exact"] is True


def test_explain_names_the_line_of_the_reference(port):
    port.modules["backbone.res2.1"].fault = "no residual"
    (found,) = explained(port)
    assert found.cause.startswith("torch_side.py:")
    assert "`out += x`" in found.cause


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6])
def test_explain_names_another_epsilon(port, epsilon):
    port.modules["decoder.layers.0.norm2"].epsilon = epsilon
    (found,) = explained(port)
    assert found.cause == f"`native_layer_norm`: epsilon {epsilon:g} instead of 1e-05"


def test_explain_names_a_weight_with_other_values(port):
    bias, path = port.modules["decoder.layers.1.linear1"].bias, "decoder.layers.1.linear1"
    drawn = np.random.default_rng(0).normal(size=bias.shape)
    drawn[2] = 9.0
    own = bias.numpy()[2]
    bias.assign_add(drawn)
    (found,) = explained(port)
    assert found.cause is None
    (found,) = explained(port, partial(explain, weights={f"{path}.bias": bias.numpy()}))
    assert found.path == path
    assert found.cause == (
        "bias has other values, which are furthest apart at [2]: "
        f"{bias.numpy()[2]:.9g} instead of {own:.9g}"
    )
    assert len(found.explanations) == 1


def test_explain_names_two_weights_that_are_swapped(port):
    norm = port.modules["decoder.layers.0.norm2"]
    reference = pairs.reference()[0].modules["decoder.layers.0.norm2"]
    norm.weight.assign(reference.bias.detach().numpy())
    norm.bias.assign(reference.weight.detach().numpy())
    (found,) = explained(port)
    assert found.cause == "weight and bias have each other's values"


def test_explain_names_two_weights_that_only_together_explain_a_norm(port):
    path = "decoder.layers.0.norm2"
    norm, rng = port.modules[path], np.random.default_rng(1)
    changed = {}
    for name in ("weight", "bias"):
        variable = getattr(norm, name)
        variable.assign_add(rng.normal(size=variable.shape))
        changed[f"{path}.{name}"] = variable.numpy()
    (found,) = explained(port, partial(explain, weights=changed))
    assert found.cause == "weight and bias have other values"


def test_a_weight_with_other_values_that_explains_nothing_is_not_named(port):
    port.modules["decoder.layers.0.norm2"].epsilon = 1e-3
    other = {
        "decoder.layers.0.norm2.bias": np.full(
            pairs.reference()[0].modules["decoder.layers.0.norm2"].bias.shape, 5.0
        )
    }
    (found,) = explained(port, partial(explain, weights=other))
    assert all("other values" not in one.text for one in found.explanations)


def test_explain_names_weights_of_another_module(port):
    first, second = (port.modules[f"decoder.layers.{i}.linear1"] for i in (0, 1))
    first.weight.assign(second.weight)
    (found,) = explained(port)
    assert found.cause == "weight has the values of decoder.layers.1.linear1.weight"


def test_explain_names_a_transposed_square_weight(port):
    weight = port.modules["decoder.layers.0.attention.out"].weight
    weight.assign(np.transpose(weight.numpy()))
    (found,) = explained(port)
    assert found.cause.endswith(("rows and columns transposed", "matrix transposed"))


def test_explain_measures_a_factor(port):
    layer = port.modules["decoder.layers.1.attention"]
    tensordot = layer.call

    def wrong(query, key, value, mask=None):
        return tensordot(query * (1 + 1e-6), key, value, mask)

    layer.__dict__["call"] = wrong
    (found,) = explained(port)
    assert found.path == "decoder.layers.1.attention"
    assert found.cause.endswith("its result is multiplied by 1.000001")


def test_explain_names_a_lower_precision(port):
    layer = port.modules["decoder.layers.1.linear2"]
    call = layer.call
    layer.__dict__["call"] = lambda x: tf.cast(tf.cast(call(x), tf.bfloat16), tf.float64)
    (found,) = explained(port)
    assert found.cause == "the port's numbers are rounded to bfloat16"


def test_explain_names_dropout_and_chance(port):
    layer = port.modules["decoder.layers.1.linear2"]
    call = layer.call
    layer.__dict__["call"] = lambda x: tf.nn.dropout(call(x), 0.25)
    (found,) = explained(port)
    texts = [one.text for one in found.explanations]
    assert any("not deterministic" in text for text in texts)
    assert any("dropout of 0.25 is on" in text for text in texts)


def test_a_relu_whose_numbers_are_rounded_is_no_dropout(port):
    layer = port.modules["decoder.layers.1.linear2"]
    call = layer.call
    layer.__dict__["call"] = lambda x: tf.nn.relu(call(x)) * (1 + 2.0**-52)
    (found,) = explained(port)
    assert found.cause == "the reference's tensor through a ReLU"


def test_explain_names_chance_before_what_one_result_looks_like(port):
    layer = port.modules["decoder.layers.1.linear2"]
    call, counter = layer.call, itertools.count(1)
    layer.__dict__["call"] = lambda x: call(x) + 1e-6 * next(counter)
    (found,) = explained(port)
    assert "not deterministic" in found.cause
    assert any("the reference's tensor plus" in one.text for one in found.explanations)


def test_explain_names_another_setting_of_the_module(port):
    recorder, _, _ = pairs.reference()
    layer = recorder.modules["decoder.norm"]
    assert "eps" in vars(layer)
    port.modules["decoder.norm"].epsilon = 1e-3
    (found,) = explained(port)
    texts = [one.text for one in found.explanations]
    assert "attribute eps is 0.001 instead of 1e-05" in texts


def test_explain_names_a_module_that_is_applied_besides(port):
    layer, norm = (port.modules[f"decoder.layers.1{name}"] for name in ("", ".norm2"))
    call = layer.call
    layer.__dict__["call"] = wraps(call)(lambda *args, **kwargs: norm(call(*args, **kwargs)))
    found = explained(port)
    texts = [text.text for one in found for text in one.explanations]
    assert any("the reference's tensor passed through decoder.layers" in text for text in texts)


def test_explain_follows_arguments_without_names(port):
    layer = port.modules["decoder.layers.0.norm1"]
    call = layer.call
    layer.__dict__["call"] = lambda *args, **kwargs: -call(*args, **kwargs)
    (found,) = explained(port)
    assert "cannot be run alone" not in found.evidence
    assert found.cause == "the reference's tensor times -1"


def test_explain_claims_no_cause_that_it_cannot_show(port):
    layer = port.modules["decoder.layers.1.linear2"]
    call = layer.call
    layer.__dict__["call"] = lambda x: tf.sin(3.0 * call(x))
    (found,) = explained(port)
    assert found.path == "decoder.layers.1.linear2"
    assert found.cause is None
    assert not any(one.exact for one in found.explanations)

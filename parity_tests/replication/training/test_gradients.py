"""Every gradient between modules and of every parameter agrees; planted faults are named."""

from types import SimpleNamespace

import pytest

from maskformer.data.images import batch_images, synthetic_image
from maskformer.data.targets import label_map, synthetic_targets
from maskformer.model import zoo
from parity.frameworks.torch import capture as capture_torch
from parity.frameworks.torch.gradients import GradientRecorder as TorchRecorder
from parity.gradients import backward_places, gradient_verdicts, unpaired_parameters
from parity.judge import FUNCTION_FACTOR, same_precision
from parity.pairing import Comparison
from parity.trace import module_of
from parity_tests.replication.training.small import small_per_pixel, small_swin
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

PREDICTOR = "sem_seg_head.predictor"


@pytest.fixture(scope="module")
def both():
    return measured(zoo.model_config("tiny"), (64, 70))


@pytest.fixture(scope="module")
def swin():
    return measured(small_swin(), (32, 44))


def measured(config, size):
    """The float64 reference with its gradients and floors, and the port's eager recorder."""
    weights = load_weights("seeded:0", config)
    images, sizes = batch_images([synthetic_image(*size, 0)], config)
    targets = synthetic_targets(config, sizes, images.shape[1:3])
    if config.is_per_pixel:
        targets = label_map(targets, config.ignore_value)
    side = SimpleNamespace(config=config, weights=weights, images=images, sizes=sizes)
    side.targets = targets
    side.inputs = reference_inputs(images, sizes, "float64")
    model = build_reference(config, weights, "float64")
    _, side.values = capture_torch.Recorder(model, REFERENCE_AXES)(side.inputs)
    side.reference = torch_recorder(side, "float64", model)
    _, side.gradients = side.reference(side.inputs)
    side.floors = capture_torch.measure_floors(side.reference, side.inputs, side.gradients)
    side.port = tf_recorder(side, "float64")
    side.port_inputs = port_inputs(images, sizes, "float64")
    return side


def torch_recorder(side, dtype, model=None):
    model = model or build_reference(side.config, side.weights, dtype)
    batch = reference_batch(side.config, side.images, side.sizes, side.targets, dtype)
    loss = reference_loss(model, batch.targets)
    return TorchRecorder(model, REFERENCE_AXES, loss)


def tf_recorder(side, dtype, execution="eager"):
    from parity.frameworks.tensorflow.gradients import GradientRecorder

    model = build_port(side.config, side.weights, dtype)
    batch = port_batch(side.config, side.images, side.sizes, side.targets, dtype)
    return GradientRecorder(
        model,
        PORT_AXES,
        port_loss(model, batch.targets),
        port_parameters(model),
        execution,
    )


def test_every_gradient_agrees_in_float64(both):
    comparison = Comparison(both.gradients)
    both.port(both.port_inputs, comparison)
    assert comparison.missing() == unpaired_parameters(comparison) == []
    parameters = [key for key in comparison.gaps if ":param_grad" in key]
    assert len(parameters) == 137
    assert len(comparison.gaps) >= 500
    verdicts = gradient_verdicts(comparison.gaps, both.floors)
    assert [str(one) for one in verdicts if not one.passed] == []
    noise = [one.key for one in verdicts if one.threshold.floor * FUNCTION_FACTOR >= 1]
    # Nothing but what is zero in theory may be judged as noise.
    assert all("decoder.layers.0.self_attn" in key for key in noise), noise


def assert_as_exact_in_float32(side, *executions):
    inputs = reference_inputs(side.images, side.sizes, "float32")
    reference = torch_recorder(side, "float32")
    own = Comparison(side.gradients)
    reference(inputs, own)
    floors = capture_torch.measure_floors(reference, inputs, side.gradients)
    for execution in executions:
        port = Comparison(side.gradients)
        recorder = tf_recorder(side, "float32", execution)
        recorder(port_inputs(side.images, side.sizes, "float32"), port)
        assert port.missing() == unpaired_parameters(port) == []
        verdicts = same_precision(port.gaps, own.gaps, floors)
        assert len(verdicts) >= 400
        assert [str(one) for one in verdicts if not one.passed] == [], execution


def test_every_gradient_is_as_exact_in_float32(both):
    assert_as_exact_in_float32(both, "eager")


def test_every_gradient_is_as_exact_in_float32_as_a_graph(swin):
    assert_as_exact_in_float32(swin, "graph")


@pytest.mark.slow
def test_every_gradient_is_as_exact_in_float32_under_xla(swin):
    assert_as_exact_in_float32(swin, "xla")


@pytest.mark.parametrize("name", ["swin", "ade20k_pp", "ade20k_ppplus"])
def test_gradients_of_other_models_agree_in_float64(name, request):
    side = (
        request.getfixturevalue("swin")
        if name == "swin"
        else measured(small_per_pixel(name), (32, 44))
    )
    comparison = Comparison(side.gradients)
    side.port(side.port_inputs, comparison)
    assert comparison.missing() == unpaired_parameters(comparison) == []
    verdicts = gradient_verdicts(comparison.gaps, side.floors)
    assert len(verdicts) >= 200
    assert [str(one) for one in verdicts if not one.passed] == []


def placed(side, **how):
    comparison = Comparison(side.gradients)
    side.port(side.port_inputs, comparison)
    both = side.reference, side.port, side.values, side.gradients
    return backward_places(*both, comparison, side.floors, **how)


def plant(monkeypatch, side, path, make):
    module = side.port.modules_of(side.port_inputs)[path]
    monkeypatch.setitem(module.__dict__, "call", make(module.call))


def test_gradient_stopped_on_mask_features_is_named(both, monkeypatch):
    import tensorflow as tf

    def make(call):
        return lambda x, mask_features, training=False: call(x, tf.stop_gradient(mask_features))

    plant(monkeypatch, both, PREDICTOR, make)
    (found,) = placed(both)
    assert found.path == PREDICTOR
    assert found.edge == f"{PREDICTOR}:grad_input.mask_features"
    assert "has no gradient" in found.evidence


def halved(call):
    """The call with half the gradient of its input."""
    import tensorflow as tf

    return lambda input: call(0.5 * tf.stop_gradient(input) + 0.5 * input)


def test_halved_gradient_inside_a_convolution_is_named(both, monkeypatch):
    path = "backbone.res5.0.conv2"
    plant(monkeypatch, both, path, halved)
    (found,) = placed(both)
    assert (found.path, found.edge) == (path, f"{path}:grad_input")


def test_attention_that_forgets_the_gradient_of_its_keys_is_named(both, monkeypatch):
    import tensorflow as tf

    path = f"{PREDICTOR}.transformer.decoder.layers.1.multihead_attn"

    def make(call):
        return lambda query, key, value, training=False: call(query, tf.stop_gradient(key), value)

    plant(monkeypatch, both, path, make)
    (found,) = placed(both)
    assert (found.path, found.kind) == (path, "own")
    assert found.edge == f"{path}:grad_input.key"


def test_every_backward_pass_runs_alone_and_only_a_wrong_one_has_an_error_of_its_own(
    both, monkeypatch
):
    def wrong():
        """Modules of all verdicts, and of those that fail."""
        found = []
        placed(both, everywhere=True, observe=found.extend)
        return (
            {module_of(one.key) for one in found},
            {module_of(one.key) for one in found if not one.passed},
        )

    judged, failed = wrong()
    assert failed == set()
    assert len(judged) >= 180
    path = "backbone.res5.0.conv2"
    plant(monkeypatch, both, path, halved)
    assert wrong() == (judged, {path})

"""Each block alone: float64 to rounding, float32 no worse than the reference; and with a fault."""

import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import tf_impl.layers as tf_layers
import tf_impl.modeling.pixel_decoder as tf_pixel_decoder
import tf_impl.modeling.position_encoding as tf_position_encoding
import tf_impl.modeling.predictor as tf_predictor
import tf_impl.modeling.resnet as tf_resnet
import tf_impl.modeling.swin as tf_swin
import tf_impl.modeling.transformer as tf_transformer
import torch_reference.layers as torch_layers
import torch_reference.modeling.pixel_decoder as torch_pixel_decoder
import torch_reference.modeling.position_encoding as torch_position_encoding
import torch_reference.modeling.predictor as torch_predictor
import torch_reference.modeling.resnet as torch_resnet
import torch_reference.modeling.swin as torch_swin
import torch_reference.modeling.transformer as torch_transformer
from maskformer.model.config import PixelDecoderConfig, PredictorConfig, ResNetConfig, SwinConfig
from maskformer.model.tensor_axes import axis_names
from parity_tests.implementations.modeling.sides import (
    batch_first,
    block,
    failures,
    judge_block,
    nhwc,
    normal,
)

PREDICTOR = PredictorConfig(
    hidden_dim=32, num_queries=5, nheads=4, dim_feedforward=48, dec_layers=2, dropout=0.1
)


def under(prefix: str) -> dict[str, Any]:
    """The axis functions of both sides for a block that sits at `prefix` in the whole model."""

    def axes(path: str, kind: str, name: str, rank: int, *, image: str, tokens: str) -> str:
        place = f"{prefix}.{path}".rstrip(".")
        return axis_names(place, kind, name, rank, image=image, tokens=tokens)

    return {
        "reference": partial(axes, image="NCHW", tokens="SNC"),
        "port": partial(axes, image="NHWC", tokens="NSC"),
    }


MAPS = under("backbone")
TOKENS = under("sem_seg_head.predictor.transformer.block")


CONVOLUTIONS = [
    {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False, "norm": "FrozenBN"},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False, "norm": "FrozenBN"},
    {"kernel_size": 3, "padding": 4, "dilation": 4, "bias": False, "norm": "FrozenBN"},
    {"kernel_size": 3, "padding": 1, "bias": False, "norm": "GN"},
    {"kernel_size": 1, "bias": True, "norm": ""},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=lambda options: str(options["kernel_size"]))
@pytest.mark.parametrize("size", [(12, 16), (13, 9)])
def test_conv2d_equals_reference(options, size):
    pair = block(
        torch_layers.Conv2d(3, 64, activation=F.relu, **options),
        lambda: tf_layers.Conv2d(3, 64, activation=tf.nn.relu, **options),
    )
    assert failures(judge_block(pair, {"input": normal(2, 3, *size)}, axes=MAPS)) == []


def _gap_of_dilated_gradients(size, stride, dilation, for_tpu=False):
    """Of the port's gradients from torch's, whose dilation is 4; in units of their limit."""
    x, weight = normal(2, 3, *size), normal(8, 3, 3, 3)
    leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, weight)]
    out = F.conv2d(*leaves, stride=stride, padding=4, dilation=4)
    upstream = normal(*out.shape)
    exact = torch.autograd.grad(out, leaves, torch.from_numpy(upstream))
    options = {"stride": stride, "padding": dilation, "dilation": dilation, "dtype": "float64"}
    layer = tf_layers.Conv2d(3, 8, 3, **options)
    layer.weight = tf.constant(np.transpose(weight, (2, 3, 1, 0)))
    layer.bias = None
    image = tf.constant(nhwc(x))

    def gradients():
        with tf.GradientTape() as tape, tf_layers.compiled_for_tpu(for_tpu):
            tape.watch([image, layer.weight])
            found = layer(image)
            return tape.gradient(found, [image, layer.weight], tf.constant(nhwc(upstream)))

    # Of a processor's kernels none has the gradient that a TPU's compiler makes.
    ours = tf.function(gradients, jit_compile=True)() if for_tpu else gradients()
    ours = [np.transpose(ours[0], (0, 3, 1, 2)), np.transpose(ours[1], (3, 2, 0, 1))]
    limit = 32 * np.finfo(np.float64).eps
    return max(
        np.linalg.norm(one - of.numpy()) / np.linalg.norm(of.numpy()) / limit
        for one, of in zip(ours, exact, strict=True)
    )


@pytest.mark.parametrize("for_tpu", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(12, 16), (13, 9)])
def test_conv2d_with_dilation_has_the_reference_gradient(stride, size, for_tpu):
    assert _gap_of_dilated_gradients(size, stride, 4, for_tpu) <= 1


@pytest.mark.parametrize("for_tpu", [False, True])
def test_conv2d_with_another_dilation_has_another_gradient(for_tpu):
    assert _gap_of_dilated_gradients((12, 16), 1, 2, for_tpu) > 1e9


def test_conv2d_with_same_padding_fails(monkeypatch):
    convolve = tf.nn.conv2d
    monkeypatch.setattr(
        tf.nn,
        "conv2d",
        lambda *args, padding, **options: convolve(*args, padding="SAME", **options),
    )
    pair = block(
        torch_layers.Conv2d(3, 4, 3, stride=2, padding=1),
        lambda: tf_layers.Conv2d(3, 4, 3, stride=2, padding=1),
    )
    found = failures(judge_block(pair, {"input": normal(1, 3, 12, 16)}, axes=MAPS))
    assert found
    assert found[0].startswith("model:output")


NORMS = {
    "FrozenBN": (lambda: torch_layers.FrozenBatchNorm2d(64), tf_layers.FrozenBatchNorm2d),
    "GN": (lambda: torch.nn.GroupNorm(32, 64), tf_layers.GroupNorm),
    "LN": (lambda: torch.nn.LayerNorm(64), tf_layers.LayerNorm),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_norm_equals_reference(norm, scale):
    reference, port = NORMS[norm]
    shape = (2, 7, 64) if norm == "LN" else (2, 64, 5, 7)
    pair = block(reference(), lambda: port(64))
    assert failures(judge_block(pair, {"input": scale * normal(*shape)}, axes=MAPS)) == []


@pytest.mark.parametrize("norm", NORMS)
def test_norm_with_another_epsilon_fails(norm, monkeypatch):
    monkeypatch.setattr(tf_layers, "NORM_EPSILON", 1e-6)
    reference, port = NORMS[norm]
    shape = (2, 7, 64) if norm == "LN" else (2, 64, 5, 7)
    verdicts = judge_block(
        block(reference(), lambda: port(64)), {"input": normal(*shape)}, axes=MAPS
    )
    assert [one.key for one in verdicts["float64"] if not one.passed] == ["model:output"]


def _group_norm_gradients(dtype, scale):
    """Gradients of input, weight and bias, by framework, of a loss that weighs every output."""
    x, above = scale * normal(3, 64, 5, 7), normal(3, 64, 5, 7, seed=1)
    affine = normal(2, 64, seed=2)
    reference = torch.nn.GroupNorm(32, 64, dtype=getattr(torch, dtype))
    with torch.no_grad():
        reference.weight.copy_(torch.from_numpy(affine[0]))
        reference.bias.copy_(torch.from_numpy(affine[1]))
    wanted = torch.from_numpy(x.astype(dtype)).requires_grad_()
    out = reference(wanted)
    out.backward(torch.from_numpy(above.astype(dtype)))
    port = tf_layers.GroupNorm(64, dtype=dtype)
    port.weight.assign(affine[0])
    port.bias.assign(affine[1])
    given = tf.constant(x.transpose(0, 2, 3, 1), dtype)
    with tf.GradientTape() as tape:
        tape.watch(given)
        out = port(given)
    variables = [given, port.weight, port.bias]
    found = tape.gradient(out, variables, tf.constant(above.transpose(0, 2, 3, 1), dtype))
    return (
        [wanted.grad.numpy(), reference.weight.grad.numpy(), reference.bias.grad.numpy()],
        [found[0].numpy().transpose(0, 3, 1, 2), found[1].numpy(), found[2].numpy()],
    )


def _relative_gap(value, exact):
    return np.abs(np.float64(value) - exact).max() / np.abs(exact).max()


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_group_norm_gradients_equal_the_reference(scale):
    exact, port = _group_norm_gradients("float64", scale)
    assert max(map(_relative_gap, port, exact)) < 1e-12
    reference, port = _group_norm_gradients("float32", scale)
    for mine, theirs, value in zip(port, reference, exact, strict=True):
        assert _relative_gap(mine, value) <= 4 * max(_relative_gap(theirs, value), 2.0**-24)


def _group_norm_errors():
    """Error in float32 of reference and port over a large map, whose sums are long."""
    x = (3 + normal(1, 64, 96, 128)).astype(np.float32)
    exact = torch.nn.GroupNorm(32, 64, dtype=torch.float64)(torch.from_numpy(np.float64(x)))
    exact = exact.detach().numpy()
    reference = torch.nn.GroupNorm(32, 64)(torch.from_numpy(x)).detach().numpy()
    port = tf_layers.GroupNorm(64)(tf.constant(x.transpose(0, 2, 3, 1)))
    port = port.numpy().transpose(0, 3, 1, 2)
    return [np.linalg.norm(np.float64(y) - exact) for y in (reference, port)]


def test_group_norm_of_a_large_map_is_as_exact_as_the_reference():
    reference, port = _group_norm_errors()
    assert port <= 4 * reference


def test_group_norm_with_one_long_sum_is_noticed(monkeypatch):
    """The twin: a mean that adds all places one by one."""

    def one_by_one(x, num_groups):
        flat = tf.transpose(x, (1, 2, 0, 3))
        flat = tf.reshape(flat, (-1, *flat.shape[2:]))
        mean = tf.cumsum(flat)[-1] / flat.shape[0]
        return tf.repeat(
            tf.reduce_mean(tf.reshape(mean, (1, num_groups, -1)), axis=2),
            x.shape[-1] // num_groups,
            axis=1,
        )[:, None, None]

    monkeypatch.setattr(tf_layers, "group_mean", one_by_one)
    reference, port = _group_norm_errors()
    assert port > 4 * reference


@pytest.mark.parametrize("broken", ["through_mean", "through_variance"])
def test_group_norm_gradients_notice_a_dropped_term(broken, monkeypatch):
    """The twin: the input's gradient without what runs through a statistic."""
    source = inspect.getsource(tf_layers._group_norm)
    term = f"{broken} = "
    assert source.count(term) == 1
    scope = vars(tf_layers).copy()
    exec(source.replace(term, f"{broken} = 0 * "), scope)
    monkeypatch.setattr(tf_layers, "_group_norm", scope["_group_norm"])
    exact, port = _group_norm_gradients("float64", 1.0)
    assert _relative_gap(port[0], exact[0]) > 1e-3


@pytest.mark.parametrize("execution", ["eager", "graph", "xla"])
def test_multihead_attention_equals_reference(execution):
    pair = block(
        torch.nn.MultiheadAttention(32, 4, dropout=0.1),
        lambda: tf_layers.MultiheadAttention(32, 4, dropout=0.1),
    )
    inputs = {"query": normal(5, 2, 32), "key": normal(7, 2, 32, seed=1)}
    inputs["value"] = normal(7, 2, 32, seed=2)
    assert failures(judge_block(pair, inputs, batch_first, TOKENS, execution)) == []


def test_multihead_attention_with_swapped_projections_fails():
    pair = block(torch.nn.MultiheadAttention(32, 4), lambda: tf_layers.MultiheadAttention(32, 4))
    for model in pair.port.values():
        q, k, v = np.split(model.in_proj_weight.numpy(), 3, axis=1)
        model.in_proj_weight.assign(np.concatenate([k, q, v], axis=1))
    inputs = {"query": normal(5, 2, 32), "key": normal(7, 2, 32, seed=1)}
    inputs["value"] = normal(7, 2, 32, seed=2)
    assert failures(judge_block(pair, inputs, batch_first, TOKENS))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_transformer_encoder_equals_reference(pre_norm):
    sizes = (2, 32, 4, 48, 0.1, pre_norm)
    pair = block(
        torch_transformer.TransformerEncoder(*sizes),
        lambda: tf_transformer.TransformerEncoder(*sizes),
    )
    inputs = {"src": normal(6, 2, 32), "pos": normal(6, 2, 32, seed=1)}
    assert failures(judge_block(pair, inputs, batch_first, TOKENS)) == []


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("intermediate", [False, True])
def test_transformer_decoder_equals_reference(pre_norm, intermediate):
    sizes = (2, 32, 4, 48, 0.1, pre_norm, intermediate)
    pair = block(
        torch_transformer.TransformerDecoder(*sizes),
        lambda: tf_transformer.TransformerDecoder(*sizes),
    )
    inputs = {
        "tgt": normal(5, 2, 32),
        "memory": normal(6, 2, 32, seed=1),
        "pos": normal(6, 2, 32, seed=2),
        "query_pos": normal(5, 2, 32, seed=3),
    }
    assert failures(judge_block(pair, inputs, batch_first, TOKENS)) == []


def test_transformer_encoder_with_scaled_output_fails():
    sizes = (1, 32, 4, 48, 0.1, False)
    pair = block(
        torch_transformer.TransformerEncoder(*sizes),
        lambda: tf_transformer.TransformerEncoder(*sizes),
    )
    for model in pair.port.values():
        call = model.call
        model.call = lambda src, pos, training=False, call=call: 2 * call(src, pos)
    inputs = {"src": normal(6, 2, 32), "pos": normal(6, 2, 32, seed=1)}
    found = failures(judge_block(pair, inputs, batch_first, TOKENS))
    assert [line.split()[0] for line in found] == ["model:output", "model:output"]


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (5, 2)])
def test_position_encoding_equals_reference(size):
    pair = block(
        torch_position_encoding.PositionEmbeddingSine(16),
        lambda: tf_position_encoding.PositionEmbeddingSine(16),
    )
    assert failures(judge_block(pair, {"x": normal(2, 3, *size)}, axes=MAPS)) == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_gradient_of_a_softmax_is_zero_where_all_above_is_equal(dtype):
    """Exactly, for a power of two, whatever the probabilities of a row add up to; TensorFlow's own
    leaves that sum's distance from 1."""
    logits = tf.cast(tf.random.stateless_normal((400, 20), (1, 0)), dtype)
    above = tf.fill(logits.shape, tf.constant(4.0, logits.dtype))

    def largest(of):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            out = of(logits)
        return float(tf.reduce_max(tf.abs(tape.gradient(out, logits, above))))

    assert largest(tf_layers.softmax) == 0.0
    assert largest(tf.nn.softmax) > 0.0


def test_the_gradient_of_a_bias_is_summed_in_float32():
    """4,096 gradients of 1 and more: in bfloat16 a sum of ones stops growing at 256."""
    x = tf.zeros((2, 64, 32, 3), tf.bfloat16)
    above = tf.random.stateless_uniform(x.shape, (0, 0), 1.0, 2.0)
    above = tf.cast(above, tf.bfloat16)
    bias = tf.zeros(3, tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(bias)
        out = tf_layers.add_bias(x, bias)
    found = tape.gradient(out, bias, above)
    exact = above.numpy().astype(np.float64).sum(axis=(0, 1, 2))
    assert found.dtype == tf.bfloat16
    np.testing.assert_allclose(found.numpy().astype(np.float64), exact, rtol=2.0**-8)


def test_a_resize_in_bfloat16_rounds_once():
    x = tf.cast(tf.random.stateless_normal((2, 3, 5, 7), (1, 0)), tf.bfloat16)
    found = tf_layers.resize_bilinear(x, (20, 28))
    once = tf.cast(tf_layers.resize_bilinear(tf.cast(x, tf.float32), (20, 28)), tf.bfloat16)
    assert found.dtype == tf.bfloat16
    assert bool(tf.reduce_all(found == once))


def test_position_encoding_of_a_bfloat16_map_counts_in_float32():
    encode, x = torch_position_encoding.PositionEmbeddingSine(16), torch.zeros(1, 8, 20, 300)
    found = encode(x.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, encode(x))
    assert encode(x.double()).dtype == torch.float64


def test_position_encoding_counted_from_zero_fails(monkeypatch):
    encode = tf_position_encoding.sine_position_encoding
    monkeypatch.setattr(
        tf_position_encoding,
        "sine_position_encoding",
        lambda height, width, feats: np.roll(encode(height, width, feats), 1, axis=0),
    )
    pair = block(
        torch_position_encoding.PositionEmbeddingSine(16),
        lambda: tf_position_encoding.PositionEmbeddingSine(16),
    )
    assert failures(judge_block(pair, {"x": normal(2, 3, 3, 4)}, axes=MAPS))


BOTTLENECKS = [
    {"stride": 2, "stride_in_1x1": False, "dilation": 1},
    {"stride": 2, "stride_in_1x1": True, "dilation": 1},
    {"stride": 1, "stride_in_1x1": False, "dilation": 2},
]


@pytest.mark.parametrize("options", BOTTLENECKS)
@pytest.mark.parametrize("norm", ["FrozenBN", "GN"])
def test_bottleneck_block_equals_reference(options, norm):
    width = 128 if norm == "GN" else 16
    pair = block(
        torch_resnet.BottleneckBlock(8, width, norm=norm, **options),
        lambda: tf_resnet.BottleneckBlock(8, width, norm=norm, **options),
    )
    assert failures(judge_block(pair, {"x": normal(2, 8, 9, 12)}, axes=MAPS)) == []


@pytest.mark.parametrize("stem", ["BasicStem", "DeepLabStem"])
def test_stem_equals_reference(stem):
    pair = block(
        getattr(torch_resnet, stem)(16, "FrozenBN"),
        lambda: getattr(tf_resnet, stem)(16, "FrozenBN"),
    )
    assert failures(judge_block(pair, {"x": normal(1, 3, 33, 40)}, axes=MAPS)) == []


def test_max_pool_padded_with_zeros_differs():
    """Zeros instead of minus infinity show where all neighbours are negative."""
    x = -1.0 - np.abs(normal(1, 4, 6, 6))
    padded = tf.pad(nhwc(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    wrong = tf.nn.max_pool2d(padded, 3, 2, "VALID").numpy()
    right = tf_layers.max_pool2d(tf.constant(nhwc(x)), 3, 2, 1).numpy()
    reference = nhwc(F.max_pool2d(torch.from_numpy(x), 3, 2, 1).numpy())
    np.testing.assert_array_equal(right, reference)
    assert (wrong != reference).any()


def test_resnet18_with_group_norm_equals_reference():
    config = ResNetConfig(depth=18, res2_out_channels=64, norm="GN")
    pair = block(torch_resnet.ResNet(config), lambda: tf_resnet.ResNet(config))
    assert failures(judge_block(pair, {"x": normal(1, 3, 40, 64)}, axes=MAPS)) == []


@pytest.mark.parametrize("name", ["BasePixelDecoder", "TransformerEncoderPixelDecoder"])
@pytest.mark.parametrize("norm", ["GN", ""])
def test_pixel_decoder_equals_reference(name, norm):
    config = PixelDecoderConfig(name, 32, 24, norm, transformer_enc_layers=1)
    channels = {"res2": 6, "res3": 8, "res4": 10, "res5": 12}
    pair = block(
        torch_pixel_decoder.PixelDecoder(config, channels, PREDICTOR),
        lambda: tf_pixel_decoder.PixelDecoder(config, channels, PREDICTOR),
    )
    sizes = {"res2": (17, 23), "res3": (9, 12), "res4": (5, 6), "res5": (3, 3)}
    features = {name: normal(2, channels[name], *sizes[name]) for name in channels}
    assert (
        failures(
            judge_block(pair, {"features": features}, nhwc, under("sem_seg_head.pixel_decoder"))
        )
        == []
    )


@pytest.mark.parametrize("classes", [7, None])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_predictor_equals_reference(classes, deep_supervision):
    config = PredictorConfig(
        hidden_dim=32,
        num_queries=5,
        nheads=4,
        dim_feedforward=48,
        dec_layers=2,
        enc_layers=1,
        deep_supervision=deep_supervision,
    )
    pair = block(
        torch_predictor.TransformerPredictor(config, 12, classes, 24),
        lambda: tf_predictor.TransformerPredictor(config, 12, classes, 24),
    )
    inputs = {"x": normal(2, 12, 3, 4), "mask_features": normal(2, 24, 6, 8, seed=1)}
    assert failures(judge_block(pair, inputs, nhwc, under("sem_seg_head.predictor"))) == []


SWIN = SwinConfig(embed_dim=16, num_heads=(2, 2, 2, 2), window_size=4, depths=(2, 2, 1, 1))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_swin_block_equals_reference(shift, size):
    height, width = size
    mask = torch_swin.shift_mask(height, width, SWIN.window_size)
    pair = block(
        torch_swin.SwinTransformerBlock(16, 2, shift, 0.3, SWIN),
        lambda: tf_swin.SwinTransformerBlock(16, 2, shift, 0.3, SWIN),
    )
    inputs = {"x": normal(2, height * width, 16), "height": height, "width": width}
    inputs["shift_mask"] = mask
    assert failures(judge_block(pair, inputs, lambda array: array, MAPS)) == []


def test_swin_block_with_unmasked_shift_fails():
    pair = block(
        torch_swin.SwinTransformerBlock(16, 2, 2, 0.0, SWIN),
        lambda: tf_swin.SwinTransformerBlock(16, 2, 2, 0.0, SWIN),
    )
    mask = torch_swin.shift_mask(8, 8, SWIN.window_size)
    inputs = {"x": normal(1, 64, 16), "height": 8, "width": 8, "shift_mask": mask}
    for model in pair.port.values():
        call = model.attn.call
        model.attn.call = lambda x, shift_mask, training=False, call=call: call(x, 0 * shift_mask)
    found = failures(judge_block(pair, inputs, lambda array: array, MAPS))
    assert any(line.startswith("attn:output") for line in found)


@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 4), (7, 10, 4), (14, 20, 7)])
def test_shift_mask_is_derived_twice_and_equal(height, width, window):
    reference = torch_swin.shift_mask(height, width, window)
    np.testing.assert_array_equal(tf_swin.shift_mask(height, width, window), reference)
    assert (reference != 0).any()


def test_swin_backbone_equals_reference():
    pair = block(torch_swin.SwinTransformer(SWIN), lambda: tf_swin.SwinTransformer(SWIN))
    assert failures(judge_block(pair, {"x": normal(1, 3, 37, 50)}, nhwc, MAPS)) == []


SIDES = st.integers(1, 40)


@settings(max_examples=200)
@given(out_size=SIDES, in_size=SIDES)
def test_nearest_indices_are_torch_s_rule(out_size, in_size):
    expected = F.interpolate(torch.arange(in_size)[None, None].float(), size=out_size)
    found = tf_layers.nearest_indices(out_size, in_size)
    np.testing.assert_array_equal(found, expected[0, 0].numpy().astype(int))


def test_nearest_at_pixel_centres_is_another_rule():
    """What `tf.image.resize` does: it differs from torch's rule, and the test above sees it."""
    x = np.arange(5.0)[None, :, None, None]
    centre = tf.image.resize(x, (8, 1), method="nearest").numpy()[0, :, 0, 0]
    assert (centre != x[0, tf_layers.nearest_indices(8, 5), 0, 0]).any()


@settings(max_examples=25)
@given(size=st.tuples(SIDES, SIDES), factor=st.integers(1, 4))
def test_resize_nearest_equals_reference(size, factor):
    x = normal(1, 2, *size)
    for target in ((size[0] * factor, size[1] * factor), (7, 40)):
        expected = F.interpolate(torch.from_numpy(x), size=target, mode="nearest").numpy()
        found = tf_layers.resize_nearest(tf.constant(nhwc(x)), target).numpy()
        np.testing.assert_array_equal(found, nhwc(expected))


@settings(max_examples=50)
@given(size=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES))
def test_resize_bilinear_equals_reference(size, target):
    x = normal(2, 3, *size)
    expected = F.interpolate(torch.from_numpy(x), target, mode="bilinear", align_corners=False)
    found = tf_layers.resize_bilinear(tf.constant(x), target).numpy()
    # Four products and three sums of numbers of at most `largest`, each rounded once.
    limit = 8 * np.finfo(np.float64).eps * np.abs(x).max() * max(*size, *target)
    difference = np.abs(found - expected.numpy()).max()
    assert difference <= limit, (
        f"resize is off by {difference:.2g}, but should be below {limit:.2g}"
    )


def test_resize_bilinear_with_aligned_corners_fails():
    x = normal(1, 1, 5, 5)
    aligned = F.interpolate(torch.from_numpy(x), (9, 9), mode="bilinear", align_corners=True)
    found = tf_layers.resize_bilinear(tf.constant(x), (9, 9)).numpy()
    assert np.abs(found - aligned.numpy()).max() > 0.01


def test_gelu_is_exact_in_float64():
    x = normal(1000)
    expected = F.gelu(torch.from_numpy(x)).numpy()
    limit = 8 * np.finfo(np.float64).eps * np.abs(x).max()
    assert np.abs(tf_layers.gelu(tf.constant(x)).numpy() - expected).max() <= limit


def test_tf_nn_gelu_loses_float64():
    """The reason for a GELU of our own, and for the ledger's entry."""
    x = normal(1000)
    expected = F.gelu(torch.from_numpy(x)).numpy()
    assert np.abs(tf.nn.gelu(tf.constant(x), approximate=False).numpy() - expected).max() > 1e-9

"""Faults of the forward pass: ResNet, pixel decoder, transformer, heads, conversion, precision."""

import numpy as np
import tensorflow as tf

import tf_impl.modeling.pixel_decoder as pixel_decoder
import tf_impl.modeling.position_encoding as position_encoding
import tf_impl.modeling.predictor as predictor
import tf_impl.modeling.resnet as resnet
from replication.faults.catalogue.planting import (
    assigned,
    attribute,
    call,
    constant,
    function,
    line,
    maker,
    together,
    weights,
)
from tf_impl.layers import resize_bilinear

PORT = "arXiv 2404.18801, the TensorFlow replication"
KERAS = "default of Keras"
PIXELS = "sem_seg_head.pixel_decoder"
ENCODER = f"{PIXELS}.transformer.encoder"
PREDICTOR = "sem_seg_head.predictor"
DECODER = f"{PREDICTOR}.transformer.decoder"
SAME = ("padding=_explicit(self.padding)", 'padding="SAME"')

_fault = maker("id family stage what plant places causes imitates bench", bench="model")


def epsilon(value):
    return ("_normalise(x, mean, variance)", f"(x - mean) / tf.sqrt(variance + {value})")


def _transposed(array):
    return array.T


def _thirds(*order):
    return lambda array: np.concatenate([np.split(array, 3)[i] for i in order])


def _swapped(first, second):
    return assigned(lambda arrays: {first: arrays[second], second: arrays[first]})


def _rounded(dtype):
    return lambda array: array.astype(dtype).astype(array.dtype)


def _through(dtype):
    """The call's result passes through another dtype."""

    def wrong(original, module):
        def run(*args, **kwargs):
            result = original(*args, **kwargs)
            return tf.cast(tf.cast(result, dtype), result.dtype)

        return run

    return wrong


def _after(change):
    """The call's result is changed."""
    return lambda original, module: lambda *args, **kwargs: change(original(*args, **kwargs))


def _reflected(original, module):
    """A 3x3 convolution with bias whose input is reflected at the border."""

    def run(input):
        padded = tf.pad(input, ((0, 0), (1, 1), (1, 1), (0, 0)), "REFLECT")
        return tf.nn.bias_add(tf.nn.conv2d(padded, module.weight, 1, "VALID"), module.bias)

    return run


PADDING = (
    _fault(
        "stem-same-padding", "padding", "backbone", "the stem pads with SAME",
        line("backbone.stem.conv1", *SAME),
        ("backbone.stem.conv1", "backbone.stem.conv1.norm:input"), "SAME padding", PORT,
    ),
    _fault(
        "block-same-padding", "padding", "backbone", "a 3x3 convolution of stride 2 pads with SAME",
        line("backbone.res3.0.conv2", *SAME),
        ("backbone.res3.0.conv2", "backbone.res3.0.conv2.norm:input"), "SAME padding", PORT,
    ),
    _fault(
        "reflected-border", "padding", "pixel_decoder",
        "an output convolution reflects the border instead of padding zeros",
        call(f"{PIXELS}.mask_features", _reflected),
        (f"{PIXELS}.mask_features",), ("reflect padding", "padding"),
    ),
    _fault(
        "pool-same-padding", "padding", "backbone", "the max pool pads with SAME",
        constant(
            resnet, "max_pool2d",
            lambda x, kernel_size, stride, padding: tf.nn.max_pool2d(
                x, kernel_size, stride, "SAME"
            ),
        ),
        ("backbone.stem", "backbone.stem:output"), "SAME padding", PORT,
    ),
)  # fmt: skip

EPSILONS = (
    _fault(
        "group-norm-epsilon-1e-3", "epsilon", "pixel_decoder", "GroupNorm uses epsilon 1e-3",
        line(f"{PIXELS}.layer_2.norm", "NORM_EPSILON", "1e-3"), f"{PIXELS}.layer_2.norm",
        "epsilon 0.001 instead of 1e-05", f"{PORT}; {KERAS}",
    ),
    _fault(
        "layer-norm-epsilon-1e-3", "epsilon", "pixel_decoder", "LayerNorm uses epsilon 1e-3",
        line(f"{ENCODER}.layers.0.norm1", *epsilon(1e-3)), f"{ENCODER}.layers.0.norm1",
        "epsilon 0.001 instead of 1e-05", f"{PORT}; {KERAS}",
    ),
    _fault(
        "layer-norm-epsilon-1e-6", "epsilon", "transformer", "LayerNorm uses epsilon 1e-6",
        line(f"{DECODER}.layers.1.norm2", *epsilon(1e-6)), f"{DECODER}.layers.1.norm2",
        "epsilon 1e-06 instead of 1e-05", "default of JAX and of several ports",
    ),
    _fault(
        "final-norm-epsilon-1e-12", "epsilon", "transformer", "decoder.norm uses epsilon 1e-12",
        line(f"{DECODER}.norm", *epsilon(1e-12)), f"{DECODER}.norm",
        "epsilon 1e-12 instead of 1e-05", "default of BERT ports",
    ),
    _fault(
        "frozen-norm-epsilon-1e-3", "epsilon", "backbone", "frozen batch norm uses epsilon 1e-3",
        line("backbone.res2.0.conv1.norm", "self.running_var + NORM_EPSILON",
             "self.running_var + 1e-3"),
        "backbone.res2.0.conv1.norm", "epsilon 0.001 instead of 1e-05", f"{PORT}; {KERAS}",
    ),
    _fault(
        "position-epsilon-0", "epsilon", "pixel_decoder", "positions are normalised without 1e-6",
        constant(position_encoding, "EPSILON", 0.0), (f"{PIXELS}.pe_layer",),
        ("epsilon 0 instead of 1e-06", "without adding 1e-06"),
    ),
    _fault(
        "unbiased-variance", "epsilon", "transformer", "LayerNorm divides by n - 1",
        line(
            f"{DECODER}.layers.0.norm3", "_normalise(x, mean, variance)",
            "_normalise(x, mean, variance * x.shape[-1] / (x.shape[-1] - 1))",
        ),
        f"{DECODER}.layers.0.norm3", "unbiased variance",
    ),
)  # fmt: skip

LAYOUTS = (
    _fault(
        "square-weight-transposed", "layout", "transformer", "a square matrix is not transposed",
        weights(_transposed, f"{DECODER}.layers.0.self_attn.out_proj.weight"),
        (f"{DECODER}.layers.0.self_attn", f"{DECODER}.layers.0.self_attn.out_proj"),
        ("transposed",), PORT,
    ),
    _fault(
        "kernel-height-width", "layout", "backbone", "a kernel's height and width are swapped",
        weights(lambda a: a.transpose(0, 1, 3, 2), "backbone.res2.0.conv2.weight"),
        ("backbone.res2.0.conv2", "backbone.res2.0.conv2.norm:input"),
        "height and width of the kernel transposed",
    ),
    _fault(
        "kernel-turned", "layout", "backbone", "a kernel is flipped, as true convolution has it",
        weights(lambda a: a[:, :, ::-1, ::-1], "backbone.res2.1.conv2.weight"),
        ("backbone.res2.1.conv2", "backbone.res2.1.conv2.norm:input"), "turned by 180 degrees",
    ),
    _fault(
        "kernel-channels-transposed", "layout", "backbone",
        "input and output channels of a square kernel are swapped",
        weights(lambda a: a.transpose(1, 0, 2, 3), "backbone.res2.2.conv2.weight"),
        ("backbone.res2.2.conv2", "backbone.res2.2.conv2.norm:input"), "transposed",
    ),
    _fault(
        "packed-projection-order", "layout", "pixel_decoder", "q, k, v are read as k, q, v",
        together(
            weights(_thirds(1, 0, 2), f"{ENCODER}.layers.0.self_attn.in_proj_weight"),
            weights(_thirds(1, 0, 2), f"{ENCODER}.layers.0.self_attn.in_proj_bias"),
        ),
        f"{ENCODER}.layers.0.self_attn", ("order", "swapped", "transposed"), PORT,
    ),
    _fault(
        "heads-interleaved", "layout", "transformer", "channels are dealt to heads in turn",
        line(
            f"{DECODER}.layers.1.multihead_attn",
            "x = tf.reshape(x, (n, length, self.num_heads, width // self.num_heads))\n"
            "    return tf.transpose(x, (0, 2, 1, 3))",
            "x = tf.reshape(x, (n, length, width // self.num_heads, self.num_heads))\n"
            "    return tf.transpose(x, (0, 3, 1, 2))",
            "_heads",
        ),
        f"{DECODER}.layers.1.multihead_attn", "heads in turn",
    ),
    _fault(
        "tokens-width-first", "layout", "pixel_decoder", "tokens are counted column by column",
        line(
            f"{PIXELS}.transformer", "self.encoder(_flatten(src)",
            "self.encoder(_flatten(tf.transpose(src, (0, 2, 1, 3)))",
        ),
        (f"{PIXELS}.transformer", f"{ENCODER}:input.src"), "merged in the other order",
    ),
    _fault(
        "blue-first", "layout", "input", "images are read as BGR",
        line("", "pixels = wide(images)", "pixels = wide(images)[..., ::-1]"),
        ("model", "backbone:input"), ("images is reversed along axis",),
        "OpenCV's order of channels",
    ),
    _fault(
        "mean-std-order", "layout", "input", "the mean is that of BGR images",
        line("", "np.float32(self.config.pixel_mean)", "np.float32(self.config.pixel_mean)[::-1]"),
        ("model", "backbone:input"), ("reversed", "rolled", "values"),
    ),
    _fault(
        "std-left-out", "layout", "input", "images are not divided by their deviation",
        line("", "x = (pixels - mean) / std", "x = pixels - mean"),
        ("model", "backbone:input"), ("divisor is left out", "left out"),
        "detectron2's older Caffe2 models",
    ),
    _fault(
        "masks-per-query-flipped", "layout", "heads", "queries of the masks are in reverse order",
        line(PREDICTOR, "masks = _mask_logits(self.mask_embed(hs), mask_features)",
             "masks = _mask_logits(self.mask_embed(hs), mask_features)[:, :, ::-1]"),
        (PREDICTOR, f"{PREDICTOR}:output.pred_masks",
         f"{PREDICTOR}:output.aux_outputs.0.pred_masks"),
        ("reversed along axis",),
    ),
)  # fmt: skip

RESIZE = (
    _fault(
        "fpn-nearest-centres", "resize", "pixel_decoder", "nearest resize samples pixel centres",
        constant(pixel_decoder, "resize_nearest",
                 lambda x, size: tf.image.resize(x, size, method="nearest")),
        (PIXELS, f"{PIXELS}.layer_3:input"), "nearest (pixel centres)", PORT,
    ),
    _fault(
        "fpn-bilinear", "resize", "pixel_decoder", "the FPN upsamples bilinearly",
        constant(pixel_decoder, "resize_nearest",
                 lambda x, size: tf.transpose(
                     resize_bilinear(tf.transpose(x, (0, 3, 1, 2)), size), (0, 2, 3, 1))),
        (PIXELS, f"{PIXELS}.layer_3:input"), "bilinear resize", "later FPN variants",
    ),
)  # fmt: skip

POSITIONS = (
    _fault(
        "position-temperature", "position", "pixel_decoder", "temperature 1000 instead of 10000",
        constant(position_encoding, "TEMPERATURE", 1000.0), f"{PIXELS}.pe_layer",
        "base 1000 instead of 10000",
    ),
    _fault(
        "position-from-0", "position", "pixel_decoder", "positions count from 0",
        function(position_encoding, "sine_position_encoding",
                 "np.arange(1, count + 1) / (count + EPSILON)",
                 "np.arange(count) / (count - 1 + EPSILON)"),
        f"{PIXELS}.pe_layer", ("counted from 0",),
    ),
    _fault(
        "position-not-normalised", "position", "pixel_decoder", "positions are not normalised",
        function(position_encoding, "sine_position_encoding",
                 "np.arange(1, count + 1) / (count + EPSILON) * (2 * math.pi)",
                 "np.arange(1.0, count + 1)"),
        f"{PIXELS}.pe_layer", ("left out",),
    ),
    _fault(
        "position-columns-first", "position", "pixel_decoder", "(x, y) instead of (y, x)",
        function(position_encoding, "sine_position_encoding", "[rows, columns]",
                 "[columns, rows]"),
        f"{PIXELS}.pe_layer", ("swapped", "rolled"), PORT,
    ),
    _fault(
        "position-sine-cosine", "position", "pixel_decoder", "cosines come before sines",
        function(position_encoding, "sine_position_encoding", "channel % 2 == 0",
                 "channel % 2 == 1"),
        f"{PIXELS}.pe_layer", ("swapped", "cos instead of sin", "sin instead of cos"),
    ),
    _fault(
        "position-not-interleaved", "position", "pixel_decoder",
        "all sines, then all cosines, instead of alternating",
        function(
            position_encoding, "sine_position_encoding",
            "return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))",
            "return np.concatenate([np.sin(angle)[:, 0::2], np.cos(angle)[:, 1::2]], axis=1)",
        ),
        f"{PIXELS}.pe_layer", ("order", "merged", "split", "stack"), "sequence transformers",
    ),
    _fault(
        "position-left-out", "position", "transformer", "queries have no positions",
        line(f"{DECODER}.layers.1",
             "query = tgt + query_pos\n    attended, _ = self.self_attn(",
             "query = tgt\n    attended, _ = self.self_attn("),
        (f"{DECODER}.layers.1", f"{DECODER}.layers.1.self_attn:input.query"), "left out",
    ),
    _fault(
        "position-in-values", "position", "transformer", "positions are added to values too",
        line(f"{DECODER}.layers.0",
             "query = tgt + query_pos\n    attended, _ = self.multihead_attn(query, key, memory",
             "query = tgt + query_pos\n    attended, _ = self.multihead_attn(query, key, key"),
        (f"{DECODER}.layers.0", f"{DECODER}.layers.0.multihead_attn:input.value"),
        ("multihead_attn:input.key",), "the transformer of torch.nn",
    ),
    _fault(
        "position-mask-from-features", "position", "pixel_decoder",
        "positions where features are zero are not counted",
        line(f"{PIXELS}.pe_layer",
             "return tf.broadcast_to(encoding, (batch, *encoding.shape[1:]))",
             "used = tf.cast(x[..., :1] > 0.0, x.dtype)\n"
             "    return used * tf.broadcast_to(encoding, (batch, *encoding.shape[1:]))"),
        (f"{PIXELS}.pe_layer",), (), PORT,
    ),
)  # fmt: skip

ATTENTION = (
    _fault(
        "attention-not-scaled", "attention", "transformer", "logits are not scaled",
        line(f"{DECODER}.layers.0.multihead_attn", "q * (1.0 / math.sqrt(width))", "q"),
        f"{DECODER}.layers.0.multihead_attn", ("left out", "multiplied by"),
    ),
    _fault(
        "attention-scale-by-width", "attention", "transformer", "logits are scaled by 1 / width",
        line(f"{DECODER}.layers.1.multihead_attn", "1.0 / math.sqrt(width)", "1.0 / width"),
        f"{DECODER}.layers.1.multihead_attn", ("multiplied by", "square of the factor"),
    ),
    _fault(
        "attention-scale-1e-6", "attention", "pixel_decoder",
        "logits are scaled by a factor of 1 + 1e-6 too much",
        line(f"{ENCODER}.layers.0.self_attn", "1.0 / math.sqrt(width)",
             "(1.0 + 1e-6) / math.sqrt(width)"),
        f"{ENCODER}.layers.0.self_attn", ("multiplied by 1.000001",),
    ),
    _fault(
        "attention-without-biases", "attention", "pixel_decoder", "q, k and v have no biases",
        weights(np.zeros_like, f"{ENCODER}.layers.0.self_attn.in_proj_bias"),
        f"{ENCODER}.layers.0.self_attn", ("missing (zeros)", "without its bias", "left out"),
        PORT,
    ),
    _fault(
        "attention-without-output-bias", "attention", "transformer", "the output has no bias",
        line(f"{DECODER}.layers.0.self_attn", "self.out_proj.weight, self.out_proj.bias",
             "self.out_proj.weight, None"),
        (f"{DECODER}.layers.0.self_attn",),
        ("without its bias", "missing (zeros)", "left out"), PORT,
    ),
    _fault(
        "attention-causal-mask", "attention", "transformer", "queries attend to earlier ones only",
        line(f"{DECODER}.layers.1.self_attn", "softmax(wide(logits))",
             "softmax(wide(logits) - 1e9 * (1.0 - tf.linalg.band_part("
             "tf.ones_like(logits), -1, 0)))"),
        f"{DECODER}.layers.1.self_attn", "later positions are masked",
    ),
    _fault(
        "attention-softmax-axis", "attention", "transformer", "the softmax is over queries",
        line(f"{DECODER}.layers.0.multihead_attn", "softmax(wide(logits))",
             "tf.nn.softmax(wide(logits), axis=-2)"),
        f"{DECODER}.layers.0.multihead_attn", "softmax over axis",
    ),
    _fault(
        "no-residual", "attention", "transformer", "a residual connection is missing",
        line(f"{DECODER}.layers.1", "self.norm2(tgt + self.dropout2(attended, training=training))",
             "self.norm2(self.dropout2(attended, training=training))"),
        (f"{DECODER}.layers.1", f"{DECODER}.layers.1.norm2:input"), ("left out",),
    ),
    _fault(
        "no-block-residual", "attention", "backbone", "a block has no shortcut",
        line("backbone.res4.1", "tf.nn.relu(out + (x if", "tf.nn.relu(out + 0 * (x if"),
        ("backbone.res4.1", "backbone.res4.1:output"), "left out",
    ),
    _fault(
        "block-relu-before-sum", "attention", "backbone", "ReLU comes before the residual sum",
        line("backbone.res4.2", "out = self.conv3(out)", "out = tf.nn.relu(self.conv3(out))"),
        ("backbone.res4.2", "backbone.res4.2:output"), "ReLU of its",
    ),
    _fault(
        "norm-before-attention", "attention", "transformer", "the layer normalises first",
        attribute(f"{DECODER}.layers.0", "pre_norm", lambda own: True),
        (f"{DECODER}.layers.0", f"{DECODER}.layers.0.self_attn:input.query"),
        ("pre_norm is True",), "later DETR variants",
    ),
    _fault(
        "extra-encoder-norm", "attention", "pixel_decoder", "a norm follows the encoder",
        line(ENCODER, "return src if self.norm is None else self.norm(src)",
             "return self.layers[-1].norm2(src)"),
        (ENCODER, f"{ENCODER}:output"), ("passed through",), PORT,
    ),
    _fault(
        "decoder-norm-last-only", "attention", "transformer",
        "decoder.norm is applied to the last output only",
        line(DECODER, "outputs.append(self.norm(tgt))\n    if not",
             "outputs.append(self.norm(tgt) if layer is self.layers[-1] else tgt)\n    if not"),
        (DECODER, f"{DECODER}:output"), ("norm instead of after it",),
        "transformers' MaskFormer",
    ),
    _fault(
        "memory-after-convolution", "attention", "pixel_decoder",
        "the decoder's memory is what follows the 3x3 convolution",
        line(PIXELS, "y = self.layer_4(top)", "encoded = y = self.layer_4(top)"),
        (PIXELS, f"{PIXELS}:output.1"), f"the port has {PIXELS}.layer_4:output here", PORT,
    ),
    _fault(
        "decoder-starts-at-queries", "attention", "transformer",
        "the decoder starts from the query embedding instead of zeros",
        line(f"{PREDICTOR}.transformer", "tf.zeros_like(query_pos)", "query_pos"),
        (f"{PREDICTOR}.transformer", f"{DECODER}:input.tgt"),
        (f"{DECODER}:input.query_pos", "query_pos here", "input.query_embed here"),
        "other DETR ports",
    ),
    _fault(
        "ffn-gelu", "attention", "transformer", "the feed-forward uses GELU instead of ReLU",
        line(f"{DECODER}.layers.0", "tf.nn.relu(self.linear1(x))",
             "0.5 * (_h := self.linear1(x)) * (1.0 + tf.math.erf(_h * 0.7071067811865476))",
             "_feed_forward"),
        (f"{DECODER}.layers.0", f"{DECODER}.layers.0.dropout:input",
         f"{DECODER}.layers.0.linear2:input"), "gelu instead of relu",
    ),
)  # fmt: skip

HEADS = (
    _fault(
        "no-object-first", "classes", "heads", "no-object is the first class",
        call(f"{PREDICTOR}.class_embed", _after(lambda x: tf.roll(x, 1, -1))),
        f"{PREDICTOR}.class_embed", ("rolled by 1", "rolled by one"), PORT,
    ),
    _fault(
        "class-bias-left-out", "classes", "heads", "the class head has no bias",
        line(f"{PREDICTOR}.class_embed", "self.bias)", "None)"),
        f"{PREDICTOR}.class_embed", ("missing (zeros)", "without its bias", "left out"),
    ),
    _fault(
        "class-probabilities", "classes", "heads", "the head returns probabilities",
        call(f"{PREDICTOR}.class_embed", _after(tf.nn.softmax)),
        f"{PREDICTOR}.class_embed", "through a softmax",
    ),
    _fault(
        "mask-mlp-shallow", "classes", "heads", "the mask MLP has no ReLU after its first layer",
        line(f"{PREDICTOR}.mask_embed", "x = tf.nn.relu(layer(x))",
             "x = layer(x) if layer is self.layers[0] else tf.nn.relu(layer(x))"),
        (f"{PREDICTOR}.mask_embed", f"{PREDICTOR}.mask_embed.layers.1:input"),
        "identity instead of relu",
    ),
    _fault(
        "mask-logits-scaled", "classes", "heads", "mask logits are divided by sqrt(channels)",
        function(predictor, "_mask_logits",
                 "masks = tf.matmul(embed, pixels, transpose_b=True)",
                 "masks = tf.matmul(embed, pixels, transpose_b=True) / 8.0"),
        (PREDICTOR, f"{PREDICTOR}:output.pred_masks",
         f"{PREDICTOR}:output.aux_outputs.0.pred_masks"), ("times 0.125", "multiplied by 0.125"),
    ),
    _fault(
        "auxiliary-order", "classes", "heads", "the first layer's predictions are given as final",
        line(PREDICTOR, "return {**layers[-1], \"aux_outputs\": layers[:-1]}",
             "return {**layers[0], \"aux_outputs\": layers[1:]}"),
        (PREDICTOR, f"{PREDICTOR}:output.pred_masks", f"{PREDICTOR}:output.pred_logits",
         f"{PREDICTOR}:output.aux_outputs.0.pred_masks"), ("the port has", "part"),
    ),
    _fault(
        "auxiliary-left-out", "classes", "heads", "no auxiliary outputs are returned",
        line(PREDICTOR, "return {**layers[-1], \"aux_outputs\": layers[:-1]}",
             "return layers[-1]"),
        (PREDICTOR, f"{PREDICTOR}:output.aux_outputs.0.pred_masks",
         f"{PREDICTOR}:output.aux_outputs.0.pred_logits"), (), f"{PORT}: deep supervision is off",
    ),
)  # fmt: skip

CONVERSION = (
    _fault(
        "twins-swapped", "conversion", "transformer",
        "two tensors of one shape are loaded in each other's place",
        _swapped(f"{DECODER}.layers.0.linear1.weight", f"{DECODER}.layers.1.linear1.weight"),
        (f"{DECODER}.layers.0.linear1",), "has the values of",
    ),
    _fault(
        "norms-swapped", "conversion", "pixel_decoder",
        "two norms are loaded in each other's place",
        _swapped(f"{ENCODER}.layers.0.norm1.weight", f"{ENCODER}.layers.0.norm2.weight"),
        (f"{ENCODER}.layers.0.norm1",), "has the values of",
    ),
    _fault(
        "tensor-not-loaded", "conversion", "heads", "a bias keeps its initial zeros",
        weights(np.zeros_like, f"{PREDICTOR}.mask_embed.layers.1.bias"),
        f"{PREDICTOR}.mask_embed.layers.1", ("missing (zeros)", "without its bias", "left out"),
    ),
    _fault(
        "weights-float16", "conversion", "backbone", "a tensor passed through float16",
        weights(_rounded(np.float16), "backbone.res5.0.conv1.weight"),
        ("backbone.res5.0.conv1", "backbone.res5.0.conv1.norm:input"), "rounded to float16",
    ),
    _fault(
        "weights-bfloat16", "conversion", "transformer", "a tensor passed through bfloat16",
        weights(_rounded(tf.bfloat16.as_numpy_dtype), f"{DECODER}.layers.1.linear2.weight"),
        f"{DECODER}.layers.1.linear2", "rounded to bfloat16",
    ),
    _fault(
        "mean-as-variance", "conversion", "backbone", "running mean and bias are swapped",
        _swapped("backbone.res3.1.conv1.norm.running_mean", "backbone.res3.1.conv1.norm.bias"),
        "backbone.res3.1.conv1.norm", ("values", "offset"),
    ),
    _fault(
        "queries-shifted", "conversion", "transformer", "the query table is off by one row",
        weights(lambda a: np.roll(a, 1, 0), f"{PREDICTOR}.query_embed.weight"),
        (f"{PREDICTOR}", f"{PREDICTOR}.transformer:input.query_embed"),
        ("rolled by one", "rolled by 1"),
    ),
)  # fmt: skip

PRECISION = (
    _fault(
        "images-bfloat16", "precision", "input", "normalised images are cast to bfloat16",
        line("", "tf.cast(x, images.dtype)", "tf.cast(tf.cast(x, tf.bfloat16), images.dtype)"),
        ("model", "backbone:input"), "rounded to bfloat16", PORT,
    ),
    _fault(
        "layer-bfloat16", "precision", "transformer", "a linear layer computes in bfloat16",
        call(f"{DECODER}.layers.0.linear2", _through(tf.bfloat16)), f"{DECODER}.layers.0.linear2",
        "rounded to bfloat16",
    ),
    _fault(
        "layer-float32", "precision", "pixel_decoder",
        "a float64 model computes a layer in float32",
        call(f"{PIXELS}.adapter_1.norm", _through(tf.float32)), f"{PIXELS}.adapter_1.norm",
        "rounded to float32",
    ),
    _fault(
        "attention-float16", "precision", "transformer", "attention weights are held in float16",
        line(f"{DECODER}.layers.1.multihead_attn", "tf.cast(softmax(wide(logits)), q.dtype)",
             "tf.cast(tf.cast(softmax(wide(logits)), tf.float16), q.dtype)"),
        f"{DECODER}.layers.1.multihead_attn", ("rounded to float16",),
    ),
    _fault(
        "tensor-float-32", "precision", "transformer",
        "a product rounds its factors to ten bits, as TF32 does",
        call(
            f"{DECODER}.layers.1.linear1",
            lambda original, module: lambda x: original(
                tf.cast(tf.cast(x, tf.float16), x.dtype)
            ),
        ),
        f"{DECODER}.layers.1.linear1", ("factor is rounded to float16",),
        "default of GPUs in TensorFlow",
    ),
)  # fmt: skip

CHANCE = (
    _fault(
        "dropout-at-inference", "nondeterminism", "transformer", "dropout is on at inference",
        line(f"{DECODER}.layers.0.dropout2", "dropout(input, self.rate, training)",
             "tf.nn.dropout(input, self.rate)"),
        f"{DECODER}.layers.0.dropout2", ("not deterministic", "dropout of 0.1"),
    ),
    _fault(
        "noise-1e-9", "nondeterminism", "backbone", "results vary by 1e-9 from run to run",
        call(
            "backbone.res4.0.conv3.norm",
            _after(lambda x: x * (1.0 + 1e-9 * tf.random.normal(x.shape, dtype=x.dtype))),
        ),
        "backbone.res4.0.conv3.norm", "not deterministic", "atomic sums on GPUs",
    ),
)  # fmt: skip

SEVERAL = (
    _fault(
        "two-at-once", "several", "backbone", "two faults in places far apart",
        together(
            line("backbone.res3.0.conv2", *SAME),
            line(f"{DECODER}.layers.1.norm3", *epsilon(1e-6)),
        ),
        ("backbone.res3.0.conv2", "backbone.res3.0.conv2.norm:input"), "SAME padding",
    ),
    _fault(
        "below-a-flipped-relu", "several", "backbone",
        "an offset of 1e-6 ahead of a ReLU that it flips",
        weights(lambda a: a + np.float32(1e-6), "backbone.res2.0.conv3.norm.bias"),
        "backbone.res2.0.conv3.norm", ("plus",),
    ),
)  # fmt: skip

FAULTS = (
    *PADDING, *EPSILONS, *LAYOUTS, *RESIZE, *POSITIONS, *ATTENTION, *HEADS, *CONVERSION,
    *PRECISION, *CHANCE, *SEVERAL,
)  # fmt: skip

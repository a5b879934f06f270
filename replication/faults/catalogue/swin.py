"""Faults of the Swin backbone, planted in a small one."""

import math

import numpy as np
import tensorflow as tf

import tf_impl.modeling.swin as swin
from replication.faults.catalogue.forward import epsilon
from replication.faults.catalogue.planting import constant, function, line, maker, weights

BLOCK = "backbone.layers.0.blocks"
ATTENTION = f"{BLOCK}.1.attn"

_fault = maker(
    "id what plant places causes imitates", family="swin", stage="backbone", bench="swin"
)


FAULTS = (
    _fault(
        "swin-not-shifted",
        "windows are not shifted",
        line(f"{BLOCK}.1", "x = tf.roll(x, (-self.shift, -self.shift), (1, 2))", "pass"),
        (f"{BLOCK}.1", f"{ATTENTION}:input.x"),
        ("not shifted",),
    ),
    _fault(
        "swin-shifted-the-other-way",
        "windows are shifted down and right",
        line(f"{BLOCK}.1", "(-self.shift, -self.shift)", "(self.shift, self.shift + 0)"),
        (f"{BLOCK}.1", f"{ATTENTION}:input.x"),
        ("shifted the other way",),
    ),
    _fault(
        "swin-not-shifted-back",
        "windows are not shifted back",
        line(f"{BLOCK}.1", "x = tf.roll(x, (self.shift, self.shift), (1, 2))", "pass"),
        (f"{BLOCK}.1", f"{BLOCK}.1.drop_path:input"),
        ("not shifted",),
    ),
    _fault(
        "swin-shift-not-masked",
        "attention crosses the border of the shift",
        constant(swin, "SHIFT_MASK", 0.0),
        ("backbone.layers.0", f"{BLOCK}.1:input.shift_mask", f"{BLOCK}.0:input.shift_mask"),
        ("all zeros",),
    ),
    _fault(
        "swin-bias-index-transposed",
        "relative positions have the other sign",
        line(
            ATTENTION,
            "tf.reshape(self.relative_position_index, (-1,))",
            "tf.reshape(tf.transpose(self.relative_position_index), (-1,))",
        ),
        (ATTENTION, f"{ATTENTION}.attn_drop:input"),
        ("its table of indices is transposed", "axes 0 and 1 are merged in the other order"),
    ),
    _fault(
        "swin-bias-table-transposed",
        "rows and columns of the bias table are swapped",
        weights(
            lambda a: a.reshape(*2 * (math.isqrt(len(a)),), -1).swapaxes(0, 1).reshape(a.shape),
            f"{ATTENTION}.relative_position_bias_table",
        ),
        (ATTENTION,),
        ("rows and columns of its table transposed",),
    ),
    _fault(
        "swin-bias-left-out",
        "there is no relative position bias",
        weights(np.zeros_like, f"{ATTENTION}.relative_position_bias_table"),
        (ATTENTION,),
        ("missing (zeros)", "left out"),
    ),
    _fault(
        "swin-padding-before-norm",
        "the map is padded before the norm, so that padding becomes the norm's offset",
        line(
            f"{BLOCK}.0",
            "x = tf.pad(x, ((0, 0), (0, pad_bottom), (0, pad_right), (0, 0)))",
            "x = tf.pad(x - self.norm1.bias, ((0, 0), (0, pad_bottom), (0, pad_right), (0, 0)))"
            " + self.norm1.bias",
        ),
        (f"{BLOCK}.0", f"{BLOCK}.0.attn:input.x"),
        (),
    ),
    _fault(
        "swin-padding-other-side",
        "the map is padded at the top and left",
        line(
            f"{BLOCK}.0",
            "((0, 0), (0, pad_bottom), (0, pad_right), (0, 0))",
            "((0, 0), (pad_bottom, 0), (pad_right, 0), (0, 0))",
        ),
        (f"{BLOCK}.0", f"{BLOCK}.0.attn:input.x"),
        ("padded on the other side",),
    ),
    _fault(
        "swin-attention-not-scaled",
        "logits are not scaled",
        line(ATTENTION, "q * self.scale", "q"),
        (ATTENTION, f"{ATTENTION}.attn_drop:input"),
        ("left out", "multiplied by"),
    ),
    _fault(
        "swin-projection-order",
        "q, k, v are read as k, q, v",
        line(ATTENTION, "q, k, v = tf.unstack", "k, q, v = tf.unstack"),
        (ATTENTION, f"{ATTENTION}.attn_drop:input"),
        ("order", "transposed", "swapped"),
    ),
    _fault(
        "swin-merging-order",
        "patches are merged row by row",
        line(
            "backbone.layers.0.downsample",
            "x[:, 1::2, 0::2], x[:, 0::2, 1::2]",
            "x[:, 0::2, 1::2], x[:, 1::2, 0::2]",
        ),
        ("backbone.layers.0.downsample", "backbone.layers.0.downsample.norm:input"),
        ("parts 1 and 2 are swapped",),
        "transformers' order before its converter undoes it",
    ),
    _fault(
        "swin-gelu-tanh",
        "GELU is approximated by tanh",
        constant(swin, "gelu", lambda x: tf.nn.gelu(x, approximate=True)),
        (f"{BLOCK}.0.mlp", f"{BLOCK}.0.mlp.drop:input"),
        ("gelu (tanh)",),
        "default of several libraries",
    ),
    _fault(
        "swin-gelu-float32-root",
        "GELU rounds sqrt(2) to float32",
        constant(swin, "gelu", lambda x: tf.nn.gelu(x, approximate=False)),
        (f"{BLOCK}.0.mlp", f"{BLOCK}.0.mlp.drop:input"),
        ("gelu with its constant in float32",),
        "tf.nn.gelu",
    ),
    _fault(
        "swin-norm-left-out",
        "an output has no norm of its own",
        line("backbone.norm1", "return tf.cast(out, input.dtype)", "return input"),
        ("backbone.norm1",),
        ("left out",),
    ),
    _fault(
        "swin-norm-epsilon-1e-6",
        "a LayerNorm uses epsilon 1e-6",
        line(f"{BLOCK}.1.norm2", *epsilon(1e-6)),
        (f"{BLOCK}.1.norm2",),
        ("epsilon 1e-06 instead of 1e-05",),
        "timm's Swin",
    ),
    _fault(
        "swin-mask-of-the-unpadded-map",
        "the shift mask is that of the map without its padding",
        function(
            swin,
            "shift_mask",
            "(place >= padded - window).astype(int) + (place >= padded - shift)",
            "(place >= count - window).astype(int) + (place >= count - shift)",
        ),
        ("backbone.layers.0", f"{BLOCK}.1:input.shift_mask", f"{BLOCK}.0:input.shift_mask"),
        (),
    ),
    _fault(
        "swin-packed-by-head",
        "q, k and v are packed head by head",
        line(
            f"{BLOCK}.0.attn",
            "(count, places, 3, self.num_heads, -1))\n"
            "    q, k, v = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))",
            "(count, places, self.num_heads, 3, -1))\n"
            "    q, k, v = tf.unstack(tf.transpose(qkv, (3, 0, 2, 1, 4)))",
        ),
        (f"{BLOCK}.0.attn", f"{BLOCK}.0.attn.attn_drop:input"),
        ("an axis is split into",),
        "BLOOM's and GPT-NeoX's packing",
    ),
    _fault(
        "swin-residual-of-norm",
        "the residual connection starts after the norm",
        line(
            f"{BLOCK}.0",
            "x = tf.reshape(self.norm1(x), ",
            "shortcut = self.norm1(x)\n    x = tf.reshape(shortcut, ",
        ),
        (f"{BLOCK}.0", f"{BLOCK}.0.norm2:input"),
        ("norm1:output + ", "norm1:output is taken in place of"),
    ),
    _fault(
        "swin-mask-dealt-to-images",
        "the shift mask is dealt to windows as if images came last",
        line(
            ATTENTION,
            "tf.reshape(attention, (-1, windows, self.num_heads, places, places))\n"
            "        attention = tf.reshape(attention + shift_mask[:, None],",
            "tf.reshape(attention, (windows, -1, self.num_heads, places, places))\n"
            "        attention = tf.reshape(attention + shift_mask[:, None, None],",
        ),
        (ATTENTION, f"{ATTENTION}.attn_drop:input"),
        (),
    ),
)

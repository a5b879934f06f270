"""Faults of what a model remembers from one run to the next."""

import functools

import tensorflow as tf

import tf_impl.modeling.swin as swin
from replication.faults.catalogue.forward import DECODER, ENCODER, PREDICTOR
from replication.faults.catalogue.planting import (
    assigned,
    call,
    constant,
    line,
    maker,
    together,
)

PIXELS = "sem_seg_head.pixel_decoder"
NORM = f"{DECODER}.layers.0.norm2"

_fault = maker("id what plant places causes imitates stage", family="state", bench="canvases")


def _kept_by_count(call_, module):
    """The positions of the first map that has as many places."""
    kept = {}

    def wrong(x):
        found = kept.setdefault(x.shape[1] * x.shape[2], call_(x))
        return tf.reshape(found, (*x.shape[:3], -1))

    return wrong


def _kept_and_cut(call_, module):
    """The positions of the first map, resized to others."""
    kept = []

    def wrong(x):
        if not kept:
            kept.append(call_(x))
        return tf.cast(tf.image.resize(kept[0], x.shape[1:3]), x.dtype)

    return wrong


def _later_otherwise(call_, module):
    """From the second call on, a little more."""
    calls = []

    def wrong(*args, **kwargs):
        calls.append(1)
        found = call_(*args, **kwargs)
        return found if len(calls) < 3 else found * (1 + 1e-6)

    return wrong


def _by_chance(call_, module):
    """A little noise, another one in each run."""

    def wrong(*args, **kwargs):
        found = call_(*args, **kwargs)
        return found + 1e-7 * tf.random.normal(found.shape, dtype=found.dtype)

    return wrong


def _kept_by_windows():
    """The shift mask of the first map that has as many windows."""
    right, kept = swin.shift_mask, {}

    @functools.wraps(right)
    def wrong(height, width, window):
        count = -(-height // window) * -(-width // window)
        return kept.setdefault(count, right(height, width, window))

    return wrong


def _masks_kept(bench):
    return constant(swin, "shift_mask", _kept_by_windows())(bench)


FAULTS = (
    _fault(
        "state-positions-kept-by-count", "positions are kept by the number of places",
        call(f"{PREDICTOR}.pe_layer", _kept_by_count), f"{PREDICTOR}.pe_layer",
        (), "a cache with too small a key", "transformer",
    ),
    _fault(
        "state-positions-of-the-first-map", "positions are those of the first map, resized",
        call(f"{PIXELS}.pe_layer", _kept_and_cut), f"{PIXELS}.pe_layer",
        (), "a constant of the first trace", "pixel_decoder",
    ),
    _fault(
        "state-shift-mask-kept", "shift masks are kept by the number of windows",
        _masks_kept,
        ("backbone.layers.0", "backbone.layers.0.blocks.0:input.shift_mask",
         "backbone.layers.0.blocks.1:input.shift_mask", "backbone.layers.1"),
        (), "a cache with too small a key", "backbone",
    ),
    _fault(
        "state-norm-keeps-a-mean", "a norm adds what it sees to its offset",
        together(
            assigned(lambda arrays: {f"{NORM}.bias": arrays[f"{NORM}.bias"]}),
            line(NORM, "x = wide(input)",
                 "x = wide(input)\n    self.bias.assign_add(1e-6 * tf.reduce_mean(x, (0, 1)))"),
        ),
        (NORM,), ("not deterministic",), "statistics that a run changes", "transformer",
    ),
    _fault(
        "state-later-calls-otherwise", "from the third call on a layer gives other numbers",
        call(f"{DECODER}.layers.1.linear2", _later_otherwise), f"{DECODER}.layers.1.linear2",
        ("times 1.000001", "multiplied by 1.000001"), "", "transformer",
    ),
    _fault(
        "state-noise", "a layer adds noise, other in each run",
        call(f"{ENCODER}.layers.0.linear1", _by_chance), f"{ENCODER}.layers.0.linear1",
        ("not deterministic",), "an order that is not deterministic", "pixel_decoder",
    ),
)  # fmt: skip

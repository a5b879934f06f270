"""Computes what a TensorFlow model does with the terms of its sums in another order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_linalg_ops, gen_math_ops, gen_nn_ops

MOST_AXES = 8
"""Of a tensor that TensorFlow can reverse; sums over those with more, as gradients have them, keep
their order."""


@contextmanager
def reordered() -> Iterator[None]:
    """Compute sums, means, softmax and products of matrices with their terms in reverse order;
    convolutions, but those in groups, with their channels so.

    The operations themselves are replaced, since those of TensorFlow cannot be intercepted.
    """
    originals = {place: getattr(*place) for place in _REVERSALS}
    try:
        for (module, name), reverse in _REVERSALS.items():
            setattr(module, name, reverse(originals[module, name]))
        yield
    finally:
        for (module, name), original in originals.items():
            setattr(module, name, original)


def _products(x: str, y: str, turn_x: str, turn_y: str) -> Callable:
    """How a product of matrices is turned around, whose operands and options have these names."""

    def reverse(original: Callable) -> Callable:
        def product(*args: Any, **options: Any) -> Any:
            given = dict(zip((x, y), args, strict=False)) | options
            a, b = (tf.convert_to_tensor(given.pop(name)) for name in (x, y))
            a = tf.reverse(a, [a.shape.rank - (2 if given.get(turn_x) else 1)])
            b = tf.reverse(b, [b.shape.rank - (1 if given.get(turn_y) else 2)])
            return original(a, b, *args[2:], **given)

        return product

    return reverse


def _sums(original: Callable) -> Callable:
    def reduced(input: Any, axis: Any, *args: Any, **options: Any) -> Any:
        x = tf.convert_to_tensor(input)
        axes = tf.reshape(tf.convert_to_tensor(axis), [-1])
        as_it_is = x.dtype.is_bool or x.shape.rank > MOST_AXES
        turned = x if as_it_is else tf.reverse(x, axes)
        return original(turned, axis, *args, **options)

    return reduced


def _softmax(original: Callable) -> Callable:
    def softmax(logits: Any, *args: Any, **options: Any) -> Any:
        return tf.reverse(original(tf.reverse(logits, [-1]), *args, **options), [-1])

    return softmax


def _convolutions(original: Callable) -> Callable:
    def convolution(input: Any, filter: Any, *args: Any, **options: Any) -> Any:
        x, kernel = tf.convert_to_tensor(input), tf.convert_to_tensor(filter)
        axis = 1 if options.get("data_format", "NHWC").startswith("NC") else x.shape.rank - 1
        if x.shape[axis] == kernel.shape[-2]:
            x, kernel = tf.reverse(x, [axis]), tf.reverse(kernel, [kernel.shape.rank - 2])
        return original(x, kernel, *args, **options)

    return convolution


def _einsums(original: Callable) -> Callable:
    def einsum(inputs: Any, equation: str, *args: Any, **options: Any) -> Any:
        given, _, result = equation.partition("->")
        if "." not in given:
            inputs = [
                tf.reverse(one, [i for i, letter in enumerate(letters) if letter not in result])
                for one, letters in zip(inputs, given.split(","), strict=True)
            ]
        return original(inputs, equation, *args, **options)

    return einsum


_REVERSALS = {
    (gen_math_ops, "mat_mul"): _products("a", "b", "transpose_a", "transpose_b"),
    (gen_math_ops, "batch_mat_mul_v2"): _products("x", "y", "adj_x", "adj_y"),
    (gen_math_ops, "batch_mat_mul_v3"): _products("x", "y", "adj_x", "adj_y"),
    (gen_math_ops, "_sum"): _sums,
    (gen_math_ops, "mean"): _sums,
    (gen_nn_ops, "softmax"): _softmax,
    (gen_nn_ops, "conv2d"): _convolutions,
    (gen_nn_ops, "conv3d"): _convolutions,
    (gen_linalg_ops, "einsum"): _einsums,
}

"""Feeds given dropout masks to a TensorFlow model, in place of its random numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from parity.masks import Keeps


@contextmanager
def fed_masks(keeps: Keeps) -> Iterator[None]:
    """Inside it every dropout function of TensorFlow takes what `keeps` gives.

    The functions themselves are replaced, in both names that TensorFlow has for them, since its
    random operations cannot be intercepted. In a traced function the masks become constants.
    """

    def dropped(x: Any, rate: float, noise_shape: Any = None) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        shape = x.shape if noise_shape is None else tf.TensorShape(noise_shape)
        kept = keeps(tuple(shape.as_list()), 1.0 - rate)
        if kept is None:
            return x
        return tf.where(kept, x * tf.constant(1.0 / (1.0 - rate), x.dtype), tf.zeros([], x.dtype))

    def dropout(x: Any, rate: float, noise_shape: Any = None, seed: Any = None, name: Any = None):
        return dropped(x, rate, noise_shape)

    def stateless(
        x: Any,
        rate: float,
        seed: Any,
        rng_alg: Any = None,
        noise_shape: Any = None,
        name: Any = None,
    ) -> tf.Tensor:
        return dropped(x, rate, noise_shape)

    def general(
        x: Any, rate: float, uniform_sampler: Any, noise_shape: Any = None, name: Any = None
    ) -> tf.Tensor:
        return dropped(x, rate, noise_shape)

    replacements: list[tuple[Any, str, Callable]] = []
    for nn in (tf.nn, tf.compat.v2.nn):
        replacements.append((nn, "dropout", dropout))
        replacements.append((nn.experimental, "stateless_dropout", stateless))
        replacements.append((nn.experimental, "general_dropout", general))
    originals = [getattr(module, name) for module, name, _ in replacements]
    try:
        for module, name, replacement in replacements:
            setattr(module, name, replacement)
        yield
    finally:
        for (module, name, _), original in zip(replacements, originals, strict=True):
            setattr(module, name, original)

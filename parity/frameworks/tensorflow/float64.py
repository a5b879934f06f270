"""Keeps TensorFlow models in float64 that cast to float32 inside, and constants exact."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import math_ops

from parity.causes.resizing import KERNELS, weights
from parity.frameworks.shared.interceptions import note

MADE = ("zeros", "ones", "eye", "one_hot", "zeros_like", "ones_like", "sequence_mask", "constant")
MADE += ("convert_to_tensor", "range", "linspace", "fill")
MATCHED = ("pow", "maximum", "minimum")  # in a graph the first argument sets the type


@contextmanager
def kept_in(dtype: str) -> Iterator[None]:
    """Inside it a model in float64 stays there, whatever it casts to float32; others do as they do.

    TensorFlow's functions are replaced under every name that its public modules have for them.
    """
    if dtype != "float64":
        yield
        return
    with ExitStack() as stack:
        own = tf.cast
        for owner, name in _names_of(own):
            stack.enter_context(_set(owner, name, _kept_cast(own)))
        # TensorFlow's own code casts to float32 where its kernels need it; its constants are exact.
        stack.enter_context(_set(math_ops, "cast", _exact_numbers(own)))
        for made in MADE:
            function = getattr(tf, made)
            for owner, name in _names_of(function):
                stack.enter_context(_set(owner, name, _kept_result(function)))
        for matched in MATCHED:
            function = getattr(tf, matched)
            for owner, name in _names_of(function):
                stack.enter_context(_set(owner, name, _matched(function)))
        for function, kept in ((tf.image.resize, _resize), (tf.nn.leaky_relu, _leaky_relu)):
            for owner, name in _names_of(function):
                stack.enter_context(_set(owner, name, kept(function)))
        keras = sys.modules.get("tf_keras")
        if keras is not None:
            base = keras.src.engine.base_layer.Layer
            changed = _policy(base._set_dtype_policy)
            stack.enter_context(_set(base, "_set_dtype_policy", changed))
            stack.enter_context(_set(base, "add_weight", _kept_weight(base.add_weight)))
        yield


def _names_of(function: Callable) -> list[tuple[Any, str]]:
    """Every public module of TensorFlow, and name there, that a function has."""
    roots = (tf, tf.compat.v2)
    parts = ("", "dtypes", "math", "linalg", "nn", "image", "random")
    owners = [getattr(root, part) if part else root for root in roots for part in parts]
    found = []
    for owner in {id(one): one for one in owners}.values():
        found += [(owner, name) for name, value in list(vars(owner).items()) if value is function]
    name = function.__name__.removesuffix("_v2")
    for owner in roots:  # loaded only when they are asked for
        if (owner, name) not in found and getattr(owner, name, None) is function:
            found.append((owner, name))
    return found


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int | np.floating) and not isinstance(value, bool)


def _is_float32(dtype: Any) -> bool:
    try:
        return dtype is not None and tf.as_dtype(dtype) == tf.float32
    except TypeError:
        return False


def _exact_numbers(own: Callable) -> Callable:
    @wraps(own)
    def cast(x: Any, dtype: Any, name: Any = None) -> Any:
        if _is_number(x) and tf.as_dtype(dtype) == tf.float64:
            return _constant(x, tf.float64)
        return own(x, dtype, name)

    return cast


def _kept_cast(own: Callable) -> Callable:
    exact = _exact_numbers(own)

    @wraps(own)
    def cast(x: Any, dtype: Any, name: Any = None) -> Any:
        if _is_float32(dtype):
            note("cast(float32) keeps float64")
            dtype = tf.float64
        return exact(x, dtype, name)

    return cast


_constant = tf.constant


def _kept_result(function: Callable) -> Callable:
    """The function giving float64 where it is asked for float32, or would give it by itself."""
    parameters = inspect.signature(function).parameters
    name = function.__name__.removesuffix("_v2")

    @wraps(function)
    def made(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        if "dtype" not in parameters:
            floats = [key for key, one in given.items() if isinstance(one, float)]
            changed = {key: _constant(given[key], tf.float64) for key in floats}
            return function(**{**given, **changed})
        asked = given.get("dtype", given.get("dtype_hint"))
        if _is_float32(asked):
            note(f"{name}(float32) keeps float64")
            return function(**{**given, "dtype": tf.float64})
        if asked is None:
            result = function(*args, **kwargs)
            single = getattr(result, "dtype", None) == tf.float32
            if single and "dtype" in parameters:
                return function(**{**given, "dtype": tf.float64})
            return result
        return function(*args, **kwargs)

    return made


def _matched(own: Callable) -> Callable:
    """A function of two tensors, of which the first may be a number: then of the second's type."""

    @wraps(own)
    def matched(x: Any, y: Any, name: Any = None) -> Any:
        if _is_number(x) and getattr(y, "dtype", None) == tf.float64:
            x = _constant(x, tf.float64)
        return own(x, y, name=name)

    return matched


def _resize(own: Callable) -> Callable:
    @wraps(own)
    def resize(images: Any, size: Any, method: Any = "bilinear", *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(own).bind(images, size, method, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        images, method = tf.convert_to_tensor(images), getattr(method, "value", method)
        plain = not given.get("preserve_aspect_ratio") and images.shape.is_fully_defined()
        if images.dtype != tf.float64 or method not in KERNELS or not plain:
            return own(images, size, method, *args, **kwargs)
        note(f"resize({method}) is computed in float64")
        height, width = (int(one) for one in size)
        antialias = bool(given.get("antialias"))
        rows, columns = (
            _constant(weights(before, after, method, antialias))
            for before, after in zip(images.shape[-3:-1], (height, width), strict=True)
        )
        return tf.einsum("ip,...pqc,jq->...ijc", rows, images, columns)

    return resize


def _leaky_relu(own: Callable) -> Callable:
    @wraps(own)
    def leaky_relu(features: Any, alpha: Any = 0.2, name: Any = None) -> Any:
        features = tf.convert_to_tensor(features)
        if features.dtype != tf.float64:
            return own(features, alpha, name)
        note("leaky_relu has its slope in float64")
        return tf.where(features > 0, features, _constant(alpha, tf.float64) * features)

    return leaky_relu


def _policy(own: Callable) -> Callable:
    @wraps(own)
    def set_dtype_policy(self: Any, dtype: Any) -> None:
        if isinstance(dtype, str | tf.DType) and _is_float32(dtype):
            note(f"a {type(self).__name__} that fixes float32 is built in float64")
            dtype = "float64"
        own(self, dtype)

    return set_dtype_policy


def _kept_weight(own: Callable) -> Callable:
    @wraps(own)
    def add_weight(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(own).bind(self, *args, **kwargs).arguments
        if _is_float32(given.get("dtype")):
            note(f"a weight of {type(self).__name__} that fixes float32 is made in float64")
            given = {**given, "dtype": tf.float64}
        others = given.pop("kwargs", {})
        return own(**given, **others)

    return add_weight

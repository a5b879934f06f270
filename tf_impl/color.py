"""Colour augmentation inside tf.data: the levels of `maskformer.color`, computed by TensorFlow."""

import tensorflow as tf

from maskformer.color import VECTOR_BLOCK, hsv_factors, hue_table, saturation_table

NOTHING = float("nan")
"""Stands for None in the vector that `apply_color` takes."""


def apply_color(image: tf.Tensor, color: tf.Tensor) -> tf.Tensor:
    """The image with changed colours, equal to `maskformer.color.apply_color`.

    Args: image uint8 [H,W,3] RGB; color float32 [5]: brightness, contrast, saturation, hue (NaN for
    none), and 1.0 where contrast comes first. Returns uint8 [H,W,3].
    """
    brightness, contrast, saturation, hue, contrast_first = tf.unstack(color)
    first = contrast_first > 0.5
    image = _if_given(brightness, image, lambda: _map_levels(image, 1.0, brightness))
    image = _contrast(image, tf.where(first, contrast, NOTHING))
    image = _if_given(saturation, image, lambda image=image: _saturate(image, saturation))
    image = _if_given(hue, image, lambda image=image: _turn_hue(image, hue))
    return _contrast(image, tf.where(first, NOTHING, contrast))


def _if_given(parameter: tf.Tensor, image: tf.Tensor, change: object) -> tf.Tensor:
    return tf.cond(tf.math.is_nan(parameter), lambda: image, change)


def _contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return _if_given(factor, image, lambda: _map_levels(image, factor, 0.0))


def _map_levels(levels: tf.Tensor, factor: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    mapped = tf.cast(levels, tf.float32) * factor + offset
    return tf.cast(tf.clip_by_value(mapped, 0.0, 255.0), tf.uint8)


def _saturate(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    hue, saturation, value = _rgb_to_hsv(image)
    return _hsv_to_rgb(hue, _map_levels(saturation, factor, 0.0), value)


def _turn_hue(image: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    hue, saturation, value = _rgb_to_hsv(image)
    turned = tf.math.floormod(tf.cast(hue, tf.int32) + tf.cast(shift, tf.int32), 180)
    return _hsv_to_rgb(turned, saturation, value)


def _rgb_to_hsv(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """8-bit hue, saturation and value, each uint8 [H,W]."""
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    value = tf.maximum(tf.maximum(red, green), blue)
    span = value - tf.minimum(tf.minimum(red, green), blue)
    is_red = tf.cast(tf.equal(value, red), tf.int32)
    is_green = tf.cast(tf.equal(value, green), tf.int32) * (1 - is_red)
    is_blue = 1 - is_red - is_green
    difference = (green - blue) * is_red + (blue - red) * is_green + (red - green) * is_blue
    place = ((is_green + 2 * is_blue) * 256 + span) * 511 + 255 + difference
    hue = tf.gather(tf.constant(hue_table()), place)
    saturation = tf.gather(tf.constant(saturation_table()), value * 256 + span)
    return hue, saturation, tf.cast(value, tf.uint8)


def _hsv_to_rgb(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    place = tf.cast(hue, tf.int32) * 256 + tf.cast(saturation, tf.int32)
    factors = tf.gather(tf.constant(hsv_factors().T.copy()), place)
    levels = factors * (tf.cast(value, tf.float32) * tf.constant(1 / 255.0, tf.float32))[..., None]
    levels *= 255.0
    width = tf.shape(hue)[1]
    blocks = width - width % VECTOR_BLOCK
    levels = tf.concat([tf.floor(levels[:, :blocks]), tf.round(levels[:, blocks:])], axis=1)
    return tf.cast(levels, tf.uint8)

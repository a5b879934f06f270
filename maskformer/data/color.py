"""Colour augmentation on 8-bit RGB, equal level by level to detectron2's SSD transform on OpenCV.

Source of the operations: `ColorAugSSDTransform` (detectron2, projects/PointRend). Source of the
arithmetic: OpenCV's 8-bit RGB-HSV conversions, reproduced here so that results depend neither on
OpenCV being installed nor on the processor. OpenCV truncates in the full vector blocks of a row and
rounds in the rest; `VECTOR_BLOCK` is the block length of its AVX2 code.
"""

import functools

import numpy as np

from maskformer.data.augmentation import Color

VECTOR_BLOCK = 32
"""Pixels per vector block: the last W mod 32 pixels of a row round to nearest, the others down."""

_FIXED_POINT_BITS = 12


def apply_color(image: np.ndarray, color: Color) -> np.ndarray:
    """The image with changed colours. Args: image uint8 [H,W,3] RGB. Returns the same shape."""
    if color.brightness is not None:
        image = _map_levels(image, 1.0, color.brightness)
    if color.contrast_first:
        image = _contrast(image, color)
    if color.saturation is not None:
        hsv = rgb_to_hsv(image)
        hsv[..., 1] = _map_levels(hsv[..., 1], color.saturation, 0.0)
        image = hsv_to_rgb(hsv)
    if color.hue is not None:
        hsv = rgb_to_hsv(image)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + color.hue) % 180
        image = hsv_to_rgb(hsv)
    if not color.contrast_first:
        image = _contrast(image, color)
    return image


def _contrast(image: np.ndarray, color: Color) -> np.ndarray:
    return image if color.contrast is None else _map_levels(image, color.contrast, 0.0)


def _map_levels(levels: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """factor * level + offset in float32, clipped, truncated. Args: levels uint8, any shape."""
    mapped = levels.astype(np.float32)
    mapped *= np.float32(factor)
    mapped += np.float32(offset)
    return np.clip(mapped, 0, 255, out=mapped).astype(np.uint8)


@functools.cache
def _saturation_table() -> np.ndarray:
    """uint8 [256 * 256]: saturation at value * 256 + span, in OpenCV's fixed point."""
    value, span = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    return _divide(span, _reciprocals(255.0)[value]).astype(np.uint8).reshape(-1)


@functools.cache
def _hue_table() -> np.ndarray:
    """uint8 [3 * 256 * 511]: hue at ((largest channel * 256) + span) * 511 + difference + 255.

    The difference is that of the two other channels, in cyclic order.
    """
    channel, span, difference = np.meshgrid(
        np.arange(3), np.arange(256), np.arange(-255, 256), indexing="ij"
    )
    hue = _divide(difference + 2 * channel * span, _reciprocals(30.0)[span])
    return (hue + 180 * (hue < 0)).astype(np.uint8).reshape(-1)


def _reciprocals(numerator: float) -> np.ndarray:
    table = np.zeros(256, np.int64)
    table[1:] = np.rint(numerator * (1 << _FIXED_POINT_BITS) / np.arange(1, 256))
    return table


def _divide(dividend: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    return (dividend * reciprocal + (1 << (_FIXED_POINT_BITS - 1))) >> _FIXED_POINT_BITS


def rgb_to_hsv(image: np.ndarray) -> np.ndarray:
    """8-bit hue (0..179), saturation and value uint8 [H,W,3] of an image uint8 [H,W,3]."""
    red, green, blue = (np.ascontiguousarray(image[..., channel]) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    span = value - np.minimum(np.minimum(red, green), blue)
    is_red = (value == red).view(np.uint8)
    is_green = (value == green).view(np.uint8) & (1 - is_red)
    is_blue = 1 - is_red - is_green
    first = green * is_red + blue * is_green + red * is_blue
    second = blue * is_red + red * is_green + green * is_blue
    channel = is_green + 2 * is_blue
    place = (channel.astype(np.int64) * 256 + span) * 511 + 255
    place += first
    place -= second
    hsv = np.empty(image.shape, np.uint8)
    hsv[..., 0] = _hue_table()[place]
    hsv[..., 1] = _saturation_table()[value.astype(np.int64) * 256 + span]
    hsv[..., 2] = value
    return hsv


@functools.cache
def _hsv_factors() -> np.ndarray:
    """float32 [3, 180 * 256]: what value is multiplied by for R, G, B at each hue and saturation.

    The products in 1 - s * f are rounded once (a fused multiply-add).
    """
    saturation = (np.arange(256, dtype=np.float32) * np.float32(1 / 255.0))[None, :]
    position = (np.arange(180, dtype=np.float32) * np.float32(6 / 180.0))[:, None]
    sector = np.floor(position)
    fraction = position - sector
    wide = saturation.astype(np.float64)
    none = np.ones((180, 256), np.float32)
    low = none * (np.float32(1) - saturation)
    falling = (1 - wide * fraction).astype(np.float32)
    rising = (1 - wide * (np.float32(1) - fraction)).astype(np.float32)
    levels = np.stack([none, low, falling, rising])
    order = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])
    choice = order[sector[:, 0].astype(np.int64) % 6]
    hue = np.arange(180)
    return np.stack([levels[choice[:, c], hue].reshape(-1) for c in range(3)])


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """The image uint8 [H,W,3] of hue, saturation and value uint8 [H,W,3], up to rounding."""
    place = hsv[..., 0].astype(np.int64) * 256 + hsv[..., 1]
    value = (np.arange(256, dtype=np.float32) * np.float32(1 / 255.0))[hsv[..., 2]]
    blocks = hsv.shape[1] - hsv.shape[1] % VECTOR_BLOCK
    image = np.empty(hsv.shape, np.uint8)
    for channel, factors in enumerate(_hsv_factors()):
        levels = factors[place]
        levels *= value
        levels *= np.float32(255)
        np.rint(levels[:, blocks:], out=levels[:, blocks:])
        image[..., channel] = levels.astype(np.uint8)
    return image

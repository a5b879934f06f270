"""The random draws of the three dataset mappers, as plain data that any framework can apply.

`draw` turns a random generator into an ordered tuple of steps. Steps have the distributions of
detectron2's `ResizeShortestEdge`, `RandomCrop`, `RandomCrop_CategoryAreaConstraint`, `RandomFlip`
and `ColorAugSSDTransform`, in the order of the original's mappers
(`mask_former/data/dataset_mappers/`). Labels follow by two index vectors (`source_indices`),
because every geometric step is separable.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maskformer.model.inputs import CropConfig, InputConfig

COCO_CROP_SHORT_SIDES = (400, 500, 600)
"""Short sides before the crop of the COCO mapper (`DETRPanopticDatasetMapper.from_config`)."""

CROP_ATTEMPTS = 10
"""How often a crop that one category fills is drawn again (`RandomCrop_CategoryAreaConstraint`)."""

BRIGHTNESS_DELTA = 32.0
CONTRAST_RANGE = (0.5, 1.5)
SATURATION_RANGE = (0.5, 1.5)
HUE_DELTA = 18
"""Strengths of the colour augmentation: defaults of `ColorAugSSDTransform` (PointRend)."""


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right."""


@dataclass(frozen=True)
class Resize:
    """Resizes to `height` x `width` pixels: photographs with Pillow's bilinear filter."""

    height: int
    width: int


@dataclass(frozen=True)
class Crop:
    """Keeps the box that starts at row `top`, column `left`."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Color:
    """Changes colours; None leaves a property alone.

    `brightness` is added, `contrast` and `saturation` multiply, `hue` is added to 8-bit hue
    (0..179). `contrast_first` says whether contrast comes before or after saturation and hue.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = True


@dataclass(frozen=True)
class Pad:
    """Pads right and bottom to `height` x `width`, or cuts what is beyond (as `F.pad` does)."""

    height: int
    width: int


Step = Flip | Resize | Crop | Color | Pad
NearestRule = Literal["pillow", "torch"]


def example_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one example's draws: a function of its arguments only.

    So any position of a run can be restored without replaying what came before.
    """
    return np.random.default_rng([seed, epoch, index])


def example_at(seed: int, position: int, count: int) -> tuple[int, int]:
    """Epoch and image index of the example number `position` of an endless run over `count` images.

    Every epoch is a permutation of the images, drawn from (seed, epoch).
    """
    epoch, place = divmod(position, count)
    return epoch, int(_cached_order(seed, epoch, count)[place])


@functools.lru_cache(maxsize=2)
def _cached_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return epoch_order(seed, epoch, count)


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order [count] int64 in which an epoch visits the images: a permutation."""
    return np.random.default_rng([seed, epoch, count, 1]).permutation(count)


def resized_shape(height: int, width: int, short_side: int, max_size: int) -> tuple[int, int]:
    """Height and width with the short side at `short_side` and the long one at most `max_size`.

    Rounds as `ResizeShortestEdge.get_output_shape` of detectron2: int(x + 0.5).
    """
    scale = short_side * 1.0 / min(height, width)
    new_height, new_width = (
        (short_side * 1.0, scale * width) if height < width else (scale * height, short_side * 1.0)
    )
    longest = max(new_height, new_width)
    if longest > max_size:
        scale = max_size * 1.0 / longest
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


def evaluation_steps(config: InputConfig, height: int, width: int) -> tuple[Step, ...]:
    """The steps of evaluation: one resize by the test sizes."""
    return (Resize(*resized_shape(height, width, config.min_size_test, config.max_size_test)),)


def draw(
    config: InputConfig,
    rng: np.random.Generator,
    height: int,
    width: int,
    labels: np.ndarray | None = None,
    ignored: int = 255,
) -> tuple[Step, ...]:
    """The steps of one training example of `height` x `width` pixels.

    Args: labels [H,W] class ids, read only where `config.crop` limits a category's area; ignored:
    the label that such a limit does not count.
    """
    if config.mapper == "detr_panoptic":
        return _draw_coco(config, rng, height, width)
    resize = _draw_resize(rng, config.min_sizes_train, config.max_size_train, height, width)
    steps: list[Step] = [resize]
    size = (resize.height, resize.width)
    if config.crop is not None:
        crop = _draw_limited_crop(config.crop, rng, size, (height, width), labels, ignored)
        steps.append(crop)
        size = (crop.height, crop.width)
    if config.color_aug_ssd:
        steps.append(draw_color(rng))
    steps += _draw_flip(rng)
    if config.size_divisibility > 0 and size != (config.size_divisibility,) * 2:
        steps.append(Pad(config.size_divisibility, config.size_divisibility))
    return tuple(steps)


def drawn_shape(
    config: InputConfig, rng: np.random.Generator, height: int, width: int
) -> tuple[int, int]:
    """Height and width of the example that `draw` makes with the same generator, without labels.

    A limit on a category's area moves a crop; its size is fixed (`CropConfig`).
    """
    if config.crop is not None:
        crop = dataclasses.replace(config.crop, single_category_max_area=1.0)
        config = dataclasses.replace(config, crop=crop)
    return output_shape(draw(config, rng, height, width), height, width)


def _draw_coco(
    config: InputConfig, rng: np.random.Generator, height: int, width: int
) -> tuple[Step, ...]:
    steps: list[Step] = []
    cropped = config.crop is not None and not rng.random() > 0.5
    steps += _draw_flip(rng)
    if cropped:
        first = _draw_resize(rng, COCO_CROP_SHORT_SIDES, None, height, width)
        crop = draw_crop(config.crop, rng, first.height, first.width)
        steps += [first, crop]
        height, width = crop.height, crop.width
    steps.append(_draw_resize(rng, config.min_sizes_train, config.max_size_train, height, width))
    return tuple(steps)


def _draw_flip(rng: np.random.Generator) -> list[Step]:
    return [Flip()] if rng.random() < 0.5 else []


def _draw_resize(
    rng: np.random.Generator,
    short_sides: tuple[int, ...],
    max_size: int | None,
    height: int,
    width: int,
) -> Resize:
    short_side = int(short_sides[int(rng.integers(len(short_sides)))])
    limit = max_size if max_size is not None else np.iinfo(np.int64).max
    return Resize(*resized_shape(height, width, short_side, limit))


def draw_crop(config: CropConfig, rng: np.random.Generator, height: int, width: int) -> Crop:
    """A crop inside `height` x `width`, every size and place of `config` equally likely."""
    first, second = config.size
    if config.type == "absolute":
        crop_height, crop_width = min(first, height), min(second, width)
    else:
        crop_height = int(rng.integers(min(height, first), min(height, second) + 1))
        crop_width = int(rng.integers(min(width, first), min(width, second) + 1))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    return Crop(top, left, crop_height, crop_width)


def _draw_limited_crop(
    config: CropConfig,
    rng: np.random.Generator,
    size: tuple[int, int],
    original: tuple[int, int],
    labels: np.ndarray | None,
    ignored: int,
) -> Crop:
    if config.single_category_max_area >= 1.0:
        return draw_crop(config, rng, *size)
    if labels is None:
        raise ValueError("a limit on a category's area needs the labels")
    rows = nearest_index(original[0], size[0], "torch")
    columns = nearest_index(original[1], size[1], "torch")
    for _ in range(CROP_ATTEMPTS):
        crop = draw_crop(config, rng, *size)
        window = labels[rows[crop.top : crop.top + crop.height]][
            :, columns[crop.left : crop.left + crop.width]
        ]
        counts = np.bincount(window.reshape(-1))
        if ignored < len(counts):
            counts[ignored] = 0
        covered = counts[counts > 0]
        if len(covered) > 1 and covered.max() < covered.sum() * config.single_category_max_area:
            break
    return crop


def draw_color(rng: np.random.Generator) -> Color:
    """A colour change: each property with probability one half, both orders equally likely."""
    brightness = _maybe_uniform(rng, -BRIGHTNESS_DELTA, BRIGHTNESS_DELTA)
    contrast_first = bool(rng.integers(2))
    contrast = _maybe_uniform(rng, *CONTRAST_RANGE)
    saturation = _maybe_uniform(rng, *SATURATION_RANGE)
    hue = int(rng.integers(-HUE_DELTA, HUE_DELTA + 1)) if rng.integers(2) else None
    return Color(brightness, contrast, saturation, hue, contrast_first)


def _maybe_uniform(rng: np.random.Generator, low: float, high: float) -> float | None:
    return float(rng.uniform(low, high)) if rng.integers(2) else None


def output_shape(steps: tuple[Step, ...], height: int, width: int) -> tuple[int, int]:
    """Height and width after the steps, padding included."""
    for step in steps:
        if isinstance(step, Resize | Crop | Pad):
            height, width = step.height, step.width
    return height, width


def nearest_index(size_in: int, size_out: int, rule: NearestRule) -> np.ndarray:
    """Source index [size_out] int64 of each output pixel of a nearest-neighbour resize.

    "pillow" is `Image.resize(NEAREST)`, the pixel at the centre, (i + 0.5) * in / out, summed step
    by step as Pillow does. "torch" is `F.interpolate(mode="nearest")` of a float64 map,
    floor(i * (in / out)), the product in float64 and rounded to float32; torch has another kernel
    for results of at most 128 rows and columns together. They differ in most pixels; the panoptic
    PNGs take the first, semantic labels, which detectron2 turns into float64 before, the second.
    """
    if rule == "torch":
        position = (np.arange(size_out) * (size_in / size_out)).astype(np.float32)
        return np.minimum(np.floor(position).astype(np.int64), size_in - 1)
    if size_in == size_out:
        return np.arange(size_in)
    scale = size_in / size_out
    position = np.full(size_out, scale)
    position[0] = scale * 0.5
    return np.minimum(np.add.accumulate(position).astype(np.int64), size_in - 1)


def source_indices(
    steps: tuple[Step, ...], height: int, width: int, rule: NearestRule
) -> tuple[np.ndarray, np.ndarray]:
    """Which row and column of the original each row and column of the result shows, -1 for padding.

    Labels after all steps are `labels[rows][:, columns]`, filled where an index is -1.
    Returns rows [H'] and columns [W'] int64.
    """
    rows, columns = np.arange(height), np.arange(width)
    for step in steps:
        match step:
            case Flip():
                columns = columns[::-1]
            case Resize(new_height, new_width):
                rows = rows[nearest_index(len(rows), new_height, rule)]
                columns = columns[nearest_index(len(columns), new_width, rule)]
            case Crop(top, left, crop_height, crop_width):
                rows = rows[top : top + crop_height]
                columns = columns[left : left + crop_width]
            case Pad(pad_height, pad_width):
                rows = _pad_index(rows, pad_height)
                columns = _pad_index(columns, pad_width)
    return rows, columns


def _pad_index(index: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([index[:size], np.full(max(size - len(index), 0), -1)])

"""Training and evaluation data for TensorFlow: records in, batches of static shape out.

The draws are those of `maskformer.augmentation`, made on the host for (seed, epoch, image), so a
run sees the examples of the PyTorch loader in the same order. Two ways to apply them:

- exact: Pillow, the pixels of the original. For parity and evaluation.
- fast: TensorFlow decodes and resizes. Targets and colours are the same; a resized pixel differs by
  at most one level, because Pillow rounds twice (see docs/data.md; `difference` measures it).

Both run on the host. What reaches the device has static shape.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from maskformer.augmentation import (
    Color,
    Crop,
    Flip,
    Pad,
    Resize,
    Step,
    draw,
    evaluation_steps,
    example_at,
    example_generator,
    output_shape,
)
from maskformer.batching import Batch, BatchPlan
from maskformer.color import apply_color
from maskformer.errors import InputError
from maskformer.inputs import InputConfig
from maskformer.mapper import IMAGE_PADDING, VOID, apply_steps, apply_to_image, apply_to_targets
from tf_impl.tfrecord import RecordFolder, labels_of, parse

_NO_RESIZE = (0, 0)


@dataclass(frozen=True)
class TrainingData:
    """Training examples by position in the run: a function of records, settings and seed.

    `capacity` is T, the number of targets an image has room for; `exact` chooses Pillow.
    """

    records: RecordFolder
    config: InputConfig
    seed: int
    capacity: int
    exact: bool = False

    def __post_init__(self) -> None:
        semantic = self.records.manifest["kind"] == "semantic"
        if semantic != (self.config.mapper == "mask_former_semantic"):
            raise InputError(
                f"{self.records.folder} has {self.records.manifest['kind']} records",
                f"inputs.mapper is {self.config.mapper!r}",
                "Choose the records or the mapper that fits.",
            )

    @property
    def ignored(self) -> int:
        """The label of unlabelled pixels."""
        return self.records.manifest["ignored"] or 255

    def shape_at(self, position: int) -> tuple[int, int]:
        """Height and width of an example after its draws, without reading the record."""
        epoch, index = example_at(self.seed, position, len(self.records))
        location = self.records.locations[index]
        crop = self.config.crop
        needs_labels = crop is not None and crop.single_category_max_area < 1.0
        labels = np.zeros((location.height, location.width), np.uint8) if needs_labels else None
        steps = self._draw(epoch, index, labels)
        return output_shape(steps, location.height, location.width)

    def steps_at(self, position: int) -> tuple[int, tuple[Step, ...]]:
        """Image index and steps of the example at a position."""
        epoch, index = example_at(self.seed, position, len(self.records))
        labels = None
        crop = self.config.crop
        if crop is not None and crop.single_category_max_area < 1.0:
            labels = self.records.load(index).labels
        return index, self._draw(epoch, index, labels)

    def _draw(self, epoch: int, index: int, labels: np.ndarray | None) -> tuple[Step, ...]:
        location = self.records.locations[index]
        rng = example_generator(self.seed, epoch, index)
        return draw(self.config, rng, location.height, location.width, labels, self.ignored)

    def example(self, position: tf.Tensor, shape: tf.Tensor) -> dict[str, tf.Tensor]:
        """One example padded to `shape`, by the way that `exact` chooses. For `Dataset.map`."""
        image, target_map, class_ids, index = (
            self._exact(position) if self.exact else self._fast(position)
        )
        size = tf.shape(target_map)
        right = shape - size
        count = tf.minimum(tf.shape(class_ids)[0], self.capacity)
        kept = tf.where(target_map < self.capacity, target_map, VOID)
        return {
            "images": tf.pad(image, [[0, right[0]], [0, right[1]], [0, 0]]),
            "sizes": size,
            "target_map": tf.pad(kept, [[0, right[0]], [0, right[1]]], constant_values=VOID),
            "class_ids": tf.pad(class_ids[:count], [[0, self.capacity - count]]),
            "valid": tf.range(self.capacity) < count,
            "overflow": tf.shape(class_ids)[0] - count,
            "index": index,
        }

    def _exact(self, position: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def compute(position: np.ndarray) -> tuple[np.ndarray, ...]:
            index, steps = self.steps_at(int(position))
            mapped = apply_steps(self.records.load(index), steps, self.ignored)
            return mapped.image, mapped.target_map, mapped.class_ids, np.int64(index)

        image, target_map, class_ids, index = tf.numpy_function(
            compute, [position], (tf.uint8, tf.int32, tf.int32, tf.int64), stateful=False
        )
        image.set_shape([None, None, 3])
        target_map.set_shape([None, None])
        class_ids.set_shape([None])
        index.set_shape([])
        return image, target_map, class_ids, index

    def _fast(self, position: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def compute(position: np.ndarray) -> tuple[Any, ...]:
            return self.prepare(*self.steps_at(int(position)))

        kinds = (tf.string, tf.int32, tf.float32, tf.int32, tf.int32, tf.int64)
        prepared = tf.numpy_function(compute, [position], kinds, stateful=False)
        shapes = ([], [12], [5], [None, None], [None], [])
        for tensor, shape in zip(prepared, shapes, strict=True):
            tensor.set_shape(shape)
        encoded, geometry, color, target_map, class_ids, index = prepared
        return self.transform(encoded, geometry, color), target_map, class_ids, index

    def prepare(self, index: int, steps: tuple[Step, ...]) -> tuple[Any, ...]:
        """What numpy does of the fast way: the encoded photograph, its steps, and the targets.

        Targets are two index lookups, which tf.gather does four times slower than numpy.
        Returns bytes, geometry int32 [12] and colour float32 [5] (`_as_vectors`), target map int32
        [H,W], class ids int32 [N], index.
        """
        features = parse(self.records.read(index), self.records.name(index))
        example = labels_of(features, self.records.name(index))
        target_map, class_ids, _ = apply_to_targets(example, steps, self.ignored)
        geometry, color = _as_vectors(steps)
        encoded = features["image/encoded"][0]
        return encoded, geometry, color, target_map, class_ids, np.int64(index)

    def transform(self, encoded: tf.Tensor, geometry: tf.Tensor, color: tf.Tensor) -> tf.Tensor:
        """The photograph uint8 [H,W,3] after the steps, in the order of the mapper.

        Args: an encoded photograph, and the vectors of its steps (`_as_vectors`).
        """
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        flip_first, flip_last, padded = geometry[0] > 0, geometry[1] > 0, geometry[10:12]
        first, crop, second = geometry[2:4], geometry[4:8], geometry[8:10]
        image = _flip_if(flip_first, image)
        if self.config.mapper == "detr_panoptic":
            image = tf.cond(
                crop[2] > 0, lambda: _resize_and_crop(image, first, crop), lambda: image
            )
            return resize(image, tf.where(crop[2] > 0, second, first))
        image = resize(image, first)
        image = tf.cond(
            crop[2] > 0,
            lambda: image[crop[0] : crop[0] + crop[2], crop[1] : crop[1] + crop[3]],
            lambda: image,
        )
        if self.config.color_aug_ssd:
            image = tf.numpy_function(_apply_color_vector, [image, color], tf.uint8, stateful=False)
            image.set_shape([None, None, 3])
        image = _flip_if(flip_last, image)
        return tf.cond(padded[0] > 0, lambda: _pad_image(image, padded), lambda: image)


def _as_vectors(steps: tuple[Step, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Geometry int32 [12] and colour float32 [5] of a mapper's steps.

    Geometry: flip before the resize, flip after it, first size, crop (top, left, height, width),
    second size, padded size; zeros where a step is absent. Colour: brightness, contrast,
    saturation, hue (NaN where absent), 1 where contrast comes first.
    """
    flip_first = flip_last = 0
    sizes: list[tuple[int, int]] = []
    crop, padded = (0, 0, 0, 0), (0, 0)
    color = np.array([np.nan] * 4 + [1.0], np.float32)
    for step in steps:
        match step:
            case Flip():
                flip_first, flip_last = (0, 1) if sizes else (1, 0)
            case Resize(height, width):
                sizes.append((height, width))
            case Crop(top, left, height, width):
                crop = (top, left, height, width)
            case Color():
                values = (step.brightness, step.contrast, step.saturation, step.hue)
                color[:4] = [np.nan if value is None else value for value in values]
                color[4] = step.contrast_first
            case Pad(height, width):
                padded = (height, width)
    sizes = [*sizes, _NO_RESIZE][:2]
    return np.array([flip_first, flip_last, *sizes[0], *crop, *sizes[1], *padded], np.int32), color


def _apply_color_vector(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    values = [None if np.isnan(value) else float(value) for value in color[:4]]
    hue = None if values[3] is None else int(values[3])
    return apply_color(image, Color(*values[:3], hue, contrast_first=bool(color[4])))


def _flip_if(condition: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    return tf.cond(condition, lambda: tf.reverse(image, [1]), lambda: image)


def _resize_and_crop(image: tf.Tensor, size: tf.Tensor, crop: tf.Tensor) -> tf.Tensor:
    """The first resize of a cropped COCO image, by Pillow: two inexact ones would add up."""

    def compute(image: np.ndarray, size: np.ndarray, crop: np.ndarray) -> np.ndarray:
        return apply_to_image(image, (Resize(*map(int, size)), Crop(*map(int, crop))))

    cropped = tf.numpy_function(compute, [image, size, crop], tf.uint8, stateful=False)
    cropped.set_shape([None, None, 3])
    return cropped


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Pillow's bilinear resize up to one level: antialiased where it shrinks, rounded half up.

    Args: image uint8 [H,W,3]; size int32 [2]. Returns uint8 [H',W',3].
    """
    shape = tf.shape(image)[:2]

    def enlarge() -> tf.Tensor:
        return tf.raw_ops.ResizeBilinear(images=image[None], size=size, half_pixel_centers=True)

    def shrink() -> tf.Tensor:
        return tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=size,
            scale=tf.cast(size, tf.float32) / tf.cast(shape, tf.float32),
            translation=tf.zeros(2),
            kernel_type="triangle",
            antialias=True,
        )

    resized = tf.cond(tf.reduce_all(size >= shape), enlarge, shrink)[0]
    return tf.cast(resized + 0.5, tf.uint8)


def _pad_image(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    part = image[: size[0], : size[1]]
    missing = size - tf.shape(part)[:2]
    return tf.pad(
        part,
        [[0, missing[0]], [0, missing[1]], [0, 0]],
        constant_values=tf.constant(IMAGE_PADDING, tf.uint8),
    )


def training_dataset(
    data: TrainingData,
    *,
    batch_size: int,
    buckets: Sequence[tuple[int, int]],
    state: dict[str, Any] | None = None,
    parallel_calls: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> tf.data.Dataset:
    """Endless batches, the same examples in the same order as PyTorch's `training_loader`.

    A batch is a dict of `images` uint8 [B,H,W,3], `sizes` int32 [B,2] (height, width),
    `target_map` int32 [B,H,W] (target of each pixel, -1 none), `class_ids` int32 [B,T], `valid`
    bool [B,T], `overflow` int32 [B] (targets beyond T), `index` int64 [B]. With one bucket every
    dimension is static; with several, each batch has the shape of one bucket.

    Args: batch_size over all processes; buckets: shapes a batch may have; state: of a `BatchPlan`,
    to continue (`advance_plan` computes it); parallel_calls: None lets tf.data choose; rank,
    world_size: this process's share of a batch.
    """
    share = len(range(rank, batch_size, world_size))

    def examples() -> Iterator[tuple[int, tuple[int, int]]]:
        for batch in _plan(data, batch_size, buckets, state):
            for position in batch.positions[rank::world_size]:
                yield position, batch.shape

    dataset = tf.data.Dataset.from_generator(
        examples,
        output_signature=(
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([2], tf.int32),
        ),
    )
    shape = buckets[0] if len(buckets) == 1 else (None, None)

    def load(position: tf.Tensor, padded: tf.Tensor) -> dict[str, tf.Tensor]:
        example = data.example(position, padded)
        example["images"].set_shape([*shape, 3])
        example["target_map"].set_shape(shape)
        example["class_ids"].set_shape([data.capacity])
        return example

    calls = tf.data.AUTOTUNE if parallel_calls is None else parallel_calls
    dataset = dataset.map(load, num_parallel_calls=calls, deterministic=True)
    return dataset.batch(share, drop_remainder=True).prefetch(2)


def advance_plan(
    data: TrainingData,
    *,
    batch_size: int,
    buckets: Sequence[tuple[int, int]],
    steps: int,
    state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The state after `steps` batches, to be saved with a checkpoint: plain JSON-able values."""
    plan = _plan(data, batch_size, buckets, state)
    for _ in range(steps):
        next(plan)
    return plan.state()


def _plan(
    data: TrainingData,
    batch_size: int,
    buckets: Sequence[tuple[int, int]],
    state: dict[str, Any] | None,
) -> Iterator[Batch]:
    state = state or {}
    waiting = {key: list(queue) for key, queue in state.get("waiting", {}).items()}
    return BatchPlan(data.shape_at, buckets, batch_size, state.get("position", 0), waiting)


def evaluation_image(image: np.ndarray, config: InputConfig) -> np.ndarray:
    """A photograph at the test size with Pillow's pixels: uint8 [H',W',3] from uint8 [H,W,3]."""
    return apply_to_image(image, evaluation_steps(config, *image.shape[:2]))


def difference(data: TrainingData, positions: Sequence[int]) -> dict[str, float]:
    """How the fast way differs from the exact one on these examples.

    Returns `images` compared; `largest` difference in levels and `share` of differing values after
    all geometric steps; the same after colour augmentation, which amplifies a level
    (`largest_colored`, `share_colored`); and `targets`: differing target pixels and class ids.
    """
    fast = tf.function(data.transform)
    plain, colored = _Gap(), _Gap()
    targets = 0
    for position in positions:
        index, steps = data.steps_at(position)
        example = data.records.load(index)
        geometric = tuple(step for step in steps if not isinstance(step, Color))
        for gap, chosen in ((plain, geometric), (colored, steps)):
            wanted = apply_steps(example, chosen, data.ignored)
            *photograph, target_map, class_ids, _ = data.prepare(index, chosen)
            gap.add(wanted.image, fast(*map(tf.constant, photograph)).numpy())
            targets += int((wanted.target_map != target_map).sum())
            targets += int(wanted.class_ids.tolist() != class_ids.tolist())
    return {
        "images": len(positions),
        "largest": plain.largest,
        "share": plain.differing / max(plain.values, 1),
        "largest_colored": colored.largest,
        "share_colored": colored.differing / max(colored.values, 1),
        "targets": targets,
    }


@dataclass
class _Gap:
    largest: int = 0
    differing: int = 0
    values: int = 0

    def add(self, wanted: np.ndarray, image: np.ndarray) -> None:
        gap = np.abs(wanted.astype(np.int16) - image)
        self.largest = max(self.largest, int(gap.max()))
        self.differing += int((gap > 0).sum())
        self.values += gap.size

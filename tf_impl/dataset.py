"""Training and evaluation data for TensorFlow: records in, batches of static shape out.

The draws are those of `maskformer.data.augmentation`, made on the host for (seed, epoch, image): a
run sees the examples of the PyTorch loader in the same order. Two ways to apply them:

- exact: Pillow, the pixels of the original. For parity and evaluation.
- fast: TensorFlow decodes, and makes the last resize of COCO images, where a pixel differs by at
  most one level, because Pillow rounds twice (see docs/data.md; `difference` measures it). All else
  is the same, level by level.

Both run on the host. What reaches the device has static shape.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from maskformer.data.annotated import Annotated
from maskformer.data.augmentation import (
    Color,
    Crop,
    Flip,
    Pad,
    Resize,
    Step,
    draw,
    drawn_shape,
    evaluation_steps,
    example_at,
    example_generator,
    output_shape,
)
from maskformer.data.batching import Batch, BatchPlan
from maskformer.data.mapper import (
    apply_steps,
    apply_to_image,
    apply_to_targets,
    check_fits,
    pad_targets,
)
from maskformer.data.pillow_bilinear import enlarged_window
from maskformer.model.inputs import InputConfig
from tf_impl.storage.tfrecord import RecordFolder, labels_of, parse

Size = Sequence[int]
ALIGNMENT = 64
"""Bytes: TensorFlow's own alignment of tensors (Eigen's EIGEN_MAX_ALIGN_BYTES)."""
_KINDS = (Flip, Resize, Crop, Color, Pad)
_TARGETS = ("sizes", "target_map", "class_ids", "valid", "overflow", "index")
_TARGET_KINDS = (tf.int32, tf.int32, tf.int32, tf.bool, tf.int32, tf.int64, tf.float64)


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
        check_fits(f"{self.records.folder}", self.records.manifest["kind"], self.config)

    @property
    def ignored(self) -> int:
        """The label of unlabelled pixels."""
        return self.records.manifest["ignored"] or 255

    def shape_at(self, position: int) -> tuple[int, int]:
        """Height and width of an example after its draws, without reading the record."""
        epoch, index = example_at(self.seed, position, len(self.records))
        location = self.records.locations[index]
        rng = example_generator(self.seed, epoch, index)
        return drawn_shape(self.config, rng, location.height, location.width)

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
        compute = self._exact if self.exact else self._prepared
        kinds = (tf.uint8 if self.exact else tf.string, *_TARGET_KINDS)
        photograph, *targets = tf.numpy_function(compute, [position, shape], kinds, stateful=False)
        shapes = ([2], [None, None], [self.capacity], [self.capacity], [], [])
        for tensor, static in zip(targets, shapes, strict=False):
            tensor.set_shape(static)
        if self.exact:
            photograph.set_shape([None, None, 3])
        else:
            photograph.set_shape([])
            photograph = self.transform(photograph, targets.pop(), shape)
        return dict(zip(("images", *_TARGETS), (photograph, *targets), strict=False))

    def _exact(self, position: np.ndarray, shape: np.ndarray) -> tuple[Any, ...]:
        index, steps = self.steps_at(int(position))
        example = self.records.load(index)
        photograph = _placed(apply_to_image(example.image, steps), shape)
        return photograph, *self._targets(example, index, steps, shape), _as_rows(steps)

    def _prepared(self, position: np.ndarray, shape: np.ndarray) -> tuple[Any, ...]:
        return self.prepare(*self.steps_at(int(position)), shape)

    def prepare(self, index: int, steps: tuple[Step, ...], shape: Size) -> tuple[Any, ...]:
        """What comes before the photograph is decoded, of one example padded to `shape`.

        Returns the encoded photograph, then what a batch holds besides `images`: sizes, target map,
        class ids, valid, overflow, index; last the steps as rows (`_as_rows`).
        """
        features = parse(self.records.read(index), self.records.name(index))
        example = labels_of(features, self.records.name(index))
        targets = self._targets(example, index, steps, shape)
        return features["image/encoded"][0], *targets, _as_rows(steps)

    def _targets(
        self, example: Annotated, index: int, steps: tuple[Step, ...], shape: Size
    ) -> tuple[Any, ...]:
        location = self.records.locations[index]
        size = output_shape(steps, location.height, location.width)
        steps = (*steps, Pad(*map(int, shape)))
        target_map, class_ids, _ = apply_to_targets(example, steps, self.ignored)
        targets = pad_targets(target_map, class_ids, self.capacity)
        aligned = _aligned(targets.target_map.shape, np.int32)
        aligned[...] = targets.target_map
        overflow, index = np.int32(targets.overflow), np.int64(index)
        sizes = np.array(size, np.int32)
        return sizes, aligned, targets.class_ids, targets.valid, overflow, index

    def transform(self, encoded: tf.Tensor, rows: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        """The photograph uint8 [H,W,3] after the steps, in the top left of `shape`.

        Args: an encoded photograph, and its steps as rows (`_as_rows`). TensorFlow decodes, and
        enlarges whole images, which it does faster than Pillow; Pillow does the rest.
        """
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        if self.config.mapper != "detr_panoptic":
            return _numpy_image(_apply_all, [image, rows, shape], tf.uint8)
        size = tf.cast(rows[-1, 1:3], tf.int32)
        image = tf.cond(
            tf.shape(rows)[0] > 1,
            lambda: _numpy_image(_apply_all_but_last, [image, rows], tf.uint8),
            lambda: image,
        )
        return tf.cond(
            tf.reduce_all(size >= tf.shape(image)[:2]),
            lambda: _numpy_image(_placed, [enlarge(image, size), shape], tf.uint8),
            lambda: _numpy_image(_apply_last, [image, rows, shape], tf.uint8),
        )


def _numpy_image(compute: Callable[..., np.ndarray], inputs: list, kind: tf.DType) -> tf.Tensor:
    image = tf.numpy_function(compute, inputs, kind, stateful=False)
    image.set_shape([None, None, 3])
    return image


def _as_rows(steps: tuple[Step, ...]) -> np.ndarray:
    """Steps as numbers, float64 [N,6]: the kind's place in `_KINDS`, its fields, NaN for the rest.

    None is NaN too. float64 holds every size and every drawn number exactly.
    """
    rows = np.full((len(steps), 6), np.nan)
    for row, step in zip(rows, steps, strict=True):
        row[0] = _KINDS.index(type(step))
        for place, field in enumerate(fields(step), 1):
            value = getattr(step, field.name)
            row[place] = np.nan if value is None else value
    return rows


def _from_rows(rows: np.ndarray) -> tuple[Step, ...]:
    """The steps that `_as_rows` wrote."""
    steps: list[Step] = []
    for kind, *values in rows:
        chosen = _KINDS[int(kind)]
        if chosen is Color:
            brightness, contrast, saturation, hue, first = (
                None if np.isnan(value) else float(value) for value in values
            )
            hue = None if hue is None else int(hue)
            steps.append(Color(brightness, contrast, saturation, hue, bool(first)))
        else:
            steps.append(chosen(*map(int, values[: len(fields(chosen))])))
    return tuple(steps)


def _apply(image: np.ndarray, steps: tuple[Step, ...]) -> np.ndarray:
    """`apply_to_image`, level by level, that makes of an enlarged image only what a crop keeps."""
    for place, (one, other) in enumerate(pairwise(steps)):
        if isinstance(one, Resize) and isinstance(other, Crop):
            image = apply_to_image(image, steps[:place])
            if one.height < image.shape[0] or one.width < image.shape[1]:
                return apply_to_image(image, steps[place:])
            window = (other.top, other.left, other.height, other.width)
            image = enlarged_window(image, (one.height, one.width), window)
            return apply_to_image(image, steps[place + 2 :])
    return apply_to_image(image, steps)


def _apply_all(image: np.ndarray, rows: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return _placed(_apply(image, _from_rows(rows)), shape)


def _apply_all_but_last(image: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What comes before a COCO image's last resize, by Pillow: two inexact ones would add up."""
    return _apply(image, _from_rows(rows[:-1]))


def _apply_last(image: np.ndarray, rows: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return _placed(apply_to_image(image, _from_rows(rows[-1:])), shape)


def _placed(image: np.ndarray, shape: Size) -> np.ndarray:
    """The image, truncated to uint8, in the top left of zeros. Args: image [H,W,3] of any dtype."""
    height, width = image.shape[:2]
    placed = _aligned((*shape, 3), np.uint8)
    placed[height:] = 0
    placed[:height, width:] = 0
    rows = placed.reshape(len(placed), -1)  # numpy casts long rows several times as fast
    rows[:height, : 3 * width] = image.reshape(height, -1)
    return placed


def _aligned(shape: Size, dtype: type) -> np.ndarray:
    """An array of any content that TensorFlow takes over instead of copying it."""
    size = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def enlarge(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Pillow's bilinear resize to a larger size up to one level, once it is truncated.

    Args: image uint8 [H,W,3]; size int32 [2], no smaller. Returns float32 [H',W',3] with 0.5 added
    before, so that truncation rounds half up.
    """
    return tf.raw_ops.ResizeBilinear(
        images=tf.cast(image, tf.float32)[None] + 0.5, size=size, half_pixel_centers=True
    )[0]


def training_dataset(
    data: TrainingData,
    *,
    batch_size: int,
    buckets: Sequence[tuple[int, int]],
    state: dict[str, Any] | None = None,
    parallel_calls: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Endless batches, the same examples in the same order as PyTorch's `training_loader`.

    A batch is a dict of `images` uint8 [B,H,W,3], `sizes` int32 [B,2] (height, width),
    `target_map` int32 [B,H,W] (target of each pixel, -1 none), `class_ids` int32 [B,T], `valid`
    bool [B,T], `overflow` int32 [B] (targets beyond T), `index` int64 [B]. With one bucket every
    dimension is static; with several, each batch has the shape of one bucket.

    Args: batch_size over all processes; buckets: shapes a batch may have; state: of a `BatchPlan`,
    to continue (`advance_plan` computes it); parallel_calls: None lets tf.data choose; rank,
    world_size: this process's share of a batch; replicas: devices of a process, which take its
    elements in turn. Replica i of n in all has every n-th example of a batch, from the i-th on.
    """
    total = world_size * replicas
    mine = range(rank * replicas, (rank + 1) * replicas)
    share = len(range(rank * replicas, batch_size, total))

    def examples() -> Iterator[tuple[int, tuple[int, int]]]:
        for batch in _plan(data, batch_size, buckets, state):
            for replica in mine:
                for position in batch.positions[replica::total]:
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
    return dataset.batch(share, drop_remainder=True).prefetch(2 * replicas)


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
    signature = (
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([None, 6], tf.float64),
        tf.TensorSpec([2], tf.int32),
    )
    fast = tf.function(data.transform, input_signature=signature)
    plain, colored = _Gap(), _Gap()
    targets = 0
    for position in positions:
        index, steps = data.steps_at(position)
        example = data.records.load(index)
        geometric = tuple(step for step in steps if not isinstance(step, Color))
        for gap, chosen in ((plain, geometric), (colored, steps)):
            wanted = apply_steps(example, chosen, data.ignored)
            shape = np.array(wanted.image.shape[:2], np.int32)
            encoded, _, target_map, class_ids, _, _, _, rows = data.prepare(index, chosen, shape)
            gap.add(wanted.image, fast(encoded, rows, shape).numpy())
            whole = pad_targets(wanted.target_map, wanted.class_ids, data.capacity)
            targets += int((whole.target_map != target_map).sum())
            targets += int((whole.class_ids != class_ids).sum())
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

"""Evaluation from records: images at the test size on the way in, scores of predictions at the end.

Post-processing and counting run on the host, image by image, at each photograph's own size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from maskformer.data.batching import choose_bucket
from maskformer.data.images import Size
from maskformer.data.panoptic_format import Category, Segment
from maskformer.inference.prediction import Prediction, padded_size
from maskformer.metrics import panoptic_quality, semantic_iou
from maskformer.metrics.panoptic_quality import PanopticCounts, PanopticPair
from maskformer.metrics.run_scores import ImageCounts
from maskformer.metrics.semantic_iou import SemanticCounts
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from parity.errors import InputError
from tf_impl.dataset import evaluation_image
from tf_impl.inference import predict
from tf_impl.storage.tfrecord import RecordFolder, labels_of, parse

FILLER = -1
"""Image number of what fills up a last batch."""


@dataclass(frozen=True)
class EvaluationData:
    """The images of a folder of records as a model of `config` is evaluated on them.

    `buckets` are the (height, width) images are padded to; without any, an image is padded to the
    model's size divisibility only, as the original tests.
    """

    records: RecordFolder
    config: ModelConfig
    inputs: InputConfig
    buckets: tuple[Size, ...] = ()

    @property
    def is_panoptic(self) -> bool:
        """Whether the records have segments."""
        return self.records.manifest["kind"] == "panoptic"

    @cached_property
    def categories(self) -> dict[int, Category]:
        """The data set's classes by class number."""
        things = frozenset(self.config.inference.thing_ids)
        return {
            number: Category(number, entry["name"], bool(entry.get("isthing", number in things)))
            for number, entry in enumerate(self.records.manifest["categories"])
        }

    @property
    def ignored(self) -> int:
        """The label of pixels that do not count."""
        return 255 if self.config.num_classes <= 255 else 65535

    @cached_property
    def canvas(self) -> Size:
        """Height and width that hold every photograph."""
        places = self.records.locations
        return max(place.height for place in places), max(place.width for place in places)

    def size(self, index: int) -> Size:
        """Height and width of photograph number `index`."""
        return self.records.locations[index].height, self.records.locations[index].width

    def image(self, index: int) -> np.ndarray:
        """uint8 [H,W,3]: the photograph at the test size, by Pillow's bilinear filter."""
        return evaluation_image(self.records.load(index).image, self.inputs)

    def count(self, index: int, prediction: Prediction) -> tuple[SemanticCounts, Any]:
        """The counts of one image: of its labels, and of its segments or None."""
        name = self.records.name(index)
        example = labels_of(parse(self.records.read(index), name), name)
        if example.labels is not None:
            ignored = self.records.manifest["ignored"]
            truth = example.labels.astype(np.int32)
            truth = np.where(truth == ignored, self.ignored, truth)
        else:
            truth = np.r_[self.ignored, example.class_ids].astype(np.int32)[example.segments]
        matrix = semantic_iou.confusion_matrix(
            truth, prediction.labels, self.config.num_classes, self.ignored, name
        )
        semantic = SemanticCounts.from_confusion(matrix)
        if prediction.panoptic is None or example.segments is None:
            return semantic, None
        segments = [
            Segment(number, int(category), bool(crowd))
            for number, (category, crowd) in enumerate(
                zip(example.class_ids, example.is_crowd, strict=True), start=1
            )
        ]
        pair = PanopticPair(
            name,
            example.segments,
            segments,
            prediction.panoptic.ids,
            prediction.panoptic.segments,
        )
        return semantic, panoptic_quality.count_image(pair, self.categories)


def check_classes(records: RecordFolder, config: ModelConfig) -> None:
    """Raises InputError unless the records' classes are the model's, things and stuff."""
    manifest = records.manifest
    if manifest["num_classes"] != config.num_classes:
        names = ", ".join(entry["name"] for entry in manifest["categories"][:4])
        raise InputError(
            f"{config.name} predicts {config.num_classes} classes, the records have "
            f"{manifest['num_classes']}",
            f"{records.folder}: {names}, ...",
            "Choose an experiment that was made for this data set.",
        )
    if manifest["kind"] == "semantic":
        return
    things = {i for i, entry in enumerate(manifest["categories"]) if entry["isthing"]}
    wrong = sorted(things ^ set(config.inference.thing_ids))
    if wrong and config.inference.panoptic_on:
        kind = "a thing" if wrong[0] in config.inference.thing_ids else "stuff"
        raise InputError(
            f"class {wrong[0]} is {kind} for {config.name} and is not in the records",
            f"{len(wrong)} of {config.num_classes} classes differ: {records.folder}",
            "Choose an experiment that was made for this data set.",
        )


def evaluation_dataset(data: EvaluationData, batch: int, replicas: int) -> tf.data.Dataset:
    """Every image once, in batches that `replicas` devices take in turn.

    A batch is a dict of `images` uint8 [B,H,W,3], `sizes` int32 [B,2] and `index` int64 [B]. Images
    of one batch share a bucket; batches are filled up with `FILLER`, and so is the last round of
    the replicas. Without buckets a batch is one image.
    """

    def examples() -> Iterator[dict[str, np.ndarray]]:
        rounds = 0
        for padded, indices in _groups(data, batch):
            yield _batch(data, padded, indices)
            rounds += 1
        while rounds % replicas:
            yield _batch(data, padded, [FILLER] * batch)
            rounds += 1

    height, width = data.buckets[0] if len(data.buckets) == 1 else (None, None)
    signature = {
        "images": tf.TensorSpec([batch, height, width, 3], tf.uint8),
        "sizes": tf.TensorSpec([batch, 2], tf.int32),
        "index": tf.TensorSpec([batch], tf.int64),
    }
    return tf.data.Dataset.from_generator(examples, output_signature=signature).prefetch(2)


def _groups(data: EvaluationData, batch: int) -> Iterator[tuple[Size | None, list[int]]]:
    """Padded size and image numbers of every batch."""
    from maskformer.data.augmentation import evaluation_steps, output_shape

    if not data.buckets:
        yield from ((None, [index]) for index in range(len(data.records)))
        return
    waiting: dict[Size, list[int]] = {}
    for index in range(len(data.records)):
        size = data.size(index)
        shape = output_shape(evaluation_steps(data.inputs, *size), *size)
        queue = waiting.setdefault(choose_bucket(*shape, data.buckets), [])
        queue.append(index)
        if len(queue) == batch:
            yield choose_bucket(*shape, data.buckets), list(queue)
            queue.clear()
    for bucket, queue in waiting.items():
        if queue:
            yield bucket, queue + [FILLER] * (batch - len(queue))


def _batch(data: EvaluationData, padded: Size | None, indices: Sequence[int]) -> dict[str, Any]:
    images = [None if index == FILLER else data.image(index) for index in indices]
    shapes = [(1, 1) if image is None else image.shape[:2] for image in images]
    padded = padded or padded_size(shapes, max(data.config.size_divisibility, 1))
    padded = tuple(max(side, data.config.minimum_size) for side in padded)
    stacked = np.zeros((len(indices), *padded, 3), np.uint8)
    for slot, image in zip(stacked, images, strict=True):
        if image is not None:
            slot[: image.shape[0], : image.shape[1]] = image
    return {
        "images": stacked,
        "sizes": np.array(shapes, np.int32),
        "index": np.array(indices, np.int64),
    }


class RecordScores:
    """Collects the counts of images as their outputs arrive."""

    def __init__(self, data: EvaluationData) -> None:
        self._data = data
        self._found: dict[int, tuple[SemanticCounts, PanopticCounts | None]] = {}

    def add(self, outputs: Mapping[str, tf.Tensor], padded: Size) -> None:
        """Counts a batch: the model's outputs with `sizes` and `index` of the batch beside them.

        Raises InputError for outputs that are not finite.
        """
        data = self._data
        results = ("labels", "panoptic") if data.config.inference.panoptic_on else ("labels",)
        keys = ("sem_seg",) if data.config.is_per_pixel else ("pred_logits", "pred_masks")
        for slot, index in enumerate(outputs["index"].numpy().tolist()):
            if index == FILLER:
                continue
            prediction = predict(
                {key: outputs[key][slot : slot + 1] for key in keys},
                data.config,
                padded,
                [tuple(outputs["sizes"][slot].numpy().tolist())],
                [data.size(index)],
                results,
                canvas=data.canvas,
                jit_compile=False,
            )[0]
            self._found[index] = data.count(index, prediction)

    @property
    def counts(self) -> ImageCounts:
        """The counts so far, in the order of the records. Raises InputError without any image."""
        data = self._data
        indices = sorted(self._found)
        semantic = SemanticCounts.stack([self._found[index][0] for index in indices])
        segments = [self._found[index][1] for index in indices]
        panoptic = None if None in segments else PanopticCounts.stack(segments)
        names = tuple(data.records.locations[index].source_id for index in indices)
        things = np.array([category.isthing for category in data.categories.values()], bool)
        return ImageCounts(names, things, semantic, panoptic)

"""The bench of evaluation from records: what the model is given, and what its results count."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskformer.data import augmentation, evaluation_data, images
from maskformer.data.batching import choose_bucket
from maskformer.data.images import Size
from maskformer.data.mapper import IMAGE_PADDING
from maskformer.data.panoptic_format import Segment
from maskformer.family import family_of
from maskformer.inference.prediction import PanopticPrediction, Prediction
from maskformer.metrics import panoptic_quality, run_scores, semantic_iou
from maskformer.metrics.panoptic_quality import PanopticPair
from maskformer.metrics.run_scores import ImageCounts
from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity.causes.source import Mistake, functions_of
from parity.planting import replaced
from replication.faults.benches.host import Part, audited
from torch_reference import dataset, evaluation
from torch_reference.replicas import Replicas

Key = tuple[str, str]
SCENES, SEED, SIZE, SHARE = 8, 9, 128, 0.125  # seven images; several crowds, void, every shape
SPLITS = {"coco": "train2017", "ade20k": "training"}
QUERIES, STRIDE, OVERLAP = 10, 4, 0.1  # of the made-up model, some of whose segments stay
SIDES = (64, 96)
"""Sides of the buckets: whatever an image is padded to by the divisibility is one of them."""
PLACES = ("images", "image", "batch image", "size", "labels", "segments", "iou", "names", "things")
MADE = "made of the truth"


@dataclasses.dataclass(frozen=True)
class Way:
    """How images are put together: batches of `batch` in these buckets, for `replicas`."""

    batch: int
    replicas: int
    buckets: tuple[Size, ...] = ()


ALONE, TOGETHER = "one by one", "in buckets"
WAYS = {
    ALONE: Way(1, 3),
    TOGETHER: Way(2, 2, tuple((height, width) for height in SIDES for width in SIDES)),
}


class EvaluationBench:
    """Evaluation of panoptic and semantic data by a made-up model, and of predictions near truth.

    The reference reads the data set that the port's records were written of, image by image.
    """

    def __init__(self) -> None:
        from maskformer.scenes.scenes import write_scenes
        from tf_impl.storage.tfrecord import RecordFolder, write_records

        self._folder = tempfile.TemporaryDirectory(prefix="parity-")
        root = Path(self._folder.name)
        write_scenes(root, SCENES, SEED, size=SIZE, val_share=SHARE)
        scenes = zoo.get("scenes_tiny")
        self._inputs = dataclasses.replace(scenes.inputs, min_size_test=60, max_size_test=90)
        self._configs = {name: _config(scenes.model, name == "coco") for name in SPLITS}
        self._data, self._records = {}, {}
        for name, split in SPLITS.items():
            self._data[name] = evaluation_data.open_data(root, split, self._configs[name])
            write_records(self._data[name].images, root / f"records_{name}", split, 1)
            self._records[name] = RecordFolder(root / f"records_{name}")
        self._made = {
            (name, index): _near_truth(data, index)
            for name, data in self._data.items()
            for index in range(data.count)
        }
        self._predicted = _Remembered()
        expected = self.reference(None)
        given = [dataset.evaluation_image, images.batch_images, *functions_of(evaluation)]
        sizes = [augmentation.evaluation_steps, augmentation.resized_shape]
        labelled = functions_of(evaluation_data, run_scores, semantic_iou)
        self.part = Part(
            "evaluation",
            "Evaluation gives the model the same images, and counts its results alike",
            expected,
            self.reference,
            {
                "images": (),  # an edited plan of images may never end
                "image": [*given, *sizes],
                "batch image": [*given, *sizes],
                "size": [*given, *sizes],
                "labels": [*functions_of(evaluation), *labelled],
                "": [*functions_of(evaluation), *labelled, *functions_of(panoptic_quality)],
            },
            known=self._known,
            limits={
                # Each of the sums has a term for a query, in the order of the true ids.
                key: QUERIES * float(np.finfo(np.float64).eps)
                for key in expected
                if key[0] == "iou"
            },
        )

    def reference(self, keys: Sequence[Key] | None) -> dict[Key, Any]:
        """The reference's results of these keys at least, by default of all."""
        wanted = None if keys is None else {case for _, case in keys}
        found: dict[Key, Any] = {}
        for name, data in self._data.items():
            found |= {("images", f"{name}, {way}"): self._met(name, way) for way in WAYS}
            for index in range(data.count):
                cases = [case for case in _cases(name, index) if wanted is None or case in wanted]
                for case in cases:
                    if case.endswith(MADE):
                        scores = run_scores.RunScores(data)
                        scores.add(index, self._made[name, index])
                        found |= _counted(scores.counts, {0: case})
                if any(not case.endswith(MADE) for case in cases):
                    found |= self._evaluated(name, index)
        return _ordered(found)

    def _met(self, name: str, way: str) -> tuple[int, ...]:
        """The images of an evaluation: every one, however they are put together."""
        return tuple(range(self._data[name].count))

    def _in_full_batches(self, name: str, way: str) -> tuple[int, ...]:
        """The same where batches that are not full are left out."""
        plan, data = WAYS[way], self._data[name]
        queues: dict[Size, list[int]] = {}
        for index in range(data.count):
            record = data.images.records[index]
            size = (record.height, record.width)
            steps = augmentation.evaluation_steps(self._inputs, *size)
            shape = augmentation.output_shape(steps, *size)
            bucket = choose_bucket(*shape, plan.buckets) if plan.buckets else shape
            queues.setdefault(bucket, []).append(index)
        kept = [queue[: len(queue) // plan.batch * plan.batch] for queue in queues.values()]
        return tuple(sorted(index for queue in kept for index in queue))

    def _known(self, place: str) -> list[Mistake]:
        if place != "images":
            return _known_mistakes(place)
        text = "batches that are not full are left out"
        return [Mistake(text, partial(replaced, self, "_met", self._in_full_batches))]

    def _evaluated(self, name: str, index: int) -> dict[Key, Any]:
        """What the reference gives the model of one image, and counts of it, for every way."""
        config, data = self._configs[name], self._data[name]
        model = _Answering(config)
        alone = _Alone(index, data.count)  # its share is this image
        cases = [f"{name} {index}, {way}" for way in WAYS]

        def counted() -> dict[Key, Any]:
            predict = self._predicted.by(evaluation.predict)
            with replaced(evaluation, "predict", predict):
                counts = evaluation.evaluate(model, config, self._inputs, data, alone)
            return {
                key: value for case in cases for key, value in _counted(counts, {0: case}).items()
            }

        counts = _or_nothing(counted)
        given = {(_image(way), f"{name} {index}, {way}"): model.given for way in WAYS}
        return given | {("size", case): model.size for case in cases} | counts

    def port(self) -> dict[Key, Any]:
        """The port's results; those that it cannot compute are missing."""
        from tf_impl import evaluation as port
        from tf_impl import inference

        inference.compiled.cache_clear()
        found: dict[Key, Any] = {}
        for name, records in self._records.items():
            config = self._configs[name]
            for title, way in WAYS.items():
                data = port.EvaluationData(records, config, self._inputs, way.buckets)
                batches = list(port.evaluation_dataset(data, way.batch, way.replicas))
                found |= _given(name, title, batches)
                found |= _or_nothing(
                    partial(_scored, name, title, port.RecordScores(data), batches)
                )
            for index in range(self._data[name].count):
                prediction = self._made[name, index]
                found |= _or_nothing(partial(_count, data, name, index, prediction))
        inference.compiled.cache_clear()
        return found

    def audit(self) -> Any:
        """What the claim on evaluation says of the port as it is now."""
        return audited(self.part, self.port)


class _Alone(Replicas):
    """One of several processes, which hears nothing of the others."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


class _Remembered:
    """Predictions by what they are made of: a search for causes edits only what is around them."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], list[Prediction]] = {}

    def by(self, predict: Callable[..., list[Prediction]]) -> Callable[..., list[Prediction]]:
        """`predict`, which runs once for the same arguments."""

        def remembered(outputs: Mapping[str, torch.Tensor], *others: Any) -> list[Prediction]:
            arrays = sha256(b"".join(value.numpy().tobytes() for value in outputs.values()))
            key = (predict, arrays.digest(), repr(others))
            if key not in self._made:
                self._made[key] = predict(outputs, *others)
            return deepcopy(self._made[key])  # whoever counts may write to it

        return remembered


class _Answering(torch.nn.Module):
    """A model of `_answer` that keeps the image and the size it was given last."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self.precision = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        given = images.numpy().transpose(0, 2, 3, 1)
        self.given, self.size = given[0].astype(np.uint8), _whole(sizes.numpy()[0])
        return {k: torch.from_numpy(v) for k, v in _answer(self._config, given, sizes).items()}


def _config(model: ModelConfig, panoptic: bool) -> ModelConfig:
    inference = dataclasses.replace(
        model.inference,
        panoptic_on=panoptic,
        overlap_threshold=OVERLAP,
        sem_seg_postprocess_before_inference=panoptic,
    )
    return model.replace(inference=inference, size_divisibility=32)


def _answer(config: ModelConfig, images: np.ndarray, sizes: Any) -> dict[str, np.ndarray]:
    """Outputs float64 that follow what images [B,H,W,3] show, and where in their valid part."""
    rng = np.random.default_rng(7)
    levels = images[:, ::STRIDE, ::STRIDE].astype(np.float64) / 64 - 2
    masks = np.einsum("qc,nhwc->nqhw", rng.normal(size=(QUERIES, 3)), levels)
    angles = rng.uniform(1, 6, (QUERIES, 2, 1))
    for image, size in zip(masks, np.asarray(sizes), strict=True):
        rows, columns = (
            angles[:, axis] * STRIDE * np.arange(image.shape[1 + axis]) / size[axis]
            for axis in (0, 1)
        )
        image += 2 * np.sin(rows)[:, :, None] + 2 * np.cos(columns)[:, None]
    logits = rng.normal(size=(QUERIES, config.num_classes + 1))
    logits[np.arange(QUERIES), rng.integers(0, config.num_classes, QUERIES)] += 8
    names = family_of(config).outputs
    return {names.classes: np.stack([logits] * len(images)), names.masks: masks}


def _near_truth(data: evaluation_data.EvaluationData, index: int) -> Prediction:
    """A prediction a little beside the truth: moved, some segments of other classes, some lost.

    Crowds are one segment each, and void is one besides.
    """
    classes, labels = len(data.categories), data.labels(index)
    move = labels.shape[1] // 16
    guess = np.roll(np.where(labels == data.ignored, 0, labels), move, axis=1).astype(np.int32)
    if not data.is_panoptic:
        return Prediction(labels=guess)
    annotation = data.truth.annotations[index]
    numbers = {one.id: number for number, one in enumerate(data.categories)}
    true_ids = data.truth.ids(annotation)
    ids, segments = np.zeros(labels.shape, np.int32), []
    shown = [(one.id, numbers[one.category_id]) for one in annotation.segments]
    for place, (identity, number) in enumerate([*shown, (0, 0)]):
        mask = np.roll(true_ids == identity, move, axis=1)
        if place % 5 == 4 or not mask.any():
            continue
        segments.append(Segment(len(segments) + 1, (number + (place % 4 == 3)) % classes))
        ids[mask] = len(segments)
    return Prediction(labels=guess, panoptic=PanopticPrediction(ids, tuple(segments)))


def _cases(name: str, index: int) -> list[str]:
    return [f"{name} {index}, {way}" for way in (*WAYS, MADE)]


def _image(way: str) -> str:
    """The place of the image that a model is given; a bucket pads it otherwise."""
    return "image" if way == ALONE else "batch image"


def _whole(numbers: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in numbers)


def _given(name: str, way: str, batches: Sequence[Mapping[str, Any]]) -> dict[Key, Any]:
    """What the port gives the model of every image, and of which images."""
    from tf_impl.evaluation import FILLER

    found: dict[Key, Any] = {}
    seen = []
    for batch in batches:
        for slot, index in enumerate(_whole(batch["index"])):
            if index != FILLER:
                seen.append(index)
                case = f"{name} {index}, {way}"
                found[_image(way), case] = batch["images"][slot].numpy()
                found["size", case] = _whole(batch["sizes"][slot])
    return {("images", f"{name}, {way}"): tuple(sorted(seen)), **found}


def _scored(
    name: str, way: str, scores: Any, batches: Sequence[Mapping[str, Any]]
) -> dict[Key, Any]:
    """What the port counts of the answers to its batches."""
    import tensorflow as tf

    for batch in batches:
        given, sizes = batch["images"].numpy(), batch["sizes"].numpy()
        answer = _answer(scores._data.config, given, sizes)
        outputs = {key: tf.constant(value) for key, value in answer.items()}
        scores.add({**outputs, "sizes": batch["sizes"], "index": batch["index"]}, given.shape[1:3])
    counts = scores.counts
    return _counted(counts, {row: f"{name} {row}, {way}" for row in range(len(counts.names))})


def _count(data: Any, name: str, index: int, prediction: Prediction) -> dict[Key, Any]:
    """What the port counts of a prediction for one image."""
    semantic, panoptic = data.count(index, prediction)
    stacked = None if panoptic is None else type(panoptic).stack([panoptic])
    things = np.array([one.isthing for one in data.categories.values()], bool)
    names = (data.records.locations[index].source_id,)
    counts = ImageCounts(names, things, type(semantic).stack([semantic]), stacked)
    return _counted(counts, {0: f"{name} {index}, {MADE}"})


def _counted(counts: ImageCounts, cases: Mapping[int, str]) -> dict[Key, Any]:
    """The counts of rows by their cases."""
    found: dict[Key, Any] = {}
    for row, case in cases.items():
        one = counts.semantic
        found["labels", case] = np.stack([one.right[row], one.true[row], one.predicted[row]])
        if (one := counts.panoptic) is not None:
            found["segments", case] = np.stack([one.tp[row], one.fp[row], one.fn[row]])
            found["iou", case] = one.iou[row]
        found["names", case] = counts.names[row]
        found["things", case] = counts.things
    return found


def _or_nothing(compute: Callable[[], dict[Key, Any]]) -> dict[Key, Any]:
    """What is computed, or nothing where that fails, which part_claim takes for differences."""
    try:
        return compute()
    except Exception:
        return {}


def _ordered(found: Mapping[Key, Any]) -> dict[Key, Any]:
    return dict(sorted(found.items(), key=lambda item: PLACES.index(item[0][0])))


def _known_mistakes(place: str) -> list[Mistake]:
    """What ports do with crowds, void, sizes and padding."""
    labels, batch = evaluation_data.EvaluationData.labels, images.batch_images
    predict = evaluation.predict

    def plain(name: Any, ids: Any, truth: Sequence[Segment], *predicted: Any) -> PanopticPair:
        truth = [dataclasses.replace(one, iscrowd=False) for one in truth]
        return PanopticPair(name, ids, truth, *predicted)

    def first(data: Any, index: int) -> np.ndarray:
        found = labels(data, index)
        return np.where(found == data.ignored, 0, found) if data.is_panoptic else found

    def exchanged(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        stacked, sizes = batch(*given)
        return stacked, sizes[:, ::-1].copy()

    def grey(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        stacked, sizes = batch(*given)
        for image, (height, width) in zip(stacked, sizes, strict=True):
            image[height:] = image[:, width:] = IMAGE_PADDING
        return stacked, sizes

    def uncut(outputs: Any, config: Any, padded: Size, sizes: Any, *others: Any) -> Any:
        return predict(outputs, config, padded, [padded] * len(sizes), *others)

    return [
        Mistake(text, partial(replaced, owner, name, wrong))
        for text, owner, name, wrong in (
            ("crowds are segments like others", run_scores, "PanopticPair", plain),
            ("void is class 0", evaluation_data.EvaluationData, "labels", first),
            ("sizes are (width, height)", evaluation, "batch_images", exchanged),
            (f"images are padded with {IMAGE_PADDING}", evaluation, "batch_images", grey),
            ("results are resized with their padding", evaluation, "predict", uncut),
        )
    ]

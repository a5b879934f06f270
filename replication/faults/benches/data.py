"""The bench of the input pipelines: examples, batches and test images of both sides."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskformer.data import augmentation, color, mapper
from maskformer.model.inputs import CropConfig, InputConfig
from parity.causes.source import functions_of
from replication.faults.benches import data_cases
from replication.faults.benches.data_mistakes import known_mistakes
from replication.faults.benches.host import Part, Results, audited

SEED, CAPACITY, TEST_IMAGES = 3, 8, 2
EXAMPLES = (*range(8), 10, 17)  # the last two are of later epochs
MORE = (5, 7)  # rows and columns by which examples are padded, as a bucket pads them
SHORT_SIDES = (32, 40, 64, 128)  # of which test sizes are multiples, or halves of odd ones
KINDS = ("Crop", "Flip", "Color", "Pad", "Resize")
PIPELINES = {
    "coco": (
        InputConfig(
            "detr_panoptic",
            (64, 72, 80),
            100,
            CropConfig("absolute_range", (48, 64)),
            min_size_test=80,
            max_size_test=96,
        ),
        "coco",
        "train2017",
    ),
    "ade20k": (
        InputConfig(
            "mask_former_semantic",
            (48, 72, 96),
            200,
            CropConfig("absolute", (64, 64)),
            True,
            64,
            min_size_test=64,
            max_size_test=200,
        ),
        "ADEChallengeData2016",
        "training",
    ),
    "ade20k_full": (
        InputConfig(
            "mask_former_semantic",
            (48, 72, 96),
            200,
            CropConfig("absolute", (48, 48), 0.6),  # some are drawn again, some every time
            True,
            48,
            min_size_test=64,
            max_size_test=200,
        ),
        "ADE20K_2021_17_01",
        "training",
    ),
}


class DataBench:
    """Training examples of both mappers and test images, drawn and made by both sides.

    The port applies the reference's draws, so that a wrong draw hides nothing that comes after.
    """

    def __init__(self) -> None:
        from maskformer.data.dataset_layout import open_split
        from maskformer.scenes.scenes import write_scenes
        from tf_impl.storage.tfrecord import RecordFolder, write_records

        self._folder = tempfile.TemporaryDirectory(prefix="parity-")
        root = Path(self._folder.name)
        write_scenes(root, 10, seed=4, size=128, val_share=0.2)
        (_, source, split), (_, full, _) = PIPELINES["ade20k"], PIPELINES["ade20k_full"]
        data_cases.write_many_classes(root / source, root / full, split)
        self._settings = {
            name: dataclasses.replace(config) for name, (config, *_) in PIPELINES.items()
        }
        self.settings = {
            name: dataclasses.replace(config) for name, (config, *_) in PIPELINES.items()
        }
        self._images, self.records = {}, {}
        for name, (_, layout, split) in PIPELINES.items():
            self._images[name] = open_split(root / layout, split)
            write_records(self._images[name], root / f"records_{name}", split, 1)
            self.records[name] = RecordFolder(root / f"records_{name}")
        from torch_reference import dataset

        orders = (augmentation.example_at, augmentation.epoch_order)
        drawing = [one for one in functions_of(augmentation) if one not in orders]
        applying = [
            *functions_of(mapper),
            augmentation.source_indices,
            augmentation.nearest_index,
            augmentation._pad_index,
            *functions_of(dataset),
        ]
        testing = [
            augmentation.evaluation_steps,
            augmentation.resized_shape,
            mapper.apply_to_image,
            dataset.evaluation_image,
        ]
        self.part = Part(
            "data",
            "Both input pipelines draw the same, and make the same examples of it",
            self.reference(None),
            self.reference,
            {
                "image": orders,
                **{f"draws {kind}": drawing for kind in KINDS},
                "test sizes": testing,
                "test image": testing,
                data_cases.RESIZED: (augmentation.nearest_index,),
                "photograph": [*applying, color.apply_color],
                # an edited plan of batches may never give one
                **dict.fromkeys(data_cases.BATCHES, ()),
                "": applying,
            },
            list(self._settings.values()),
            known_mistakes,
            together=_EXAMPLE[1:],
            first=_first_draw,
        )

    def reference(self, keys: Sequence[tuple[str, str]] | None) -> dict[tuple[str, str], Any]:
        """The reference's results of these keys at least, by default of all."""
        from torch_reference.dataset import TrainingData, evaluation_image

        found: dict[tuple[str, str], Any] = {}
        wanted = None if keys is None else {case for _, case in keys}
        places = None if keys is None else {place for place, _ in keys}
        drawn_only = places is not None and places.issubset(_DRAWS)
        augmentation._cached_order.cache_clear()  # what was drawn with other code
        if _any(places, data_cases.RESIZED):
            found |= data_cases.resized_sources(mapper.apply_to_targets)
        for name, images in self._images.items():
            settings = self._settings[name]
            data = TrainingData(images, settings, SEED, CAPACITY)
            if _any(places, *data_cases.BATCHES):
                found |= data_cases.reference_batches(name, images, settings, SEED, CAPACITY)
            for position in EXAMPLES if drawn_only or _any(places, *_EXAMPLE) else ():
                case = f"{name} {position}"
                if wanted is not None and case not in wanted:
                    continue
                _, index, steps = _reference_steps(data, position)
                found |= {("image", case): index, **_drawn(case, steps)}
                if drawn_only:
                    continue
                record = images.records[index]
                shape = _padded(augmentation.output_shape(steps, record.height, record.width))
                found |= _example(case, _as_arrays(data[position, shape]))
            if _any(places, "test sizes"):
                found["test sizes", name] = _test_sizes(augmentation, settings)
            if _any(places, "test image"):
                for index in range(TEST_IMAGES):
                    photograph = images.load(index).image
                    image = evaluation_image(photograph, settings).numpy()
                    found["test image", f"{name} {index}"] = image.transpose(1, 2, 0)
        return dict(sorted(found.items(), key=lambda item: _ORDER.index(item[0][0])))

    def port(self) -> dict[tuple[str, str], Any]:
        """The port's results."""
        from tf_impl import dataset

        found: dict[tuple[str, str], Any] = data_cases.resized_sources(dataset.apply_to_targets)
        for name, records in self.records.items():
            settings = self.settings[name]
            data = dataset.TrainingData(records, settings, SEED, CAPACITY, exact=True)
            reference = self._reference_data(name)
            for position in EXAMPLES:
                case = f"{name} {position}"
                index, steps = data.steps_at(position)
                found |= {("image", case): index, **_drawn(case, steps)}
                _, index, steps = _reference_steps(reference, position)
                location = records.locations[index]
                size = augmentation.output_shape(steps, location.height, location.width)
                shape = np.array(_padded(size), np.int32)
                example = records.load(index)
                image = dataset.apply_to_image(example.image, steps)
                fast = data.prepare(index, steps, shape)
                values = {
                    "photograph": dataset._placed(image, shape),
                    **dict(zip(_EXAMPLE[1:], fast[1:6], strict=True)),
                }
                right = self.part.expected["photograph", case]
                if np.array_equal(values["photograph"], right):
                    quick = data.transform(fast[0], fast[-1], shape).numpy()
                    level = data_cases.fast_level(settings)
                    values["photograph"] = data_cases.unless_within(quick, right, level)
                found |= _example(case, values)
            found |= data_cases.port_batches(name, data, self.part.expected)
            found["test sizes", name] = _test_sizes(dataset, settings)
            for index in range(TEST_IMAGES):
                photograph = self._images[name].load(index).image
                image = dataset.evaluation_image(photograph, settings)
                found["test image", f"{name} {index}"] = np.asarray(image)
        return found

    def audit(self) -> Any:
        """What the claim on the input pipelines says of the port as it is now."""
        return audited(self.part, self.port)

    def _reference_data(self, name: str) -> Any:
        from torch_reference.dataset import TrainingData

        return TrainingData(self._images[name], self._settings[name], SEED, CAPACITY)


def _any(places: set[str] | None, *wanted: str) -> bool:
    """Whether one of the wanted places is among `places`, which are all if None."""
    return places is None or not places.isdisjoint(wanted)


def _padded(size: Sequence[int]) -> tuple[int, int]:
    """The shape of an example in a batch that is a little larger than it."""
    return size[0] + MORE[0], size[1] + MORE[1]


_EXAMPLE = ("photograph", "size", "target map", "class ids", "valid targets", "overflow")
_DRAWS = ("image", *(f"draws {kind}" for kind in KINDS))
_ORDER = (
    *_DRAWS, *_EXAMPLE, data_cases.RESIZED, "test sizes", "test image", *data_cases.BATCHES
)  # fmt: skip


def _test_sizes(module: Any, settings: InputConfig) -> tuple[Any, ...]:
    """The steps of test images of many sizes, of which some would end half-way between pixels."""
    sizes = [(short, long) for short in SHORT_SIDES for long in range(short, 3 * short, 5)]
    found = []
    for short, long in sizes:
        for size in ((short, long), (long, short)):
            steps = module.evaluation_steps(settings, *size)
            found.append((size, tuple(dataclasses.astuple(one) for one in steps)))
    return tuple(found)


def _as_arrays(item: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """One example of the PyTorch loader under the names of `_EXAMPLE`."""
    keys = ("image", "size", "target_map", "class_ids", "valid", "overflow")
    values = dict(zip(_EXAMPLE, (item[key].numpy() for key in keys), strict=True))
    return {**values, "photograph": values["photograph"].transpose(1, 2, 0)}


def _example(case: str, values: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    return {(name, case): np.asarray(value) for name, value in values.items()}


def _reference_steps(data: Any, position: int) -> tuple[int, int, tuple[Any, ...]]:
    epoch, index = augmentation.example_at(data.seed, position, len(data.images))
    labels = None
    if data.config.crop is not None and data.config.crop.single_category_max_area < 1.0:
        labels = data.images.load(index).labels
    return epoch, index, data._draw(epoch, index, labels)


def _drawn(case: str, steps: Sequence[Any]) -> dict[tuple[str, str], Any]:
    """The steps of each kind, with their place among all."""
    return {
        (f"draws {kind}", case): tuple(
            (place, *dataclasses.astuple(step))
            for place, step in enumerate(steps)
            if type(step).__name__ == kind
        )
        for kind in KINDS
    }


def _first_draw(expected: Results, found: Results, wrong: list[tuple[str, str]]) -> str:
    """The place at fault: of draws, what differs first in most examples.

    A step that is missing moves those after it, and another size moves the crop in it. Of another
    image all draws are others.
    """
    if any(place == "image" for place, _ in wrong):
        return "image"
    places = Counter()
    for case in dict.fromkeys(case for place, case in wrong if place.startswith("draws")):
        kinds = [place for place, other in wrong if other == case and place.startswith("draws")]
        counts = [
            place
            for place in kinds
            if len(expected[place, case]) != len(found.get((place, case), ()))
        ]
        if counts:
            places[counts[0]] += 1
            continue

        def number(place: str, case: str = case) -> int:
            pairs = zip(expected[place, case], found[place, case], strict=True)
            return next(a[0] for a, b in pairs if a != b)

        places[min(kinds, key=number)] += 1
    return places.most_common(1)[0][0] if places else wrong[0][0]

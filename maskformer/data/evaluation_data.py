"""A data set as evaluation reads it: photographs, true segments, true labels, and its classes."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from maskformer.data.annotated import read_photograph
from maskformer.data.dataset_layout import Images, find_splits, open_split
from maskformer.data.images import Size
from maskformer.data.panoptic_format import Category, PanopticDataset
from maskformer.model.config import ModelConfig
from maskformer.model.zoo import OwnClass
from parity.errors import InputError

LAYOUTS = {True: "coco", False: "ADEChallengeData2016"}
"""The folder of each layout inside a data set that has both, by whether segments are wanted."""


@dataclass(frozen=True)
class EvaluationData:
    """The first `count` images of a split, with classes that fit a model.

    `categories[c]` is the model's class `c`; `ignored` is the label of pixels that do not count.
    """

    folder: Path
    split: str
    images: Images
    categories: tuple[Category, ...]
    count: int
    ignored: int

    @property
    def is_panoptic(self) -> bool:
        """Whether the data set has segments."""
        return self.images.kind == "panoptic"

    @cached_property
    def by_id(self) -> dict[int, Category]:
        """The categories by the data set's id, in class order."""
        return {category.id: category for category in self.categories}

    @cached_property
    def truth(self) -> PanopticDataset:
        """The panoptic annotations of the images that are evaluated."""
        dataset = self.images.dataset
        return dataclasses.replace(
            dataset, annotations=dataset.annotations[: self.count], categories=self.by_id
        )

    @property
    def canvas(self) -> Size:
        """Height and width that hold every image."""
        records = self.images.records[: self.count]
        return max(r.height for r in records), max(r.width for r in records)

    def name(self, index: int) -> str:
        """The data set's id of an image, as text."""
        return self.images.records[index].source_id

    def photograph(self, index: int) -> np.ndarray:
        """uint8 [H,W,3]; raises InputError naming the image where it cannot be used."""
        return read_photograph(self.images.records[index])

    def labels(self, index: int) -> np.ndarray:
        """True class ids int32 [H,W], `ignored` where there is none; crowds have their class."""
        if not self.is_panoptic:
            labels = self.images.labels(index).astype(np.int32)
            return np.where(labels == self.images.ignored, self.ignored, labels)
        return self.labels_of(self.images.ids(index), self.truth.annotations[index].segments)

    def labels_of(self, ids: np.ndarray, segments: tuple) -> np.ndarray:
        """Class ids int32 [H,W] of a segment map [H,W]; `ignored` where it is void."""
        class_of = {category.id: c for c, category in enumerate(self.categories)}
        known, numbered = np.unique(ids, return_inverse=True)
        by_id = {s.id: class_of[s.category_id] for s in segments}
        table = np.array([by_id.get(int(value), self.ignored) for value in known], np.int32)
        return table[numbered].reshape(ids.shape)


def open_data(
    folder: Path, split: str, config: ModelConfig, limit: int | None = None
) -> EvaluationData:
    """The split of a COCO panoptic or ADE20K data set, for a model of `config`.

    `folder` may hold both layouts side by side, as `parity data scenes` writes them: a panoptic
    config reads the first, others the second. `split` may be the beginning of one split's name.
    Raises InputError where data is missing or broken, and where its classes are not the model's.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--first is {limit}", "expected: at least 1 image")
    inside = folder / LAYOUTS[config.inference.panoptic_on]
    root = inside if inside.is_dir() else folder
    images = open_split(root, _split_name(root, split))
    if images.kind == "panoptic":
        categories = images.categories
        things = tuple(c for c, category in enumerate(categories) if category.isthing)
        if len(categories) == config.num_classes and config.inference.panoptic_on:
            _check_things(root, config, things)
    else:
        names = images.names or tuple(f"class {c}" for c in range(images.num_classes))
        things = frozenset(config.inference.thing_ids)
        categories = tuple(Category(c, name, c in things) for c, name in enumerate(names))
    if len(categories) != config.num_classes:
        raise InputError(
            f"{config.name} predicts {config.num_classes} classes, the data set has "
            f"{len(categories)}",
            f"{root}: {', '.join(category.name for category in categories[:4])}, ...",
            "Give --classes data for a model of its classes, or the config of such a model.",
        )
    count = len(images) if limit is None else min(limit, len(images))
    ignored = config.ignore_value if config.ignore_value >= config.num_classes else 65535
    if images.kind == "semantic":
        images = dataclasses.replace(images, ignored=ignored)
    return EvaluationData(root, _split_name(root, split), images, tuple(categories), count, ignored)


def classes_of(folder: Path, config: ModelConfig) -> tuple[OwnClass, ...]:
    """The classes of a data set, in the order of the class ids of a model of it.

    Of two layouts side by side that is taken which `open_data` takes. Label maps have no things.
    Raises InputError as `open_split` does.
    """
    inside = folder / LAYOUTS[config.inference.panoptic_on]
    root = inside if inside.is_dir() else folder
    images = open_split(root, find_splits(root)[0])
    if images.kind == "panoptic":
        return tuple(OwnClass(one.id, one.name, one.isthing) for one in images.categories)
    names = images.names or tuple(f"class {c}" for c in range(images.num_classes))
    return tuple(OwnClass(c, name, False) for c, name in enumerate(names))


def _split_name(root: Path, split: str) -> str:
    known = find_splits(root)
    if split in known:
        return split
    begins = [name for name in known if name.startswith(split)]
    if len(begins) != 1:
        raise InputError(
            f"{root} has {'no' if not begins else 'more than one'} split {split!r}",
            f"it has: {', '.join(known)}",
            "Choose one of them with --split.",
        )
    return begins[0]


def _check_things(root: Path, config: ModelConfig, things: tuple[int, ...]) -> None:
    expected = frozenset(config.inference.thing_ids)
    if wrong := sorted(expected ^ frozenset(things)):
        kind = "a thing" if wrong[0] in expected else "stuff"
        raise InputError(
            f"class {wrong[0]} is {kind} for {config.name} and is not in the data set",
            f"{len(wrong)} of {config.num_classes} classes differ: {root}",
            "Choose a config that was made for this data set.",
        )

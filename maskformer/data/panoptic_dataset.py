"""COCO panoptic data as training and evaluation read it: photographs, segment maps, class ids."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskformer.data.annotated import Annotated, Record, read_photograph
from maskformer.data.panoptic_format import (
    Annotation,
    Category,
    PanopticDataset,
    id_faults,
    image_name,
    measure_segments,
    read_dataset,
    read_ids,
    refuse,
)
from parity.errors import InputError


def index_map(ids: np.ndarray, segment_ids: Sequence[int], name: str) -> np.ndarray:
    """Which segment each pixel belongs to: 0 for void (id 0), k for the k-th of `segment_ids`.

    Args: ids [H,W] integers; name of the image for messages. Returns [H,W] uint16.
    Raises InputError for an id that is neither 0 nor listed.
    """
    flat = ids.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values = flat[starts]
    known = np.concatenate([[0], np.asarray(segment_ids, np.int64)])
    order = np.argsort(known)
    position = np.minimum(np.searchsorted(known[order], values), len(known) - 1)
    found = order[position]
    if (strangers := known[found] != values).any():
        raise InputError(
            f"{name}: segment {values[strangers].min()} is in the PNG and not in the JSON",
            f"the JSON lists {len(segment_ids)} segments",
            "Add it to segments_info, or set its pixels to 0 (void).",
        )
    lengths = np.diff(starts, append=flat.size)
    return np.repeat(found.astype(np.uint16), lengths).reshape(ids.shape)


@dataclass(frozen=True)
class PanopticImages:
    """Images in the JSON's order. `categories[c]` is class id `c`: categories by ascending id."""

    dataset: PanopticDataset
    image_folder: Path
    categories: tuple[Category, ...]
    records: tuple[Record, ...]

    kind = "panoptic"

    def __len__(self) -> int:
        return len(self.records)

    def annotation(self, index: int) -> Annotation:
        """What the JSON says of the image number `index`."""
        return self.dataset.annotations[index]

    def class_ids(self, index: int) -> np.ndarray:
        """Class id [N] int32 of each segment, in the JSON's order."""
        class_of = {category.id: class_id for class_id, category in enumerate(self.categories)}
        segments = self.annotation(index).segments
        return np.array([class_of[segment.category_id] for segment in segments], np.int32)

    def load(self, index: int) -> Annotated:
        """Photograph and segments of one image.

        Raises InputError naming image and segment for a missing or broken file, a size that is not
        the JSON's, and a PNG id that the JSON does not list.
        """
        annotation = self.annotation(index)
        name = image_name(annotation.image_id)
        ids = self._read_ids(index)
        return Annotated(
            image=read_photograph(self.records[index]),
            segments=index_map(ids, [segment.id for segment in annotation.segments], name),
            class_ids=self.class_ids(index),
            is_crowd=np.array([segment.iscrowd for segment in annotation.segments], bool),
        )

    def ids(self, index: int) -> np.ndarray:
        """Segment ids [H,W] int32, checked against the JSON in full: ids, areas and boxes.

        Raises InputError as `load` does, and for an id without pixels, a wrong area or box.
        """
        ids = self._read_ids(index)
        for fault in self._id_faults(index, ids):
            raise fault
        return ids

    def faults(self, index: int) -> Iterator[InputError]:
        """Everything that is wrong with one image: its photograph, its PNG, and its segments."""
        for read in (lambda: read_photograph(self.records[index]), lambda: self._read_ids(index)):
            try:
                found = read()
            except InputError as fault:
                yield fault
                found = None
        if found is not None:
            yield from self._id_faults(index, found)

    def _id_faults(self, index: int, ids: np.ndarray) -> Iterator[InputError]:
        annotation = self.annotation(index)
        name = image_name(annotation.image_id)
        yield from id_faults(ids, annotation.segments, name)
        measured = measure_segments(ids)
        for segment in annotation.segments:
            box = measured[segment.id][1] if segment.id in measured else segment.bbox
            if segment.bbox is not None and tuple(segment.bbox) != box:
                yield InputError(
                    f"{name}: segment {segment.id} has the box {list(segment.bbox)} in the JSON",
                    f"its pixels in the PNG span {list(box)} (x, y, width, height)",
                    "Write the box again from the PNG.",
                )

    def _read_ids(self, index: int) -> np.ndarray:
        record, annotation = self.records[index], self.annotation(index)
        ids = read_ids(self.dataset.folder / annotation.file_name)
        if ids.shape != (record.height, record.width):
            raise InputError(
                f"{image_name(annotation.image_id)}: {annotation.file_name} is "
                f"{ids.shape[0]}x{ids.shape[1]}",
                f"the JSON says the image is {record.height}x{record.width} (height x width)",
                "Write the PNG again at the image's size.",
            )
        return ids


def read_panoptic_images(
    json_path: str | os.PathLike[str],
    image_folder: str | os.PathLike[str],
    label_folder: str | os.PathLike[str],
    report: Callable[[InputError], None] = refuse,
) -> PanopticImages:
    """The images that a panoptic JSON annotates; files are opened one by one later.

    `report` is told the faults that leave out one entry, as in `panoptic_format.read_dataset`.

    Raises InputError as `panoptic_format.read_dataset` does, for a data set without images, and
    for a missing image folder.
    """
    dataset = read_dataset(json_path, label_folder, report)
    folder = Path(image_folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", f"expected: the images of {json_path}")
    if not dataset.annotations:
        raise InputError(
            f"{json_path} annotates no image",
            f"it lists {len(dataset.images)} images and {len(dataset.categories)} categories",
            "Is this a test split? It has no annotations.",
        )
    absent = sorted(
        str(image_id)
        for image_id in dataset.images.keys() - {a.image_id for a in dataset.annotations}
    )
    for one in absent:
        report(
            InputError(
                f"image {one} has no annotation",
                f"{len(absent)} of {len(dataset.images)} images of {json_path} have none",
                "An image without segments still needs an annotation with empty segments_info.",
            )
        )
    records = []
    for annotation in dataset.annotations:
        image = dataset.images[annotation.image_id]
        path = folder / image.file_name
        records.append(Record(str(image.id), path, image.height, image.width))
    categories = tuple(sorted(dataset.categories.values(), key=lambda category: category.id))
    return PanopticImages(dataset, folder, categories, tuple(records))

"""Semantic data in ADE20K's layout: one photograph and one label map of the same name per image."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskformer.data import image_files
from maskformer.data.annotated import Annotated, Record, read_photograph
from maskformer.data.panoptic_format import refuse
from parity.errors import InputError

_PHOTOGRAPHS = (".jpg", ".jpeg", ".png")
_LABELS = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class SemanticImages:
    """Images by name. Labels are class ids below `num_classes`, or `ignored`."""

    records: tuple[Record, ...]
    label_paths: tuple[Path, ...]
    num_classes: int
    ignored: int
    names: tuple[str, ...]

    kind = "semantic"

    def __len__(self) -> int:
        return len(self.records)

    def labels(self, index: int) -> np.ndarray:
        """Label map [H,W] uint8 or uint16 of one image.

        Raises InputError naming the image for a missing or broken file, a wrong mode or size, and
        a label that is neither a class nor ignored.
        """
        record, path = self.records[index], self.label_paths[index]
        name = f"image {record.source_id}"
        labels = _read_labels(path, name)
        if labels.shape != (record.height, record.width):
            raise InputError(
                f"{name}: the label map is {labels.shape[0]}x{labels.shape[1]}",
                f"the photograph is {record.height}x{record.width} (height x width): {path}",
                "Labels belong to the photograph at its original size.",
            )
        present = np.flatnonzero(np.bincount(labels.reshape(-1)))
        wrong = present[(present >= self.num_classes) & (present != self.ignored)]
        if wrong.size:
            raise InputError(
                f"{name}: label {wrong[0]} is not a class",
                f"classes go from 0 to {self.num_classes - 1}, ignored is {self.ignored}: {path}",
                "ADE20K's raw maps count from 1 with 0 ignored: convert them first.",
            )
        return labels

    def faults(self, index: int) -> Iterator[InputError]:
        """Everything that is wrong with one image: its photograph, and its labels."""
        for read in (lambda: read_photograph(self.records[index]), lambda: self.labels(index)):
            try:
                read()
            except InputError as fault:
                yield fault

    def load(self, index: int) -> Annotated:
        """Photograph and labels of one image. Raises InputError as `labels` does."""
        return Annotated(image=read_photograph(self.records[index]), labels=self.labels(index))


def read_semantic_images(
    image_folder: str | os.PathLike[str],
    label_folder: str | os.PathLike[str],
    num_classes: int,
    ignored: int,
    names: tuple[str, ...] = (),
    report: Callable[[InputError], None] = refuse,
) -> SemanticImages:
    """The images of a folder, each with its label map; sizes come from the files' headers.

    Args: num_classes; ignored: label of pixels outside every class; names of the classes, if known.
    Raises InputError for a missing or empty folder, an image without labels, labels without an
    image, two files of one name, and an unreadable photograph.
    """
    photographs = _by_stem(Path(image_folder), _PHOTOGRAPHS, "photographs")
    labels = _by_stem(Path(label_folder), _LABELS, "label maps")
    missing = sorted(photographs.keys() - labels.keys())
    for one in missing:
        report(
            InputError(
                f"image {one} has no label map",
                f"{len(missing)} of {len(photographs)} images have none in {label_folder}",
                "Remove the photograph, or add its labels.",
            )
        )
    stray = sorted(labels.keys() - photographs.keys())
    for one in stray:
        report(
            InputError(
                f"label map {one} has no photograph",
                f"{len(stray)} of {len(labels)} label maps have none in {image_folder}",
                "Remove the label map, or add its photograph.",
            )
        )
    if names and len(names) != num_classes:
        raise InputError(f"{len(names)} class names", f"num_classes is {num_classes}")
    if ignored < num_classes:
        raise InputError(
            f"the ignored label {ignored} is a class",
            f"classes go from 0 to {num_classes - 1}",
            "Choose an ignored label outside of the classes.",
        )
    records = []
    for stem in sorted(photographs.keys() & labels.keys()):
        try:
            size = image_files.size(photographs[stem], f"image {stem}")
        except InputError as fault:
            report(fault)
            continue
        records.append(Record(stem, photographs[stem], *size))
    paths = tuple(labels[record.source_id] for record in records)
    return SemanticImages(tuple(records), paths, num_classes, ignored, names)


def _by_stem(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", f"expected: {what} ({', '.join(suffixes)})")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise InputError(
                f"two {what} are called {path.stem}",
                f"{found[path.stem].name} and {path.name} in {folder}",
                "Keep one of them.",
            )
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder} has no {what}", f"expected: files {', '.join(suffixes)}")
    return found


def _read_labels(path: Path, name: str) -> np.ndarray:
    labels, mode = image_files.values(path, name, "label map")
    if mode == "L":
        return labels
    if mode in ("I;16", "I") and int(labels.min()) >= 0 and int(labels.max()) <= 0xFFFF:
        return labels.astype(np.uint16)
    raise InputError(
        f"{name}: the label map has mode {mode}",
        f"expected: one channel of 8 or 16 bits: {path}",
        "Colour maps must be converted to class ids first: parity data convert.",
    )

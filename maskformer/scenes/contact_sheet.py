"""Pictures of annotated photographs for people to look at, and statistics of a data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from maskformer.data.annotated import Annotated

_BACKGROUND = 24


def overlay(example: Annotated, ignored: int = 255) -> np.ndarray:
    """The photograph under its segments' colours, borders white, void hatched, crowds striped.

    Returns uint8 [H,W,3].
    """
    if example.segments is not None:
        regions = example.segments.astype(np.int64)
    else:
        regions = np.where(example.labels == ignored, 0, example.labels.astype(np.int64) + 1)
    colors = _colors(int(regions.max()) + 1)
    mixed = example.image * np.float32(0.45) + colors[regions] * np.float32(0.55)
    rows, columns = np.indices(regions.shape)
    hatched = (regions == 0) & ((rows + columns) % 6 < 2)
    if example.is_crowd is not None:
        crowd = np.concatenate([[False], example.is_crowd])[regions]
        mixed[crowd & (rows % 6 < 2)] = 255
    mixed[regions == 0] = example.image[regions == 0] * np.float32(0.5)
    mixed[hatched] = 70
    border = np.zeros(regions.shape, bool)
    border[1:] |= regions[1:] != regions[:-1]
    border[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    mixed[border] = 255
    return mixed.astype(np.uint8)


def _colors(count: int) -> np.ndarray:
    """float32 [count,3]: bright colours that neighbours in the list do not share."""
    return np.random.default_rng(7).integers(48, 256, (count, 3)).astype(np.float32)


def contact_sheet(
    examples: Sequence[Annotated], ignored: int = 255, tile: int = 320, columns: int = 4
) -> Image.Image:
    """One picture of photographs, each with its overlay to the right, scaled to fit `tile`."""
    columns = max(1, min(columns, len(examples)))
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * 2 * tile, rows * tile), (_BACKGROUND,) * 3)
    for number, example in enumerate(examples):
        left, top = number % columns * 2 * tile, number // columns * tile
        for offset, pixels in enumerate((example.image, overlay(example, ignored))):
            picture = Image.fromarray(pixels)
            picture.thumbnail((tile - 4, tile - 4))
            sheet.paste(picture, (left + offset * tile + 2, top + 2))
    return sheet


@dataclass
class Statistics:
    """Counts over a data set; `segments` and `pixels` are by class id."""

    num_classes: int
    images: int = 0
    empty_images: int = 0
    crowds: int = 0
    void_pixels: int = 0
    most_segments: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    segments: np.ndarray = field(init=False)
    pixels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.segments = np.zeros(self.num_classes, np.int64)
        self.pixels = np.zeros(self.num_classes, np.int64)

    def add(self, example: Annotated, ignored: int = 255) -> None:
        """Counts one image."""
        self.images += 1
        if example.segments is not None:
            areas = np.bincount(example.segments.reshape(-1), minlength=len(example.class_ids) + 1)
            void, classes, areas = int(areas[0]), example.class_ids, areas[1:]
            self.crowds += int(example.is_crowd.sum())
        else:
            areas = np.bincount(example.labels.reshape(-1), minlength=ignored + 1)
            void = int(areas[ignored])
            areas[ignored] = 0
            classes = np.flatnonzero(areas)
            areas = areas[classes]
        self.void_pixels += void
        self.empty_images += len(classes) == 0
        self.most_segments = max(self.most_segments, len(classes))
        np.add.at(self.segments, classes, 1)
        np.add.at(self.pixels, classes, areas)
        height, width = (example.segments if example.labels is None else example.labels).shape
        self.sizes.append((height, width))

    def to_dict(self, names: Iterable[str]) -> dict:
        """Plain JSON-able values."""
        labelled = int(self.pixels.sum())
        heights, widths = zip(*self.sizes, strict=True)
        return {
            "images": self.images,
            "images_without_segments": self.empty_images,
            "height": [min(heights), max(heights)],
            "width": [min(widths), max(widths)],
            "segments": int(self.segments.sum()),
            "most_segments": self.most_segments,
            "crowds": self.crowds,
            "void_share": self.void_pixels / max(labelled + self.void_pixels, 1),
            "classes": [
                {"name": name, "segments": int(count), "share": int(area) / max(labelled, 1)}
                for name, count, area in zip(names, self.segments, self.pixels, strict=True)
            ],
        }

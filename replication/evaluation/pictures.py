"""Pictures of predictions for people: segments tinted in their class's colour, named, listed."""

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskformer.data.panoptic_format import VOID, Category, Segment, measure_segments

_BACKGROUND = (24, 24, 28)
_LINE = 18
_LEGEND_WIDTH = 220
_CAPTION = 20
_LEAST_SIDE = 400
EXPLAINED = (255, 200, 0)
UNEXPLAINED = (255, 0, 60)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """An image [H,W,3] or map [H,W] whose sides are multiplied so that names fit on it.

    Every pixel becomes a square; the factor depends on the size alone.
    """
    factor = max(1, round(_LEAST_SIDE / max(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def color_of(category: Category) -> tuple[int, int, int]:
    """The data set's colour of a class, or one made from its id (golden-angle hues)."""
    if category.color is not None:
        return category.color
    hue = category.id * 0.618034 % 1.0
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(hue, 0.65, 0.95))


def tinted(
    image: np.ndarray,
    ids: np.ndarray,
    segments: Sequence[Segment],
    categories: Mapping[int, Category],
    named: bool = True,
) -> np.ndarray:
    """The photograph under its segments' colours, borders white, void dark; returns uint8 [H,W,3].

    Args: image uint8 [H,W,3]; ids [H,W], 0 void; named: write the class on segments with room.
    """
    mixed = image.astype(np.float32) * 0.35
    shades: dict[int, int] = {}
    for segment in segments:
        # Instances of one class are told apart by brightness.
        shade = shades.get(segment.category_id, 0)
        shades[segment.category_id] = shade + 1
        tone = np.array(color_of(categories[segment.category_id])) * (1.0, 0.75, 0.55)[shade % 3]
        mask = ids == segment.id
        mixed[mask] = image[mask] * np.float32(0.45) + tone.astype(np.float32) * 0.55
    border = np.zeros(ids.shape, bool)
    border[1:] |= ids[1:] != ids[:-1]
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    mixed[border] = 255
    picture = Image.fromarray(mixed.astype(np.uint8))
    if named:
        _write_names(picture, ids, segments, categories)
    return np.asarray(picture)


def from_labels(labels: np.ndarray, ignored: int) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """One segment per class of a label map [H,W]: ids [H,W] int32 and segments.

    A segment's category is the class's place in the list of classes.
    """
    ids = np.where(labels == ignored, VOID, labels.astype(np.int32) + 1).astype(np.int32)
    present = np.unique(ids)
    return ids, tuple(Segment(int(i), int(i) - 1) for i in present if i != VOID)


def with_legend(
    picture: np.ndarray,
    ids: np.ndarray,
    segments: Sequence[Segment],
    categories: Mapping[int, Category],
) -> Image.Image:
    """The picture with a list of its classes to the right, largest first, in percent of pixels."""
    areas: dict[int, int] = {}
    counts: dict[int, int] = {}
    measured = measure_segments(ids)
    for segment in segments:
        areas[segment.category_id] = areas.get(segment.category_id, 0) + measured[segment.id][0]
        counts[segment.category_id] = counts.get(segment.category_id, 0) + 1
    rows = sorted(areas, key=areas.__getitem__, reverse=True)
    lines = [
        (color_of(categories[c]), categories[c].name, counts[c], areas[c] / ids.size) for c in rows
    ]
    void = 1 - sum(areas.values()) / ids.size
    if void > 0:
        lines.append((_BACKGROUND, "no segment", 0, void))
    height, width = picture.shape[:2]
    sheet = Image.new(
        "RGB", (width + _LEGEND_WIDTH, max(height, 12 + _LINE * len(lines))), _BACKGROUND
    )
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (color, name, count, share) in enumerate(lines):
        top = 6 + number * _LINE
        draw.rectangle(
            (width + 8, top + 2, width + 20, top + 14), fill=color, outline=(255, 255, 255)
        )
        many = f" x{count}" if count > 1 else ""
        draw.text(
            (width + 28, top), f"{name}{many}  {100 * share:.1f} %", fill=(240,) * 3, font=font
        )
    return sheet


def difference_picture(
    image: np.ndarray, differs: np.ndarray, unexplained: np.ndarray
) -> np.ndarray:
    """The photograph in grey; differing pixels yellow, those that rounding does not explain red."""
    grey = np.repeat(image.mean(axis=2, keepdims=True) * 0.5, 3, axis=2).astype(np.uint8)
    grey[differs] = EXPLAINED
    grey[unexplained] = UNEXPLAINED
    return grey


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """Pictures of one size [H,W,3] next to each other, each under its title."""
    height, width = panels[0][1].shape[:2]
    sheet = Image.new("RGB", ((width + 4) * len(panels), height + _CAPTION), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (title, pixels) in enumerate(panels):
        left = number * (width + 4)
        draw.text((left + 4, 4), title, fill=(240,) * 3, font=font)
        sheet.paste(Image.fromarray(pixels), (left, _CAPTION))
    return sheet


def _write_names(
    picture: Image.Image,
    ids: np.ndarray,
    segments: Sequence[Segment],
    categories: Mapping[int, Category],
) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for segment in segments:
        name = categories[segment.category_id].name
        rows, columns = np.nonzero(ids == segment.id)
        if len(rows) == 0:
            continue
        # The pixel nearest to the centre of gravity, so that the name lies on its segment.
        near = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        box = draw.textbbox((0, 0), name, font=font)
        wide, tall = box[2] - box[0], box[3] - box[1]
        if len(rows) < 2 * wide * tall:
            continue
        left = int(min(max(columns[near] - wide // 2, 1), picture.width - wide - 2))
        top = int(min(max(rows[near] - tall // 2, 1), picture.height - tall - 3))
        draw.rectangle((left - 2, top - 1, left + wide + 2, top + tall + 3), fill=(0, 0, 0))
        draw.text((left, top - box[1] + 1), name, fill=(255, 255, 255), font=font)

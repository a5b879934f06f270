"""Other kinds of annotation as COCO panoptic data: instances with masks, and label maps.

What has one meaning is taken, and how it was taken is said; anything else is an InputError.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskformer.data import image_files
from maskformer.data.instance_masks import mask_of
from maskformer.data.panoptic_format import (
    Category,
    ImageInfo,
    Segment,
    describe_segments,
    file_name_in,
    write_dataset,
)
from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_json

VOC = "voc"
"""Classes and colours of the PASCAL VOC challenge."""

_VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
_VOC_VOID = (224, 224, 192)  # the borders, index 255 of the palette
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
_MANY = 2**15  # segments of one image

Item = tuple[ImageInfo, np.ndarray, Sequence[Segment]]


@dataclass
class Converted:
    """What a conversion did: images written, and how often each rule was applied."""

    images: int = 0
    segments: int = 0
    notes: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Place:
    """Where a converted split goes, in the layout that `dataset_layout` finds."""

    folder: Path
    split: str

    @property
    def json(self) -> Path:
        """Its annotations, which appear last."""
        return self.folder / "annotations" / f"panoptic_{self.split}.json"


def from_instances(annotations: Path, photographs: Path, place: Place) -> Converted:
    """Writes COCO instances (polygons, run lengths, both kinds of them) as panoptic data.

    Every category is a thing, and what no instance covers is void. Where instances overlap, the
    smaller one is in front, and a crowd behind all others; one that is covered whole is left out.
    Polygons become pixels by pycocotools' rule.

    Raises InputError naming the annotation for whatever is missing or has no certain meaning, and
    where the split was written before.
    """
    content = read_json(annotations, bounds.RECORD_BYTES, "COCO instances JSON")
    images, boxes = (_objects(content, annotations, key) for key in ("images", "annotations"))
    categories = [
        Category(
            _number(item, "id", f"categories[{i}]"), str(item.get("name", item["id"]))[:200], True
        )
        for i, item in enumerate(_objects(content, annotations, "categories"))
    ]
    known = {category.id for category in categories}
    by_image: dict[str, list[tuple[int, dict]]] = {}
    for i, item in enumerate(boxes):
        by_image.setdefault(str(item.get("image_id")), []).append((i, item))
    if strays := by_image.keys() - {str(item.get("id")) for item in images}:
        raise InputError(
            f"{annotations.name}: image {min(strays)} is annotated and not in `images`",
            f"{len(strays)} such images",
            "Add their records (id, file_name, height, width).",
        )
    done = Converted()

    def items() -> Iterator[Item]:
        for i, item in enumerate(images):
            where = f"images[{i}]"
            name = file_name_in(item, where)
            pixels = image_files.photograph(photographs / name, f"image {item.get('id')}")
            size = pixels.shape[:2]
            stated = tuple(_number(item, side, where) for side in ("height", "width"))
            if stated != size:
                raise InputError(
                    f"image {item.get('id')}: the photograph is {size[0]}x{size[1]}",
                    f"the annotation says {stated[0]}x{stated[1]} (height x width)",
                    "Annotations belong to the photograph at its original size.",
                )
            found = by_image.get(str(item.get("id")), [])
            ids, segments = _drawn(found, known, size, done)
            info = ImageInfo(item["id"], _copied(photographs / name, name, place), *size)
            done.segments += len(segments)
            yield info, ids, segments

    return _written(place, categories, items(), done)


def _drawn(
    found: list[tuple[int, dict]], known: set[int], size: tuple[int, int], done: Converted
) -> tuple[np.ndarray, Sequence[Segment]]:
    """Segment ids [H,W] and segments of one image's instances."""
    if len(found) > _MANY:
        raise InputError(f"an image has {len(found):,} instances", f"at most {_MANY:,} are read")
    masks = []
    for i, item in found:
        where = f"annotations[{i}]"
        category = _number(item, "category_id", where)
        if category not in known:
            raise InputError(f"{where} has the unknown category {category}")
        crowd = item.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise InputError(f"{where}: `iscrowd` is {crowd!r}", "expected: 0 or 1")
        mask = mask_of(item.get("segmentation"), size, where)
        if mask.any():
            masks.append((bool(crowd), int(mask.sum()), i, category, mask))
        else:
            done.notes["instances without a pixel were left out"] += 1
    ids = np.zeros(size, np.int32)
    # from the back to the front: crowds, then large before small, then as the file has them
    for number, (*_, mask) in enumerate(
        sorted(masks, key=lambda one: (not one[0], -one[1], one[2])), 1
    ):
        if (ids[mask] != 0).any():
            done.notes["images in which a smaller instance was put in front"] += 1
        ids[mask] = number
    order = sorted(masks, key=lambda one: (not one[0], -one[1], one[2]))
    present = set(np.unique(ids).tolist())
    done.notes["instances covered whole were left out"] += sum(
        number not in present for number in range(1, len(order) + 1)
    )
    kept = {n: one for n, one in enumerate(order, 1) if n in present}
    crowds = [number for number, one in kept.items() if one[0]]
    return ids, describe_segments(ids, {n: one[3] for n, one in kept.items()}, crowds)


@dataclass(frozen=True)
class Classes:
    """Names by label, and the label of each colour where maps are pictures of colours."""

    names: Mapping[int, str]
    colours: Mapping[tuple[int, int, int], int]
    ignored: frozenset[int] = frozenset()


def voc_colour(label: int) -> tuple[int, int, int]:
    """VOC's colour of a label: its bits, three at a time, from the highest bit of each channel."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (label >> (3 * place + channel) & 1) << (7 - place)
    return tuple(channels)


def classes_of(text: str | None) -> Classes | None:
    """The classes that `voc` or a JSON file names; None without either.

    The file is a list of {"id", "name"} with "color": [r, g, b] where maps are coloured.
    Raises InputError for another file, and for a colour that two classes have.
    """
    if text is None:
        return None
    if text == VOC:
        names = dict(enumerate(_VOC_NAMES))
        colours = {voc_colour(label): label for label in names} | {_VOC_VOID: 255}
        return Classes(names, colours, frozenset((255,)))
    names, colours = {}, {}
    content = read_json(text, what="list of classes")
    for i, item in enumerate(content if isinstance(content, list) else ()):
        where = f"classes[{i}]"
        label = _number(item, "id", where)
        if label in names:
            raise InputError(f"{where}: the id {label} is there twice", text)
        names[label] = str(item.get("name", f"class {label}"))[:200]
        if "color" in item:
            colour = item["color"]
            is_one = isinstance(colour, list) and len(colour) == 3
            if not is_one or not all(type(c) is int and 0 <= c <= 255 for c in colour):
                raise InputError(f"{where}: `color` is {colour!r}", "expected: [r, g, b]")
            if tuple(colour) in colours:
                raise InputError(f"{where}: the colour {colour} is there twice", text)
            colours[tuple(colour)] = label
    if not names:
        raise InputError(
            f"{text} is no list of classes", 'expected: [{"id": 0, "name": "..."}, ...]'
        )
    return Classes(names, colours)


def from_labels(
    labels: Path,
    photographs: Path,
    place: Place,
    classes: Classes | None = None,
    ignored: int | None = None,
) -> Converted:
    """Writes label maps as panoptic data: every class that an image has is one segment of stuff.

    Maps are palette PNGs (the index is the label), grey of 8 or 16 bits, or colours, where
    `classes` gives the label of each. `ignored` is void; without it 255 where no class has it.

    Raises InputError naming the image for a label or colour that is no class, sizes that differ,
    and where the split was written before.
    """
    maps = _by_stem(labels)
    pictures = _by_stem(photographs)
    if missing := sorted(maps.keys() ^ pictures.keys()):
        what = "photograph" if missing[0] in maps else "label map"
        raise InputError(f"image {missing[0]} has no {what}", f"{len(missing)} images lack a file")
    done = Converted()
    void = {ignored} if ignored is not None else set(classes.ignored if classes else ())
    if ignored is None and not (classes and 255 in classes.names):
        void.add(255)
    names = dict(classes.names) if classes else {}
    if classes is None:
        for stem, path in maps.items():
            for label in np.unique(_label_map(path, stem, None, done)).tolist():
                if label not in void:
                    names.setdefault(label, f"class {label}")
        done.notes.clear()

    def items() -> Iterator[Item]:
        for number, stem in enumerate(sorted(maps), 1):
            picture = image_files.photograph(pictures[stem], f"image {stem}")
            values = _label_map(maps[stem], stem, classes, done)
            if values.shape != picture.shape[:2]:
                raise InputError(
                    f"image {stem}: the label map is {values.shape[0]}x{values.shape[1]}",
                    f"the photograph is {picture.shape[0]}x{picture.shape[1]} (height x width)",
                )
            present = [label for label in np.unique(values).tolist() if label not in void]
            if strangers := [label for label in present if label not in names]:
                raise InputError(
                    f"image {stem}: label {strangers[0]} is not a class",
                    f"classes: {', '.join(map(str, sorted(names)[:12]))}; void: {sorted(void)}",
                    "Add it to --classes, or say --ignored.",
                )
            ids = np.zeros(values.shape, np.int32)
            for at, label in enumerate(present, 1):
                ids[values == label] = at
            segments = describe_segments(ids, dict(enumerate(present, 1)))
            name = _copied(pictures[stem], pictures[stem].name, place)
            done.segments += len(segments)
            yield ImageInfo(number, name, *values.shape), ids, segments

    categories = [Category(label, name, False) for label, name in sorted(names.items())]
    return _written(place, categories, items(), done)


def _label_map(path: Path, stem: str, classes: Classes | None, done: Converted) -> np.ndarray:
    """Labels int64 [H,W] of a palette, a grey or a colour image."""
    values, mode = image_files.values(path, f"image {stem}", "label map")
    if mode == "RGBA" and (values[..., 3] == 255).all():
        values, mode = values[..., :3], "RGB"
    done.notes[f"label maps of mode {mode}"] += 1
    if mode in ("P", "L", "I;16", "I;16B") or (mode == "I" and path.suffix.lower() == ".png"):
        return values.astype(np.int64)
    if mode == "RGB" and classes is not None and classes.colours:
        packed = values.astype(np.int64) @ (1 << 16, 1 << 8, 1)
        found, inverse = np.unique(packed, return_inverse=True)
        colours = [(c >> 16, c >> 8 & 255, c & 255) for c in found.tolist()]
        if strangers := [colour for colour in colours if colour not in classes.colours]:
            raise InputError(
                f"image {stem}: the colour {strangers[0]} is no class",
                f"{len(strangers)} such colours in {path}",
                "Add it to --classes; a JPEG or a resized map has colours between classes.",
            )
        table = np.array([classes.colours[colour] for colour in colours], np.int64)
        return table[inverse].reshape(packed.shape)
    raise InputError(
        f"image {stem}: the label map has mode {mode}",
        f"which class a value is, is not certain: {path}",
        "Give --classes FILE.json with a colour of each class, or --classes voc."
        if mode == "RGB"
        else "Save it as a palette PNG, or as grey of 8 or 16 bits.",
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", f"expected: images {', '.join(_SUFFIXES)}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(
                    f"two images are called {path.stem}", f"{found[path.stem].name}, {path.name}"
                )
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder} has no images", f"expected: {', '.join(_SUFFIXES)}")
    return found


def _objects(content: Any, path: Path, key: str) -> list[dict]:
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(
            f"{path.name} has no list `{key}` of objects",
            "an instances JSON has `images`, `annotations` and `categories`",
        )
    return items


def _number(item: Any, key: str, where: str) -> int:
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**31:
        raise InputError(f"{where}: `{key}` is {value!r}", "expected: a whole number")
    return value


def _copied(source: Path, name: str, place: Place) -> str:
    """Copies a photograph into the split; its name there, without the folders it had."""
    flat = name.replace("\\", "/").rpartition("/")[2]
    target = place.folder / place.split / flat
    if target.exists():
        raise InputError(f"two photographs are called {flat}", str(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return flat


def _written(
    place: Place, categories: Sequence[Category], items: Iterator[Item], done: Converted
) -> Converted:
    pngs, copies = place.folder / f"panoptic_{place.split}", place.folder / place.split
    if place.json.exists() or copies.exists() or pngs.exists():
        raise InputError(
            f"{place.folder} already holds the split {place.split}",
            "nothing of it is replaced",
            "Choose another --split, or another folder.",
        )
    if not place.split or place.split != Path(place.split).name:
        raise InputError(f"--split is {place.split!r}", "expected: a plain name")
    try:
        place.json.parent.mkdir(parents=True, exist_ok=True)
        done.images = write_dataset(place.json, pngs, categories, items)
    except BaseException as error:
        for folder in (pngs, copies):
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(
                f"{place.folder} cannot be written",
                str(error.strerror or error),
                "choose another folder, or free some space; nothing was kept",
            ) from None
        raise
    done.notes = +done.notes
    return done

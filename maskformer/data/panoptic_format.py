"""COCO panoptic data, a PNG of segment ids per image and one JSON: strict reader, atomic writer.

The format is that of cocodataset.org/#format-data (section "Panoptic Segmentation"): a pixel's
segment id is R + 256 G + 65536 B, and 0 is void.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.files import replacing
from parity.reading import bounds
from parity.reading.content import read_json

VOID = 0
MAX_ID = 256**3 - 1
LARGEST_NUMBER = 2**31 - 1
"""Of ids of categories and of sides of images."""


@dataclass(frozen=True, slots=True)
class Category:
    """A class of the data set; `id` is the data set's number, not the model's contiguous one."""

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image of the data set: its file's name and its size in pixels."""

    id: int | str
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: `area` in pixels, `bbox` (x, y, width, height); predictions have neither."""

    id: int
    category_id: int
    iscrowd: bool = False
    area: int | None = None
    bbox: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What the JSON says of one image; `file_name` is the PNG's name inside its folder."""

    image_id: int | str
    file_name: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class PanopticDataset:
    """A validated panoptic JSON: annotations in file order, images and categories by id."""

    images: Mapping[int | str, ImageInfo]
    annotations: tuple[Annotation, ...]
    categories: Mapping[int, Category]
    folder: Path

    def ids(self, annotation: Annotation) -> np.ndarray:
        """Segment ids [H,W] int32 of one annotation's PNG, checked against the JSON.

        Raises InputError naming image and segment as `check_ids` and `read_ids` do.
        """
        name = image_name(annotation.image_id)
        ids = read_ids(self.folder / annotation.file_name)
        image = self.images.get(annotation.image_id)
        if image is not None and ids.shape != (image.height, image.width):
            raise InputError(
                f"{name}: {annotation.file_name} is {_size(ids.shape)}",
                f"the JSON says the image is {_size((image.height, image.width))} (height x width)",
                "Write the PNG again at the image's size.",
            )
        check_ids(ids, annotation.segments, name=name)
        return ids


def image_name(image_id: int | str) -> str:
    """How errors call an image."""
    return f"image {image_id}"


def decode_ids(rgb: np.ndarray) -> np.ndarray:
    """Segment ids R + 256 G + 65536 B of an RGB image.

    Args: rgb [H,W,3] uint8. Returns [H,W] int32. Raises InputError for another shape or dtype.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(
            f"a panoptic image is {rgb.dtype} {list(rgb.shape)}", "expected: uint8 [H, W, 3]"
        )
    padded = np.zeros((*rgb.shape[:2], 4), np.uint8)
    padded[..., :3] = rgb
    return padded.view("<i4")[..., 0].astype(np.int32, copy=False)


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """The RGB image whose `decode_ids` is `ids`.

    Args: ids [H,W], any integer dtype, 0 <= id < 256**3. Returns [H,W,3] uint8.
    Raises InputError for other shapes, dtypes and ids.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(
            f"segment ids are {ids.dtype} {list(ids.shape)}", "expected: integers [H, W]"
        )
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) > MAX_ID):
        raise InputError(
            f"segment ids reach from {ids.min()} to {ids.max()}",
            f"a panoptic PNG holds ids from 0 to {MAX_ID}",
        )
    return np.ascontiguousarray(ids.astype("<u4")).view(np.uint8).reshape(*ids.shape, 4)[..., :3]


def count_equal(*maps: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """How often each combination of values occurs, like `np.unique(..., return_counts=True)`.

    Counts runs of equal pixels and sorts the runs only: segment maps have few.

    Args: maps: integer arrays of one shape, values in [0, 2**32), at most two of them.
    Returns: the values of each map [n] int64, in lexicographic order, and their counts [n] int64.
    """
    flat = [np.ascontiguousarray(values).reshape(-1) for values in maps]
    if flat[0].size == 0:
        return tuple(np.zeros(0, np.int64) for _ in flat), np.zeros(0, np.int64)
    changes = flat[0][1:] != flat[0][:-1]
    for values in flat[1:]:
        changes |= values[1:] != values[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=flat[0].size)
    keys = np.zeros(len(starts), np.uint64)
    for values in flat:
        keys = (keys << np.uint64(32)) | values[starts].astype(np.uint64)
    unique, inverse = np.unique(keys, return_inverse=True)
    counts = np.zeros(len(unique), np.int64)
    np.add.at(counts, inverse, lengths)
    columns = []
    for _ in flat:
        columns.append((unique & np.uint64(0xFFFFFFFF)).astype(np.int64))
        unique = unique >> np.uint64(32)
    return tuple(reversed(columns)), counts


def measure_segments(ids: np.ndarray) -> dict[int, tuple[int, tuple[int, int, int, int]]]:
    """Area in pixels and bounding box (x, y, width, height) of every id but void, by id.

    Args: ids [H,W] integers >= 0.
    """
    (values,), areas = count_equal(ids)
    measured = {}
    for value, area in zip(values.tolist(), areas.tolist(), strict=True):
        if value == VOID:
            continue
        mask = ids == value
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        measured[value] = (area, (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1))
    return measured


def describe_segments(
    ids: np.ndarray, category_ids: Mapping[int, int], crowd_ids: Iterable[int] = ()
) -> tuple[Segment, ...]:
    """Segments with the area and box that `ids` shows, in ascending id order.

    Args: ids [H,W]; category_ids: category of every id in `ids`; crowd_ids: ids that are crowds.
    Raises InputError where `ids` and `category_ids` do not name the same segments.
    """
    crowds = frozenset(crowd_ids)
    measured = measure_segments(ids)
    if unknown := sorted(measured.keys() - category_ids.keys()):
        raise InputError(f"segment {unknown[0]} is in the id map and has no category")
    if absent := sorted(category_ids.keys() - measured.keys()):
        raise InputError(f"segment {absent[0]} has a category and no pixel in the id map")
    return tuple(
        Segment(value, category_ids[value], value in crowds, area, bbox)
        for value, (area, bbox) in sorted(measured.items())
    )


def check_ids(ids: np.ndarray, segments: Sequence[Segment], name: str) -> None:
    """Raises InputError unless `ids` and `segments` name the same segments with the same areas.

    Args: ids [H,W] integers; segments of one image; name of the image for the message.
    """
    for fault in id_faults(ids, segments, name):
        raise fault


def id_faults(ids: np.ndarray, segments: Sequence[Segment], name: str) -> Iterator[InputError]:
    """All that `check_ids` may raise."""
    (values,), counts = count_equal(ids)
    areas = dict(zip(values.tolist(), counts.tolist(), strict=True))
    areas.pop(VOID, None)
    listed = {segment.id: segment for segment in segments}
    missing = sorted(areas.keys() - listed.keys())
    for one in missing:
        yield InputError(
            f"{name}: segment {one} is in the PNG and not in the JSON",
            f"{len(missing)} such segments, {areas[one]} pixels in this one",
            "Add it to segments_info, or set its pixels to 0 (void).",
        )
    absent = sorted(listed.keys() - areas.keys())
    for one in absent:
        yield InputError(
            f"{name}: segment {one} is in the JSON and not in the PNG",
            f"{len(absent)} such segments, category {listed[one].category_id} in this one",
            "Remove it from segments_info, or draw it.",
        )
    for segment in segments:
        found = areas.get(segment.id)
        if segment.area is not None and found is not None and segment.area != found:
            yield InputError(
                f"{name}: segment {segment.id} has {areas[segment.id]} pixels in the PNG",
                f"its area in the JSON is {segment.area}",
                "Write the area again from the PNG.",
            )


def read_ids(path: str | os.PathLike[str]) -> np.ndarray:
    """Segment ids [H,W] int32 of a panoptic PNG.

    Raises InputError where the file is missing, not an image, or neither 8-bit RGB nor opaque RGBA.
    """
    from maskformer.data import image_files

    path = Path(path)
    pixels, mode = image_files.values(path, path.name, "panoptic PNG")
    if mode == "RGBA" and (pixels[..., 3] == 255).all():
        return decode_ids(pixels[..., :3])
    if mode != "RGB":
        raise InputError(
            f"{path} has mode {mode}",
            "a panoptic PNG is 8-bit RGB: id = R + 256 G + 65536 B",
            "Its alpha is not opaque; which colours are meant?"
            if mode == "RGBA"
            else "Is this a semantic label map? Those have no segment ids.",
        )
    return decode_ids(pixels)


def refuse(fault: InputError) -> None:
    """What a reader does with a fault where nobody collects them."""
    raise fault


def read_dataset(
    json_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    report: Callable[[InputError], None] = refuse,
    like: PanopticDataset | None = None,
) -> PanopticDataset:
    """The validated content of a panoptic JSON; `folder` holds its PNGs.

    The PNGs are read one by one by `PanopticDataset.ids`, so that no image is kept. `report` is
    told each fault of an entry; where it does not raise it, the entry is left out.
    Predictions have the images and categories of the truth that they are `like`, whatever they say.
    Raises InputError naming the file, image and segment for: a missing file, broken JSON, missing
    or ill-typed fields, duplicate ids, segment id 0, unknown categories, images without a record.
    """
    path, folder = Path(json_path), Path(folder)
    content = read_json(path, bounds.RECORD_BYTES, "COCO panoptic JSON")
    if like is not None and isinstance(content, dict):
        for key, values in (("categories", like.categories), ("images", like.images)):
            content[key] = [_record(one) for one in values.values()]
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", f"expected: the PNGs of {path.name}")
    entries = {
        key: [(f"{path.name}: {key}[{i}]", item) for i, item in _items(content, path, key)]
        for key in ("categories", "images", "annotations")
    }
    categories = _unique(
        _good((lambda w=w, o=o: _category(o, w) for w, o in entries["categories"]), report),
        f"{path.name}: categories",
        report,
    )
    images = _unique(
        _good((lambda w=w, o=o: _image(o, w) for w, o in entries["images"]), report),
        f"{path.name}: images",
        report,
    )
    by_text = {str(image_id): image_id for image_id in images}
    if len(by_text) < len(images):
        by_text = {}  # one id is there as a number and as a text: none can be meant for the other
    annotations = []
    seen = set()
    read = (
        lambda w=w, o=o: _annotation(o, w, categories, report) for w, o in entries["annotations"]
    )
    for annotation in _good(read, report):
        name = image_name(annotation.image_id)
        if annotation.image_id not in images:
            annotation = _with_the_same_number(annotation, by_text)
            name = image_name(annotation.image_id)
        if annotation.image_id in seen:
            report(InputError(f"{path.name}: {name} has two annotations"))
            continue
        if annotation.image_id not in images:
            report(
                InputError(
                    f"{path.name}: {name} is annotated and not in `images`",
                    f"`images` has {len(images)} entries, such as {next(iter(images), None)!r}",
                    "Add its record (id, file_name, height, width).",
                )
            )
            continue
        seen.add(annotation.image_id)
        annotations.append(annotation)
    return PanopticDataset(images, tuple(annotations), categories, folder)


def write_dataset(
    json_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    categories: Iterable[Category],
    items: Iterable[tuple[ImageInfo, np.ndarray, Sequence[Segment]]],
) -> int:
    """Writes PNGs as they come and the JSON last; `read_dataset` reads back the same.

    Every file appears under its name only when complete, so an interrupted run leaves no JSON and
    no half PNG. The PNG of `a/b.jpg` is `b.png`.

    Args: items: per image its record, ids [H,W] and segments. Returns the number of images.
    Raises InputError for what the strict reader would refuse.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = _unique(categories, "categories")
    images, annotations, names = [], [], set()
    for image, ids, segments in items:
        name = image_name(image.id)
        file_name = Path(image.file_name).with_suffix(".png").name
        if file_name in names:
            raise InputError(f"{name}: {file_name} is already the PNG of another image")
        if np.shape(ids) != (image.height, image.width):
            raise InputError(
                f"{name}: the id map is {_size(np.shape(ids))}",
                f"the image is {_size((image.height, image.width))} (height x width)",
            )
        for segment in segments:
            _check_category(segment, known, name)
        check_ids(ids, segments, name)
        names.add(file_name)
        write_ids(folder / file_name, ids)
        images.append(_record(image))
        annotations.append(
            {
                "image_id": image.id,
                "file_name": file_name,
                "segments_info": [_segment_record(segment) for segment in segments],
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [_record(category) for category in known.values()],
    }
    with replacing(json_path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return len(images)


def write_ids(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Writes segment ids [H,W] as a panoptic PNG that `read_ids` reads back exactly."""
    from PIL import Image

    rgb = encode_ids(ids)
    with replacing(path) as temporary:
        Image.fromarray(rgb).save(temporary, format="PNG")


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)


def _items(content: Any, path: Path, key: str) -> Iterator[tuple[int, Any]]:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise InputError(
            f"{path.name} has no list `{key}`",
            "a panoptic JSON has `images`, `annotations` and `categories`",
            "Is this an instances or captions file?",
        )
    return enumerate(content[key])


def _field(item: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(item, dict):
        raise InputError(f"{where} is a {type(item).__name__}", "expected: an object")
    if key not in item:
        raise InputError(
            f"{where} has no `{key}`", f"it has: {', '.join(sorted(item)) or 'nothing'}"
        )
    value = item[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        raise InputError(f"{where}: `{key}` is {value!r}", f"expected: {_kind_names(kinds)}")
    return value


def _optional(item: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """The field, or None where the object has none."""
    if isinstance(item, dict) and key not in item:
        return None
    return _field(item, key, kinds, where)


def _kind_names(kinds: type | tuple[type, ...]) -> str:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return " or ".join(kind.__name__ for kind in kinds)


def _flag(item: Any, key: str, where: str) -> bool:
    value = _field(item, key, (int, bool), where)
    if value not in (0, 1):
        raise InputError(f"{where}: `{key}` is {value!r}", "expected: 0 or 1")
    return bool(value)


def _category(item: Any, where: str) -> Category:
    color = _optional(item, "color", list, where)
    return Category(
        _number(item, "id", where),
        _field(item, "name", str, where),
        _flag(item, "isthing", where),
        tuple(color) if color is not None else None,
    )


def _image(item: Any, where: str) -> ImageInfo:
    image = ImageInfo(
        _field(item, "id", (int, str), where),
        file_name_in(item, where),
        _number(item, "height", where),
        _number(item, "width", where),
    )
    if image.height < 1 or image.width < 1:
        raise InputError(
            f"{where}: {image_name(image.id)} is {_size((image.height, image.width))}",
            "expected: at least 1x1 pixels",
        )
    return image


def _good(
    makers: Iterable[Callable[[], Any]], report: Callable[[InputError], None]
) -> Iterator[Any]:
    """What is made without a fault; the faults are reported."""
    for make in makers:
        try:
            one = make()
        except InputError as fault:
            report(fault)
            continue
        yield one


def _annotation(
    item: Any,
    where: str,
    categories: Mapping[int, Category],
    report: Callable[[InputError], None],
) -> Annotation:
    image_id = _field(item, "image_id", (int, str), where)
    name = image_name(image_id)
    segments: dict[int, Segment] = {}

    def listed(i: int, entry: Any) -> Segment:
        segment = _segment(entry, f"{name}: segments_info[{i}]")
        if segment.id in segments:
            raise InputError(f"{name}: segment {segment.id} is listed twice")
        if not VOID < segment.id <= MAX_ID:
            raise InputError(
                f"{name}: segment {segment.id} cannot be drawn",
                f"ids go from 1 to {MAX_ID}; {VOID} is void",
            )
        _check_category(segment, categories, name)
        return segment

    entries = enumerate(_field(item, "segments_info", list, where))
    for segment in _good((lambda i=i, e=e: listed(i, e) for i, e in entries), report):
        segments[segment.id] = segment
    file_name = file_name_in(item, where)
    return Annotation(image_id, file_name, tuple(segments.values()))


def _with_the_same_number(annotation: Annotation, by_text: Mapping[str, Any]) -> Annotation:
    """The annotation with the id that `images` writes as a text, or as a number, if it is there."""
    image_id = by_text.get(str(annotation.image_id), annotation.image_id)
    return dataclasses.replace(annotation, image_id=image_id)


def _whole(value: Any, where: str, what: str) -> int:
    """A whole number, also one that is written as 12.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if type(value) is not int:
        raise InputError(f"{where}: {what} is {value!r}", "expected: a whole number")
    return value


def file_name_in(item: Any, where: str) -> str:
    """The `file_name` of an object: a path that stays inside its folder.

    Raises InputError for an absolute one, one with `..`, and one that no file can have.
    """
    name = _field(item, "file_name", str, where)
    parts = name.replace("\\", "/").split("/")
    if not name or name[0] in "/\\" or ".." in parts or "\0" in name or ":" in parts[0]:
        raise InputError(
            f"{where}: `file_name` is {name!r}",
            "expected: a path inside the data set's own folder",
            "Nothing outside of it is read.",
        )
    return name


def _number(item: Any, key: str, where: str) -> int:
    value = _field(item, key, int, where)
    if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise InputError(f"{where}: `{key}` is {value}", f"expected: at most {LARGEST_NUMBER}")
    return value


def _segment(item: Any, where: str) -> Segment:
    bbox = _optional(item, "bbox", list, where)
    if bbox is not None:
        if len(bbox) != 4:
            raise InputError(f"{where}: `bbox` is {bbox!r}", "expected: [x, y, width, height]")
        bbox = [_whole(side, where, "a number of `bbox`") for side in bbox]
    area = _optional(item, "area", (int, float), where)
    return Segment(
        _field(item, "id", int, where),
        _number(item, "category_id", where),
        _flag(item, "iscrowd", where) if "iscrowd" in item else False,
        None if area is None else _whole(area, where, "`area`"),
        tuple(bbox) if bbox is not None else None,
    )


def _check_category(segment: Segment, categories: Mapping[int, Category], name: str) -> None:
    if segment.category_id not in categories:
        raise InputError(
            f"{name}: segment {segment.id} has the unknown category {segment.category_id}",
            f"`categories` has {len(categories)} ids from "
            f"{min(categories, default=None)} to {max(categories, default=None)}",
            "Contiguous class ids must be mapped to the data set's before they are written.",
        )


def _unique(
    items: Iterable[Any], where: str, report: Callable[[InputError], None] = refuse
) -> dict[Any, Any]:
    unique: dict[Any, Any] = {}
    for item in items:
        if item.id in unique:
            report(InputError(f"{where}: id {item.id} occurs twice"))
        else:
            unique[item.id] = item
    return unique


def _record(item: Category | ImageInfo) -> dict[str, Any]:
    record = {key: getattr(item, key) for key in item.__slots__}
    if isinstance(item, Category):
        record["isthing"] = int(item.isthing)
        if item.color is None:
            del record["color"]
    return record


def _segment_record(segment: Segment) -> dict[str, Any]:
    record: dict[str, Any] = {"id": segment.id, "category_id": segment.category_id}
    if segment.area is not None:
        record["area"] = segment.area
    if segment.iscrowd or segment.area is not None:
        record["iscrowd"] = int(segment.iscrowd)
    if segment.bbox is not None:
        record["bbox"] = list(segment.bbox)
    return record

"""Procedural photographs with exact panoptic and semantic labels, laid out like COCO and ADE20K.

Every image depends on (seed, split, index) only. Pixels are made from integers, additions,
multiplications, divisions and square roots, which round the same everywhere, so that a scene does
not change with the processor; the bytes of JPEG and PNG files follow Pillow's encoders, so files
are equal byte for byte under equal Pillow versions.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from maskformer.coco import PANOPTIC_CATEGORIES
from maskformer.data.panoptic_format import (
    Category,
    ImageInfo,
    Segment,
    describe_segments,
    write_dataset,
)
from maskformer.scenes import materials as scene_materials
from maskformer.scenes import objects as scene_objects
from parity.errors import InputError
from parity.files import replacing
from parity.orphans import end_with_parent

IGNORED = 255
"""Label of unlabelled pixels in semantic maps (ADE20K as detectron2 prepares it)."""

THING_NAMES = tuple(scene_objects.DRAWERS)
STUFF_NAMES = tuple(scene_materials.PAINTERS)
CATEGORIES: tuple[Category, ...] = tuple(
    Category(c.dataset_id, c.name, c.is_thing, c.colour)
    for c in PANOPTIC_CATEGORIES
    if c.name in THING_NAMES + STUFF_NAMES
)
"""A subset of COCO's panoptic categories under COCO's ids; things first, as in COCO."""

_ID_OF = {category.name: category.id for category in CATEGORIES}
_CLASS_OF = {category.id: index for index, category in enumerate(CATEGORIES)}
_SPLITS = {"train": ("train2017", "training"), "val": ("val2017", "validation")}
_ASPECTS = ((4, 3), (4, 3), (3, 2), (3, 4), (2, 3), (1, 1), (16, 9))
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class Scene:
    """One image with its annotation.

    `image` uint8 [H,W,3] RGB; `ids` int32 [H,W] segment ids, 0 void; `segments` what COCO's JSON
    says of them.
    """

    image: np.ndarray
    ids: np.ndarray
    segments: tuple[Segment, ...]

    @property
    def labels(self) -> np.ndarray:
        """Semantic labels uint8 [H,W]: index into `CATEGORIES`, 255 where unlabelled."""
        labels = np.full(self.ids.shape, IGNORED, np.uint8)
        for segment in self.segments:
            labels[self.ids == segment.id] = _CLASS_OF[segment.category_id]
        return labels


@dataclass(frozen=True)
class _Setting:
    """A kind of place: bands of stuff from top to bottom (alternatives each), and its things.

    `horizon` bounds the upper edge of the last band, as a fraction of the height.
    """

    bands: tuple[tuple[str, ...], ...]
    horizon: tuple[float, float]
    ground: tuple[str, ...]
    air: tuple[str, ...]
    water: tuple[str, ...] = ()


_SETTINGS = (
    _Setting(
        (("sky-other-merged",), ("tree-merged", "wall-brick"), ("road",)),
        (0.38, 0.58),
        ("person", "car", "car", "person", "umbrella", "potted plant"),
        ("bird",),
    ),
    _Setting(
        (("sky-other-merged",), ("sea",), ("sand",)),
        (0.5, 0.7),
        ("person", "umbrella", "sports ball", "bottle"),
        ("bird",),
        ("boat",),
    ),
    _Setting(
        (("sky-other-merged",), ("mountain-merged", "tree-merged"), ("grass-merged",)),
        (0.4, 0.6),
        ("person", "sports ball", "umbrella", "potted plant", "car"),
        ("bird",),
    ),
    _Setting(
        (("sky-other-merged",), ("mountain-merged", "tree-merged"), ("sea",)),
        (0.35, 0.55),
        (),
        ("bird",),
        ("boat", "boat", "sports ball"),
    ),
    _Setting(
        (("wall-brick",), ("floor-wood",)),
        (0.5, 0.7),
        ("bottle", "sports ball", "potted plant", "person", "umbrella", "bottle"),
        (),
    ),
)


def draw_scene(seed: int, split: str, index: int, size: int = 320) -> Scene:
    """The scene number `index` of a split: the same for the same arguments.

    Every 16th scene has no thing (index 5 modulo 16), and every 32nd no segment at all, only void
    (index 11 modulo 32).

    Args: seed >= 0; split "train" or "val"; index >= 0; size: longest side in pixels, about.
    """
    rng = np.random.default_rng([seed, list(_SPLITS).index(split), index, size])
    height, width = _size(rng, size)
    setting = _SETTINGS[int(rng.integers(len(_SETTINGS)))]
    canvas, layers, edges, horizon = _paint_stuff(rng, setting, height, width)
    ids = _Ids(rng)
    id_map = np.zeros((height, width), np.int32)
    for name, mask in layers:
        id_map[mask] = ids.new(name)
    if rng.random() < 0.5:
        id_map[edges] = 0
    placed = _unlabelled(rng, height, width, horizon)
    if index % 16 != 5:
        placed += _place(rng, setting, height, width, horizon)
    for item in sorted(placed, key=lambda item: item.boxes[0][1]):
        _draw_placed(rng, canvas, id_map, ids, item)
    if index % 32 == 11:
        id_map[:] = 0
    present = set(np.unique(id_map).tolist()) - {0}
    segments = describe_segments(
        id_map,
        {i: category for i, category in ids.categories.items() if i in present},
        ids.crowds & present,
    )
    return Scene(_develop(rng, canvas), id_map, segments)


class _Ids:
    """Hands out segment ids that use all three bytes, as COCO's do, and keeps their categories."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.categories: dict[int, int] = {}
        self.crowds: set[int] = set()

    def new(self, name: str, crowd: bool = False) -> int:
        while True:
            segment_id = int(self._rng.integers(1, 256**3))
            if segment_id not in self.categories:
                break
        self.categories[segment_id] = _ID_OF[name]
        if crowd:
            self.crowds.add(segment_id)
        return segment_id


def _size(rng: np.random.Generator, size: int) -> tuple[int, int]:
    across, down = _ASPECTS[int(rng.integers(len(_ASPECTS)))]
    longest = size - int(rng.integers(0, size // 8 + 1))
    scale = longest / max(across, down)
    return max(32, int(down * scale)), max(32, int(across * scale))


def _paint_stuff(
    rng: np.random.Generator, setting: _Setting, height: int, width: int
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]], np.ndarray, int]:
    """Background float32 [H,W,3], the mask of each stuff, their borders, the horizon's row."""
    names = [band[int(rng.integers(len(band)))] for band in setting.bands]
    horizon = int(height * rng.uniform(*setting.horizon))
    rows = np.arange(height, dtype=np.float32)[:, None]
    tops = [0]
    if len(names) == 3:
        tops.append(int(horizon * rng.uniform(0.35, 0.85)))
    tops.append(horizon)
    canvas = np.zeros((height, width, 3), np.float32)
    owner = np.zeros((height, width), np.uint8)
    for band, (name, top) in enumerate(zip(names, tops, strict=True)):
        material = scene_materials.PAINTERS[name]
        profile = np.zeros(width, np.float32)
        if band > 0:
            roughness = material.roughness * height
            profile = scene_materials.profile(rng, width) * np.float32(roughness)
        covered = rows >= np.float32(top) + profile[None, :]
        texture = material.paint(rng, height, width, top)
        canvas[covered] = texture[covered]
        owner[covered] = band
    if names[-1] == "road":
        _add_verge(rng, canvas, owner, names, horizon)
    edges = np.zeros((height, width), bool)
    edges[1:] |= owner[1:] != owner[:-1]
    edges[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    edges[:-1] |= edges[1:]
    masks: dict[str, np.ndarray] = {}
    for band, name in enumerate(names):
        mask = owner == band
        masks[name] = masks[name] | mask if name in masks else mask
    return canvas, [(n, m) for n, m in masks.items() if m.any()], edges, horizon


def _add_verge(
    rng: np.random.Generator, canvas: np.ndarray, owner: np.ndarray, names: list[str], horizon: int
) -> None:
    """Grass on both sides of a road that narrows towards the horizon."""
    height, width = owner.shape
    rows = np.arange(height, dtype=np.float32)[:, None] - horizon
    columns = np.arange(width, dtype=np.float32)[None, :]
    vanishing = width * rng.uniform(0.3, 0.7)
    half = np.float32(rng.uniform(0.5, 1.1) * width / max(height - horizon, 1))
    verge = (np.abs(columns - np.float32(vanishing)) > rows * half + width * 0.04) & (rows >= 0)
    verge &= owner == len(names) - 1
    texture = scene_materials.PAINTERS["grass-merged"].paint(rng, height, width, horizon)
    canvas[verge] = texture[verge]
    names.append("grass-merged")
    owner[verge] = len(names) - 1


@dataclass(frozen=True)
class _Placed:
    """Objects that share a segment: one, or the members of a crowd. Boxes are (x, base, height).

    `name` None is an object of no category, void in the annotation.
    """

    name: str | None
    boxes: tuple[tuple[float, float, float], ...]
    is_crowd: bool
    has_shadow: bool


def _place(
    rng: np.random.Generator, setting: _Setting, height: int, width: int, horizon: int
) -> list[_Placed]:
    """Things of a setting, sized by perspective; some crowds, some tiny ones."""
    placed = []
    depth = max(height - horizon, 1)

    def grounded(names: tuple[str, ...], low: float, high: float, count: int) -> None:
        for _ in range(count):
            name = names[int(rng.integers(len(names)))]
            base = horizon + depth * rng.uniform(low, high)
            nearness = (base - horizon) / depth
            tall = height * (0.07 + 0.7 * nearness * nearness) * scene_objects.HEIGHTS[name]
            box = (rng.uniform(0, width), base, max(4.0, tall * rng.uniform(0.8, 1.25)))
            placed.append(_Placed(name, (box,), False, name != "boat"))

    if setting.ground:
        grounded(setting.ground, 0.05, 1.05, int(rng.integers(2, 9)))
        grounded(setting.ground, 0.0, 0.15, int(rng.integers(0, 3)))
    if setting.water:
        top = 0.08 if not setting.ground else -0.2
        bottom = 1.0 if not setting.ground else -0.02
        grounded(setting.water, top, bottom, int(rng.integers(1, 5)))
    for _ in range(int(rng.integers(0, 4)) if setting.air else 0):
        tall = height * (0.025 + 0.1 * rng.random())
        box = (rng.uniform(0, width), horizon * rng.uniform(0.1, 0.7), max(3.0, tall))
        placed.append(_Placed("bird", (box,), False, False))
    if rng.random() < 0.3 and "person" in setting.ground:
        placed.append(_crowd(rng, "person", width, horizon + 0.1 * depth, 0.09 * height, True))
    if rng.random() < 0.2 and setting.air:
        placed.append(_crowd(rng, "bird", width, horizon * 0.5, 0.03 * height, False))
    return placed


def _unlabelled(rng: np.random.Generator, height: int, width: int, horizon: int) -> list[_Placed]:
    placed = []
    for _ in range(int(rng.integers(0, 3))):
        base = horizon + (height - horizon) * rng.random()
        box = (rng.uniform(0, width), base, height * rng.uniform(0.05, 0.25))
        placed.append(_Placed(None, (box,), False, True))
    return placed


def _crowd(
    rng: np.random.Generator, name: str, width: int, base: float, tall: float, shadow: bool
) -> _Placed:
    centre, spread = rng.uniform(0.2, 0.8) * width, rng.uniform(0.1, 0.25) * width
    members = sorted(
        (
            (
                centre + spread * (rng.random() + rng.random() - 1.0),
                base + tall * rng.uniform(-0.3, 0.3),
                max(4.0, tall * rng.uniform(0.8, 1.2)),
            )
            for _ in range(int(rng.integers(10, 22)))
        ),
        key=lambda box: box[1],
    )
    return _Placed(name, tuple(members), True, shadow)


def _draw_placed(
    rng: np.random.Generator, canvas: np.ndarray, id_map: np.ndarray, ids: _Ids, placed: _Placed
) -> None:
    segment_id = 0 if placed.name is None else ids.new(placed.name, placed.is_crowd)
    draw = scene_objects.draw_rock if placed.name is None else scene_objects.DRAWERS[placed.name]
    for x, base, tall in placed.boxes:
        if placed.has_shadow:
            _shade(canvas, x, base, tall)
        colour, alpha = _render(rng, draw, tall)
        _composite(canvas, id_map, colour, alpha, x, base, segment_id)


def _render(
    rng: np.random.Generator, draw: Callable[..., scene_objects.Drawing], tall: float
) -> tuple[np.ndarray, np.ndarray]:
    """An object `tall` pixels high: colour float32 [h,w,3] and coverage float32 [h,w]."""
    drawing = draw(rng, max(3, round(tall)) * _SUPERSAMPLING)
    colour = np.asarray(drawing.colour.reduce(_SUPERSAMPLING), np.float32)
    alpha = np.asarray(drawing.mask.reduce(_SUPERSAMPLING), np.float32) / np.float32(255)
    return scene_objects.light(rng, colour, drawing.is_round), alpha


def _composite(
    canvas: np.ndarray,
    id_map: np.ndarray,
    colour: np.ndarray,
    alpha: np.ndarray,
    x: float,
    base: float,
    segment_id: int,
) -> None:
    height, width = id_map.shape
    left, top = int(x - alpha.shape[1] / 2), int(base - alpha.shape[0])
    y0, y1 = max(top, 0), min(top + alpha.shape[0], height)
    x0, x1 = max(left, 0), min(left + alpha.shape[1], width)
    if y0 >= y1 or x0 >= x1:
        return
    inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    outer = (slice(y0, y1), slice(x0, x1))
    weight = alpha[inner][..., None]
    canvas[outer] = canvas[outer] * (1 - weight) + colour[inner] * weight
    id_map[outer][alpha[inner] >= 0.5] = segment_id


def _shade(canvas: np.ndarray, x: float, base: float, tall: float) -> None:
    """A soft contact shadow: an ellipse on the ground, darkest at its centre."""
    height, width = canvas.shape[:2]
    across, down = 0.55 * tall + 1, 0.12 * tall + 1
    y0, y1 = max(int(base - down), 0), min(int(base + down) + 1, height)
    x0, x1 = max(int(x - across), 0), min(int(x + across * 1.3) + 1, width)
    if y0 >= y1 or x0 >= x1:
        return
    dy = (np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(base)) / np.float32(down)
    dx = (np.arange(x0, x1, dtype=np.float32)[None] - np.float32(x)) / np.float32(across)
    strength = np.clip(1 - dx * dx - dy * dy, 0, 1) * np.float32(0.55)
    canvas[y0:y1, x0:x1] *= (1 - strength)[..., None]


def _develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The photograph uint8 [H,W,3]: light and colour cast, vignette, tone curve, sensor noise."""
    height, width = canvas.shape[:2]
    exposure = np.float32(rng.uniform(0.6, 1.15))
    cast = (1 + 0.12 * (rng.random(3) - 0.5)).astype(np.float32)
    dy = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    dx = np.linspace(-1, 1, width, dtype=np.float32)[None]
    tilt = 1 + np.float32(rng.uniform(-0.2, 0.2)) * dx
    vignette = tilt - np.float32(rng.uniform(0.0, 0.14)) * (dx * dx + dy * dy)
    value = np.clip(canvas * vignette[..., None] * (exposure * cast) / 255, 0, 1)
    curve = np.float32(rng.uniform(-0.35, 0.35))
    value = value + curve * value * (1 - value)
    spread = rng.uniform(1.0, 9.0)
    grain = rng.integers(0, 256, (2, *canvas.shape), dtype=np.uint8).astype(np.float32)
    noise = (grain[0] + grain[1] - 255) * np.float32(spread / 255)
    image = np.clip(value * 255 + noise + np.float32(0.5), 0, 255).astype(np.uint8)
    if rng.random() < 0.03:
        grey = np.asarray(Image.fromarray(image).convert("L"))
        image = np.repeat(grey[..., None], 3, axis=2)
    return image


def write_scenes(
    folder: str | os.PathLike[str],
    images: int,
    seed: int = 0,
    *,
    size: int = 320,
    val_share: float = 0.2,
    workers: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Writes a data set in the layout detectron2 looks for; returns the images of each split.

    `coco/` has `train2017/*.jpg`, `val2017/*.jpg`, `annotations/panoptic_{split}.json` and
    `panoptic_{split}/*.png`; `ADEChallengeData2016/` has `images/{training,validation}`,
    `annotations_detectron2/{training,validation}` (8-bit labels, 255 ignored) and
    `categories.json`. Equal arguments give equal bytes under one Pillow version.

    Args: images in total, at least 2; size: longest side in pixels, about; val_share in (0, 1);
    workers: processes; advance: called after each image.
    Raises InputError for bad arguments and for a folder that already holds a data set.
    """
    _check_arguments(images, seed, size, val_share)
    folder = Path(folder)
    if (folder / "coco" / "annotations").exists():
        raise InputError(
            f"{folder} already holds a data set",
            f"{folder / 'coco' / 'annotations'} exists",
            "Choose another folder, or remove it first.",
        )
    val = min(max(1, round(images * val_share)), images - 1)
    counts = {"train": images - val, "val": val}
    for split, count in counts.items():
        _write_split(folder, split, count, seed, size, workers, advance)
    names = [{"id": i, "name": c.name, "isthing": int(c.isthing)} for i, c in enumerate(CATEGORIES)]
    with replacing(folder / "ADEChallengeData2016" / "categories.json") as temporary:
        temporary.write_text(json.dumps(names, indent=1), encoding="utf-8")
    return counts


def _check_arguments(images: int, seed: int, size: int, val_share: float) -> None:
    if images < 2:
        raise InputError(f"--images is {images}", "a train and a val image are the least: 2")
    if seed < 0:
        raise InputError(f"--seed is {seed}", "expected: a number of at least 0")
    if not 48 <= size <= 4096:
        raise InputError(f"--longest is {size}", "expected: a longest side from 48 to 4096 pixels")
    if not 0 < val_share < 1:
        raise InputError(f"--val-share is {val_share}", "expected: a share between 0 and 1")


def _write_split(
    folder: Path,
    split: str,
    count: int,
    seed: int,
    size: int,
    workers: int,
    advance: Callable[[], None],
) -> None:
    coco_name, ade_name = _SPLITS[split]
    coco, ade = folder / "coco", folder / "ADEChallengeData2016"
    photographs = coco / coco_name
    linked, labels = ade / "images" / ade_name, ade / "annotations_detectron2" / ade_name
    for path in (photographs, linked, labels, coco / "annotations"):
        path.mkdir(parents=True, exist_ok=True)

    def items() -> Iterator[tuple[ImageInfo, np.ndarray, tuple[Segment, ...]]]:
        for index, (jpeg, scene) in enumerate(_render_all(split, count, seed, size, workers)):
            name = f"{index + 1:012d}"
            height, width = scene.ids.shape
            with replacing(photographs / f"{name}.jpg") as temporary:
                temporary.write_bytes(jpeg)
            _link(photographs / f"{name}.jpg", linked / f"{name}.jpg")
            with replacing(labels / f"{name}.png") as temporary:
                Image.fromarray(scene.labels).save(temporary, format="PNG")
            advance()
            yield ImageInfo(index + 1, f"{name}.jpg", height, width), scene.ids, scene.segments

    write_dataset(
        coco / "annotations" / f"panoptic_{coco_name}.json",
        coco / f"panoptic_{coco_name}",
        CATEGORIES,
        items(),
    )


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def _render_all(
    split: str, count: int, seed: int, size: int, workers: int
) -> Iterator[tuple[bytes, Scene]]:
    jobs = [(seed, split, index, size) for index in range(count)]
    if workers <= 1:
        yield from map(_render_one, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
        yield from pool.map(_render_one, jobs, chunksize=4)


def _render_one(job: tuple[int, str, int, int]) -> tuple[bytes, Scene]:
    seed, split, index, size = job
    scene = draw_scene(seed, split, index, size)
    return encode_jpeg(scene.image, quality=82 + 3 * (index % 5), index=index), scene


def encode_jpeg(image: np.ndarray, quality: int, index: int) -> bytes:
    """A baseline JPEG with fixed settings; every third file keeps full colour resolution (4:4:4).

    Greyscale content becomes a one-channel file, as a few of COCO's are.
    """
    picture = Image.fromarray(image)
    if (image[..., :1] == image).all():
        picture = picture.convert("L")
    buffer = BytesIO()
    picture.save(
        buffer,
        format="JPEG",
        quality=quality,
        subsampling="4:4:4" if index % 3 == 0 else "4:2:0",
        optimize=False,
        progressive=False,
    )
    return buffer.getvalue()


def digest(scene: Scene) -> str:
    """sha256 of pixels and ids: equal scenes, equal digests, whatever the encoder."""
    return hashlib.sha256(scene.image.tobytes() + scene.ids.astype("<i4").tobytes()).hexdigest()

"""Every kind of broken annotation, image and record gives one clear error that names the place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskformer.data.augmentation import Pad, Resize
from maskformer.data.dataset_layout import find_splits, open_split
from maskformer.data.mapper import apply_steps
from maskformer.data.panoptic_format import decode_ids, encode_ids
from parity.errors import InputError

NAME = "000000000001"


@pytest.fixture
def folder(scenes: Path, tmp_path: Path) -> Path:
    shutil.copytree(scenes, tmp_path / "scenes")
    return tmp_path / "scenes"


def _json(folder: Path) -> Path:
    return folder / "coco" / "annotations" / "panoptic_train2017.json"


def _edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads(_json(folder).read_text())
        change(content)
        _json(folder).write_text(json.dumps(content))

    return apply


def _segment(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return _edit(lambda content: change(content["annotations"][0]["segments_info"][0]))


def _photograph(folder: Path) -> Path:
    return folder / "coco" / "train2017" / f"{NAME}.jpg"


def _png(folder: Path) -> Path:
    return folder / "coco" / "panoptic_train2017" / f"{NAME}.png"


def _redraw(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        ids = decode_ids(np.asarray(Image.open(_png(folder))))
        Image.fromarray(encode_ids(change(ids.copy()))).save(_png(folder))

    return apply


def _stray(ids: np.ndarray) -> np.ndarray:
    ids[:2, :2] = 77
    return ids


def _erase_first(ids: np.ndarray) -> np.ndarray:
    ids[ids == ids[0, 0]] = 0
    return ids


def _cut(path: Callable[[Path], Path]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = path(folder).read_bytes()
        path(folder).write_bytes(content[: len(content) // 2])

    return apply


def _resave(path: Callable[[Path], Path], convert: Callable) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        convert(Image.open(path(folder)).copy()).save(path(folder))

    return apply


def _smaller(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width - 1, picture.height), Image.Resampling.NEAREST)


PANOPTIC = {
    "photograph missing": (
        lambda f: _photograph(f).unlink(),
        r"image 1: the photograph is missing",
    ),
    "photograph cut off": (_cut(_photograph), r"image 1: the photograph cannot be read"),
    "photograph is text": (
        lambda f: _photograph(f).write_text("no"),
        r"image 1: the photograph cannot be read",
    ),
    "photograph size": (_resave(_photograph, _smaller), r"image 1: the photograph is \d+x\d+"),
    "image folder missing": (
        lambda f: shutil.rmtree(f / "coco" / "train2017"),
        r"train2017 is not a folder",
    ),
    "png missing": (lambda f: _png(f).unlink(), rf"{NAME}.png does not exist"),
    "png cut off": (_cut(_png), rf"{NAME}.png: the panoptic PNG cannot be read"),
    "png grey": (_resave(_png, lambda p: p.convert("L")), rf"{NAME}.png has mode L"),
    "png size": (_resave(_png, _smaller), rf"image 1: {NAME}.png is \d+x\d+"),
    "png id not in json": (
        _redraw(_stray),
        r"image 1: segment 77 is in the PNG and not in the JSON",
    ),
    "json id not in png": (
        _redraw(_erase_first),
        r"image 1: segment \d+ is in the JSON and not in the PNG",
    ),
    "png folder missing": (
        lambda f: shutil.rmtree(f / "coco" / "panoptic_train2017"),
        r"panoptic_train2017 is not a folder",
    ),
    "json cut off": (_cut(_json), r"cannot be read as JSON"),
    "json without images": (_edit(lambda c: c.pop("images")), r"has no list `images`"),
    "json without annotations": (_edit(lambda c: c.update(annotations=[])), r"annotates no image"),
    "unknown category": (
        _segment(lambda s: s.update(category_id=9999)),
        r"image 1: segment \d+ has the unknown category 9999",
    ),
    "wrong area": (_segment(lambda s: s.update(area=3)), r"image 1: segment \d+ has \d+ pixels"),
    "wrong box": (
        _segment(lambda s: s.update(bbox=[0, 0, 1, 1])),
        r"image 1: segment \d+ has the box \[0, 0, 1, 1\]",
    ),
    "box of three": (_segment(lambda s: s.update(bbox=[0, 0, 1])), r"image 1: .*`bbox`"),
    "crowd is two": (_segment(lambda s: s.update(iscrowd=2)), r"image 1: .*`iscrowd` is 2"),
    "id is zero": (_segment(lambda s: s.update(id=0)), r"image 1: segment 0 cannot be drawn"),
    "id is text": (_segment(lambda s: s.update(id="a")), r"image 1: .*`id` is 'a'"),
    "segment twice": (
        _edit(
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0]
            )
        ),
        r"image 1: segment \d+ is listed twice",
    ),
    "image annotated twice": (
        _edit(lambda c: c["annotations"].append(c["annotations"][0])),
        r"image 1 has two annotations",
    ),
    "image without annotation": (
        _edit(lambda c: c["annotations"].pop(0)),
        r"image 1 has no annotation",
    ),
    "annotation without image": (_edit(lambda c: c["images"].pop(0)), r"image 1 is annotated"),
    "height is zero": (
        _edit(lambda c: c["images"][0].update(height=0)),
        r"image 1 is 0x\d+",
    ),
    "category twice": (
        _edit(lambda c: c["categories"].append(c["categories"][0])),
        r"categories: id 1 occurs twice",
    ),
    "category not a thing or stuff": (
        _edit(lambda c: c["categories"][0].pop("isthing")),
        r"categories\[0\] has no `isthing`",
    ),
}


@pytest.mark.parametrize("fault", PANOPTIC)
def test_broken_panoptic_data_is_named(folder: Path, fault: str) -> None:
    damage, message = PANOPTIC[fault]
    damage(folder)
    with pytest.raises(InputError, match=message):
        _read_all(folder / "coco", "train2017")


def _ade(folder: Path, kind: str, suffix: str) -> Path:
    return folder / "ADEChallengeData2016" / kind / "training" / f"{NAME}{suffix}"


def _ade_photograph(folder: Path) -> Path:
    return _ade(folder, "images", ".jpg")


def _ade_labels(folder: Path) -> Path:
    return _ade(folder, "annotations_detectron2", ".png")


def _label_200(folder: Path) -> None:
    labels = np.asarray(Image.open(_ade_labels(folder))).copy()
    labels[0, 0] = 200
    Image.fromarray(labels).save(_ade_labels(folder))


SEMANTIC = {
    "labels missing": (lambda f: _ade_labels(f).unlink(), rf"image {NAME} has no label map"),
    "photograph missing": (
        lambda f: _ade_photograph(f).unlink(),
        rf"label map {NAME} has no photograph",
    ),
    "labels cut off": (_cut(_ade_labels), rf"image {NAME}: the label map cannot be read"),
    "photograph is text": (
        lambda f: (_ade_photograph(f).unlink(), _ade_photograph(f).write_text("no")),
        rf"image {NAME}: the photograph cannot be read",
    ),
    "labels size": (_resave(_ade_labels, _smaller), rf"image {NAME}: the label map is \d+x\d+"),
    "labels in colour": (
        _resave(_ade_labels, lambda p: p.convert("RGB")),
        rf"image {NAME}: the label map has mode RGB",
    ),
    "label is no class": (_label_200, rf"image {NAME}: label 200 is not a class"),
    "two photographs of a name": (
        lambda f: shutil.copy(_ade_photograph(f), _ade_photograph(f).with_suffix(".jpeg")),
        rf"two photographs are called {NAME}",
    ),
    "no photographs": (
        lambda f: [p.unlink() for p in _ade_photograph(f).parent.iterdir()],
        r"has no photographs",
    ),
    "categories are no list": (
        lambda f: (f / "ADEChallengeData2016" / "categories.json").write_text("{"),
        r"list of categories .* cannot be read as JSON",
    ),
}


@pytest.mark.parametrize("fault", SEMANTIC)
def test_broken_semantic_data_is_named(folder: Path, fault: str) -> None:
    damage, message = SEMANTIC[fault]
    damage(folder)
    with pytest.raises(InputError, match=message):
        _read_all(folder / "ADEChallengeData2016", "training")


def test_whole_data_gives_no_error(folder: Path) -> None:
    _read_all(folder / "coco", "train2017")
    _read_all(folder / "ADEChallengeData2016", "training")


@pytest.mark.parametrize(("classes", "ignored"), [(300, None), (65, 65)])
def test_labels_may_have_other_ignored_values(tmp_path: Path, classes: int, ignored) -> None:
    """ADE20K-Full has 847 classes in 16-bit TIFFs with 65535, Mapillary Vistas 65 and 65."""
    for kind in ("images_detectron2", "annotations_detectron2"):
        (tmp_path / kind / "training").mkdir(parents=True)
    names = [{"id": i, "name": str(i)} for i in range(classes)]
    (tmp_path / "categories.json").write_text(json.dumps(names))
    labels = np.full((5, 7), classes - 1, np.uint16)
    labels[0] = ignored or 65535
    Image.fromarray(labels).save(tmp_path / "annotations_detectron2" / "training" / "a.tif")
    photograph = Image.new("RGB", (7, 5))
    photograph.save(tmp_path / "images_detectron2" / "training" / "a.jpg")
    images = open_split(tmp_path, "training", ignored)
    assert images.ignored == (ignored or 65535)
    assert (images.load(0).labels == labels).all()
    mapped = apply_steps(images.load(0), (Resize(10, 14), Pad(16, 16)), images.ignored)
    assert mapped.class_ids.tolist() == [classes - 1]
    assert (mapped.target_map[2:10, :14] == 0).all()
    assert (mapped.target_map == 0).sum() == 8 * 14


def test_a_folder_without_data_says_where_the_data_is(folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds no data set(.|\n)*Give .*coco"):
        find_splits(folder)
    with pytest.raises(InputError, match="has no split 'test'"):
        open_split(folder / "coco", "test")


def _read_all(root: Path, split: str) -> None:
    images = open_split(root, split)
    for index in range(len(images)):
        if images.kind == "panoptic":
            images.ids(index)
        images.load(index)

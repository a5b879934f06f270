"""Instances and label maps become panoptic data where they mean one thing, or are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from maskformer.data.conversion import (
    VOC,
    Place,
    classes_of,
    from_instances,
    from_labels,
    voc_colour,
)
from maskformer.data.dataset_layout import open_split
from maskformer.data.instance_masks import mask_of
from parity.errors import InputError

SIZE = (40, 60)


def photographs(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        Image.new("RGB", SIZE[::-1], (9, 90, 200)).save(folder / name)
    return folder


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def compressed(mask: np.ndarray) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": found["counts"].decode()}


def counted(mask: np.ndarray) -> dict:
    flat = mask.reshape(-1, order="F").astype(int)
    starts = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *starts, flat.size]).tolist()
    return {"size": list(SIZE), "counts": [0, *counts] if flat[0] else counts}


def polygon(top: int, left: int, height: int, width: int) -> list:
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def instances(folder: Path, annotations: list[dict], **more) -> Path:
    content = {
        "images": [{"id": 5, "file_name": "deep/a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "nut"}, {"id": 8, "name": "bolt", "supercategory": "x"}],
        "annotations": [{"id": i, "image_id": 5, **one} for i, one in enumerate(annotations)],
        **more,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_read_as_pycocotools_does(seed: int) -> None:
    mask = np.random.default_rng(seed).random(SIZE) < (0.1, 0.5, 0.97, 0)[seed]
    for form in (compressed(mask), counted(mask)):
        np.testing.assert_array_equal(mask_of(form, SIZE, "x"), mask)


def test_instances_become_segments(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", "b.jpg")
    (folder / "deep").mkdir()
    (folder / "b.jpg").rename(folder / "deep" / "a.jpg")
    path = instances(
        tmp_path,
        [
            {"category_id": 3, "segmentation": polygon(5, 5, 20, 30)},
            {"category_id": 3, "segmentation": compressed(box(10, 10, 4, 4))},
            {"category_id": 8, "segmentation": compressed(box(10, 10, 4, 4))},
            {"category_id": 8, "segmentation": counted(box(0, 0, 40, 60)), "iscrowd": 1},
        ],
    )
    place = Place(tmp_path / "out", "train")
    done = from_instances(path, folder, place)
    assert (done.images, done.segments) == (1, 3)
    assert done.notes["instances covered whole were left out"] == 1
    opened = open_split(tmp_path / "out", "train")
    ids, segments = opened.ids(0), opened.annotation(0).segments
    found = {(s.category_id, s.iscrowd): ids == s.id for s in segments}
    small = box(10, 10, 4, 4)
    np.testing.assert_array_equal(found[3, False], box(5, 5, 20, 30) & ~small)
    np.testing.assert_array_equal(found[8, True], ~box(5, 5, 20, 30))
    assert opened.load(0).image.shape == (*SIZE, 3)
    with pytest.raises(InputError, match="already holds the split train"):
        from_instances(path, folder, place)


REFUSED = {
    "a box alone": ({"bbox": [1, 1, 5, 5], "segmentation": []}, "has no segmentation"),
    "another category": ({"category_id": 4, "segmentation": [[1, 1, 5, 1, 5, 5]]}, "category 4"),
    "an odd polygon": ({"segmentation": [[1, 1, 5, 1, 5]]}, "a polygon is no list"),
    "text in a polygon": ({"segmentation": [["a"] * 6]}, "a polygon is no list"),
    "another size": ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "of an image"),
    "too few pixels": ({"segmentation": {"size": [40, 60], "counts": [9]}}, "add up to 9 pixels"),
    "half a number": ({"segmentation": {"size": [40, 60], "counts": "o"}}, "end within a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_certain_meaning_is_refused_and_leaves_nothing(name: str, tmp_path) -> None:
    annotation, message = REFUSED[name]
    folder = photographs(tmp_path / "photos", "a.jpg")
    (folder / "deep").mkdir()
    (folder / "a.jpg").rename(folder / "deep" / "a.jpg")
    path = instances(tmp_path, [{"category_id": 3, **annotation}])
    with pytest.raises(InputError, match=message):
        from_instances(path, folder, Place(tmp_path / "out", "train"))
    assert not list((tmp_path / "out").rglob("*.*"))


LABELS = np.zeros(SIZE, np.uint8)
LABELS[5:20, 5:30], LABELS[0, :] = 7, 255


def palette(path: Path) -> None:
    picture = Image.fromarray(LABELS, "P")
    picture.putpalette([c for i in range(256) for c in voc_colour(i)])
    picture.save(path)


def coloured(path: Path) -> None:
    table = np.array([voc_colour(i) for i in range(256)], np.uint8)
    table[255] = (224, 224, 192)
    Image.fromarray(table[LABELS]).save(path)


FORMS = {
    "palette": palette,
    "grey": lambda path: Image.fromarray(LABELS).save(path),
    "16 bits": lambda path: Image.fromarray(LABELS.astype(np.uint16)).save(path),
    "colours": coloured,
}


@pytest.mark.parametrize("form", FORMS)
def test_label_maps_of_every_form_give_the_same_segments(form: str, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", "a.jpg")
    (tmp_path / "maps").mkdir()
    FORMS[form](tmp_path / "maps" / "a.png")
    from_labels(tmp_path / "maps", folder, Place(tmp_path / "out", "val"), classes_of(VOC))
    opened = open_split(tmp_path / "out", "val")
    names = {c.id: c.name for c in opened.categories}
    found = {names[s.category_id]: opened.ids(0) == s.id for s in opened.annotation(0).segments}
    assert sorted(found) == ["background", "car"]
    np.testing.assert_array_equal(found["car"], LABELS == 7)
    np.testing.assert_array_equal(opened.ids(0) == 0, LABELS == 255)


def test_colours_without_their_classes_are_refused(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", "a.jpg")
    (tmp_path / "maps").mkdir()
    coloured(tmp_path / "maps" / "a.png")
    place = Place(tmp_path / "out", "val")
    with pytest.raises(InputError, match="mode RGB"):
        from_labels(tmp_path / "maps", folder, place)
    (tmp_path / "c.json").write_text('[{"id": 0, "name": "x", "color": [1, 2, 3]}]')
    with pytest.raises(InputError, match=r"the colour \(0, 0, 0\) is no class"):
        from_labels(tmp_path / "maps", folder, place, classes_of(str(tmp_path / "c.json")))
    assert not (tmp_path / "out" / "annotations" / "panoptic_val.json").exists()

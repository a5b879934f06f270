"""Panoptic data as programs write it: taken where it means one thing, else an error says why."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskformer.data.dataset_layout import open_split
from maskformer.data.faults import LISTED, Faults
from parity.errors import InputError
from parity_tests.hostile.other_files import panoptic


def checked(folder: Path) -> None:
    opened = open_split(folder, "val")
    for index in range(len(opened)):
        opened.ids(index)
        opened.load(index)


def segment(change: dict) -> Callable[[dict], None]:
    return lambda content: content["annotations"][0]["segments_info"][0].update(change)


def both_ids(content: dict) -> None:
    content["images"].append({**content["images"][0], "id": "1"})
    content["annotations"][0]["image_id"] = 1.0


TAKEN: dict[str, Callable[[dict], None]] = {
    "area as a whole float": segment({"area": 10688.0}),
    "box as whole floats": segment({"bbox": [0.0, 0.0, 128.0, 96.0]}),
    "id of the image as a text": lambda c: c["images"][0].update(id="1"),
    "id in the annotation as a text": lambda c: c["annotations"][0].update(image_id="1"),
    "unknown keys": lambda c: c.update(info={"year": 2017}, licenses=[]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_has_one_meaning_is_taken(name: str, tmp_path: Path) -> None:
    panoptic(tmp_path, TAKEN[name])
    checked(tmp_path)


REFUSED = {
    "half a pixel": (segment({"area": 10688.5}), "`area` is 10688.5"),
    "area as a text": (segment({"area": "10688"}), "`area` is '10688'"),
    "another area as a float": (segment({"area": 10689.0}), "its area in the JSON is 10689"),
    "half a box": (segment({"bbox": [0.5, 0, 128, 96]}), "a number of `bbox` is 0.5"),
    "one id as text and number": (both_ids, "`image_id` is 1.0"),
    "an id that no image has": (
        lambda c: c["annotations"][0].update(image_id="01"),
        "image 01 is annotated and not in `images`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_certain_meaning_is_an_error_that_says_which(name: str, tmp_path) -> None:
    change, message = REFUSED[name]
    panoptic(tmp_path, change)
    with pytest.raises(InputError) as caught:
        checked(tmp_path)
    assert message in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = panoptic(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    checked(tmp_path)


def test_an_opaque_alpha_channel_is_dropped_and_another_refused(tmp_path: Path) -> None:
    panoptic(tmp_path)
    path = tmp_path / "panoptic_val" / "a.png"
    with Image.open(path) as picture:
        opaque = picture.convert("RGBA")
    opaque.save(path)
    checked(tmp_path)
    pixels = np.array(opaque)
    pixels[3, 4, 3] = 254
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError, match="mode RGBA"):
        checked(tmp_path)


def faults(folder: Path) -> str:
    found = Faults()
    opened = open_split(folder, "val", report=found.add)
    for index in range(len(opened)):
        for fault in opened.faults(index):
            found.add(fault)
    with pytest.raises(InputError) as caught:
        found.check("it")
    return str(caught.value)


def test_every_fault_is_listed_by_kind(tmp_path: Path) -> None:
    def spoil(content: dict) -> None:
        first = content["images"][0]
        content["images"] += [{**first, "id": n, "file_name": f"{n}.jpg"} for n in range(2, 70)]
        content["images"].append({**first, "id": 99, "height": "tall"})
        segments = content["annotations"][0]["segments_info"]
        segments += [{"id": 11, "category_id": 1}, {"id": 12, "category_id": 77}]
        segments[0]["area"] = 1

    panoptic(tmp_path, spoil)
    (tmp_path / "val" / "a.jpg").write_bytes(b"nothing")
    text = faults(tmp_path)
    assert "it has 73 faults of 6 kinds" in text.splitlines()[0]
    assert "68 of one kind:" in text
    assert f"and {68 - LISTED} more" in text
    for part in (
        "`height` is 'tall'",
        "has the unknown category 77",
        "segment 11 is in the JSON and not in the PNG",
        "segment 7 has 10688 pixels in the PNG",
        "the photograph cannot be read",
    ):
        assert part in text, part


def test_one_fault_is_told_as_it_is(tmp_path: Path) -> None:
    panoptic(tmp_path, segment({"area": 5}))
    assert faults(tmp_path).startswith("image 1: segment 7 has 10688 pixels in the PNG")


def test_a_good_data_set_has_no_fault(tmp_path: Path) -> None:
    panoptic(tmp_path)
    found = Faults()
    opened = open_split(tmp_path, "val", report=found.add)
    assert not list(opened.faults(0))
    found.check("it")


def test_faults_of_label_maps_are_all_listed(tmp_path: Path) -> None:
    for folder in ("images/val", "annotations_detectron2/val"):
        (tmp_path / folder).mkdir(parents=True)
    for name in "abcd":
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / "val" / f"{name}.jpg")
    for name, size in (("a", (30, 20)), ("b", (31, 20)), ("e", (30, 20))):
        Image.new("L", size).save(tmp_path / "annotations_detectron2" / "val" / f"{name}.png")
    (tmp_path / "categories.json").write_text(json.dumps([{"name": "x"}, {"name": "y"}]))
    text = faults(tmp_path)
    for part in (
        "image c has no label map",
        "image d has no label map",
        "label map e has no photograph",
        "image b: the label map is 20x31",
    ):
        assert part in text, part

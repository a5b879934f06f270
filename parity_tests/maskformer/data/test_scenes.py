"""Procedural scenes: repeatable byte for byte, in exact COCO and ADE20K format, with hard cases."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskformer.data.dataset_layout import find_splits, open_split
from maskformer.scenes.scenes import (
    CATEGORIES,
    IGNORED,
    digest,
    draw_scene,
    encode_jpeg,
    write_scenes,
)
from parity.errors import InputError

PIXELS = "170fe4c0d98802e43075d79b9da4bb5d05f76046eade7f318938b195e7abc3e2"
"""`digest` of scene (0, "train", 3): changes only with the drawing code, not with the encoder."""


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_scenes_are_equal_byte_for_byte_with_any_number_of_processes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "one", 5, seed=9, size=96)
    write_scenes(tmp_path / "two", 5, seed=9, size=96, workers=2)
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "two")
    write_scenes(tmp_path / "other", 5, seed=10, size=96)
    assert _hashes(tmp_path / "one") != _hashes(tmp_path / "other")


def test_scene_pixels_are_those_of_every_earlier_version() -> None:
    assert digest(draw_scene(0, "train", 3)) == PIXELS


def test_scenes_pass_the_strict_readers(scenes: Path) -> None:
    for split in find_splits(scenes / "coco"):
        images = open_split(scenes / "coco", split)
        for index in range(len(images)):
            images.ids(index)
            images.load(index)
    labels = open_split(scenes / "ADEChallengeData2016", "training")
    panoptic = open_split(scenes / "coco", "train2017")
    for index in range(len(labels)):
        ids, wanted = panoptic.load(index), labels.load(index).labels
        table = np.concatenate([[IGNORED], ids.class_ids])
        assert (table[ids.segments] == wanted).all()


def test_scenes_hold_the_hard_cases() -> None:
    drawn = [draw_scene(0, "train", index) for index in range(48)]
    segments = [segment for scene in drawn for segment in scene.segments]
    things = {c.id for c in CATEGORIES if c.isthing}
    assert any(segment.iscrowd for segment in segments)
    assert any(segment.area < 32 for segment in segments if segment.category_id in things)
    assert any(not scene.segments for scene in drawn)
    assert any(
        scene.segments and not any(s.category_id in things for s in scene.segments)
        for scene in drawn
    )
    assert any((scene.ids == 0).any() for scene in drawn)
    assert len({scene.ids.shape for scene in drawn}) > 20
    assert {segment.category_id for segment in segments} == {c.id for c in CATEGORIES}
    assert max(segment.id for segment in segments) > 1 << 16, "ids use all three bytes"


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"images": 1}, "--images is 1"),
        ({"images": 4, "seed": -1}, "--seed is -1"),
        ({"images": 4, "size": 8}, "--longest is 8"),
        ({"images": 4, "val_share": 1.0}, "--val-share is 1.0"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict, fact: str) -> None:
    with pytest.raises(InputError, match=f"^{fact}"):
        write_scenes(tmp_path, **arguments)


def test_an_existing_data_set_is_not_overwritten(scenes: Path) -> None:
    with pytest.raises(InputError, match="already holds a data set"):
        write_scenes(scenes, 4)


def test_a_few_photographs_have_one_channel(scenes: Path, tmp_path: Path) -> None:
    grey = next(
        index
        for index in range(200)
        if (draw_scene(1, "train", index, 64).image.std(axis=2) == 0).all()
    )
    path = tmp_path / "grey.jpg"
    path.write_bytes(encode_jpeg(draw_scene(1, "train", grey, 64).image, 90, grey))
    with Image.open(path) as picture:
        assert picture.mode == "L"

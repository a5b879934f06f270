"""TFRecords: exact round trip, atomic shards, resume after a kill, and damage that is named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tf_impl  # noqa: F401  selects tf_keras before TensorFlow is imported
from maskformer.data.annotated import Annotated
from maskformer.data.dataset_layout import open_split
from parity.errors import InputError
from tf_impl.storage.tfrecord import (
    RecordFolder,
    deserialize,
    segment_ids,
    serialize,
    write_records,
)

SPLITS = {"coco": "train2017", "ADEChallengeData2016": "training"}


@pytest.fixture(scope="module", params=SPLITS)
def written(request, scenes: Path, tmp_path_factory) -> tuple:
    images = open_split(scenes / request.param, SPLITS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    write_records(images, folder, SPLITS[request.param], 3)
    return images, folder


def _equal(first: Annotated, second: Annotated) -> bool:
    fields = ("image", "segments", "class_ids", "is_crowd", "labels")
    return all(np.array_equal(getattr(first, f), getattr(second, f)) for f in fields)


def test_round_trip_is_exact(written) -> None:
    images, folder = written
    records = RecordFolder(folder)
    assert len(records) == len(images)
    for index in range(len(images)):
        assert _equal(records.load(index), images.load(index))
        if images.kind == "panoptic":
            assert np.array_equal(segment_ids(records.read(index)), images.ids(index))
    records.verify()


def test_manifest_counts_and_locations_are_right(written) -> None:
    images, folder = written
    records = RecordFolder(folder)
    assert [s["images"] for s in records.manifest["shards"]] == [5, 5, 4]
    for record, location in zip(images.records, records.locations, strict=True):
        assert (record.source_id, record.height, record.width) == (
            location.source_id,
            location.height,
            location.width,
        )


def test_tensorflow_reads_the_same_records(written) -> None:
    import tensorflow as tf

    images, folder = written
    paths = sorted(str(p) for p in folder.glob("*.tfrecord"))
    stored = [bytes(r.numpy()) for r in tf.data.TFRecordDataset(paths)]
    assert stored == [RecordFolder(folder).read(i) for i in range(len(images))]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_turned_photograph_is_stored_upright(scenes: Path, tmp_path: Path, orientation) -> None:
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    path = tmp_path / "coco" / "train2017" / "000000000001.jpg"
    upright = Image.open(path).convert("RGB")
    exif = Image.Exif()
    exif[274] = orientation
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright
    stored.save(path, exif=exif)
    images = open_split(tmp_path / "coco", "train2017")
    serialized, _ = serialize(images, 0, 8)
    assert _equal(deserialize(serialized), images.load(0))


_WRITER = """
import sys, time
import tf_impl
from maskformer.data.dataset_layout import open_split
from tf_impl.storage.tfrecord import write_records

def slow():
    print("image", flush=True)
    time.sleep(0.05)

write_records(open_split(sys.argv[1], "train2017"), sys.argv[2], "train2017", 7, workers=1,
              advance=slow)
"""


def test_kill_loses_nothing_finished_and_leaves_no_half_shard(scenes: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(scenes / "coco"), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(7):  # two images a shard: the seventh belongs to the fourth
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = sorted(tmp_path.glob("*.tfrecord"))
    assert 2 <= len(finished) < 7
    for path in finished[:-1]:
        index = json.loads(path.with_suffix(".json").read_text())
        assert path.stat().st_size == index["bytes"]
    with pytest.raises(InputError, match=r"has no manifest.json\n  writing was interrupted"):
        RecordFolder(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in finished[:-1]}
    time.sleep(0.01)
    images = open_split(scenes / "coco", "train2017")
    write_records(images, tmp_path, "train2017", 7)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished shards stay"
    assert not list(tmp_path.glob(".*.partial"))
    records = RecordFolder(tmp_path)
    assert all(_equal(records.load(i), images.load(i)) for i in range(len(images)))


def test_a_damaged_shard_is_written_again(scenes: Path, tmp_path: Path) -> None:
    images = open_split(scenes / "coco", "train2017")
    first = write_records(images, tmp_path, "train2017", 2)
    shard = tmp_path / first["shards"][0]["file"]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="was changed after it was written"):
        RecordFolder(tmp_path).verify()
    assert write_records(images, tmp_path, "train2017", 2) == first
    RecordFolder(tmp_path).verify()


def _drop(folder: Path, name: str) -> None:
    next(folder.glob(name)).unlink()


def _cut(folder: Path, name: str) -> None:
    path = next(folder.glob(name))
    path.write_bytes(path.read_bytes()[:-20])


def _flip_length(folder: Path) -> None:
    path = next(folder.glob("*-00000-*.tfrecord"))
    path.write_bytes(b"\xff" + path.read_bytes()[1:])


BROKEN = {
    "no manifest": (lambda f: _drop(f, "manifest.json"), "has no manifest.json"),
    "manifest cut off": (lambda f: _cut(f, "manifest.json"), "is not a manifest"),
    "manifest of another format": (
        lambda f: (f / "manifest.json").write_text('{"format": "other"}'),
        "has the format 'other'",
    ),
    "shard missing": (
        lambda f: _drop(f, "*-00001-*.tfrecord"),
        r"00001-of-00002.tfrecord is missing",
    ),
    "index missing": (lambda f: _drop(f, "*-00001-*.json"), r"00001-of-00002.json is missing"),
    "shard cut off": (
        lambda f: _cut(f, "*-00000-*.tfrecord"),
        r"00000-of-00002.tfrecord has \d+ bytes",
    ),
    "index cut off": (lambda f: _cut(f, "*-00000-*.json"), "does not describe"),
    "record length": (_flip_length, r"image 1: the record is damaged"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_records_are_named(scenes: Path, tmp_path: Path, fault: str) -> None:
    write_records(open_split(scenes / "coco", "val2017"), tmp_path, "val2017", 2)
    damage, message = BROKEN[fault]
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        RecordFolder(tmp_path).load(0)


def _without(feature: str):
    import tensorflow as tf

    def change(serialized: bytes) -> bytes:
        example = tf.train.Example.FromString(serialized)
        del example.features.feature[feature]
        return example.SerializeToString()

    return change


def _taller(serialized: bytes) -> bytes:
    import tensorflow as tf

    example = tf.train.Example.FromString(serialized)
    example.features.feature["image/height"].int64_list.value[0] += 1
    return example.SerializeToString()


FEATURES = {
    "not an example": (lambda s: b"\xff\xff\xff", "is no tf.train.Example"),
    "no photograph": (_without("image/encoded"), "has 0 values of image/encoded"),
    "no map": (_without("image/panoptic/instance_mask"), "has neither"),
    "no classes": (_without("image/object/class/label"), "the segment map reaches"),
    "no crowds": (_without("image/object/is_crowd"), "0 crowd flags are stored"),
    "other height": (_taller, r"image/encoded is \d+x\d+"),
}


@pytest.mark.parametrize("fault", FEATURES)
def test_broken_features_are_named(scenes: Path, fault: str) -> None:
    serialized, _ = serialize(open_split(scenes / "coco", "train2017"), 0, 8)
    change, message = FEATURES[fault]
    with pytest.raises(InputError, match=message):
        deserialize(change(serialized), "shard 0, image 1")


def test_records_of_another_source_are_not_mixed(scenes: Path, tmp_path: Path) -> None:
    write_records(open_split(scenes / "coco", "val2017"), tmp_path, "val2017", 2)
    with pytest.raises(InputError, match="holds records of another"):
        write_records(open_split(scenes / "coco", "train2017"), tmp_path, "train2017", 2)


@pytest.mark.parametrize("shards", [0, 15])
def test_a_bad_number_of_shards_is_named(scenes: Path, tmp_path: Path, shards: int) -> None:
    with pytest.raises(InputError, match=f"--shards is {shards}"):
        write_records(open_split(scenes / "coco", "train2017"), tmp_path, "train2017", shards)

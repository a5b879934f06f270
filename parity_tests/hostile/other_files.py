"""Hostile configurations, data sets, images and results, and how each is read."""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Make = Callable[[Path], None]
Read = Callable[[Path], Any]
OTHERS: dict[str, tuple[Make, Read, str | None]] = {}


def hostile(read: Read, message: str | None) -> Callable[[Make], Make]:
    """Registers what makes a file or folder, what reads it, and what its error must say."""

    def register(make: Make) -> Make:
        OTHERS[make.__name__] = (make, read, message)
        return make

    return register


def config(path: Path) -> Any:
    from maskformer.model import detectron2_config

    return detectron2_config.read(path)


@hostile(config, "is no regular file")
def yaml_whose_base_is_endless(path):
    path.write_text("_BASE_: /dev/zero\n")


@hostile(config, "within itself")
def yaml_within_itself(path):
    path.write_text("MODEL: &a\n  x: *a\n")


@hostile(config, "values")
def yaml_of_a_billion_laughs(path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 10):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    path.write_text("\n".join(lines))


@hostile(config, "cannot be understood")
def yaml_nested_deep(path):
    path.write_text("a: " + "[" * 5000 + "]" * 5000)


@hostile(config, "bytes")
def yaml_of_16_mb(path):
    path.write_text("a: 1\n" * (16 << 18))


@hostile(config, "is no regular file")
def yaml_that_is_a_pipe(path):
    os.mkfifo(path)


@hostile(config, "is not text")
def yaml_of_broken_utf8(path):
    path.write_bytes(b"MODEL: \xff\xfe\n")


@hostile(config, "circle")
def yaml_whose_base_is_itself(path):
    path.write_text(f"_BASE_: {path.name}\n")


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_of(height: int, width: int, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG that says it is so large, and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def panoptic(folder: Path, change: Callable[[dict], None] = lambda content: None) -> Path:
    """One image of 96x128 pixels with two segments, in COCO's panoptic layout; the JSON's path."""
    from PIL import Image

    for name in ("annotations", "val", "panoptic_val"):
        (folder / name).mkdir(parents=True)
    ids = np.full((96, 128), 7)
    ids[20:60, 10:50] = 300
    segments = [{"id": 7, "category_id": 2, "area": 10688}, {"id": 300, "category_id": 1}]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 96, "width": 128}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": 1, "name": "cat", "isthing": 1},
            {"id": 2, "name": "sky", "isthing": 0},
        ],
    }
    change(content)
    Image.new("RGB", (128, 96)).save(folder / "val" / "a.jpg")
    rgb = np.stack([ids % 256, ids // 256, 0 * ids], -1).astype(np.uint8)
    Image.fromarray(rgb).save(folder / "panoptic_val" / "a.png")
    path = folder / "annotations" / "panoptic_val.json"
    path.write_text(json.dumps(content))
    return path


def data_set(path: Path) -> Any:
    from maskformer.data.dataset_layout import open_split

    opened = open_split(path, "val")
    for index in range(len(opened)):
        opened.ids(index)
        opened.load(index)
    return opened


@hostile(data_set, None)
def panoptic_as_it_should_be(path):
    panoptic(path)


@hostile(data_set, "`file_name` is '/etc/passwd'")
def panoptic_photograph_with_an_absolute_path(path):
    panoptic(path, lambda c: c["images"][0].update(file_name="/etc/passwd"))


@hostile(data_set, "`file_name` is '../../secret.jpg'")
def panoptic_photograph_outside_its_folder(path):
    panoptic(path, lambda c: c["images"][0].update(file_name="../../secret.jpg"))


@hostile(data_set, "`file_name` is")
def panoptic_map_outside_its_folder(path):
    panoptic(path, lambda c: c["annotations"][0].update(file_name="x/..\\..\\..\\secret.png"))


@hostile(data_set, "`file_name` is")
def panoptic_photograph_with_a_zero_in_its_name(path):
    panoptic(path, lambda c: c["images"][0].update(file_name="a\0.jpg"))


@hostile(data_set, "is there twice")
def panoptic_key_that_is_there_twice(path):
    file = panoptic(path)
    file.write_text(file.read_text().replace('"area": 10688', '"area": 10688, "area": 1'))


@hostile(data_set, "digits")
def panoptic_number_of_400_digits(path):
    file = panoptic(path)
    file.write_text(file.read_text().replace("10688", "9" * 400))


@hostile(data_set, "at most 2147483647")
def panoptic_image_of_10_to_the_30_pixels(path):
    panoptic(path, lambda c: c["images"][0].update(height=10**30))


@hostile(data_set, "nested")
def panoptic_json_nested_100_000_deep(path):
    panoptic(path).write_text("[" * 100_000 + "]" * 100_000)


@hostile(data_set, "expected: a whole number")
def panoptic_area_that_is_infinite(path):
    file = panoptic(path)
    file.write_text(file.read_text().replace("10688", "1e400"))


@hostile(data_set, "is too large")
def panoptic_map_that_is_a_bomb(path):
    panoptic(path)
    (path / "panoptic_val" / "a.png").write_bytes(png_of(20_000, 20_000))


@hostile(data_set, "is too large")
def photograph_that_is_a_bomb(path):
    panoptic(path)
    (path / "val" / "a.jpg").write_bytes(png_of(13_000, 13_000))


@hostile(data_set, "is no JPEG, PNG, TIFF, BMP or WEBP image")
def photograph_that_is_a_program(path):
    panoptic(path)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 128 96\n%%EndComments\nquit\n"
    (path / "val" / "a.jpg").write_bytes(program)


@hostile(data_set, "cannot be read")
def photograph_with_a_text_of_a_gigabyte(path):
    panoptic(path)
    text = b"k\0\0" + zlib.compress(b"\0" * (200 << 20), 9)
    (path / "val" / "a.jpg").write_bytes(png_of(96, 128, extra=chunk(b"zTXt", text)))


@hostile(data_set, "is missing")
def photograph_that_is_a_pipe(path):
    panoptic(path)
    (path / "val" / "a.jpg").unlink()
    os.mkfifo(path / "val" / "a.jpg")


def instances(path: Path) -> Any:
    from maskformer.data.conversion import Place, from_instances

    return from_instances(path / "instances.json", path / "val", Place(path / "out", "val"))


def with_instance(folder: Path, segmentation: str) -> None:
    panoptic(folder)
    text = (
        '{"images": [{"id": 1, "file_name": "a.jpg", "height": 96, "width": 128}],'
        '"categories": [{"id": 1, "name": "cat"}], "annotations": '
        f'[{{"id": 1, "image_id": 1, "category_id": 1, "segmentation": {segmentation}}}]}}'
    )
    (folder / "instances.json").write_text(text)


@hostile(instances, None)
def polygon_as_it_should_be(path):
    with_instance(path, "[[10, 10, 50, 10, 50, 40]]")


@hostile(instances, "a polygon is no list")
def polygon_beyond_all_numbers(path):
    with_instance(path, "[[1e308, 1e308, -1e308, 1e308, 0, 1e400]]")


@hostile(instances, None)
def polygon_of_many_edges_far_away(path):
    corners = ", ".join(f"{(-1) ** i * 900000}, {i % 96}" for i in range(2000))
    with_instance(path, f"[[{corners}]]")


@hostile(instances, "run lengths are no counts")
def run_lengths_of_10_to_the_12_pixels(path):
    with_instance(path, '{"size": [96, 128], "counts": [0, 1000000000000]}')


@hostile(instances, "run lengths")
def run_lengths_of_strange_letters(path):
    with_instance(path, '{"size": [96, 128], "counts": "ooooooooooooooooooo~~~"}')


@hostile(instances, "of an image")
def run_lengths_of_another_image(path):
    with_instance(path, '{"size": [100000, 100000], "counts": "0"}')


@hostile(instances, "`file_name` is")
def instances_photograph_outside_its_folder(path):
    with_instance(path, "[[10, 10, 50, 10, 50, 40]]")
    file = path / "instances.json"
    file.write_text(file.read_text().replace("a.jpg", "../../secret.jpg"))


def events(path: Path) -> Any:
    from maskformer.runs.event_files import read_scalars

    return list(read_scalars(path))


@hostile(events, "bytes")
def events_of_3_gb(path):
    with path.open("wb") as file:
        file.truncate(3 << 30)


@hostile(events, "is no regular file")
def events_that_are_a_pipe(path):
    os.mkfifo(path)


@hostile(events, None)
def events_of_which_one_claims_16_eb(path):
    from maskformer.runs.event_files import masked_crc32c

    length = b"\xff" * 8
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"\0" * 99)


def records(path: Path) -> Any:
    from tf_impl.storage.tfrecord import RecordFolder

    return RecordFolder(path).load(0)


def with_records(folder: Path, file: str, record: list) -> None:
    """Records of one file, whose index says that `record` lies in it."""
    folder.mkdir()
    (folder / "val.tfrecord").write_bytes(b"\0" * 64)
    (folder / "val.json").write_text(json.dumps({"records": [record]}))
    shard = {"file": file, "images": 1, "bytes": 64, "sha256": ""}
    content = {"format": "maskformer-tfrecord-1", "shards": [shard]}
    (folder / "manifest.json").write_text(json.dumps(content))


@hostile(records, "outside its folder")
def records_outside_their_folder(path):
    with_records(path, "../val.tfrecord", [0, 8, "1", 1, 1, 0])


@hostile(records, "does not describe")
def record_of_an_exabyte(path):
    with_records(path, "val.tfrecord", [0, 10**18, "1", 1, 1, 0])


@hostile(records, "does not describe")
def record_before_its_file(path):
    with_records(path, "val.tfrecord", [-8, 8, "1", 1, 1, 0])


@hostile(records, "the record is damaged")
def record_of_another_length(path):
    with_records(path, "val.tfrecord", [0, 8, "1", 1, 1, 0])


def result(path: Path) -> Any:
    from reports.loading import load

    return load([path])


@hostile(result, "nested")
def evidence_nested_100_000_deep(path):
    path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


@hostile(result, "digits")
def evidence_with_a_number_of_400_digits(path):
    path.write_text('{"schema": "audit", "x": ' + "9" * 400 + "}")


@hostile(result, "surrogates")
def evidence_with_half_a_letter(path):
    path.write_text('{"schema": "\\udc00"}')


def counts(path: Path) -> Any:
    from maskformer.metrics.run_scores import read_counts

    return read_counts(path)


@hostile(counts, "unpacks to")
def counts_that_are_a_bomb(path):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("names.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(600):
            member.write(b"\0" * (1 << 20))


@hostile(counts, "no counts")
def counts_that_are_objects(path):
    with path.open("wb") as file:
        np.savez(file, names=np.array([{}], dtype=object))


def record(path: Path) -> Any:
    from maskformer.runs.run_record import read_run

    return read_run(path)


@hostile(record, "nested")
def run_description_nested_100_000_deep(path):
    path.mkdir()
    (path / "run.json").write_text("[" * 100_000)


def classes(path: Path) -> Any:
    from maskformer.data.conversion import classes_of

    return classes_of(str(path))


@hostile(classes, "`id` is")
def classes_with_a_number_of_39_digits(path):
    path.write_text(json.dumps([{"id": 10**38, "name": "x"}]))


def example(path: Path) -> Any:
    from tf_impl.storage.tfrecord import deserialize, segment_ids

    segment_ids(path.read_bytes())
    return deserialize(path.read_bytes())


def with_features(path: Path, **changes: list) -> None:
    """One record of a photograph of one pixel, of which some features are others."""
    import tensorflow as tf

    png = png_of(1, 1)
    grey = png_of(1, 1, colour=0)
    values = {
        "image/encoded": [png],
        "image/height": [1],
        "image/width": [1],
        "image/panoptic/instance_mask": [grey],
        "image/object/class/label": [],
        "image/object/is_crowd": [],
        "image/object/segment_id": [],
    } | {f"image/{key}": value for key, value in changes.items()}

    def feature(value: list) -> tf.train.Feature:
        if value and isinstance(value[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))

    features = tf.train.Features(feature={key: feature(one) for key, one in values.items()})
    path.write_bytes(tf.train.Example(features=features).SerializeToString())


@hostile(example, None)
def record_as_it_should_be(path):
    with_features(path)


@hostile(example, "1 values of image/height")
def record_whose_height_is_a_text(path):
    with_features(path, height=[b"1"])


@hostile(example, "image/encoded")
def record_whose_photograph_is_a_number(path):
    with_features(path, encoded=[1])


@hostile(example, "no numbers of 32 bits")
def record_of_a_class_of_63_bits(path):
    with_features(path, **{"object/class/label": [2**62], "object/is_crowd": [0]})


@hostile(example, "no numbers of 32 bits")
def record_of_a_crowd_flag_that_is_a_text(path):
    with_features(path, **{"object/class/label": [1], "object/is_crowd": [b"no"]})

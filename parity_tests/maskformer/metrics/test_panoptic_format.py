"""COCO panoptic files: exact round trips, atomic writes, errors that name the place."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskformer.data.panoptic_format import (
    MAX_ID,
    Annotation,
    Category,
    ImageInfo,
    PanopticDataset,
    Segment,
    count_equal,
    decode_ids,
    describe_segments,
    encode_ids,
    read_dataset,
    read_ids,
    write_dataset,
    write_ids,
)
from parity.errors import InputError
from parity.files import replacing

CATEGORIES = (Category(1, "person", True, (220, 20, 60)), Category(200, "rug", False))
IDS = np.zeros((4, 6), np.int32)
IDS[:2, :3], IDS[2:, 2:5], IDS[3, 5] = 7, 70_000, MAX_ID


def write_example(root: Path) -> PanopticDataset:
    segments = describe_segments(IDS, {7: 1, 70_000: 200, MAX_ID: 1}, crowd_ids=[MAX_ID])
    items = [
        (ImageInfo(1, "a.jpg", 4, 6), IDS, segments),
        (ImageInfo("two", "b.jpg", 2, 3), np.zeros((2, 3), int), ()),
    ]
    assert write_dataset(root / "truth.json", root / "truth", CATEGORIES, iter(items)) == 2
    return read_dataset(root / "truth.json", root / "truth")


@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, MAX_ID))
)
def test_ids_survive_their_colours(ids: np.ndarray) -> None:
    rgb = encode_ids(ids)
    assert np.array_equal(decode_ids(rgb), ids)
    wide = rgb.astype(np.int64)
    assert np.array_equal(wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2], ids)
    assert not np.array_equal(wide[..., 2] + 256 * wide[..., 1] + 65536 * wide[..., 0], ids) or (
        np.array_equal(wide[..., 0], wide[..., 2])
    )


@given(
    hnp.arrays(np.uint32, (5, 8), elements=st.sampled_from([0, 1, 2, 2**31, 2**32 - 1])),
    hnp.arrays(np.uint32, (5, 8), elements=st.integers(0, 3)),
)
def test_runs_count_what_unique_counts(first: np.ndarray, second: np.ndarray) -> None:
    (values,), counts = count_equal(first)
    expected = np.unique(first, return_counts=True)
    assert np.array_equal(values, expected[0])
    assert np.array_equal(counts, expected[1])
    pairs, counts = count_equal(first, second)
    rows = np.stack([first.ravel(), second.ravel()], axis=1).astype(np.int64)
    expected = np.unique(rows, axis=0, return_counts=True)
    assert np.array_equal(np.stack(pairs, axis=1), expected[0])
    assert np.array_equal(counts, expected[1])


def test_an_empty_map_has_no_ids() -> None:
    (values,), counts = count_equal(np.zeros((0, 3), int))
    assert len(values) == len(counts) == 0


def test_areas_and_boxes_are_those_of_the_pixels() -> None:
    segments = describe_segments(IDS, {7: 1, 70_000: 200, MAX_ID: 1}, crowd_ids=[MAX_ID])
    assert segments == (
        Segment(7, 1, False, 6, (0, 0, 3, 2)),
        Segment(70_000, 200, False, 6, (2, 2, 3, 2)),
        Segment(MAX_ID, 1, True, 1, (5, 3, 1, 1)),
    )
    with pytest.raises(InputError, match="segment 7 is in the id map and has no category"):
        describe_segments(IDS, {70_000: 200, MAX_ID: 1})
    with pytest.raises(InputError, match="segment 8 has a category and no pixel"):
        describe_segments(IDS, {7: 1, 8: 1, 70_000: 200, MAX_ID: 1})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    dataset = write_example(tmp_path)
    assert dataset.categories == {c.id: c for c in CATEGORIES}
    assert dataset.images[1] == ImageInfo(1, "a.jpg", 4, 6)
    first, second = dataset.annotations
    assert (first.file_name, second.file_name) == ("a.png", "b.png")
    assert np.array_equal(dataset.ids(first), IDS)
    assert first.segments[-1].iscrowd
    assert second == Annotation("two", "b.png", ())
    assert not dataset.ids(second).any()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a.png",
        "b.png",
        "truth",
        "truth.json",
    ]


def test_predictions_without_areas_are_read_back(tmp_path: Path) -> None:
    segments = (Segment(1, 200), Segment(2, 1, iscrowd=True))
    ids = np.array([[1, 2, 2]])
    item = (ImageInfo(5, "x/y.jpg", 1, 3), ids, segments)
    write_dataset(tmp_path / "p.json", tmp_path / "p", CATEGORIES, [item])
    dataset = read_dataset(tmp_path / "p.json", tmp_path / "p")
    assert dataset.annotations == (Annotation(5, "y.png", segments),)


def test_an_interrupted_write_leaves_nothing_half(tmp_path: Path) -> None:
    def items():
        yield ImageInfo(1, "a.jpg", 1, 2), np.array([[1, 1]]), (Segment(1, 1),)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "p.json", tmp_path / "p", CATEGORIES, items())
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.png"]
    assert np.array_equal(read_ids(tmp_path / "p" / "a.png"), [[1, 1]])


def test_a_failed_replacement_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_ids(path, np.array([[3]]))

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert read_ids(path).tolist() == [[3]]
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def first_segment(content: dict) -> dict:
    return content["annotations"][0]["segments_info"][0]


BROKEN_JSON = {
    "truth.json has no list `images`": lambda c: c.pop("images"),
    "truth.json has no list `annotations`": lambda c: c.update(annotations={}),
    "truth.json has no list `categories`": lambda c: c.update(categories=None),
    r"categories: id 1 occurs twice": lambda c: c["categories"][1].update(id=1),
    r"categories\[0\] has no `isthing`": lambda c: c["categories"][0].pop("isthing"),
    r"categories\[0\]: `isthing` is 2": lambda c: c["categories"][0].update(isthing=2),
    r"categories\[0\]: `name` is 3": lambda c: c["categories"][0].update(name=3),
    r"categories\[1\] is a int": lambda c: c["categories"].__setitem__(1, 4),
    r"images\[0\] has no `height`": lambda c: c["images"][0].pop("height"),
    r"images\[0\]: `width` is '6'": lambda c: c["images"][0].update(width="6"),
    r"images\[0\]: image 1 is 0x6": lambda c: c["images"][0].update(height=0),
    r"images: id two occurs twice": lambda c: c["images"][0].update(id="two"),
    r"annotations\[0\] has no `image_id`": lambda c: c["annotations"][0].pop("image_id"),
    r"annotations\[0\] has no `file_name`": lambda c: c["annotations"][0].pop("file_name"),
    r"annotations\[0\] has no `segments_info`": lambda c: c["annotations"][0].pop("segments_info"),
    r"image 9 is annotated and not in `images`": lambda c: c["annotations"][0].update(image_id=9),
    r"image two has two annotations": lambda c: c["annotations"][0].update(
        image_id="two", segments_info=[]
    ),
    r"image 1: segments_info\[0\] has no `id`": lambda c: first_segment(c).pop("id"),
    r"image 1: segments_info\[0\]: `id` is 7.5": lambda c: first_segment(c).update(id=7.5),
    r"image 1: segments_info\[0\]: `id` is True": lambda c: first_segment(c).update(id=True),
    r"image 1: segment 0 cannot be drawn": lambda c: first_segment(c).update(id=0),
    rf"image 1: segment {MAX_ID + 1} cannot": lambda c: first_segment(c).update(id=MAX_ID + 1),
    r"image 1: segment 70000 is listed twice": lambda c: first_segment(c).update(id=70_000),
    r"image 1: segment 7 has the unknown category 3": lambda c: first_segment(c).update(
        category_id=3
    ),
    r"image 1: segments_info\[0\]: `iscrowd` is 5": lambda c: first_segment(c).update(iscrowd=5),
    r"image 1: segments_info\[0\]: `area` is 'x'": lambda c: first_segment(c).update(area="x"),
    r"image 1: segments_info\[0\]: `bbox` is \[1\]": lambda c: first_segment(c).update(bbox=[1]),
    # found when the PNG is read
    r"image 1: segment 7 is in the PNG and not in the JSON": lambda c: c["annotations"][0][
        "segments_info"
    ].pop(0),
    r"image 1: segment 8 is in the JSON and not in the PNG": lambda c: c["annotations"][0][
        "segments_info"
    ].append({"id": 8, "category_id": 1}),
    r"image 1: segment 7 has 6 pixels in the PNG": lambda c: first_segment(c).update(area=5),
    r"image 1: a.png is 4x6": lambda c: c["images"][0].update(height=6, width=4),
    r"nowhere.png does not exist": lambda c: c["annotations"][0].update(file_name="nowhere.png"),
}


@pytest.mark.parametrize("message", BROKEN_JSON)
def test_broken_annotations_are_refused_by_name(message: str, tmp_path: Path) -> None:
    write_example(tmp_path)
    path = tmp_path / "truth.json"
    content = json.loads(path.read_text())
    broken = copy.deepcopy(content)
    BROKEN_JSON[message](broken)
    path.write_text(json.dumps(broken))
    with pytest.raises(InputError, match=message):
        read_all(path)
    path.write_text(json.dumps(content))
    read_all(path)


def read_all(path: Path) -> None:
    dataset = read_dataset(path, path.with_suffix(""))
    for annotation in dataset.annotations:
        dataset.ids(annotation)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "the panoptic PNG cannot be read"),
        (b"", "the panoptic PNG cannot be read"),
        ("cut", "the panoptic PNG cannot be read"),
        ("L", "has mode L"),
        ("RGBA", "has mode RGBA"),
        ("P", "has mode P"),
        ("I;16", "has mode I;16"),
    ],
)
def test_broken_images_are_refused(content: bytes | str, message: str, tmp_path: Path) -> None:
    dataset = write_example(tmp_path)
    path = tmp_path / "truth" / "a.png"
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.new(content, (6, 4)).save(path)
    with pytest.raises(InputError, match=message):
        dataset.ids(dataset.annotations[0])


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        read_dataset(tmp_path / "none.json", tmp_path)
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"half\.json cannot be read as JSON"):
        read_dataset(tmp_path / "half.json", tmp_path)
    (tmp_path / "ok.json").write_text("{}")
    with pytest.raises(InputError, match="is not a folder"):
        read_dataset(tmp_path / "ok.json", tmp_path / "png")


@pytest.mark.parametrize(
    ("ids", "segments", "message"),
    [
        (np.zeros((1, 2), int), (Segment(1, 1),), "image 1: segment 1 is in the JSON and not"),
        (np.ones((1, 2), int), (), "image 1: segment 1 is in the PNG and not"),
        (np.ones((1, 2), int), (Segment(1, 5),), "image 1: segment 1 has the unknown category 5"),
        (np.ones((2, 1), int), (Segment(1, 1),), "image 1: the id map is 2x1"),
        (np.full((1, 2), 2**24), (Segment(2**24, 1),), "segment ids reach from"),
        (np.full((1, 2), -1), (Segment(-1, 1),), "segment"),
    ],
)
def test_the_writer_refuses_what_the_reader_would(ids, segments, message, tmp_path) -> None:
    item = (ImageInfo(1, "a.jpg", 1, 2), ids, segments)
    with pytest.raises(InputError, match=message):
        write_dataset(tmp_path / "p.json", tmp_path / "p", CATEGORIES, [item])
    assert not list(tmp_path.rglob("*.*"))


def test_two_images_cannot_share_a_png(tmp_path: Path) -> None:
    ids = np.zeros((1, 1), int)
    items = [(ImageInfo(i, name, 1, 1), ids, ()) for i, name in enumerate(("a.jpg", "b/a.jpeg"))]
    with pytest.raises(InputError, match=r"a\.png is already the PNG of another image"):
        write_dataset(tmp_path / "p.json", tmp_path / "p", CATEGORIES, items)


@pytest.mark.parametrize("rgb", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.int32)])
def test_other_arrays_are_no_id_images(rgb: np.ndarray) -> None:
    with pytest.raises(InputError, match="a panoptic image is"):
        decode_ids(rgb)


@pytest.mark.parametrize("ids", [np.zeros((2, 2, 3), int), np.zeros((2, 2))])
def test_other_arrays_are_no_ids(ids: np.ndarray) -> None:
    with pytest.raises(InputError, match="segment ids are"):
        encode_ids(ids)

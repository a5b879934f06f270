"""Scores counted in a stream are those of the files that `parity evaluate` reads."""

import dataclasses

import numpy as np
import pytest

from maskformer.data.data_digest import data_sha256
from maskformer.data.evaluation_data import open_data
from maskformer.inference.prediction import PanopticPrediction, Prediction
from maskformer.metrics.run_scores import RunScores, read_counts
from maskformer.model import zoo
from maskformer.scenes.scenes import write_scenes
from parity.errors import InputError

CONFIG = zoo.model_config("scenes_tiny")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A data set of 8 small scenes, 5 of them in the val split."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 8, seed=3, size=64, val_share=0.625)
    return folder


def truth_of(data, index):
    """The annotation of an image as a perfect prediction: its segments without crowds."""
    annotation = data.truth.annotations[index]
    class_of = {category.id: c for c, category in enumerate(data.categories)}
    given = data.truth.ids(annotation)
    ids, segments = np.zeros(given.shape, np.int32), []
    for number, segment in enumerate((s for s in annotation.segments if not s.iscrowd), 1):
        ids[given == segment.id] = number
        kept = {"id": number, "category_id": class_of[segment.category_id], "area": None}
        segments.append(dataclasses.replace(segment, **kept))
    labels = data.labels(index)
    return Prediction(
        labels=np.where(labels == data.ignored, 0, labels),
        panoptic=PanopticPrediction(ids, tuple(segments)),
    )


def test_a_perfect_prediction_scores_100(scenes, tmp_path):
    data = open_data(scenes, "val", CONFIG)
    scores = RunScores(data)
    for index in reversed(range(data.count)):
        scores.add(index, truth_of(data, index))
    counts = scores.counts
    assert set(counts.values()) == {
        "mean_iou",
        "panoptic_quality",
        "panoptic_quality_things",
        "panoptic_quality_stuff",
    }
    assert all(value == 100 for value in counts.values().values())
    counts.save(tmp_path / "counts.npz")
    again = read_counts(tmp_path / "counts.npz")
    assert again.names == counts.names == tuple(data.name(i) for i in range(data.count))
    assert again.values() == counts.values()
    assert again.samples()["panoptic_quality"].value == 1.0


def test_one_wrong_class_costs_what_it_should(scenes):
    data = open_data(scenes, "val", CONFIG)
    scores = RunScores(data)
    for index in range(data.count):
        scores.add(index, truth_of(data, index))
    right = scores.counts
    found = truth_of(data, 0)
    segments = [dataclasses.replace(s, category_id=0) for s in found.panoptic.segments]
    wrong = PanopticPrediction(found.panoptic.ids, tuple(segments))
    scores.add(0, dataclasses.replace(found, panoptic=wrong))
    moved = sum(s.category_id != 0 for s in found.panoptic.segments)
    assert moved
    lost = scores.counts.panoptic.total()
    assert lost.fn.sum() == right.panoptic.total().fn.sum() + moved
    assert scores.counts.values()["panoptic_quality"] < 100


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no evaluation"):
        read_counts(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(InputError, match="holds no counts"):
        read_counts(tmp_path / "text.npz")


@pytest.mark.parametrize("layout", ["coco", "ADEChallengeData2016"])
def test_the_hash_of_data_follows_its_files(scenes, tmp_path, layout):
    panoptic = layout == "coco"
    config = CONFIG.replace(inference={"panoptic_on": panoptic})
    images = open_data(scenes, "val", config).images
    assert images.kind == ("panoptic" if panoptic else "semantic")
    before = data_sha256(images)
    write_scenes(tmp_path / "copy", 8, seed=3, size=64, val_share=0.625)
    copy = open_data(tmp_path / "copy", "val", config).images
    assert data_sha256(copy) == before
    photograph = copy.records[0].image_path
    photograph.write_bytes(photograph.read_bytes() + b"\0")
    assert data_sha256(copy) != before
    photograph.unlink()
    with pytest.raises(InputError, match="a file is missing"):
        data_sha256(copy)

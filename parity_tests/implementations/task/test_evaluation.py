"""Scores counted from records are those of the data set; no image is lost or counted twice."""

import json

import numpy as np
import pytest

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

import tensorflow as tf  # isort: skip

from maskformer.data.evaluation_data import open_data
from maskformer.data.panoptic_format import Segment
from maskformer.inference.prediction import PanopticPrediction, Prediction
from maskformer.metrics.run_scores import ImageCounts, RunScores
from maskformer.metrics.semantic_iou import SemanticCounts
from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity.errors import InputError
from parity_tests.implementations.task import runs
from tf_impl.evaluation import (
    FILLER,
    EvaluationData,
    PanopticCounts,
    RecordScores,
    check_classes,
    evaluation_dataset,
)
from tf_impl.matcher import Matching, Targets
from tf_impl.sentinels import sentinel_counts, sentinels
from tf_impl.storage.run_folder import RunFolder, check_writable
from tf_impl.storage.tfrecord import RecordFolder

ENTRY = zoo.get("scenes_tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs.write_data(tmp_path_factory.mktemp("evaluation"), images=20)


@pytest.fixture(scope="module")
def data(folder):
    return EvaluationData(RecordFolder(folder / "train2017"), ENTRY.model, ENTRY.inputs)


def prediction(index, size):
    """Blocks of random classes, as labels and as segments."""
    rng = np.random.default_rng(index)
    blocks = rng.integers(0, 6, (3, 4))
    rows, columns = (np.arange(side) * n // side for side, n in zip(size, (3, 4), strict=True))
    classes = blocks[np.ix_(rows, columns)].astype(np.int32)
    segments = tuple(Segment(int(c) + 1, int(c) * 3) for c in np.unique(classes))
    return Prediction(None, classes * 3, PanopticPrediction(classes + 1, segments))


def test_records_give_the_scores_of_the_data_set(folder, data):
    reference = RunScores(open_data(folder / "scenes", "train", ENTRY.model))
    rows = []
    for index in range(len(data.records)):
        guess = prediction(index, data.size(index))
        reference.add(index, guess)
        rows.append(data.count(index, guess))
    expected = reference.counts
    found = ImageCounts(
        expected.names,
        expected.things,
        SemanticCounts.stack([row[0] for row in rows]),
        PanopticCounts.stack([row[1] for row in rows]),
    )
    assert found.values() == expected.values()
    assert found.values()["mean_iou"] > 0
    assert [c.isthing for c in data.categories.values()] == expected.things.tolist()
    assert tuple(p.source_id for p in data.records.locations) == expected.names


def test_a_shifted_class_is_noticed(folder, data):
    """The twin: the same labels under other class numbers score differently."""
    guess = prediction(0, data.size(0))
    shifted = Prediction(None, (guess.labels + 1) % 17, guess.panoptic)
    one, other = (data.count(0, p)[0].right.sum() for p in (guess, shifted))
    assert one != other


@pytest.mark.parametrize(
    ("buckets", "batch", "replicas"),
    [((), 1, 1), ((), 1, 3), (((160, 192), (192, 160)), 3, 2), (((192, 192),), 4, 1)],
)
def test_every_image_is_evaluated_once(data, buckets, batch, replicas):
    chosen = EvaluationData(data.records, data.config, data.inputs, buckets)
    seen, count = [], 0
    for element in evaluation_dataset(chosen, batch, replicas):
        count += 1
        images, sizes, indices = (element[k].numpy() for k in ("images", "sizes", "index"))
        assert not buckets or images.shape[1:3] in buckets
        for image, size, index in zip(images, sizes, indices, strict=True):
            if index == FILLER:
                continue
            seen.append(int(index))
            expected = data.image(int(index))
            assert tuple(size) == expected.shape[:2]
            assert np.array_equal(image[: size[0], : size[1]], expected)
            assert not image[size[0] :].any()
            assert not image[:, size[1] :].any()
    assert sorted(seen) == list(range(len(data.records)))
    assert count % replicas == 0


def test_perfect_outputs_score_one_hundred(data):
    """Logits that copy the truth, through resizing and merging, image by image."""
    scores = RecordScores(data)
    config = data.config
    examples = [(index, data.records.load(index)) for index in range(len(data.records))]
    # Pixels of crowds go to some query, which spoils its segment.
    plain = [(i, e) for i, e in examples if not e.is_crowd.any() and 1 < len(e.class_ids) <= 32]
    for index, example in plain[:4]:
        height, width = data.size(index)
        logits = np.full((1, 32, config.num_classes + 1), -20.0, np.float32)
        logits[..., -1] = 0.0
        masks = np.full((1, 32, height, width), -20.0, np.float32)
        for query, category in enumerate(example.class_ids):
            logits[0, query, category] = 20.0
            masks[0, query][example.segments == query + 1] = 20.0
        outputs = {
            "pred_logits": tf.constant(logits),
            "pred_masks": tf.constant(masks),
            "sizes": tf.constant([[height, width]], tf.int32),
            "index": tf.constant([index], tf.int64),
        }
        scores.add(outputs, (height, width))
    values = scores.counts.values()
    assert values["panoptic_quality"] == pytest.approx(100.0, abs=1e-9)
    assert values["mean_iou"] == pytest.approx(100.0, abs=1e-9)


def test_records_of_other_classes_are_refused(data):
    with pytest.raises(InputError, match="predicts 133 classes, the records have 17"):
        check_classes(data.records, zoo.model_config("coco_r50"))
    other = ModelConfig(name="other", num_classes=17, inference=ENTRY.model.inference)
    check_classes(data.records, other)
    swapped = ENTRY.model.replace(inference={"thing_ids": tuple(range(1, 9))})
    with pytest.raises(InputError, match="class 0 is stuff"):
        check_classes(data.records, swapped)


def test_sentinels_are_counted_as_the_record_defines_them():
    """Against loops over pairs in numpy."""
    rng = np.random.default_rng(0)
    b, q, t, k, size = 2, 5, 3, 4, (6, 8)
    logits = rng.normal(size=(b, q, k + 1)).astype(np.float32)
    masks = rng.normal(size=(b, q, *size)).astype(np.float32)
    owner = rng.integers(-1, t, (b, 2 * size[0], 2 * size[1])).astype(np.int32)
    owner[1][owner[1] == 1] = -1  # an empty target
    classes = rng.integers(0, k, (b, t)).astype(np.int32)
    valid = np.array([[1, 1, 1], [1, 1, 0]], bool)
    pairs = np.array([[4, 0, 2], [1, 3, -1]], np.int32)
    matching = Matching(tf.constant(pairs)[None], None, None)
    targets = Targets(
        tf.constant(owner), tf.constant(classes), tf.constant(valid), tf.zeros(b, tf.int32)
    )
    outputs = {"pred_logits": tf.constant(logits), "pred_masks": tf.constant(masks)}
    counts = {n: float(v) for n, v in sentinel_counts(outputs, targets, matching).items()}
    right, ious = [], []
    for image in range(b):
        for target in range(t):
            query = pairs[image, target]
            if query < 0:
                continue
            right.append(logits[image, query].argmax() == classes[image, target])
            wanted = owner[image, ::2, ::2] == target
            inside = masks[image, query] > 0
            if wanted.any():
                ious.append((inside & wanted).sum() / (inside | wanted).sum())
    values = sentinels(counts)
    assert values["matched_class_accuracy"] == pytest.approx(np.mean(right))
    assert values["no_object_rate"] == pytest.approx((logits.argmax(-1) == k).mean())
    assert values["matched_iou"] == pytest.approx(np.mean(ious), rel=1e-6)
    assert len(ious) == 4  # the empty target was left out


def test_a_bucket_holds_records_and_a_run(folder, data, monkeypatch):
    """TensorFlow's file system in memory stands for gs://; unlike that, it appends to a file."""
    copy = tf.io.gfile.copy

    def replace(source, target, overwrite=False):
        if overwrite and tf.io.gfile.exists(target):
            tf.io.gfile.remove(target)
        copy(source, target)

    monkeypatch.setattr(tf.io.gfile, "copy", replace)
    bucket = "ram://bucket/records"
    tf.io.gfile.makedirs(bucket)
    for path in (folder / "train2017").iterdir():
        with tf.io.gfile.GFile(f"{bucket}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    remote = RecordFolder(bucket)
    assert remote.manifest == data.records.manifest
    assert [remote.read(i) for i in range(len(remote))] == [
        data.records.read(i) for i in range(len(remote))
    ]
    remote.verify()
    with pytest.raises(InputError, match="has no manifest"):
        RecordFolder("ram://bucket/nothing")
    with pytest.raises(InputError, match="cannot be reached"):
        RecordFolder("nowhere://bucket")

    said = {"side": "tf", "settings": {}, "versions": {}, "git_commit": None}
    said |= {"data_sha256": None, "checkpoint_sha256": None}
    check_writable("ram://bucket/run")
    run = RunFolder("ram://bucket/run", said, None)
    run.write(1, "train", {"loss": 2.0})
    run.write(1, "eval", {"mean_iou": 3.0})
    run.write(2, "train", {"loss": 1.0})
    run.close()
    resumed = RunFolder("ram://bucket/run", said, 1)
    assert resumed.evaluated == {1}
    resumed.write(2, "train", {"loss": 1.5})
    resumed.close()
    with tf.io.gfile.GFile("ram://bucket/run/metrics.jsonl") as file:
        rows = [json.loads(line) for line in file.read().splitlines()]
    assert [(row["step"], row["split"]) for row in rows] == [
        (1, "train"),
        (1, "eval"),
        (2, "train"),
    ]
    assert rows[-1]["loss"] == 1.5

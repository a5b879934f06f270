"""Semantic scores against detectron2's golden numbers, in both definitions of mIoU."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskformer.metrics import semantic_iou
from maskformer.metrics.semantic_iou import (
    SemanticCounts,
    as_mapping,
    confusion_matrix,
    count_images,
    score,
)
from parity.errors import InputError
from replication.faults.golden import reader as golden

KEYS = {"current": "info", "2021": "info_d2_2021"}
ARRAYS, TEXTS = golden.load("golden_miou")
SCENARIOS = tuple(TEXTS["info"])
LIMIT = 1e-12 * 100  # the golden numbers are percent


def pairs(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    images = TEXTS["info"][name]["num_images"]
    return [(ARRAYS[f"{name}_gt_{i}"], ARRAYS[f"{name}_pred_{i}"]) for i in range(images)]


def check_golden(name: str, definition: str, counts: SemanticCounts) -> None:
    """Fails where a score is not that of the golden scenario."""
    expected = dict(TEXTS[KEYS[definition]][name])
    classes = expected.pop("num_classes")
    del expected["num_images"]
    found = as_mapping(score(counts, definition), [f"k{i}" for i in range(classes)])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert np.isnan(found[key]) == np.isnan(value), (name, key)
        gap = abs(found[key] - value)
        assert np.isnan(value) or gap <= LIMIT, (
            f"gap of {key} is {gap:.3g}, but should be below {LIMIT} [{name}, {definition}]"
        )


@pytest.mark.parametrize("definition", semantic_iou.DEFINITIONS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_golden_scenarios_are_reproduced(name: str, definition: str) -> None:
    classes = TEXTS["info"][name]["num_classes"]
    confusion = sum(confusion_matrix(*pair, classes) for pair in pairs(name))
    assert np.array_equal(confusion, ARRAYS[f"{name}_conf"])
    merged = SemanticCounts.from_confusion(confusion)
    streamed = count_images(iter(pairs(name)), classes).total()
    for key in ("right", "true", "predicted"):
        assert np.array_equal(getattr(merged, key), getattr(streamed, key))
    check_golden(name, definition, streamed)


def faulty_counts(name: str, fault: str) -> SemanticCounts:
    classes = TEXTS["info"][name]["num_classes"]
    images = [(truth.astype(int), prediction.astype(int)) for truth, prediction in pairs(name)]
    if fault == "ignored pixels counted as class 0":
        images = [(np.where(truth == 255, 0, truth), prediction) for truth, prediction in images]
    if fault == "classes shifted by one":
        images = [(truth, (prediction + 1) % classes) for truth, prediction in images]
    counts = count_images(images, classes).total()
    if fault == "truth and prediction swapped":
        return SemanticCounts(counts.right, counts.predicted, counts.true)
    if fault == "ignored pixels stay in the prediction":
        everything = np.bincount(
            np.concatenate([prediction.ravel() for _, prediction in images]), minlength=classes
        )
        return SemanticCounts(counts.right, counts.true, everything)
    return counts


@pytest.mark.parametrize(
    "fault",
    [
        "ignored pixels counted as class 0",
        "ignored pixels stay in the prediction",
        "classes shifted by one",
        "truth and prediction swapped",
    ],
)
def test_planted_faults_miss_the_golden_numbers(fault: str) -> None:
    check_golden("random_1", "current", faulty_counts("random_1", ""))
    with pytest.raises(AssertionError):
        check_golden("random_1", "current", faulty_counts("random_1", fault))


def test_the_definitions_differ_where_a_class_is_only_predicted() -> None:
    classes = TEXTS["info"]["pred_only_class"]["num_classes"]
    counts = count_images(pairs("pred_only_class"), classes).total()
    check_golden("pred_only_class", "2021", counts)
    with pytest.raises(AssertionError, match="gap of mIoU"):
        check_golden("pred_only_class", "2021", SemanticCounts(
            counts.right, counts.true, np.where(counts.true > 0, counts.predicted, 0)
        ))  # fmt: skip


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_scores_are_those_of_masks(seed: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes + 1, (7, 9))
    truth[truth == classes] = 255
    truth[0, 0] = 0
    prediction = generator.integers(0, classes, (7, 9))
    found = score(count_images([(truth, prediction)], classes).total())
    ious = []
    valid = truth != 255
    for k in range(classes):
        a, b = truth == k, (prediction == k) & valid
        if a.any():
            ious.append((a & b).sum() / (a | b).sum())
            assert abs(found.accuracy[k] - (a & b).sum() / a.sum()) < 1e-12
        else:
            assert np.isnan(found.iou[k])
    assert abs(found.miou - np.mean(ious)) < 1e-12
    assert abs(found.pacc - (truth == prediction)[valid].mean()) < 1e-12


def test_counts_add_up_in_any_split() -> None:
    classes = TEXTS["info"]["random_2"]["num_classes"]
    images = pairs("random_2")
    whole = count_images(images, classes).total()
    parts = count_images(images[:1], classes).total() + count_images(images[1:], classes).total()
    for key in ("right", "true", "predicted"):
        assert np.array_equal(getattr(whole, key), getattr(parts, key))


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "image 0: the prediction is"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "image 0: the truth is float64"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), "image 0: the truth has the label 3"),
        (np.zeros((2, 2), int), np.full((2, 2), 255), "image 0: the prediction has the label 255"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), "image 0: the truth has the label -1"),
    ],
)
def test_wrong_labels_are_refused(truth, prediction, message: str) -> None:
    with pytest.raises(InputError, match=message):
        count_images([(truth, prediction)], 3)


def test_what_has_no_score_is_refused() -> None:
    ignored = np.full((2, 2), 255)
    counts = count_images([(ignored, np.zeros((2, 2), int))], 3)
    with pytest.raises(InputError, match="no pixel of the truth has a class"):
        score(counts.total())
    with pytest.raises(InputError, match="use total"):
        score(counts)
    with pytest.raises(InputError, match="no image was counted"):
        count_images([], 3)
    perfect = count_images([(np.zeros((2, 2), int),) * 2], 3).total()
    with pytest.raises(InputError, match="the definition is '2020'"):
        score(perfect, "2020")

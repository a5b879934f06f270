"""Panoptic quality against panopticapi's golden numbers and against literal counting."""

import dataclasses
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskformer.data.panoptic_format import (
    Category,
    ImageInfo,
    Segment,
    describe_segments,
    read_dataset,
    write_dataset,
)
from maskformer.metrics import panoptic_quality
from maskformer.metrics.panoptic_quality import (
    GROUPS,
    PanopticCounts,
    PanopticPair,
    count_image,
    score,
)
from parity.errors import InputError
from replication.faults.benches import metric_cases as panoptic_cases
from replication.faults.benches.metric_cases import SCENARIOS, count_literally, random_pair

LIMIT = 1e-12  # what the golden numbers are compared to; a handful of float64 roundings
COCO_SAMPLE = Path(
    os.environ.get("COCO_SAMPLE", Path(__file__).parents[3] / "shared" / "coco_sample")
)
RANDOM_CATEGORIES = {i: Category(i, f"c{i}", i < 3) for i in (1, 2, 3)}


def total(counts: list[PanopticCounts]) -> PanopticCounts:
    return PanopticCounts.stack(counts).total()


def check_golden(name: str, counts: PanopticCounts) -> None:
    """Fails where counts or scores are not those of the golden scenario."""
    scenario = SCENARIOS[name]
    categories = panoptic_cases.categories(scenario)
    for i, category in enumerate(categories):
        expected = scenario["stats"][str(category)]
        for key in ("tp", "fp", "fn", "iou"):
            value = getattr(counts, key)[i]
            assert abs(value - expected[key]) <= LIMIT, (
                f"{key} is {value}, but should be {expected[key]} [{name}, class {category}]"
            )
    result = score(counts, categories)
    for group in GROUPS:
        expected, found = scenario["results"][group], result.groups[group]
        assert found.classes == expected["n"]
        for key in ("pq", "sq", "rq"):
            gap = abs(getattr(found, key) - expected[key])
            assert gap <= LIMIT, f"gap of {key} is {gap:.3g}, but should be below {LIMIT} [{name}]"
    for category, expected in scenario["results"]["per_class"].items():
        found = result.per_class.get(int(category))
        for key in ("pq", "sq", "rq"):  # panopticapi writes 0 for a class that does not occur
            value = getattr(found, key) if found else 0.0
            assert abs(value - expected[key]) <= LIMIT


@pytest.mark.parametrize("name", panoptic_cases.SCORED)
def test_golden_scenarios_are_reproduced(name: str) -> None:
    categories = panoptic_cases.categories(SCENARIOS[name])
    check_golden(name, total([count_image(p, categories) for p in panoptic_cases.pairs(name)]))


@pytest.mark.skipif(
    not COCO_SAMPLE.is_dir(),
    reason="the COCO sample is not here; COCO_SAMPLE names the folder of panopticapi's sample_data",
)
def test_coco_photographs_score_as_the_original_s() -> None:
    folder = COCO_SAMPLE / "panoptic_examples"
    truth = read_dataset(folder.with_suffix(".json"), folder)
    counts = []
    for annotation in truth.annotations:
        ids = truth.ids(annotation)
        predicted = tuple(
            Segment(s.id, 1 if i % 3 == 0 else s.category_id)
            for i, s in enumerate(annotation.segments)
        )
        rolled = np.roll(ids, (5, 9), axis=(0, 1))
        pair = PanopticPair(annotation.image_id, ids, annotation.segments, rolled, predicted)
        counts.append(count_image(pair, truth.categories))
    result = score(total(counts), truth.categories)
    for group, expected in SCENARIOS[panoptic_cases.PHOTOGRAPHS]["results"].items():
        found = dataclasses.asdict(result.groups[group])
        assert found["classes"] == expected["n"]
        for key in ("pq", "sq", "rq"):
            assert abs(found[key] - expected[key]) <= LIMIT, (group, key)


@pytest.mark.parametrize("name", panoptic_cases.REFUSED)
def test_golden_errors_are_errors(name: str) -> None:
    message = {
        "only_stuff": "no class of the group Things occurs",
        "err_png_not_in_json": "image 0: predicted segment 1 is in the map and not listed",
        "err_json_not_in_png": "image 0: predicted segment 77 is listed and not in the map",
        "err_unknown_category": "image 0: predicted segment 9 has the unknown category 99",
    }[name]
    categories = panoptic_cases.categories(SCENARIOS[name])
    with pytest.raises(InputError, match=message):
        score(total([count_image(p, categories) for p in panoptic_cases.pairs(name)]), categories)


def test_a_group_that_does_not_occur_can_be_left_out() -> None:
    categories = panoptic_cases.categories(SCENARIOS["only_stuff"])
    counts = total([count_image(p, categories) for p in panoptic_cases.pairs("only_stuff")])
    result = score(counts, categories, ("All", "Stuff"))
    assert result.groups["All"] == result.groups["Stuff"]


@pytest.mark.parametrize("fault", panoptic_cases.FAULTS)
def test_planted_faults_miss_the_golden_numbers(fault: str) -> None:
    missed = []
    for name in panoptic_cases.SCORED:
        class_ids = list(panoptic_cases.categories(SCENARIOS[name]))
        pairs = panoptic_cases.pairs(name)
        check_golden(name, total([count_literally(pair, class_ids) for pair in pairs]))
        try:
            check_golden(name, total([count_literally(pair, class_ids, fault) for pair in pairs]))
        except (AssertionError, InputError):
            missed.append(name)
    assert missed, f"scenarios that show the fault are 0, but should be at least 1 [{fault}]"


@settings(max_examples=150)
@given(st.integers(0, 2**31))
def test_counts_are_the_literal_ones(seed: int) -> None:
    pair = random_pair(seed)
    found = count_image(pair, RANDOM_CATEGORIES)
    literal = count_literally(pair, list(RANDOM_CATEGORIES))
    for key in ("tp", "fp", "fn"):
        assert np.array_equal(getattr(found, key), getattr(literal, key)), (key, seed)
    np.testing.assert_allclose(found.iou, literal.iou, rtol=0, atol=LIMIT)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.int64])
def test_id_types_do_not_matter(dtype: type) -> None:
    ids = np.array([[1, 1, 2], [0, 2, 2]])
    segments = (Segment(1, 1), Segment(2, 3))
    pair = PanopticPair(0, ids.astype(dtype), segments, ids.astype(dtype), segments)
    assert count_image(pair, RANDOM_CATEGORIES).tp.tolist() == [1, 0, 1]


def test_counts_add_up_in_any_split() -> None:
    counts = [count_image(random_pair(seed), RANDOM_CATEGORIES) for seed in range(12)]
    whole = total(counts)
    halves = total(counts[:5]) + total(counts[5:])
    for key in ("tp", "fp", "fn"):
        assert np.array_equal(getattr(whole, key), getattr(halves, key))
    np.testing.assert_allclose(whole.iou, halves.iou, rtol=0, atol=LIMIT)


@pytest.mark.parametrize("workers", [1, 3])
def test_images_are_streamed_in_order(workers: int) -> None:
    alive, most, lock = 0, 0, threading.Lock()

    def load(seed: int):
        def pair() -> PanopticPair:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)
            return random_pair(seed)

        return pair

    found = []
    pairs = (load(seed) for seed in range(20))
    for image_id, counts in panoptic_quality.count_images(pairs, RANDOM_CATEGORIES, workers):
        with lock:
            alive -= 1
        found.append((image_id, counts))
    assert [image_id for image_id, _ in found] == list(range(20))
    assert most <= max(1, 2 * workers + 1), f"pairs held are {most}, but should be at most 7"
    serial = total([count_image(random_pair(seed), RANDOM_CATEGORIES) for seed in range(20)])
    assert np.array_equal(total([c for _, c in found]).iou, serial.iou)


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    broken = dataclasses.replace(random_pair(3), predicted=())
    pairs = [random_pair(0), broken, random_pair(1)]
    with pytest.raises(InputError, match="image 3: predicted segment"):
        list(panoptic_quality.count_images(pairs, RANDOM_CATEGORIES, 2))


def test_written_predictions_score_as_those_in_memory(tmp_path: Path) -> None:
    def write(side: str, use_truth: bool):
        def items():
            for seed in range(4):
                pair = random_pair(seed)
                ids = pair.truth_ids if use_truth else pair.predicted_ids
                segments = pair.truth if use_truth else pair.predicted
                yield ImageInfo(seed, f"{seed}.jpg", *ids.shape), ids, segments

        folder = tmp_path / side
        write_dataset(tmp_path / f"{side}.json", folder, RANDOM_CATEGORIES.values(), items())
        return read_dataset(tmp_path / f"{side}.json", folder)

    truth, prediction = write("truth", True), write("prediction", False)
    loaders = panoptic_quality.pair_datasets(truth, prediction)
    found = total([c for _, c in panoptic_quality.count_images(loaders, truth.categories, 2)])
    direct = total([count_image(random_pair(seed), RANDOM_CATEGORIES) for seed in range(4)])
    assert np.array_equal(found.iou, direct.iou)
    fewer = dataclasses.replace(prediction, annotations=prediction.annotations[1:])
    with pytest.raises(InputError, match="image 0 has no prediction"):
        list(panoptic_quality.pair_datasets(truth, fewer))
    other = dataclasses.replace(prediction, categories={1: RANDOM_CATEGORIES[1]})
    with pytest.raises(InputError, match="category 2 is in only one"):
        list(panoptic_quality.pair_datasets(truth, other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted_ids": np.zeros((3, 4), int)}, "the prediction is"),
        ({"predicted_ids": np.ones((2, 3))}, "ids are float64"),
        ({"predicted_ids": np.full((2, 3), -1)}, "the id -1 is negative"),
        ({"truth": (Segment(1, 9),)}, "true segment 1 has the unknown category 9"),
    ],
)
def test_wrong_pairs_are_refused(change: dict, message: str) -> None:
    ids = np.ones((2, 3), int)
    pair = PanopticPair("a.jpg", ids, (Segment(1, 1),), ids, (Segment(1, 1),))
    with pytest.raises(InputError, match=message):
        count_image(dataclasses.replace(pair, **change), RANDOM_CATEGORIES)


def test_areas_come_from_the_ids_where_none_is_stated() -> None:
    ids = np.array([[5, 5, 6, 6]])
    stated = describe_segments(ids, {5: 1, 6: 2})
    unstated = tuple(Segment(s.id, s.category_id) for s in stated)
    for truth in (stated, unstated):
        counts = count_image(PanopticPair(0, ids, truth, ids, unstated), RANDOM_CATEGORIES)
        assert counts.iou.tolist() == [1.0, 1.0, 0.0]


def test_empty_sums_are_refused() -> None:
    with pytest.raises(InputError, match="no image was counted"):
        PanopticCounts.stack([])
    with pytest.raises(InputError, match="counts are \\[2\\]"):
        score(PanopticCounts.zeros(2), RANDOM_CATEGORIES)

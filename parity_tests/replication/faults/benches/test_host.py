"""What benches on the host see: batches, canvases, ties, several scales, every score."""

import numpy as np
import pytest

from replication.faults.benches import data_cases
from replication.faults.benches import registry as fault_benches
from replication.faults.benches.metric import MetricBench
from replication.faults.catalogue.every import FAULTS

BY_ID = {one.id: one for one in FAULTS}


def named(bench, fault):
    """The place that is named first for a planted fault."""
    with BY_ID[fault].plant(bench):
        found = bench.audit()
    return found.named[0].edge if found.named else None


@pytest.fixture(scope="module")
def inference():
    bench = fault_benches.BENCHES["inference"]("tiny", "72x88")
    assert bench.audit().claims == ()
    return bench


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("inference-canvas-counts", "inference: query full_area"),
        ("inference-resized-as-the-first", "inference: query owner"),
        ("inference-overlap-or-equal", "inference: segments"),
        ("inference-mirror-not-turned-back", "inference: augmented scores"),
        ("inference-threshold-inclusive", "inference: query keep"),
        ("inference-last-of-equals", "inference: query owner"),
        ("inference-bfloat16-masks", "inference: float32 scores"),
        ("inference-scaled-padding-is-image", "inference: augmented scores"),
    ],
)
def test_inference_bench_names_what_one_plain_image_does_not_show(inference, fault, place):
    assert named(inference, fault) == place


@pytest.mark.parametrize(
    "fault",
    ["metric-sq-over-all-segments", "metric-classes-shifted", "metric-threads-out-of-order"],
)
def test_metric_bench_compares_every_score(fault):
    bench = MetricBench()
    assert bench.audit().claims == ()
    assert named(bench, fault) == BY_ID[fault].places[0]


@pytest.mark.parametrize(
    "fault",
    [
        "data-one-order-for-all-epochs",
        "data-padding-is-a-target",
        "data-batch-of-neighbours",
        "data-batch-void-is-a-target",
        "data-exact-batch-blue-first",
        "data-fast-semantic-negative",
        "data-limited-crop-tried-once",
        "data-labels-in-a-byte",
        "data-nearest-multiplied-out",
    ],
)
def test_data_bench_compares_order_padding_batches_ways_and_sizes(data, fault):
    assert named(data, fault) == BY_ID[fault].places[0]


@pytest.fixture(scope="module")
def data():
    bench = fault_benches.BENCHES["data"]("tiny", "72x88")
    assert bench.audit().claims == ()
    return bench


@pytest.fixture(scope="module")
def evaluation():
    bench = fault_benches.BENCHES["evaluation"]("tiny", "72x88")
    assert bench.audit().claims == ()
    return bench


@pytest.mark.parametrize(
    "fault",
    ["evaluation-crowds-lost", "evaluation-sizes-reversed", "evaluation-last-batches-dropped"],
)
def test_evaluation_bench_compares_what_is_given_and_counted(evaluation, fault):
    assert named(evaluation, fault) == BY_ID[fault].places[0]


def test_a_photograph_within_a_level_is_right_only_without_a_bias():
    rng = np.random.default_rng(0)
    right = rng.integers(1, 255, (64, 96, 3)).astype(np.uint8)
    fair = (right + rng.integers(-1, 2, right.shape)).astype(np.uint8)
    assert data_cases.unless_within(fair, right, 1) is right
    biased = (right + (rng.random(right.shape) < 0.1)).astype(np.uint8)
    assert data_cases.unless_within(biased, right, 1) is biased
    assert data_cases.unless_within(right.copy(), right, 1) is right
    assert data_cases.unless_within(fair, right, 0) is fair

"""One fault of each bench is detected, placed and explained, and the score says so."""

import json

import pytest
from typer.testing import CliRunner

from replication.cli import app
from replication.faults.catalogue.every import FAULTS as CATALOGUE

FAULTS = (
    "layer-norm-epsilon-1e-6",
    "graph-computes-otherwise",
    "padding-not-zeroed",
    "swin-bias-left-out",
    "matcher-focal-alpha",
    "padded-targets-are-real",
    "position-bias-decayed",
    "mean-over-all-pixels",
    "second-auxiliary-left-out",
    "task-one-seed",
    "step-without-training",
    "first-moment-lost",
    "state-noise",
    "settings-class-cost-by-dice-weight",
    "extreme-outputs-clipped-65504",
    "extreme-class-log-of-softmax",
    "float32-class-cost-float16",
    "bfloat16-layer-scaled",
    "bfloat16-dice-sums",
    "xla-product-in-bfloat16",
    "milestone-late",
    "loss-normalised-globally",
    "data-size-floored",
    "inference-score-threshold",
    "evaluation-crowds-lost",
    "metric-half-matches",
)


def test_the_chosen_faults_are_one_of_every_bench():
    benches = {one.id: one.bench for one in CATALOGUE}
    assert sorted(benches[fault] for fault in FAULTS) == sorted(set(benches.values()))


@pytest.mark.slow
def test_a_matching_that_an_earlier_fault_flips_is_not_blamed():
    words = ["faults", "run", "above-a-flipped-matching", "--json"]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    (found,) = json.loads(run.stdout.splitlines()[-1])["outcomes"]
    assert "train_matching" in found["claims"]
    assert "train_costs" not in found["claims"]
    assert found["place_exact"], found
    assert found["cause_named"], found


@pytest.mark.slow
def test_a_fault_of_every_bench_is_found_and_explained():
    run = CliRunner().invoke(app, ["faults", "run", *FAULTS, "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout.splitlines()[-1])
    assert {one["id"]: one["verdict"] for one in result["claims"]} == dict.fromkeys(
        ("detected", "placed", "explained"), "holds"
    )
    for one in result["outcomes"]:
        assert all(one[said] for said in ("detected", "place_exact", "cause_named")), one

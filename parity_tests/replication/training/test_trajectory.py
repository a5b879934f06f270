"""Whole trajectories: both models stay together, and a fault in the update shows in the verdict."""

import dataclasses
import json
import math

import pytest

from maskformer.model import zoo
from parity.training.trajectory import Gaps, Update, compare_step
from replication.commands.trajectory import summary
from replication.faults.catalogue import planted_steps as planted
from replication.training import trajectory
from replication.training.trajectory import CALM_RATE, Request, solver_for
from reports.chapters.trajectory import TrajectoryResult

SHORT = ("trajectory", "--config", "tiny", "--size", "64x64", "--execution", "eager", "--json")


def failed(result):
    return {claim["id"] for claim in result["claims"] if claim["verdict"] == "fails"}


def test_both_stay_together_at_a_calm_rate(parity):
    status, out, err = parity(*SHORT, "--steps", 2, "--lr", CALM_RATE)
    result = json.loads(out)
    assert (status, result["verdict"], failed(result)) == (0, "holds", set())
    assert [claim["id"] for claim in result["claims"]] == [
        "twin_weight_gap",
        "twin_loss_gap",
        "loss",
        "pairs",
    ]
    assert len(result["steps"]) == 2
    for row in result["steps"]:
        assert {"step", "total", "losses", "norm", "port", "twin"} <= row.keys()
        assert row["port"].keys() >= {"loss_gap", "norm_gap", "weight_gap", "pairs_differ"}
    assert 0 < result["worst"]["loss_gap"]["port"]["value"] < 1e-9
    assert "[2/2]" in err
    text = summary(TrajectoryResult.from_json(result))
    assert text.startswith("verdict: holds (2 steps of tiny, float64, base learning rate 1e-06")
    assert "gap of the total loss, relative: " in text


def test_a_wrong_epsilon_is_flagged(parity, monkeypatch):
    """The twin: one term of the update in another place, seen from the second step on."""
    planted.epsilon_before_the_correction(monkeypatch, None)
    status, out, _ = parity(*SHORT, "--steps", 2, "--lr", CALM_RATE)
    result = json.loads(out)
    assert (status, result["verdict"]) == (1, "fails")
    assert failed(result) == {"twin_weight_gap", "twin_loss_gap", "loss"}
    assert next(claim["step"] for claim in result["claims"] if claim["id"] == "loss") == 1


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--dtype", "bfloat16"), "--dtype is 'bfloat16'"),
        (("--steps", "0"), "--steps is 0"),
        (("--lr", "-1"), "--lr is '-1'"),
        (("--execution", "fast"), "--execution is 'fast'"),
        (("--config", "ade20k_pp"), "ade20k_pp has a per-pixel head"),
    ],
)
def test_wrong_usage_is_told(parity, words, fact):
    status, out, err = parity("trajectory", *words)
    assert (status, out) == (2, "")
    assert fact in err
    assert "Traceback" not in err


def gaps(value):
    return Gaps(loss_gap=value, worst_loss="loss", norm_gap=value, pairs_differ=0, weight_gap=value)


def rows(port, beside, name):
    """Steps whose gaps of loss and weights are those given."""
    return [
        Update(step=step, total=1.0, losses={}, norm=1.0, port=gaps(ours), **{name: gaps(own)})
        for step, (ours, own) in enumerate(zip(port, beside, strict=True))
    ]


REQUEST = Request(zoo.model_config("tiny"), solver_for("tiny", "published"))


@pytest.mark.parametrize(
    ("port", "twin", "holds"),
    [
        ([1e-15, 1e-9, 3e-2], [1e-16, 1e-10, 1e-2], True),
        ([1e-15, 1e-8, 1e-2], [1e-16, 1e-10, 1e-2], False),  # apart too early
        ([1e-17, 0.0, math.inf], [1e-16, 1e-10, 1e-2], False),
        ([0.0, 0.0, 0.0], [math.inf, 1.0, 1.0], False),  # nothing to compare with
    ],
)
def test_the_twin_sets_the_limit(port, twin, holds):
    claims = trajectory.float64_claims(REQUEST, rows(port, twin, "twin"))
    assert [claim.verdict == "holds" for claim in claims] == [holds, holds]


@pytest.mark.parametrize(("factor", "holds"), [(3.9, True), (4.1, False)])
def test_torch_in_float32_sets_the_limit(factor, holds):
    own = [1e-6, 1e-5, 1e-4]
    claims = trajectory.float32_claims(REQUEST, rows([factor * gap for gap in own], own, "torch"))
    assert [claim.verdict == "holds" for claim in claims] == [holds, holds]
    assert claims[0].value == pytest.approx(factor)


@pytest.mark.parametrize("change", [{"total": math.nan}, {"losses": {}}, {"norm": math.inf}])
def test_what_cannot_be_compared_is_infinitely_far(change):
    import numpy as np

    sound = {"total": 2.0, "losses": {"loss_ce": 2.0}, "norm": 1.0, "pairs": np.zeros((1, 1, 3))}
    assert compare_step(sound, sound, 0.0).loss_gap == 0.0
    found = compare_step({**sound, **change}, sound, math.nan)
    assert math.inf in (found.loss_gap, found.norm_gap)
    assert found.weight_gap == math.inf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "dtype"), [("1e-6", "float64"), ("published", "float64"), ("published", "float32")]
)
def test_100_steps_stay_together(rate, dtype):
    request = dataclasses.replace(REQUEST, solver=solver_for("tiny", rate), steps=100, dtype=dtype)
    result = trajectory.trajectory(request)
    print(summary(result))
    assert result.failing == ()

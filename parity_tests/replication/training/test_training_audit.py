"""`parity audit --train` from the outside, and what its claims look like in a report."""

import json

import pytest

from parity.claims import Place, claim
from parity.measurements import Multiple, Relative
from replication.faults.catalogue import planted_steps as planted
from reports.chapters.training import StepResult
from reports.render import render

COMMAND = ("audit", "--train", "--config", "tiny", "--size", "64x64", "--execution", "eager")
CLAIMS = [
    "train_costs",
    "train_matching",
    "train_losses",
    "train_gradients_pairing",
    "train_gradients",
    "train_step_gradients",
    "train_update",
    "train_task",
    "train_losses_extreme",
    "train_dropout",
    "train_dropout_draws",
    "train_schedule",
    "train_applied",
    "train_applied_float32",
    "train_reduction",
    "train_shares",
    "train_replica_losses",
]


def recorded(holds):
    """A training result with one claim."""
    pairs = {f"loss {index}": [1.0 if holds else 1.001, 1.0] for index in range(6)}
    measured = Relative(pairs, Multiple("loss_gap", 1))
    one = claim("train_losses", "Every loss is the same", measured, "why", "run")
    one = one.located(Place.at("criterion", "loss_mask"), "focal alpha and 1 - alpha are swapped")
    return StepResult(
        title="One training step of tiny",
        verdict="equal" if holds else "different",
        config="tiny",
        size="64x96",
        claims=(one,),
        timings={"training step of the port, float64": 1.5},
        not_verified=("execution on a TPU",),
        provenance={"config": "tiny"},
    )


def test_a_training_result_is_a_chapter_of_the_report():
    files = render([recorded(True)])
    for name in ("report.html", "report.md"):
        assert "One training step of tiny" in files[name]
        assert "1 claims on 6 cases hold" in files[name]
        assert "likely cause" not in files[name]
    assert json.loads(files["report.json"])["chapters"][0]["verdict"] == "equal"


def test_a_failed_claim_shows_its_place_and_its_cause():
    result = recorded(False)
    files = render([result])
    for text in ("criterion: loss", "focal alpha and 1 - alpha are swapped"):
        assert text in files["report.html"]
        assert text in files["report.md"]
    line = (
        "fails: Every loss is the same [criterion: loss_mask], "
        "likely: focal alpha and 1 - alpha are swapped"
    )
    assert result.claims[0].failure == line


@pytest.mark.slow
def test_audit_of_a_sound_training_step_holds(parity):
    status, out, _ = parity(*COMMAND, "--json")
    result = json.loads(out)
    assert (status, result["verdict"]) == (0, "equal")
    ids = [one["id"] for one in result["claims"]]
    assert [identity for identity in ids if identity.startswith("train_")] == CLAIMS
    assert "losses, matching, gradients and weight updates" not in result["not_verified"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "weights"),
    [
        # Gradients a million times the clip, in which rounding shows where Adam divides by 1e-8.
        ("scenes_r50", "seeded:46"),
        # Dilated convolutions, of which TensorFlow has no gradient on a CPU.
        ("ade20k_r101c", "seeded:0"),
    ],
)
def test_audit_of_a_sound_step_of_a_difficult_model_holds(parity, config, weights):
    how = ("--size", "64x80,64x64", "--execution", "eager", "--weights", weights)
    status, out, _ = parity("audit", "--train", "--config", config, *how, "--json")
    assert (status, json.loads(out)["verdict"]) == (0, "equal")


@pytest.mark.slow
def test_audit_names_a_fault_in_the_training_step(parity, monkeypatch):
    planted.decay_on_norms(monkeypatch, None)
    status, out, _ = parity(*COMMAND)
    assert status == 1
    assert "likely: what should not decay is decayed too" in out

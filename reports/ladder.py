"""The one ladder of claims over all evidence: which rung a claim stands on, and its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from parity.claims import Claim


@dataclass(frozen=True)
class Rung:
    """A level of the ladder: its name, what it says, and the command that gives evidence."""

    id: str
    title: str
    statement: str
    command: str


TRAIN = "parity train --config CONFIG --data DIR --side both"
EVALUATE = "parity evaluate --config CONFIG --data DIR"

RUNGS = (
    Rung("weights", "Weights", "every weight is converted once and bit for bit", "parity audit"),
    Rung(
        "initial_weights",
        "Initial weights",
        "a training starts every weight from the same distribution",
        "parity initial-weights",
    ),
    Rung(
        "activations",
        "Activations in float64",
        "every layer computes the same function",
        "parity audit",
    ),
    Rung(
        "precision",
        "Float32 ratio",
        "no layer is less exact in float32 than the reference's own float32",
        "parity audit",
    ),
    Rung("losses", "Losses", "every loss term is the same", "parity audit --train"),
    Rung(
        "matching",
        "Matching",
        "costs and pairs of queries and targets are the same",
        "parity audit --train",
    ),
    Rung(
        "gradients", "Gradients", "every parameter's gradient is the same", "parity audit --train"
    ),
    Rung(
        "update",
        "One update",
        "the optimizer makes the same step, at every step of the schedule",
        "parity audit --train",
    ),
    Rung(
        "trajectory",
        "Trajectory",
        "many updates stay as near as the reference stays to itself",
        "parity trajectory",
    ),
    Rung(
        "data",
        "Data",
        "both trainers read the same images and annotations",
        TRAIN,
    ),
    Rung(
        "inference",
        "Inference",
        "every prediction is the same",
        f"{EVALUATE} --side both",
    ),
    Rung(
        "metric_code",
        "Metric code",
        "the recorded scores follow from what was counted",
        "parity evaluate --config CONFIG --data DIR",
    ),
    Rung(
        "metric_converted",
        "Metric from converted weights",
        "converted weights score alike on both sides",
        f"{EVALUATE} --side both --weights CHECKPOINT",
    ),
    Rung(
        "metric_trained",
        "Metric from training",
        "trained models score alike",
        TRAIN,
    ),
)
BESIDE = (
    Rung(
        "tpu",
        "TPU",
        "the training step compiles for a TPU and fits",
        "parity preflight --config CONFIG",
    ),
    Rung(
        "harness",
        "Harness",
        "planted faults are found, and a sound port raises no alarm",
        "parity faults run --all",
    ),
)
"""What is judged beside the ladder: it says nothing of the port's equality."""

AUDITED = {
    "weights": "weights",
    "initial_weights": "initial_weights",
    "same_precision": "precision",
    "extreme_precision": "precision",
    "isolated_precision": "precision",
    "same_decisions": "precision",
    "capture": "precision",
    "production": "precision",
    "inference": "inference",
    "metric": "inference",
    "train_losses": "losses",
    "train_replica_losses": "losses",
    "train_dropout": "losses",
    "train_costs": "matching",
    "train_matching": "matching",
    "train_gradients": "gradients",
    "train_": "update",
    "": "activations",
}
"""The rungs of an audit's claims, by how their ids begin."""

IDENTITIES = frozenset(rung.id for rung in (*RUNGS, *BESIDE))


def verdict_of(claims: Sequence[Claim]) -> str:
    """Of a rung: "fails" where a claim fails, "holds" where one holds and none is open."""
    verdicts = {claim.verdict for claim in claims}
    if "fails" in verdicts:
        return "fails"
    if verdicts == {"holds"}:
        return "holds"
    return "not decided" if verdicts - {"not run"} else "not run"

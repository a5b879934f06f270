"""What a report can be made of, in a report's order."""

from maskformer.runs.run_record import SCHEMA as RUN
from parity.schemas import (
    AUDIT,
    AUDIT_ALL,
    CLEAN_AUDITS,
    EVALUATION,
    FAULT_SCORE,
    PREFLIGHT,
    RECEIPT,
    SUITE,
    TRAINING_RUNS,
    TRAINING_SEEDS,
    TRAINING_STEP,
    TRAJECTORY,
)

KINDS = {
    RECEIPT: "receipt",
    AUDIT: "audit",
    AUDIT_ALL: "audit-all",
    TRAINING_STEP: "training-step",
    TRAJECTORY: "trajectory",
    EVALUATION: "evaluation",
    RUN: "run",
    TRAINING_RUNS: "training-runs",
    TRAINING_SEEDS: "training-seeds",
    PREFLIGHT: "preflight",
    FAULT_SCORE: "fault-score",
    CLEAN_AUDITS: "clean-audits",
    SUITE: "suite",
}
"""What a report can be made of, in a report's order: the schema, and what files are named after."""


TITLES = {
    RECEIPT: "Conversion",
    AUDIT: "Audit",
    AUDIT_ALL: "Audit of every architecture",
    TRAINING_STEP: "Training step",
    TRAJECTORY: "Trajectory",
    EVALUATION: "Evaluation",
    RUN: "Training run",
    TRAINING_RUNS: "Comparison of two training runs",
    TRAINING_SEEDS: "Training from several seeds",
    PREFLIGHT: "TPU preflight",
    FAULT_SCORE: "Planted faults",
    CLEAN_AUDITS: "Clean audits",
    SUITE: "Test suite",
}

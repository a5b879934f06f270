"""The names of the formats of recorded results, each once."""

AUDIT = "maskformer-replication/audit/1"


AUDIT_ALL = "maskformer-replication/audit-all/1"


TRAINING_STEP = "maskformer-replication/training/1"


TRAINING_RUNS = "maskformer-replication/training-runs/1"


TRAJECTORY = "maskformer-replication/trajectory/1"


EVALUATION = "maskformer-replication/evaluation/1"


TRAINING_SEEDS = "maskformer-replication/training-seeds/1"


PREFLIGHT = "preflight/1"


FAULT_SCORE = "maskformer-replication/fault-score/1"


CLEAN_AUDITS = "maskformer-replication/clean-audits/1"


SUITE = "maskformer-replication/suite/1"


RECEIPT = "maskformer-replication/receipt/1"
"""A receipt's own `format` is 1; this is what a report calls it."""

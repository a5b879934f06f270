"""What a report can be made of, in a report's order."""

from collections.abc import Mapping
from typing import Any

from parity.errors import InputError
from parity.results import written_as
from reports.chapters import (
    architectures,
    audit,
    clean,
    evaluation,
    examples,
    faults,
    functions,
    initial_weights,
    preflight,
    receipt,
    runs,
    seeds,
    suite,
    timings,
    training,
    training_runs,
    trajectory,
)
from reports.kind import Kind, registry

KINDS = registry(
    receipt.KIND,
    audit.KIND,
    architectures.KIND,
    initial_weights.KIND,
    training.KIND,
    trajectory.KIND,
    functions.KIND,
    examples.KIND,
    evaluation.KIND,
    runs.KIND,
    training_runs.KIND,
    seeds.KIND,
    preflight.KIND,
    faults.KIND,
    clean.KIND,
    suite.KIND,
    timings.KIND,
)
"""The kinds by schema."""


def kind_of(schema: Any, source: str, kinds: Mapping[str, Kind] = KINDS) -> Kind:
    """The kind with this schema, of any version.

    Raises InputError for an unknown one, which `source` has.
    """
    for current, kind in kinds.items():
        if written_as(schema, current):
            return kind
    raise InputError(
        f"{source} has the schema {schema!r}, which no report knows",
        f"known: {', '.join(kinds)}",
        "record the result again with this version, or report it with the version that made it",
    )

"""Whether a recorded result says what its own measurements say; no model is needed.

A hash shows that a file is the one a report was made from. These checks show more: that verdicts,
limits and counts follow from the measurements recorded beside them.
"""

from collections.abc import Callable, Iterator, Mapping

from parity.measurements import digest, judge
from parity.schemas import (
    AUDIT,
    AUDIT_ALL,
    CLEAN_AUDITS,
    EVALUATION,
    FAULT_SCORE,
    PREFLIGHT,
    SUITE,
    TRAINING_RUNS,
    TRAINING_SEEDS,
    TRAINING_STEP,
    TRAJECTORY,
)
from reports.chapters.architectures import recheck_audit_all
from reports.chapters.audit import recheck_audit
from reports.chapters.clean import recheck_clean_audits
from reports.chapters.evaluation import recheck_evaluation
from reports.chapters.faults import recheck_fault_score
from reports.chapters.preflight import recheck_preflight
from reports.chapters.seeds import recheck_training_seeds
from reports.chapters.training_runs import recheck_training_runs
from reports.chapters.trajectory import recheck_trajectory
from reports.checks import Content, Difference, differ, equal
from reports.evidence import Evidence

RECORDING = (
    AUDIT,
    AUDIT_ALL,
    TRAINING_STEP,
    TRAJECTORY,
    TRAINING_SEEDS,
    PREFLIGHT,
    FAULT_SCORE,
    CLEAN_AUDITS,
    SUITE,
)
"""Schemas whose commands record every claim with what was measured."""


def recheck(one: Evidence) -> list[Difference]:
    """Every place where the result disagrees with its measurements; none for a sound one.

    Raises KeyError, TypeError, ValueError, AttributeError or IndexError for a result that lacks
    what its schema promises.
    """
    found = list(_claims(one))
    if not found and one.schema in _BY_SCHEMA:
        found = list(_BY_SCHEMA[one.schema](one.content))
    return found


def _claims(one: Evidence) -> Iterator[Difference]:
    for index, each in enumerate(one.content.get("claims", ())):
        place = f"claims[{index}] ({each['id']})"
        measured = each.get("measured")
        if measured is None:
            if one.schema in RECORDING and each["verdict"] != "not run":
                yield f"{place}.measured", "what was measured", None
            continue
        judged = judge(measured)
        expected = {
            "verdict": judged.verdict,
            "value": judged.value,
            "limit": judged.limit,
            "cases": judged.cases,
            "evidence_sha256": digest(measured),
        }
        yield from differ(place, expected, {name: each.get(name) for name in expected})


_BY_SCHEMA: Mapping[str, Callable[[Content], Iterator[Difference]]] = {
    AUDIT: recheck_audit,
    AUDIT_ALL: recheck_audit_all,
    TRAINING_STEP: equal,
    TRAINING_SEEDS: recheck_training_seeds,
    CLEAN_AUDITS: recheck_clean_audits,
    SUITE: equal,
    TRAJECTORY: recheck_trajectory,
    EVALUATION: recheck_evaluation,
    TRAINING_RUNS: recheck_training_runs,
    PREFLIGHT: recheck_preflight,
    FAULT_SCORE: recheck_fault_score,
}

"""The figures of an audit's tables, all of them from verdicts that carry their measurements."""

from collections.abc import Mapping
from typing import Any

from parity.judge import Verdict

Verdicts = Mapping[str, Verdict]


def nearest(verdicts: Verdicts) -> Verdict:
    """The verdict nearest to its limit, or furthest above it; at least one is needed."""
    return max(verdicts.values(), key=lambda verdict: verdict.margin)


def function_summary(verdicts: Verdicts) -> dict[str, Any]:
    """The largest float64 gap in l2 and its limit, and the tensor nearest to its own limit."""
    worst = max(verdicts, key=lambda key: verdicts[key].measured["l2"][0])
    closest = nearest(verdicts)
    return {
        "worst_gap": verdicts[worst].measured["l2"][0],
        "limit": verdicts[worst].threshold.value,
        "worst_tap": worst,
        "worst_ratio": closest.ratio,
        "nearest_to_limit": {
            "tap": closest.key,
            "metric": closest.metric,
            "value": closest.value,
            "limit": closest.threshold.value,
        },
    }


def precision_summary(verdicts: Verdicts) -> dict[str, Any]:
    """The largest float32 error in units of the reference's own."""
    worst = nearest(verdicts)
    return {
        "worst_ratio": worst.ratio,
        "limit": worst.threshold.value / worst.threshold.floor,
        "worst_tap": worst.key,
        "metric": worst.metric,
    }


def function_figures(verdict: Verdict) -> dict[str, Any]:
    """What the table of layers says of one tensor in float64."""
    return {
        "gap": verdict.measured["l2"][0],
        "gap_max": verdict.measured["max"][0],
        "floor": verdict.threshold.floor,
        "metric": verdict.metric,
        "value": verdict.value,
        "limit": verdict.threshold.value,
        "ratio": verdict.ratio,
        "passed": verdict.passed,
    }


def precision_figures(verdict: Verdict) -> dict[str, Any]:
    """What the table of layers says of one tensor in float32."""
    return {
        "ratio": verdict.ratio,
        "e_port": verdict.measured["l2"][0],
        "metric": verdict.metric,
        "passed": verdict.passed,
    }

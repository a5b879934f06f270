"""What claims rest on: measurements, the rules that judge them, and their digest."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parity.assignment import Certificate
from parity.judge import DEFAULT, Limits, Verdict, judge_again
from parity.records import number, strict

Measured = Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """What measurements say: the value, its limit, how many cases, and whether the claim holds."""

    value: float
    limit: float
    cases: int
    holds: bool
    otherwise: str = "fails"

    @property
    def verdict(self) -> str:
        """The claim's verdict in a word."""
        return "holds" if self.holds else self.otherwise


def of_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The measurements of verdicts on one claim, at least one."""
    return {
        "rule": "verdicts",
        "claim": verdicts[0].claim,
        "cases": [[one.key, _listed(one.measured), one.problem] for one in verdicts],
    }


def _listed(measured: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {metric: [float(value), float(base)] for metric, (value, base) in measured.items()}


def verdicts_of(measured: Measured, limits: Limits = DEFAULT) -> dict[str, Verdict]:
    """The inverse of `of_verdicts`, by key, under any limits; without places and values."""
    found = {}
    for key, metrics, problem in measured["cases"]:
        numbers = {name: (number(value), number(base)) for name, (value, base) in metrics.items()}
        found[key] = judge_again(key, measured["claim"], numbers, problem, limits)
    return found


def matching_place(
    place: str, pairs: Any, differing: Mapping[str, Any], certificate: Certificate
) -> dict[str, Any]:
    """One matching: the reference's (query, target) pairs, the port's where they are others, by
    direction, and the certificate of the port's."""
    return {
        "place": place,
        "pairs": pairs,
        "differing": dict(differing),
        "certificate": {
            "pairs": certificate.pairs,
            "cost": certificate.cost,
            "bound": certificate.bound,
            "limit": certificate.limit,
            "dtype": certificate.dtype,
            "faults": list(certificate.faults),
        },
    }


def judge(measured: Measured, limits: Limits = DEFAULT) -> Judged:
    """What the measurements say under these limits. Raises KeyError, TypeError or ValueError for
    an object that is none of `RULES`."""
    judged = RULES[measured["rule"]](measured, limits)
    if measured.get("lacking"):
        return replace(judged, holds=False)
    return replace(judged, otherwise=measured.get("otherwise", "fails"))


def digest(measured: Any) -> str:
    """sha256 of the canonical JSON of what a claim rests on."""
    text = json.dumps(strict(measured), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def running_ratio(measured: Measured) -> tuple[float, str | None]:
    """The value of the rule "running", and the first step that has it."""
    worst, place, ours, own = 0.0, None, 0.0, number(measured["least"])
    for step, value in measured["port"].items():
        ours = max(ours, number(value))
        own = max(own, number(measured["beside"][step]))
        ratio = ours / own if math.isfinite(own) else math.inf
        if not ratio <= worst or place is None:
            worst, place = ratio, step
    return worst, place


def relative_gap(port: float | None, reference: float | None) -> float:
    """|port - reference| / |reference|; infinite where a side has no number or not a finite one."""
    if port is None or reference is None:
        return math.inf
    gap = abs(port - reference) / (abs(reference) or 1.0)
    return gap if math.isfinite(gap) else math.inf


def _limit(limit: Any, limits: Limits) -> float:
    if isinstance(limit, Mapping):
        return getattr(limits, limit["name"]) * number(limit["times"])
    return limit if isinstance(limit, int) else number(limit)


def _at_most(value: float, limit: Any, cases: int, limits: Limits) -> Judged:
    most = _limit(limit, limits)
    return Judged(value, most, cases, value <= most)


def _verdicts(measured: Measured, limits: Limits) -> Judged:
    verdicts = verdicts_of(measured, limits).values()
    worst = max(one.margin for one in verdicts)
    return Judged(worst, 1.0, len(verdicts), all(one.passed for one in verdicts))


def _none(measured: Measured, limits: Limits) -> Judged:
    return _at_most(len(measured["found"]), 0, measured["of"], limits)


def _largest(measured: Measured, limits: Limits) -> Judged:
    values = [number(value) for value in measured["values"].values()]
    unknown = any(math.isnan(value) for value in values)
    value = math.nan if unknown else max(values, default=0.0)
    return _at_most(value, measured["limit"], len(values), limits)


def _relative(measured: Measured, limits: Limits) -> Judged:
    pairs = [
        [None if one is None else number(one) for one in pair]
        for pair in measured["pairs"].values()
    ]
    value = max((relative_gap(*pair) for pair in pairs), default=0.0)
    return _at_most(value, measured["limit"], len(pairs), limits)


def _sum(measured: Measured, limits: Limits) -> Judged:
    values = measured["values"].values()
    return _at_most(sum(values), measured["limit"], len(values), limits)


def _running(measured: Measured, limits: Limits) -> Judged:
    value, _ = running_ratio(measured)
    return _at_most(value, measured["limit"], len(measured["port"]), limits)


def _missed(measured: Measured, limits: Limits) -> Judged:
    of = measured["of"]
    share = len(measured["found"]) / of if of else 0.0
    return _at_most(share, 1.0 - getattr(limits, measured["least"]), of, limits)


def _equivalence(measured: Measured, limits: Limits) -> Judged:
    from scipy.special import stdtr

    differences = [number(value) for value in measured["differences"].values()]
    margin, count = number(measured["margin"]), len(differences)
    nothing = number(measured.get("best", math.inf)) == 0.0
    if nothing or count < 2 or not all(map(math.isfinite, differences)):
        return Judged(1.0, _limit(measured["limit"], limits), count, False)
    mean = math.fsum(differences) / count
    variance = math.fsum((value - mean) ** 2 for value in differences) / (count - 1)
    room = margin - abs(mean)
    if variance:
        p_value = float(stdtr(count - 1, -room / math.sqrt(variance / count)))
    else:
        p_value = 0.0 if room > 0 else 1.0
    return _at_most(p_value, measured["limit"], count, limits)


def _matching(measured: Measured, limits: Limits) -> Judged:
    wrong = 0
    for place in measured["places"]:
        numbers = {
            **place["certificate"],
            **{name: number(place["certificate"][name]) for name in ("cost", "bound", "limit")},
        }
        proof = Certificate(**{**numbers, "faults": tuple(numbers["faults"])})
        wrong += bool(place["differing"]) or not proof.holds
    return _at_most(wrong, 0, len(measured["places"]), limits)


RULES: Mapping[str, Callable[[Measured, Limits], Judged]] = {
    "verdicts": _verdicts,
    "none": _none,
    "largest": _largest,
    "relative": _relative,
    "sum": _sum,
    "running": _running,
    "missed": _missed,
    "equivalence": _equivalence,
    "matching": _matching,
}

"""Claims, and what they rest on: value, limit and verdict of a claim come from its measurements.

A claim carries what was measured under "measured", so that it can be judged again without a model,
also by other limits. "measured" is a JSON object whose "rule" is one of `RULES`:

- verdicts: {"claim": one of `parity.judge.CLAIMS`, "cases": [[key, {metric: [value, base]},
  problem or null], ...]}. The value is the worst margin, in units of its own limit; the limit is 1.
- none: {"of": count, "found": [...]}. The value is how many were found; the limit is 0.
- largest: {"values": {name: number}, "limit": limit}.
- relative: {"pairs": {name: [port's, reference's]}, "limit": limit}. The value is the largest
  |port - reference| / |reference|; a number that one side lacks (null) is infinitely far.
- sum: {"values": {name: number}, "limit": limit}. The value is the sum.
- running: {"port": {step: number}, "beside": {step: number}, "least": number, "limit": limit}. The
  value is the largest ratio of the port's largest number up to a step to that of the other up to
  there, which counts as no less than "least".
- missed: {"of": count, "found": [...], "least": a field of `parity.judge.Limits`}. The value is the
  share that was found; the limit is what "least", a share that must not be, leaves.
- equivalence: {"differences": {name: number}, "margin": number, "limit": level}. The value is the
  larger p of two one-sided t-tests that the mean difference is inside (-margin, margin); 1 where
  "best", the best score of any run, is 0, since scores that are all 0 show nothing.
- matching: {"places": [{"place", "pairs", "differing", "certificate"}]}, see `matching_place`. The
  value is how many places are wrong; the limit is 0.

A limit is a number, or {"name": a field of `parity.judge.Limits`, "times": number}. Any of them may
also have "lacking": [...], parts that one side does not have; a claim that lacks any fails. With
"otherwise": "WORD", a claim that is not met is not refuted: its verdict is that word.
"""

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


def claim(
    identity: str, title: str, measured: Measured, derivation: str, command: str
) -> dict[str, Any]:
    """One claim of a result, judged from what was measured, with the digest of that.

    Args:
        identity: short name, unique in a result.
        measured: see this module; numbers may be infinite or NaN.
        derivation: where the limit comes from, in words a reader can check.
        command: the command that measures it again.
    """
    judged = judge(measured)
    return {
        "id": identity,
        "title": title,
        "verdict": judged.verdict,
        "value": judged.value,
        "limit": judged.limit,
        "cases": judged.cases,
        "derivation": derivation,
        "evidence_sha256": digest(measured),
        "command": command,
        "measured": dict(measured),
    }


def margin_claim(
    identity: str,
    title: str,
    verdicts: Mapping[str, Verdict],
    derivation: str,
    command: str,
    lacking: Sequence[str] = (),
) -> dict[str, Any]:
    """A claim that holds where every verdict passes; its value is the worst margin, its limit 1."""
    measured = of_verdicts(list(verdicts.values()))
    if lacking:
        measured["lacking"] = list(lacking)
    return claim(identity, title, measured, derivation, command)


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


def located(one: Mapping[str, Any], place: str, cause: str | None) -> dict[str, Any]:
    """A failed claim with where, and why where that is known; one that holds stays as it is."""
    return dict(one) if one["verdict"] == "holds" else {**one, "place": place, "cause": cause}


def failure(one: Mapping[str, Any]) -> str:
    """One line on a claim that fails: what, where, why."""
    place = f" [{one['place']}]" if one.get("place") else ""
    cause = f", likely: {one['cause']}" if one.get("cause") else ""
    return f"fails: {one['title']}{place}{cause}"


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

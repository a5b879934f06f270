"""What claims rest on: a measurement has a rule that judges it, by any limits, without a model.

A limit is a number, or a `Multiple` of a field of `parity.judge.Limits`. As JSON a measurement is
an object with its "rule" and its fields; numbers that JSON cannot hold are strings there.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar

from parity.assignment import Certificate
from parity.judge import DEFAULT, Limits, Verdict, judge_again
from parity.records import number, strict

UNDECIDED = "not decided"


@dataclass(frozen=True)
class Judged:
    """What a measurement says: value, limit, how many cases, and whether the claim holds."""

    value: float
    limit: float
    cases: int
    holds: bool
    otherwise: str = "fails"

    @property
    def verdict(self) -> str:
        """The claim's verdict in a word."""
        return "holds" if self.holds else self.otherwise


@dataclass(frozen=True)
class Multiple:
    """A limit: so many times a field of `parity.judge.Limits`."""

    name: str
    times: float


Limit = float | Multiple


@dataclass(frozen=True, kw_only=True)
class Measurement(ABC):
    """What was measured for one claim; numbers may be infinite or NaN.

    Args:
        lacking: parts that one side does not have; a claim that lacks any fails.
        otherwise: the verdict where the claim is not met, which need not refute it.
        beside_it: what was measured, too, and decides nothing, by name.
    """

    rule: ClassVar[str]
    lacking: Sequence[str] = ()
    otherwise: str = "fails"
    beside_it: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, limits: Limits = DEFAULT) -> Judged:
        """What the measurement says under these limits."""
        judged = self._judge(limits)
        if self.lacking:
            return replace(judged, holds=False, otherwise="fails")
        return judged if self.otherwise == "fails" else replace(judged, otherwise=self.otherwise)

    @abstractmethod
    def _judge(self, limits: Limits) -> Judged: ...

    def to_json(self) -> dict[str, Any]:
        """A JSON object, of which `of_json` makes the same measurement."""
        found: dict[str, Any] = {"rule": self.rule}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "beside_it" and (one.default is MISSING or value != one.default):
                found[one.name] = _plain(value)
        return {**found, **self.beside_it}

    @property
    def sha256(self) -> str:
        """The digest of the canonical JSON."""
        return digest(self.to_json())


@dataclass(frozen=True)
class Margins(Measurement):
    """Verdicts on one claim of `parity.judge.CLAIMS`, at least one: the value is the worst margin.

    It is in units of its own limit, so the limit is 1; of some that fail, the worst of these.
    Without one that fails, one that is not decided leaves the claim so. `cases` are (key, {metric:
    (value, base)}, problem or None).
    """

    rule = "verdicts"
    claim: str
    cases: Sequence[tuple[str, Mapping[str, tuple[float, float]], str | None]]

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], lacking: Sequence[str] = ()) -> "Margins":
        """What the verdicts were judged by."""
        cases = [(one.key, _listed(one.measured), one.problem) for one in verdicts]
        return cls(verdicts[0].claim, cases, lacking=tuple(lacking))

    def verdicts(self, limits: Limits = DEFAULT) -> dict[str, Verdict]:
        """The verdicts by key, under any limits; without places and values."""
        found = {}
        for key, metrics, problem in self.cases:
            numbers = {
                name: (number(value), number(base)) for name, (value, base) in metrics.items()
            }
            found[key] = judge_again(key, self.claim, numbers, problem, limits)
        return found

    def _judge(self, limits: Limits) -> Judged:
        verdicts = [*self.verdicts(limits).values()]
        failing = [one for one in verdicts if one.fails]
        worst = max(one.margin for one in failing or verdicts)
        holds = all(one.passed for one in verdicts)
        return Judged(worst, 1.0, len(verdicts), holds, "fails" if failing else UNDECIDED)


@dataclass(frozen=True)
class Findings(Measurement):
    """What was found of `of` things, and should not be: the value is the number, the limit 0."""

    rule = "none"
    of: int
    found: Sequence[Any]

    def _judge(self, limits: Limits) -> Judged:
        return _at_most(len(self.found), 0, self.of, limits)


@dataclass(frozen=True)
class Largest(Measurement):
    """Numbers by name: the value is the largest, NaN where any is."""

    rule = "largest"
    values: Mapping[str, float]
    limit: Limit

    def _judge(self, limits: Limits) -> Judged:
        values = [number(value) for value in self.values.values()]
        unknown = any(math.isnan(value) for value in values)
        value = math.nan if unknown else max(values, default=0.0)
        return _at_most(value, self.limit, len(values), limits)


@dataclass(frozen=True)
class Relative(Measurement):
    """(port's, reference's) numbers by name: the value is the largest relative gap.

    A number that one side lacks (None) is infinitely far. `floors` are, by name, the reference's
    own relative gaps under moved roundings, where they were measured: what is above the limit, but
    within `Limits.floor_factor` of them, is not decided.
    """

    rule = "relative"
    pairs: Mapping[str, Sequence[float | None]]
    limit: Limit
    floors: Mapping[str, float] | None = None

    def failing(self, limits: Limits = DEFAULT) -> list[str]:
        """The names of what is further apart than the limit and than rounding explains."""
        most = _limit(self.limit, limits)
        floors = {name: number(value) for name, value in (self.floors or {}).items()}
        explained = {name: limits.floor_factor * value for name, value in floors.items()}
        return [
            name
            for name, found in self.gaps().items()
            if not (found <= most or found <= explained.get(name, 0.0) < math.inf)
        ]

    def gaps(self) -> dict[str, float]:
        """The relative gap of each pair."""
        return {
            name: relative_gap(*(None if one is None else number(one) for one in pair))
            for name, pair in self.pairs.items()
        }

    def _judge(self, limits: Limits) -> Judged:
        gaps, failing = self.gaps(), self.failing(limits)
        value = max((gaps[name] for name in failing or gaps), default=0.0)
        judged = _at_most(value, self.limit, len(gaps), limits)
        return judged if failing else replace(judged, otherwise=UNDECIDED)


@dataclass(frozen=True)
class Sum(Measurement):
    """Numbers by name: the value is their sum."""

    rule = "sum"
    values: Mapping[str, float]
    limit: Limit

    def _judge(self, limits: Limits) -> Judged:
        return _at_most(sum(self.values.values()), self.limit, len(self.values), limits)


@dataclass(frozen=True)
class Running(Measurement):
    """The port's numbers by step, and those of another beside it.

    The value is the largest ratio of the port's largest number up to a step to that of the other up
    to there, which counts as no less than `least`.
    """

    rule = "running"
    port: Mapping[str, float]
    beside: Mapping[str, float]
    least: float
    limit: Limit

    def worst(self) -> tuple[float, str | None]:
        """The value, and the first step that has it."""
        worst, place, ours, own = 0.0, None, 0.0, number(self.least)
        for step, value in self.port.items():
            ours = max(ours, number(value))
            own = max(own, number(self.beside[step]))
            ratio = ours / own if math.isfinite(own) else math.inf
            if not ratio <= worst or place is None:
                worst, place = ratio, step
        return worst, place

    def _judge(self, limits: Limits) -> Judged:
        return _at_most(self.worst()[0], self.limit, len(self.port), limits)


@dataclass(frozen=True)
class Missed(Measurement):
    """What of `of` things was missed: the value is its share.

    `least` is a field of `parity.judge.Limits`, a share that must not be missed: the limit is what
    it leaves.
    """

    rule = "missed"
    of: int
    found: Sequence[Any]
    least: str

    def _judge(self, limits: Limits) -> Judged:
        share = len(self.found) / self.of if self.of else 0.0
        return _at_most(share, 1.0 - getattr(limits, self.least), self.of, limits)


@dataclass(frozen=True)
class Equivalence(Measurement):
    """Differences by name: the value is the larger p of two one-sided t-tests.

    They test that the mean difference is inside (-margin, margin), at the level `limit`. The value
    is 1 where `best`, the best score of any run, is within the margin: scores that small are
    equivalent whatever made them, and show nothing.
    """

    rule = "equivalence"
    differences: Mapping[str, float]
    margin: float
    limit: Limit
    best: float = math.inf

    def _judge(self, limits: Limits) -> Judged:
        differences = [number(value) for value in self.differences.values()]
        margin, count = number(self.margin), len(differences)
        nothing = number(self.best) <= margin
        if nothing or count < 2 or not all(map(math.isfinite, differences)):
            return Judged(1.0, _limit(self.limit, limits), count, False)
        mean = math.fsum(differences) / count
        variance = math.fsum((value - mean) ** 2 for value in differences) / (count - 1)
        room = margin - abs(mean)
        if variance:
            from scipy.special import stdtr

            p_value = float(stdtr(count - 1, -room / math.sqrt(variance / count)))
        else:
            p_value = 0.0 if room > 0 else 1.0
        return _at_most(p_value, self.limit, count, limits)


@dataclass(frozen=True)
class Matching(Measurement):
    """Matchings, see `matching_place`: the value is how many are others or not optimal, limit 0.

    Where all that are others are as cheap, by the reference's own costs, the claim is not decided.
    """

    rule = "matching"
    places: Sequence[Mapping[str, Any]]

    def _judge(self, limits: Limits) -> Judged:
        wrong = others = 0
        for place in self.places:
            numbers = {
                **place["certificate"],
                **{name: number(place["certificate"][name]) for name in ("cost", "bound", "limit")},
            }
            proof = Certificate(**{**numbers, "faults": tuple(numbers["faults"])})
            costs = place.get("costs", {})
            dearest = max(map(number, costs.values()), default=math.inf)
            as_cheap = proof.holds and dearest <= proof.bound + proof.limit
            others += bool(place["differing"])
            wrong += not (as_cheap if place["differing"] else proof.holds)
        judged = _at_most(max(wrong, others), 0, len(self.places), limits)
        return judged if wrong else replace(judged, otherwise=UNDECIDED)


RULES: Mapping[str, type[Measurement]] = {
    one.rule: one
    for one in (
        Margins,
        Findings,
        Largest,
        Relative,
        Sum,
        Running,
        Missed,
        Equivalence,
        Matching,
    )
}


def of_json(measured: Mapping[str, Any]) -> Measurement:
    """The measurement that a JSON object stands for. Raises KeyError, TypeError or ValueError for
    an object that is none of `RULES`."""
    kind = RULES[measured["rule"]]
    own = {one.name: one for one in fields(kind) if one.name != "beside_it"}
    given = {
        name: Multiple(**value) if name == "limit" and isinstance(value, Mapping) else value
        for name, value in measured.items()
        if name in own
    }
    rest = {name: value for name, value in measured.items() if name not in (*own, "rule")}
    return kind(**given, beside_it=rest)


def judge(measured: Mapping[str, Any], limits: Limits = DEFAULT) -> Judged:
    """What a recorded measurement says under these limits; raises what `of_json` does."""
    return of_json(measured).judge(limits)


def matching_place(
    place: str,
    pairs: Any,
    differing: Mapping[str, Any],
    certificate: Certificate,
    costs: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One matching: the reference's (query, target) pairs, the port's where they are others, by
    direction, the certificate of the port's, and what the others cost, infinite where they are no
    matching."""
    return {
        "place": place,
        "pairs": pairs,
        "differing": dict(differing),
        **({"costs": dict(costs)} if costs else {}),
        "certificate": {
            "pairs": certificate.pairs,
            "cost": certificate.cost,
            "bound": certificate.bound,
            "limit": certificate.limit,
            "dtype": certificate.dtype,
            "faults": list(certificate.faults),
        },
    }


def digest(measured: Any) -> str:
    """sha256 of the canonical JSON of what a claim rests on."""
    text = json.dumps(strict(measured), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def relative_gap(port: float | None, reference: float | None) -> float:
    """|port - reference| / |reference|; infinite where a side has no number or not a finite one."""
    if port is None or reference is None:
        return math.inf
    gap = abs(port - reference) / (abs(reference) or 1.0)
    return gap if math.isfinite(gap) else math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, Multiple):
        return {"name": value.name, "times": value.times}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _listed(measured: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    return {metric: (float(value), float(base)) for metric, (value, base) in measured.items()}


def _limit(limit: Limit, limits: Limits) -> float:
    if isinstance(limit, Multiple):
        return getattr(limits, limit.name) * number(limit.times)
    return limit if isinstance(limit, int) else number(limit)


def _at_most(value: float, limit: Limit, cases: int, limits: Limits) -> Judged:
    most = _limit(limit, limits)
    return Judged(value, most, cases, value <= most)

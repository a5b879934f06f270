"""Whether a recorded result says what its own measurements say; no model is needed.

A hash shows that a file is the one a report was made from. These checks show more: that verdicts,
limits and counts follow from the measurements recorded beside them.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from parity.audit_figures import (
    function_figures,
    function_summary,
    precision_figures,
    precision_summary,
)
from parity.claims import digest, judge, verdicts_of
from reports.evidence import (
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
    Evidence,
)

Content = Mapping[str, Any]
Difference = tuple[str, Any, Any]
"""A place in a result, what should be there by its measurements, and what is."""

ROUNDING = 1e-12  # relative: another machine may round the last places of a quotient otherwise
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


def same(expected: Any, found: Any) -> bool:
    """Whether two values are the same, numbers up to rounding; NaN is the same as NaN."""
    if isinstance(expected, Mapping):
        return (
            isinstance(found, Mapping)
            and expected.keys() == found.keys()
            and all(same(value, found[name]) for name, value in expected.items())
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(expected) == len(found)
            and all(map(same, expected, found))
        )
    if any(isinstance(value, bool) or value is None for value in (expected, found)):
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        if math.isnan(expected) or math.isnan(found):
            return math.isnan(expected) and math.isnan(found)
        return expected == found or math.isclose(expected, found, rel_tol=ROUNDING)
    return bool(expected == found)


def _differ(place: str, expected: Any, found: Any) -> Iterator[Difference]:
    """The places below `place` where `found` lacks or changes what `expected` has."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name, value in expected.items():
            yield from _differ(f"{place}.{name}", value, found.get(name))
    elif not same(expected, found):
        yield place, expected, found


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
        yield from _differ(place, expected, {name: each.get(name) for name in expected})


def _by_id(content: Content) -> dict[str, Content]:
    return {one["id"]: one for one in content["claims"]}


def _all_hold(claims: Sequence[Content]) -> bool:
    return all(one["verdict"] == "holds" for one in claims)


def _verdict(content: Content, holds: str, fails: str) -> Iterator[Difference]:
    expected = holds if _all_hold(content["claims"]) else fails
    yield from _differ("verdict", expected, content["verdict"])


def _audit(content: Content) -> Iterator[Difference]:
    yield from _verdict(content, "equal", "different")
    claims = _by_id(content)
    function = verdicts_of(claims["same_function"]["measured"])
    precision = {
        name: verdicts_of(claims[f"same_precision_{name}"]["measured"])
        for name in content["float32"]
    }
    unpaired = content["unpaired"]
    yield from _differ(
        "unpaired",
        list(claims["pairing"]["measured"]["found"]),
        [*unpaired["reference"], *unpaired["port"]],
    )
    yield from _differ("taps", len(function), content["taps"])
    yield from _differ("float64", function_summary(function), content["float64"])
    for name, verdicts in precision.items():
        yield from _differ(f"float32.{name}", precision_summary(verdicts), content["float32"][name])
    layers = content["layers"]
    yield from _differ("layers", list(function), [row["key"] for row in layers])
    for index, row in enumerate(layers):
        place = f"layers[{index}] ({row['key']})"
        expected = function_figures(function[row["key"]])
        yield from _differ(f"{place}.float64", expected, row["float64"])
        for name, verdicts in precision.items():
            if row["key"] in verdicts:
                expected = precision_figures(verdicts[row["key"]])
                yield from _differ(f"{place}.float32.{name}", expected, row["float32"].get(name))
    failed = any(
        not one.passed for verdicts in (function, *precision.values()) for one in verdicts.values()
    )
    if failed and content["first_divergence"] is None:
        yield "first_divergence", "the first tensor above its limit", None


def _audit_all(content: Content) -> Iterator[Difference]:
    yield from _verdict(content, "equal", "different")
    claims = _by_id(content)
    for index, row in enumerate(content["architectures"]):
        name = row["config"]
        place = f"architectures[{index}] ({name})"
        own = [one for one in content["claims"] if one["id"].startswith(f"{name}/")]
        verdict = "equal" if _all_hold(own) else "different"
        figures = function_summary(verdicts_of(claims[f"{name}/same_function"]["measured"]))
        expected = {
            "verdict": verdict,
            "taps": claims[f"{name}/same_function"]["cases"],
            "worst_gap": figures["worst_gap"],
            "worst_tap": figures["worst_tap"],
            "nearest": {**figures["nearest_to_limit"], "ratio": figures["worst_ratio"]},
        }
        yield from _differ(place, expected, row)


def _equal(content: Content) -> Iterator[Difference]:
    yield from _verdict(content, "equal", "different")


def _clean_audits(content: Content) -> Iterator[Difference]:
    yield from _verdict(content, "holds", "fails")
    outcomes = content["outcomes"]
    alarms = sum(one["verdict"] != "equal" for one in outcomes)
    yield from _differ("runs", len(outcomes), content["runs"])
    yield from _differ("alarms", alarms, content["alarms"])
    (claim,) = content["claims"]
    yield from _differ("claims[0].value", alarms, claim["value"])
    yield from _differ("claims[0].cases", len(outcomes), claim["cases"])


def _training_seeds(content: Content) -> Iterator[Difference]:
    yield from _verdict(content, "equivalent", "not shown")
    (claim,) = content["claims"]
    yield from _differ("p_value", claim["value"], content["p_value"])
    yield from _differ("margin", claim["measured"]["margin"], content["margin"])


def _trajectory(content: Content) -> Iterator[Difference]:
    yield from _verdict(content, "holds", "fails")
    steps, beside = content["steps"], content["beside"]

    def column(side: str, measure: str) -> dict[str, Any]:
        return {str(row["step"]): row[side][measure] for row in steps}

    for identity, one in _by_id(content).items():
        measured, place = one["measured"], f"claims ({identity}).measured"
        measure = identity.removeprefix(f"{beside}_")
        if measure != identity:
            yield from _differ(f"{place}.port", column("port", measure), measured["port"])
            yield from _differ(f"{place}.beside", column(beside, measure), measured["beside"])
        else:
            name = {"loss": "loss_gap", "pairs": "pairs_differ"}[identity]
            yield from _differ(f"{place}.values", column("port", name), measured["values"])
    for measure, sides in content["worst"].items():
        for side, worst in sides.items():
            largest = max(column(side, measure).values())
            yield from _differ(f"worst.{measure}.{side}.value", largest, worst["value"])


def _evaluation(content: Content) -> Iterator[Difference]:
    comparison = content.get("comparison")
    if comparison is None:
        yield from _differ("verdict", "evaluated", content["verdict"])
        return
    rows = comparison["disagreements"]
    for name in ("panoptic_pixels", "label_pixels", "segments", "unexplained"):
        yield from _differ(f"comparison.{name}", sum(row[name] for row in rows), comparison[name])
    yield from _differ("comparison.images_that_differ", len(rows), comparison["images_that_differ"])
    expected = "different" if comparison["unexplained"] else "equal"
    yield from _differ("verdict", expected, content["verdict"])
    for name, one in comparison["scores"].items():
        shown = one["equivalence"]
        if "holds" in shown:
            place = f"comparison.scores.{name}.equivalence.holds"
            yield from _differ(place, shown["p_value"] < shown["alpha"], shown["holds"])


def _training_runs(content: Content) -> Iterator[Difference]:
    comparison = content.get("comparison")
    if comparison is None:
        yield from _differ("verdict", "trained", content["verdict"])
        return
    intervals = [one["interval"] for one in comparison["scores"].values() if "interval" in one]
    agree = all(one["low"] <= 0 <= one["high"] for one in intervals)
    expected = ("agree" if agree else "different") if intervals else "not judged"
    yield from _differ("verdict", expected, content["verdict"])


def _preflight(content: Content) -> Iterator[Difference]:
    yield from _differ("passed", _all_hold(content["claims"]), content["passed"])
    claims = _by_id(content)
    for index, row in enumerate(content["topologies"]):
        topology = row["topology"]
        place = f"topologies[{index}] ({topology})"
        holds = claims[f"compiles/{topology}"]["verdict"] == "holds"
        yield from _differ(f"{place}.passed", holds, row["passed"])
        steps = {name: row[name] for name in ("train", "evaluation") if name in row}
        for name, step in steps.items():
            if step["compiles"]:
                share = step["hbm_used"] / row["chip"]["hbm"]
                yield from _differ(f"{place}.{name}.hbm_share", share, step["hbm_share"])
        if f"memory/{topology}" in claims:
            shares = {name: one["hbm_share"] for name, one in steps.items() if one["compiles"]}
            measured = claims[f"memory/{topology}"]["measured"]["values"]
            yield from _differ(f"claims (memory/{topology}).measured.values", shares, measured)


def _fault_score(content: Content) -> Iterator[Difference]:
    yield from _verdict(content, "holds", "does not hold")
    outcomes, claims, score = content["outcomes"], _by_id(content), content["score"]
    kinds = (
        ("detected", "detected", "detected", "undetected"),
        ("placed", "place_exact", "place_exact", "misplaced"),
        ("explained", "cause_named", "cause_named", "unexplained"),
    )
    yield from _differ("score.faults", len(outcomes), score["faults"])
    for identity, key, counted, listed in kinds:
        missed = [one["id"] for one in outcomes if not one[key]]
        yield from _differ(f"score.{counted}", len(outcomes) - len(missed), score[counted])
        yield from _differ(f"score.{listed}", missed, list(score[listed]))
        place = f"claims ({identity}).measured.found"
        yield from _differ(place, missed, list(claims[identity]["measured"]["found"]))
    for index, one in enumerate(outcomes):
        place = f"outcomes[{index}] ({one['id']})"
        yield from _differ(f"{place}.detected", bool(one["claims"]), one["detected"])
        places = [
            named["place"] in one["places"] or named["edge"] in one["places"]
            for named in one["named"]
        ]
        rank = places.index(True) + 1 if any(places) else None
        yield from _differ(f"{place}.rank", rank, one["rank"])
        yield from _differ(f"{place}.place_exact", rank == 1, one["place_exact"])
        causes = one["named"][rank - 1]["causes"][:1] if rank else []
        right = any(part in text for text, part in itertools.product(causes, one["causes"]))
        yield from _differ(f"{place}.cause_named", right, one["cause_named"])


_BY_SCHEMA: Mapping[str, Callable[[Content], Iterator[Difference]]] = {
    AUDIT: _audit,
    AUDIT_ALL: _audit_all,
    TRAINING_STEP: _equal,
    TRAINING_SEEDS: _training_seeds,
    CLEAN_AUDITS: _clean_audits,
    SUITE: _equal,
    TRAJECTORY: _trajectory,
    EVALUATION: _evaluation,
    TRAINING_RUNS: _training_runs,
    PREFLIGHT: _preflight,
    FAULT_SCORE: _fault_score,
}

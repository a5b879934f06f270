"""Whether a recorded result says what its own measurements say; NumPy alone, no model.

A hash shows that a file is the one a report was made from. These checks show more: that verdicts,
limits and counts follow from the measurements recorded beside them.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from parity.audit_figures import (
    function_figures,
    function_summary,
    precision_figures,
    precision_summary,
)
from parity.measurements import digest, judge, verdicts_of
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
from reports.checks import Content, Difference, all_hold, by_id, differ, differing_verdict, equal
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


def _audit(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "equal", "different")
    claims = by_id(content)
    function = verdicts_of(claims["same_function"]["measured"])
    precision = {
        name: verdicts_of(claims[f"same_precision_{name}"]["measured"])
        for name in content["float32"]
    }
    unpaired = content["unpaired"]
    yield from differ(
        "unpaired",
        list(claims["pairing"]["measured"]["found"]),
        [*unpaired["reference"], *unpaired["port"]],
    )
    yield from differ("taps", len(function), content["taps"])
    yield from differ("float64", function_summary(function), content["float64"])
    for name, verdicts in precision.items():
        yield from differ(f"float32.{name}", precision_summary(verdicts), content["float32"][name])
    layers = content["layers"]
    yield from differ("layers", list(function), [row["key"] for row in layers])
    for index, row in enumerate(layers):
        place = f"layers[{index}] ({row['key']})"
        expected = function_figures(function[row["key"]])
        yield from differ(f"{place}.float64", expected, row["float64"])
        for name, verdicts in precision.items():
            if row["key"] in verdicts:
                expected = precision_figures(verdicts[row["key"]])
                yield from differ(f"{place}.float32.{name}", expected, row["float32"].get(name))
    failed = any(
        not one.passed for verdicts in (function, *precision.values()) for one in verdicts.values()
    )
    if failed and content["first_divergence"] is None:
        yield "first_divergence", "the first tensor above its limit", None


def _audit_all(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "equal", "different")
    claims = by_id(content)
    for index, row in enumerate(content["architectures"]):
        name = row["config"]
        place = f"architectures[{index}] ({name})"
        own = [one for one in content["claims"] if one["id"].startswith(f"{name}/")]
        verdict = "equal" if all_hold(own) else "different"
        figures = function_summary(verdicts_of(claims[f"{name}/same_function"]["measured"]))
        expected = {
            "verdict": verdict,
            "taps": claims[f"{name}/same_function"]["cases"],
            "worst_gap": figures["worst_gap"],
            "worst_tap": figures["worst_tap"],
            "nearest": {**figures["nearest_to_limit"], "ratio": figures["worst_ratio"]},
        }
        yield from differ(place, expected, row)


def _clean_audits(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "holds", "fails")
    outcomes = content["outcomes"]
    alarms = sum(one["verdict"] != "equal" for one in outcomes)
    yield from differ("runs", len(outcomes), content["runs"])
    yield from differ("alarms", alarms, content["alarms"])
    (claim,) = content["claims"]
    yield from differ("claims[0].value", alarms, claim["value"])
    yield from differ("claims[0].cases", len(outcomes), claim["cases"])


def _training_seeds(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "equivalent", "not shown")
    (claim,) = content["claims"]
    yield from differ("p_value", claim["value"], content["p_value"])
    yield from differ("margin", claim["measured"]["margin"], content["margin"])


def _trajectory(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "holds", "fails")
    steps, beside = content["steps"], content["beside"]

    def column(side: str, measure: str) -> dict[str, Any]:
        return {str(row["step"]): row[side][measure] for row in steps}

    for identity, one in by_id(content).items():
        measured, place = one["measured"], f"claims ({identity}).measured"
        measure = identity.removeprefix(f"{beside}_")
        if measure != identity:
            yield from differ(f"{place}.port", column("port", measure), measured["port"])
            yield from differ(f"{place}.beside", column(beside, measure), measured["beside"])
        else:
            name = {"loss": "loss_gap", "pairs": "pairs_differ"}[identity]
            yield from differ(f"{place}.values", column("port", name), measured["values"])
    for measure, sides in content["worst"].items():
        for side, worst in sides.items():
            largest = max(column(side, measure).values())
            yield from differ(f"worst.{measure}.{side}.value", largest, worst["value"])


def _evaluation(content: Content) -> Iterator[Difference]:
    comparison = content.get("comparison")
    if comparison is None:
        yield from differ("verdict", "evaluated", content["verdict"])
        return
    rows = comparison["disagreements"]
    for name in ("panoptic_pixels", "label_pixels", "segments", "unexplained"):
        yield from differ(f"comparison.{name}", sum(row[name] for row in rows), comparison[name])
    yield from differ("comparison.images_that_differ", len(rows), comparison["images_that_differ"])
    expected = "different" if comparison["unexplained"] else "equal"
    yield from differ("verdict", expected, content["verdict"])
    for name, one in comparison["scores"].items():
        shown = one["equivalence"]
        if "holds" in shown:
            place = f"comparison.scores.{name}.equivalence.holds"
            yield from differ(place, shown["p_value"] < shown["alpha"], shown["holds"])


def _training_runs(content: Content) -> Iterator[Difference]:
    comparison = content.get("comparison")
    if comparison is None:
        yield from differ("verdict", "trained", content["verdict"])
        return
    intervals = [one["interval"] for one in comparison["scores"].values() if "interval" in one]
    agree = all(one["low"] <= 0 <= one["high"] for one in intervals)
    expected = ("agree" if agree else "different") if intervals else "not judged"
    yield from differ("verdict", expected, content["verdict"])


def _preflight(content: Content) -> Iterator[Difference]:
    yield from differ("passed", all_hold(content["claims"]), content["passed"])
    claims = by_id(content)
    for index, row in enumerate(content["topologies"]):
        topology = row["topology"]
        place = f"topologies[{index}] ({topology})"
        holds = claims[f"compiles/{topology}"]["verdict"] == "holds"
        yield from differ(f"{place}.passed", holds, row["passed"])
        steps = {name: row[name] for name in ("train", "evaluation") if name in row}
        for name, step in steps.items():
            if step["compiles"]:
                share = step["hbm_used"] / row["chip"]["hbm"]
                yield from differ(f"{place}.{name}.hbm_share", share, step["hbm_share"])
        if f"memory/{topology}" in claims:
            shares = {name: one["hbm_share"] for name, one in steps.items() if one["compiles"]}
            measured = claims[f"memory/{topology}"]["measured"]["values"]
            yield from differ(f"claims (memory/{topology}).measured.values", shares, measured)


def _fault_score(content: Content) -> Iterator[Difference]:
    yield from differing_verdict(content, "holds", "does not hold")
    outcomes, claims, score = content["outcomes"], by_id(content), content["score"]
    kinds = (
        ("detected", "detected", "detected", "undetected"),
        ("placed", "place_exact", "place_exact", "misplaced"),
        ("explained", "cause_named", "cause_named", "unexplained"),
    )
    yield from differ("score.faults", len(outcomes), score["faults"])
    for identity, key, counted, listed in kinds:
        missed = [one["id"] for one in outcomes if not one[key]]
        yield from differ(f"score.{counted}", len(outcomes) - len(missed), score[counted])
        yield from differ(f"score.{listed}", missed, list(score[listed]))
        place = f"claims ({identity}).measured.found"
        yield from differ(place, missed, list(claims[identity]["measured"]["found"]))
    for index, one in enumerate(outcomes):
        place = f"outcomes[{index}] ({one['id']})"
        yield from differ(f"{place}.detected", bool(one["claims"]), one["detected"])
        places = [
            named["place"] in one["places"] or named["edge"] in one["places"]
            for named in one["named"]
        ]
        rank = places.index(True) + 1 if any(places) else None
        yield from differ(f"{place}.rank", rank, one["rank"])
        yield from differ(f"{place}.place_exact", rank == 1, one["place_exact"])
        causes = one["named"][rank - 1]["causes"][:1] if rank else []
        right = any(part in text for text, part in itertools.product(causes, one["causes"]))
        yield from differ(f"{place}.cause_named", right, one["cause_named"])


_BY_SCHEMA: Mapping[str, Callable[[Content], Iterator[Difference]]] = {
    AUDIT: _audit,
    AUDIT_ALL: _audit_all,
    TRAINING_STEP: equal,
    TRAINING_SEEDS: _training_seeds,
    CLEAN_AUDITS: _clean_audits,
    SUITE: equal,
    TRAJECTORY: _trajectory,
    EVALUATION: _evaluation,
    TRAINING_RUNS: _training_runs,
    PREFLIGHT: _preflight,
    FAULT_SCORE: _fault_score,
}

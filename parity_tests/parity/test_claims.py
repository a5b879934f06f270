"""Claims are judged from what was measured, by any limits, and say so with a digest."""

import dataclasses
import json
import math

import pytest

from parity.assignment import Certificate
from parity.claims import Claim, Place, claim, margin_claim
from parity.judge import DEFAULT, Verdict, judge_again
from parity.measurements import (
    RULES,
    UNDECIDED,
    Findings,
    Multiple,
    Relative,
    digest,
    judge,
    matching_place,
    of_json,
)
from parity.records import strict

PROOF = Certificate(2, 1.0, 1.0, 1e-12, "float64", ())
GRADIENT = {"l2": [3e-15, 1e-16], "max": [1e-14, 1e-15]}
CASES = {  # by rule: measurements that hold, and the same with one of them too far off
    "verdicts": (
        {"claim": "same_gradient", "cases": [["a:output", GRADIENT, None]]},
        {"claim": "same_gradient", "cases": [["a:output", GRADIENT, "NaN in the port"]]},
    ),
    "none": ({"of": 3, "found": []}, {"of": 3, "found": ["backbone.conv1"]}),
    "largest": (
        {"values": {"a": 1.5, "b": 2}, "limit": 2},
        {"values": {"a": "nan", "b": 2}, "limit": 2},
    ),
    "relative": (
        {"pairs": {"loss": [1.0, 1.0]}, "limit": {"name": "loss_gap", "times": 1}},
        {"pairs": {"loss": [None, 1.0]}, "limit": {"name": "loss_gap", "times": 1}},
    ),
    "sum": ({"values": {"a": 0}, "limit": 0}, {"values": {"a": 0, "b": 1}, "limit": 0}),
    "equivalence": (
        {"differences": {"0": 1e-4, "1": -2e-4, "2": 1e-4}, "margin": 0.01, "limit": 0.05},
        {"differences": {"0": 1e-4, "1": -2e-4, "2": 0.04}, "margin": 0.01, "limit": 0.05},
    ),
    "running": (
        {
            "port": {"0": 1e-16, "1": 7e-16},
            "beside": {"0": 1e-16, "1": 0.0},
            "least": 2e-16,
            "limit": {"name": "float32_ratio", "times": 1},
        },
        {
            "port": {"0": 1e-16, "1": 7e-16},
            "beside": {"0": 1e-16, "1": "inf"},
            "least": 2e-16,
            "limit": {"name": "float32_ratio", "times": 1},
        },
    ),
    "missed": (
        {"of": 20, "found": ["a"], "least": "placed"},
        {"of": 20, "found": ["a", "b"], "least": "placed"},
    ),
    "matching": (
        {"places": [strict(matching_place("final", [[0, 1]], {}, PROOF))]},
        {"places": [strict(matching_place("final", [[0, 1]], {"alone": [[1, 0]]}, PROOF))]},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_passes_and_fails(rule):
    holds, fails = ({"rule": rule, **one} for one in CASES[rule])
    assert judge(holds).verdict == "holds"
    assert judge(fails).verdict == "fails"
    assert judge({**holds, "lacking": ["a mask"]}).verdict == "fails"
    assert judge(json.loads(json.dumps(holds))) == judge(holds)


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        ("verdicts", "floor_factor", 2.0),
        ("verdicts", "cap", 1e-15),
        ("running", "float32_ratio", 3.0),
        ("missed", "placed", 0.96),
    ],
)
def test_a_tighter_limit_fails_what_held(rule, name, value):
    measured = {"rule": rule, **CASES[rule][0]}
    assert not judge(measured, dataclasses.replace(DEFAULT, **{name: value})).holds


@pytest.mark.parametrize("broken", [{}, {"rule": "other"}, {"rule": "none", "of": 1}])
def test_what_is_no_measurement_is_refused(broken):
    with pytest.raises((KeyError, TypeError, ValueError)):
        judge(broken)


@pytest.mark.parametrize(
    ("gap", "floors", "verdict"),
    [
        (0.9e-12, None, "holds"),
        (3e-12, None, "fails"),
        (3e-12, {"a": 1e-13}, UNDECIDED),
        (3e-12, {"a": 0.9e-13}, "fails"),
        (3e-12, {"b": 1e-13}, "fails"),
        (math.inf, {"a": math.inf}, "fails"),
    ],
)
def test_a_relative_gap_that_the_reference_has_itself_is_not_decided(gap, floors, verdict):
    limit = Multiple("loss_gap", 1)
    one = Relative({"a": (1.0 + gap, 1.0), "b": (2.0, 2.0)}, limit, floors=floors)
    assert one.judge().verdict == verdict
    assert one.failing() == (["a"] if verdict == "fails" else [])
    assert one.judge().value == pytest.approx(gap, rel=1e-3)
    assert of_json(json.loads(json.dumps(strict(one.to_json())))).judge() == one.judge()
    held = claim("id", "title", one, "why", "run")
    assert held.drowned == (verdict == UNDECIDED)


def test_value_and_step_of_a_running_ratio():
    measured = {"rule": "running", **CASES["running"][0]}
    assert judge(measured).value == pytest.approx(3.5)
    assert judge(measured).cases == 2


def test_a_claim_is_what_its_measurements_say():
    measured = {"rule": "largest", "values": {"a": math.inf}, "limit": 1.0}
    one = claim("id", "title", of_json(measured), "why", "run")
    assert (one.verdict, one.value, one.limit, one.cases) == ("fails", math.inf, 1.0, 1)
    assert one.evidence_sha256 == digest(json.loads(json.dumps(strict(measured))))


def test_a_claim_on_verdicts_has_their_worst_margin():
    verdicts = {
        key: judge_again(key, "same_function", {"l2": (value, 1e-16), "max": (0.0, 1e-16)}, None)
        for key, value in (("a", 1e-16), ("b", 1e-15), ("c", 3e-16))
    }
    one = margin_claim("id", "title", verdicts, "why", "run")
    assert one.value == max(verdict.margin for verdict in verdicts.values())
    assert one.cases == 3
    assert isinstance(verdicts["a"], Verdict)
    assert margin_claim("id", "t", verdicts, "why", "run", ["a mask"]).verdict == "fails"


@pytest.mark.parametrize("rule", RULES)
def test_a_measurement_comes_back_from_its_json(rule):
    for one in CASES[rule]:
        recorded = json.loads(json.dumps(strict({"rule": rule, **one, "beside": {"0": 1.0}})))
        if rule != "running":  # which has a field of this name
            assert of_json(recorded).beside_it == {"beside": {"0": 1.0}}
        assert digest(of_json(recorded).to_json()) == digest(recorded)
        assert of_json(of_json(recorded).to_json()) == of_json(recorded)


@pytest.mark.parametrize(
    "place",
    [None, Place.at("criterion", "loss_mask"), Place.inherits("the matching"), Place.at("a.b")],
)
def test_a_claim_comes_back_from_its_json(place):
    one = claim("id", "title", Findings(3, ["a"]), "why", "run")
    if place is not None:
        one = one.located(place, "another epsilon", "another factor")
    recorded = json.loads(json.dumps(one.to_json()))
    assert Claim.from_json(recorded) == one


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("criterion: loss_mask, loss_dice", Place("criterion", "criterion: loss_mask, loss_dice")),
        ("a.weight, b.weight and 3 more", Place("a.weight", "a.weight, b.weight and 3 more")),
        ("inherited from the matching", Place.inherits("the matching")),
    ],
)
def test_a_place_that_was_recorded_as_a_text_is_read(text, place):
    one = claim("id", "title", Findings(3, ["a"]), "why", "run")
    recorded = {**one.to_json(), "place": text, "cause": None}
    assert Claim.from_json(recorded).place == place
    assert Claim.from_json(recorded).causes == ()


def test_a_claim_that_holds_has_no_place():
    one = claim("id", "title", Findings(3, []), "why", "run")
    assert one.located(Place.at("criterion")) is one

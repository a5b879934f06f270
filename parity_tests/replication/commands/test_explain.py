"""`parity explain` tells what an audit found, and refuses what is no audit."""

import json

import pytest
from typer.testing import CliRunner

from parity.claims import Place, claim
from parity.measurements import Matching
from parity_tests.reports.results import audit_result, different_result
from replication.cli import app

CAUSE = {
    "text": "`native_layer_norm`: epsilon 1e-06 instead of 1e-05",
    "before": 1e-6,
    "after": 0.0,
    "removed": 1.0,
    "exact": True,
    "complete": True,
}


@pytest.fixture(autouse=True)
def _believed(monkeypatch):
    """The results here are invented to be told; parity_tests/reports/verification refuses such."""
    monkeypatch.setattr("reports.verification.recheck.unfounded", lambda found: [])


def explain(folder, *options):
    return CliRunner().invoke(app, ["explain", str(folder), *options])


def write(folder, result):
    result.setdefault("localisations", [])
    (folder / "audit.json").write_text(json.dumps(result), encoding="utf-8")
    return folder


def test_explain_says_that_an_equal_port_needs_none(tmp_path):
    run = explain(write(tmp_path, audit_result()))
    assert run.exit_code == 0
    assert run.stdout.startswith("Nothing to explain: the port is equal (")


def test_explain_names_place_and_mistake(tmp_path):
    result = different_result()
    place = result["localisation"]
    place |= {"explanations": [CAUSE], "evidence": "layer: own error\n  its inputs agree"}
    result["localisations"] = [place]
    run = explain(write(tmp_path, result))
    assert run.exit_code == 1
    assert f"1. {place['path']} computes something else than the reference" in run.stdout
    assert f"- {CAUSE['text']}" in run.stdout
    parsed = json.loads(explain(tmp_path, "--json").stdout)
    assert parsed["places"][0]["explanations"] == [CAUSE]


def test_explain_tells_lost_precision_from_another_function(tmp_path):
    result = audit_result()
    layer = result["layers"][7]
    layer["float32"]["graph"] |= {"passed": False, "ratio": 53.0}
    failed = {**result["claims"][0], "id": "same_precision_graph", "verdict": "fails"}
    result["claims"] = [failed, *result["claims"][1:]]
    result["first_divergence"] = layer["path"]
    out = " ".join(explain(write(tmp_path, result)).stdout.split())
    assert "the function is the same" in out
    assert f"{layer['key']} is less exact in float32 alone (graph, not eager, xla): 53 times" in out


def test_explain_does_not_call_another_function_lost_precision(tmp_path):
    """The twin: what differs in float64 too is no matter of precision."""
    out = explain(write(tmp_path, different_result())).stdout
    assert "the function is the same" not in out


def test_explain_says_what_a_cause_leaves_and_tells_weights_from_training(tmp_path):
    result = different_result()
    place = result["localisation"]
    some = {**CAUSE, "complete": False}
    place |= {"explanations": [some], "evidence": "layer: own error\n  its inputs agree"}
    result["localisations"] = [place]
    weights = {**result["claims"][0], "id": "weights", "verdict": "fails", "place": "a.bias"}
    result["claims"] = [weights, *result["claims"][1:]]
    out = explain(write(tmp_path, result)).stdout
    assert "That explains this tensor, not all that the module returns" in out
    assert "Weights that come back otherwise: a.bias." in out
    assert "In the training step:" not in out
    assert "This explains the port's result to rounding:" in out


def flipped(place: str) -> dict:
    """A matching claim as an audit with `--train` has it, with one changed pair of targets."""
    certificate = {"pairs": 2, "cost": 1.0, "bound": 1.0, "limit": 1e-9, "dtype": "float64"}
    differing = {"query_of_target, in place": [[3, 1], [7, 0]]}
    differing = {"target_of_query, in place": [[3, 1], [7, 0]], **differing}
    places = [
        {"place": "aux 0 layer, image 0", "pairs": [[3, 0], [7, 1]], "differing": differing},
        {"place": "final layer, image 0", "pairs": [[3, 0], [7, 1]], "differing": {}},
    ]
    places = [{**one, "certificate": {**certificate, "faults": []}} for one in places]
    one = claim("train_matching", "matched alike", Matching(places), "", "")
    return one.located(Place.of_text(place)).to_json()


def test_explain_tells_a_matching_that_flips_from_one_that_is_wrong(tmp_path):
    result = different_result()
    place = result["localisation"]
    place |= {"explanations": [CAUSE], "evidence": "layer: own error\n  its inputs agree"}
    result["localisations"] = [place]
    result["float64"]["worst_tap"] = "some.later.module:output"
    dropout = {**result["claims"][0], "id": "train_dropout", "verdict": "fails", "cause": None}
    dropout["place"] = f"{place['path']}, at {place['edge']}"
    result["claims"] += [flipped("inherited from the predictions"), dropout]
    out = explain(write(tmp_path, result)).stdout
    assert "They differ most at some.later.module:output, by" in out
    told = [
        "In the training step:",
        "- matching: a consequence, inherited from the predictions",
        "  aux 0 layer, image 0: target 0 has query 7 instead of 3; "
        "target 1 has query 3 instead of 7",
        "  Given the reference's predictions, the port matches as the reference does: "
        "the matching is not the cause.",
        f"- forward pass with dropout: a consequence of place 1, {place['path']}",
    ]
    assert out[: out.index("\n\nNext: ")].splitlines()[-5:] == told
    result["claims"][-2] = flipped("matcher: target_of_query, aux 0 layer, image 0")
    out = explain(write(tmp_path, result)).stdout
    assert "- matching: matcher: target_of_query, aux 0 layer, image 0" in out
    assert "not the cause" not in out
    assert "consequence, inherited" not in out


def test_explain_says_that_a_module_has_other_weights(tmp_path):
    result = different_result()
    place = result["localisation"]
    place |= {"explanations": [], "evidence": "layer: own error\n  its inputs agree"}
    result["localisations"] = [place]
    names = ["a.bias", f"{place['path']}.weight"]
    changed = f"{', '.join(names)} and 2 more"
    weights = {**result["claims"][0], "id": "weights", "verdict": "fails", "place": changed}
    weights["measured"] = {
        "rule": "none",
        "of": 4,
        "found": names,
    }
    result["claims"] = [weights, *result["claims"][1:]]
    out = explain(write(tmp_path, result)).stdout
    assert f"Its weights are not the reference's: {place['path']}.weight." in out
    assert "No mistake that was tried explains it." not in out


def test_explain_claims_no_cause_that_leaves_a_gap(tmp_path):
    result = different_result()
    place = result["localisation"]
    partial = {**CAUSE, "exact": False, "after": 4e-7, "removed": 0.6}
    place |= {"explanations": [partial], "evidence": "layer: own error\n  its inputs agree"}
    result["localisations"] = [place]
    out = explain(write(tmp_path, result)).stdout
    assert "No mistake that was tried explains all of it; nearest:" in out
    assert f"{CAUSE['text']} (removes 60% of the gap)" in out


@pytest.mark.parametrize("content", [None, "no json", "[]", "{}"])
def test_explain_refuses_what_is_no_audit(tmp_path, content):
    if content is not None:
        (tmp_path / "audit.json").write_text(content, encoding="utf-8")
    run = CliRunner().invoke(app, ["explain", str(tmp_path)])
    assert run.exit_code != 0
    assert "no audit" in str(run.exception)

"""The report says in a sentence whether a difference is acceptable, and where it is not."""

import json

from parity.claims import Place, claim
from parity.measurements import Largest, of_json
from parity_tests.reports import recorded
from parity_tests.reports.page import Page
from reports.render import render


def answered(*results):
    files = render(list(results))
    said = json.loads(files["report.json"])["answer"]
    question = "Is the difference acceptable?"
    assert f"{question} {said}" in " ".join(Page(files["report.html"]).text.split())
    assert f"**{question}** {said}" in files["report.md"].replace("\\", "")
    return said


def test_the_report_answers_whether_a_difference_is_acceptable():
    assert answered(recorded.audit()).startswith("Yes, for what was run")
    said = answered(recorded.audit(1e6, 1e6), recorded.training_step(2.6))
    assert said.startswith("No: ")
    broken = recorded.audit()
    measured = of_json(
        {**broken["claims"][0]["measured"], "found": [f"t{index}" for index in range(5)]}
    )
    failing = claim("weights", "Every weight is the same", measured, "none may differ", "run")
    broken["claims"][0] = failing.located(Place.at("backbone.stem.conv1.weight")).to_json()
    assert answered(broken).startswith("No: 1 claim fails, at backbone.stem.conv1.weight.")


def test_an_answer_names_no_place_that_inherits():
    result = recorded.training_step(2.6)
    failing = next(one for one in result["claims"] if one["verdict"] == "fails")
    failing["place"] = "inherited from the predictions"
    assert "inherited" not in answered(recorded.audit(), result)
    failing["place"] = "criterion: loss_mask"
    assert ", at criterion: loss_mask." in answered(recorded.audit(), result)


def test_an_answer_says_what_could_not_be_decided():
    measured = Largest({"PQ": 0.2}, 0.05, otherwise="not shown")
    open_claim = claim("train_scores", "Scores are equivalent", measured, "p", "run").to_json()
    result = recorded.training_step()
    result["claims"].append(open_claim)
    assert "1 claim could not be decided" in answered(result)
    only = {**result, "claims": [open_claim]}
    assert answered(only).startswith("Not decided")


def test_what_stands_beside_the_ladder_does_not_answer_for_the_port():
    alarm = recorded.clean_audits(("same_function",))
    assert answered(alarm).startswith("Not decided")
    assert answered(recorded.audit(), alarm).startswith("Yes, for what was run")


def ids(files):
    return {one["id"] for one in json.loads(files["report.json"])["claims"]}


def test_models_that_find_nothing_are_said_to_show_little():
    evaluated = recorded.evaluation()
    assert "score alike whether or not they learn alike" not in render([evaluated])["report.md"]
    for side in evaluated["sides"].values():
        side["miou"] = 0.001
        for row in side["per_class"]:
            row |= {"pq": 0.0, "sq": 0.0, "rq": 0.0, "iou": 0.001}
        for group in side["panoptic"].values():
            group |= {"pq": 0.0, "sq": 0.0, "rq": 0.0}
    files = render([evaluated])
    assert "no score is above 0.1 %" in files["report.md"]
    assert "metric_converted/PQ All" not in ids(files)
    assert "metric_converted/PQ All" in ids(render([recorded.evaluation()]))

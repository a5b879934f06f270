"""The report says in a sentence whether a difference is acceptable, and where it is not."""

import json

import numpy as np
import pytest

from parity.claims import Place, claim
from parity.measurements import Equivalence, Largest, of_json
from parity_tests.implementations.trainer.test_train_verb import recorded as recorded_run
from parity_tests.reports import recorded
from parity_tests.reports.page import Page
from reports.loading import load
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


def trained(folder, quality, rate):
    """The claims of a run of each side that finds segments with this probability, and whose queries
    say no-object at this rate in the end."""
    for side in ("torch", "tf"):
        path = recorded_run(folder / side, side, np.linspace(10, 1, 40), quality)
        description = json.loads((path / "run.json").read_text())
        said = {"settings": {"config": "scenes_tiny", "seed": 0}, "command": "parity train"}
        (path / "run.json").write_text(json.dumps(description | said))
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            if row["split"] == "train":
                row["no_object_rate"] = rate
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = render(load([folder]))
    claims = json.loads(files["report.json"])["claims"]
    return next(one for one in claims if one["id"] == "metric_trained/scores"), files


def test_runs_that_see_something_are_judged(tmp_path):
    claim, files = trained(tmp_path, 0.7, 0.6)
    assert claim["verdict"] == "holds"
    assert "collapsed" not in files["report.md"]


@pytest.mark.parametrize(
    ("quality", "rate", "reason"),
    [
        (0.7, 0.999, "99.9 % of all queries say no-object"),
        (0.0, 0.6, "both score below 0.1 points, which says nothing"),
    ],
)
def test_runs_that_see_nothing_decide_nothing(tmp_path, quality, rate, reason):
    claim, files = trained(tmp_path, quality, rate)
    assert (claim["verdict"], claim["rung"]) == ("not decided", "metric_trained")
    for name in ("report.html", "report.md"):
        assert reason in files[name].replace("\\", "")
    (rung,) = (
        one for one in json.loads(files["report.json"])["ladder"] if one["rung"] == claim["rung"]
    )
    assert rung["verdict"] == "not decided"


@pytest.mark.parametrize(
    ("best", "verdict"), [(20.0, "holds"), (3.0, "not shown"), (0.0, "not shown")]
)
def test_scores_within_the_margin_are_no_equivalence(best, verdict):
    measured = Equivalence({"0": 0.1, "1": -0.1, "2": 0.05}, 3.0, 0.05, best, otherwise="not shown")
    assert measured.judge().verdict == verdict

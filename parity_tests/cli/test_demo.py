"""`parity demo`: the report is complete or not there, and says what the stages recorded."""

import json

import pytest

from parity_tests.reports import recorded
from replication import demo
from replication.demo_stages import FULL, SHORT, STAGES, Stage
from reports.evidence import EVALUATED, KINDS


def stage(name, result, seconds=(30.0, 10.0)):
    def run(story):
        with story.steps(f"{name} of {story.scale.config}"):
            return [story.record(result, f"{name}.json")] if result else []

    return Stage(name, f"{name} of {{config}}", 1, *seconds, run)


def test_a_told_story_is_a_verified_report(tmp_path, capsys):
    stages = [stage("audit", recorded.audit()), stage("scenes", None)]
    found, seconds = demo.tell(tmp_path / "out", stages, SHORT)
    assert demo.holds(found)
    assert list(seconds) == ["audit", "scenes"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (tmp_path / "out" / "work").exists()
    assert "1 of 2: audit of scenes_tiny; about 1 min left" in capsys.readouterr().err


def test_a_story_with_a_claim_that_fails_does_not_hold(tmp_path):
    found, seconds = demo.tell(tmp_path / "out", [stage("audit", recorded.audit(1e6))])
    assert not demo.holds(found)
    described = demo.described(found, seconds, tmp_path / "out")
    assert described["verdict"] == "different"
    assert "same_function" in {one["id"] for one in described["failing"]}


def test_a_story_that_breaks_off_leaves_nothing(tmp_path):
    def broken(story):
        raise KeyboardInterrupt

    stages = [stage("audit", recorded.audit()), Stage("b", "b", 1, 1.0, 1.0, broken)]
    with pytest.raises(KeyboardInterrupt):
        demo.tell(tmp_path / "out", stages)
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_follows_the_pace_so_far():
    clock = demo.Clock([stage("a", None), stage("b", None), stage("c", None)], FULL)
    assert clock.left() == 90.0
    clock.seconds["a"] = 60.0
    assert clock.left() == 120.0
    assert demo.Clock([stage("a", None)], SHORT).left() == 10.0


@pytest.mark.slow
def test_the_small_demo_tells_the_whole_story(tmp_path, monkeypatch, parity):
    monkeypatch.chdir(tmp_path)
    status, out, _ = parity("demo", "--small", "--out", "reports/out/small", "--json")
    result = json.loads(out)
    assert (status, result["verdict"], result["problems"]) == (0, "equal", [])
    assert list(result["seconds"]) == [one.name for one in STAGES]
    report = json.loads((tmp_path / "reports/out/small/report.json").read_text())
    kinds = {one["schema"] for one in report["evidence"] if one["file"].endswith(".json")}
    assert len(kinds) >= 7
    assert kinds <= set(KINDS)
    assert {one["rung"] for one in report["ladder"] if one["verdict"] == "not run"} == set()
    assert any(one["file"].endswith(EVALUATED) for one in report["evidence"])

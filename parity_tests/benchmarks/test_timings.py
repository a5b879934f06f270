"""Benchmarks keep each round as it ends; figures follow from the rounds, and are judged again."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.__main__ import machine, markdown, row, told
from benchmarks.aims import AIMS, RUNS, Aim, Run
from benchmarks.growth import series
from benchmarks.rounds import FILE, Rounds, read
from reports.chapters.timings import (
    KIND,
    Row,
    TimingsResult,
    figure,
    grown,
    recheck_timings,
    rows_table,
)
from reports.loading import load
from reports.render import write_report
from reports.verification.verify import verify

RUN = Run("forward", (), 60)
AIM = Aim("forward", "forward", "tiny", "tf", 0.9, ("torch eager", "torch compile"))


@pytest.fixture
def rounds(tmp_path, monkeypatch):
    monkeypatch.setenv(FILE, str(tmp_path / "rounds.jsonl"))
    return Rounds("forward")


def kept(rounds):
    """Rounds of one case and of another."""
    for values in ((1.0, 2.0, 4.0), (3.0, 2.5, 4.0), (1.5, 2.2, 9.0)):
        for name, value in zip(("tf", "torch eager", "torch compile"), values, strict=True):
            rounds.add("tiny", name, value)
    rounds.add("other", "tf", 99.0)
    return read(rounds.path)


def test_rounds_are_kept_as_they_end(rounds, capsys):
    rounds.add("tiny", "tf", 1.5)
    assert [one.value for one in read(rounds.path)] == [1.5]
    rounds.add("tiny", "torch", 2.0, "images/s")
    assert [one.unit for one in read(rounds.path)] == ["s", "images/s"]
    assert "forward, tiny: torch 2 images/s" in capsys.readouterr().err
    Rounds("forward")
    assert read(rounds.path) == []


def test_rounds_of_a_process_that_was_ended_are_there(tmp_path):
    program = (
        "import os; from benchmarks.rounds import Rounds\n"
        "Rounds('forward').add('tiny', 'tf', 1.0); os.abort()"
    )
    environment = os.environ | {FILE: str(tmp_path / "r.jsonl")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.returncode != 0
    assert [one.value for one in read(tmp_path / "r.jsonl")] == [1.0]


def test_a_figure_is_the_ratio_of_medians_to_the_best(rounds):
    one = row(AIM, RUN, kept(rounds), "")
    assert one.value == 1.5 / 2.2
    assert one.met
    assert not row(replace(AIM, aim=0.5), RUN, kept(rounds), "").met
    assert figure({"a": [4.0], "b": [2.0], "c": [1.0]}, "a", ("b", "c"), larger=True) == 2.0


def test_a_figure_without_rounds_says_why(rounds):
    one = row(replace(AIM, case="nothing"), RUN, kept(rounds), "it was ended after 60 s")
    assert (one.value, one.met, one.reason) == (None, None, "it was ended after 60 s")
    assert "it was ended after 60 s" in markdown(rows_table([one]))


def test_growth_is_fitted_beside_its_work(rounds):
    for size in (10, 20, 40, 80):
        rounds.add("growth: masks", f"{size} {size**2}", 3e-3 * size**1.5)
        rounds.add("growth: images", f"{size} {size}", 3e-3 * size**1.5)
    slower, faster = series(rounds.path)
    assert slower.exponent == pytest.approx(1.5)
    assert slower.work_exponent == pytest.approx(2.0)
    assert slower.met
    assert not faster.met


def test_every_aim_has_a_run_and_no_run_is_for_nothing():
    named = {run.name for run in RUNS}
    assert {aim.run for aim in AIMS} <= named
    assert named - {aim.run for aim in AIMS} == {"growth", "gpu_step"}
    assert len({aim.name for aim in AIMS}) == len(AIMS)


def timings(rounds):
    """A result as `make bench` records it."""
    return TimingsResult(
        verdict="measured",
        command="make bench",
        machine=machine(),
        rows=(row(AIM, RUN, kept(rounds), ""),),
        growth=(grown("images", (1, 2, 4), (1, 2, 4), (0.5, 0.9, 2.1)),),
        seconds=12.5,
    )


def test_timings_are_a_chapter_that_is_verified(rounds, tmp_path):
    result = timings(rounds)
    (tmp_path / "timings.json").write_text(json.dumps(result.to_json()))
    write_report(load([tmp_path / "timings.json"]), tmp_path / "page")
    assert verify(tmp_path / "page").problems == ()
    text = (tmp_path / "page" / "report.md").read_text()
    assert "1 of 1 figures reach their aim" in text
    assert KIND.result.from_json(result.to_json()) == result


@pytest.mark.parametrize("edit", ["value", "met", "exponent", "verdict"])
def test_a_figure_that_does_not_follow_from_its_rounds_is_found(rounds, edit):
    result = timings(rounds)
    assert list(recheck_timings(result)) == []
    one: Row = result.rows[0]
    edited = {
        "value": replace(result, rows=(replace(one, value=0.1),)),
        "met": replace(result, rows=(replace(one, met=False),)),
        "exponent": replace(result, growth=(replace(result.growth[0], exponent=0.2),)),
        "verdict": replace(result, verdict="not all measured"),
    }[edit]
    (found,) = recheck_timings(edited)
    assert found[0].endswith(edit)


def test_the_table_of_what_was_kept_is_written_after_each_run(tmp_path):
    assert told(tmp_path, [RUN], machine(), {"forward": "it ended with 2"}, 0.0) == 1
    result = TimingsResult.from_json(json.loads((tmp_path / "timings.json").read_text()))
    assert result.verdict == "not all measured"
    assert {one.reason for one in result.rows} == {"it ended with 2"}
    assert (tmp_path / "timings.md").is_file()

"""The survey of ports by others: cases are known, bounded, resumable, and proven by their mends."""

import dataclasses
import json
import time

import numpy as np
import pytest

pytest.importorskip("keras_hub")
from examples.ports import survey
from examples.ports.study import CASES
from examples.ports.survey import Found, table


def test_survey_has_enough_cases_and_a_mend_for_every_difference():
    assert len(CASES) >= 45
    assert len([case for case in CASES.values() if case.training is not None]) >= 12
    assert all(bool(case.differs) == (case.mend is not None) for case in CASES.values())


def test_survey_stops_a_case_that_runs_away(tmp_path):
    (found,) = survey.survey(["gpt2"], tmp_path, seconds=1.0, gigabytes=6.0)
    assert (found.verdict, found.why) == ("not comparable", ("stopped after 1 s",))
    assert not found.as_known


def test_survey_goes_on_where_it_was(tmp_path, monkeypatch):
    kept = Found("gpt2", "", "equal", gap=1e-16, ratio=1.0)
    runs = []
    monkeypatch.setattr(survey, "_run", lambda name, *_: runs.append(name) or kept)
    first = survey.survey(["gpt2"], tmp_path, 1.0, 1.0)
    assert first == survey.survey(["gpt2"], tmp_path, 1.0, 1.0) == [kept]
    assert runs == ["gpt2"]
    assert json.loads((tmp_path / "gpt2" / "found.json").read_text())["verdict"] == "equal"


@pytest.mark.parametrize(
    ("verdict", "expected", "proven", "known"),
    [
        ("equal", "", None, True),
        ("different", "", None, False),
        ("different", "epsilon", True, True),
        ("different", "epsilon", False, False),
        ("equal", "epsilon", None, False),
        ("not comparable", "", None, False),
    ],
)
def test_survey_takes_no_difference_for_known_whose_mend_fails(verdict, expected, proven, known):
    assert Found("x", expected, verdict, proven=proven).as_known is known


def test_survey_tells_a_row_for_each_case():
    one = Found(
        "llama", "epsilon", "different", ("norm: epsilon | other",), 1e-2, 1e-16, 9.5, 2, 14
    )
    one = dataclasses.replace(one, trained=True)
    row = table([one]).splitlines()[-1]
    assert row == (
        "| llama, trained | different | 1.0e-02 | 1.0e-16 | 9.50 | 2 of 14 | 0 | 1 | "
        "norm: epsilon / other |"
    )


def test_survey_refuses_a_case_that_there_is_not(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["survey", "nobody", "--out", str(tmp_path)])
    assert survey.main() == 2
    assert "there is no case 'nobody'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama, scaled positions", "distilbert"])
def test_survey_finds_what_is_known_and_nothing_else(name, tmp_path):
    (found,) = survey.survey([name], tmp_path, survey.SECONDS, survey.GIGABYTES)
    assert found.as_known, found


def test_decisions_are_compared_over_channels_whatever_the_order_of_axes():
    images = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    theirs = images.transpose(0, 2, 3, 1).copy()
    assert survey.decided({"features": images}, [theirs]) == (0, 24)
    theirs[0, 0, 0] *= -1
    assert survey.decided({"features": images}, [theirs]) == (1, 24)
    assert survey.decided({"features": images}, [theirs[:1]]) == (None, None)


def test_several_cases_at_once_are_told_in_their_order(tmp_path, monkeypatch, capsys):
    def run(name, *_):
        time.sleep(0.2 if name == "bert" else 0.0)
        return Found(name, "", "equal")

    monkeypatch.setattr(survey, "_run", run)
    found = survey.survey(["bert", "gpt2", "vit"], tmp_path, 1.0, 1.0, processes=2)
    assert [one.name for one in found] == ["bert", "gpt2", "vit"]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        "bert:",
        "gpt2:",
        "vit:",
    ]

"""The survey of ports by others: cases are known, bounded, resumable, and proven by their mends."""

import json

import pytest

pytest.importorskip("keras_hub")
from examples import ports
from examples.ports import survey
from examples.ports.study import CASES
from examples.ports.survey import Found, table


def test_survey_knows_the_port_of_every_case():
    assert {case.port for case in CASES.values()} == set(ports.EVERY)
    assert all(case.differs for case in CASES.values() if case.mend is not None)


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
    one = Found("llama", "epsilon", "different", ("norm: epsilon | other",), 1e-2, 1e-16, 9.5)
    row = table([one]).splitlines()[-1]
    assert row == "| llama | different | 1.0e-02 | 1.0e-16 | 9.50 | 0 | norm: epsilon / other |"


def test_survey_refuses_a_case_that_there_is_not(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["survey", "nobody", "--out", str(tmp_path)])
    assert survey.main() == 2
    assert "there is no case 'nobody'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama, scaled positions", "distilbert"])
def test_survey_finds_what_is_known_and_nothing_else(name, tmp_path):
    (found,) = survey.survey([name], tmp_path, survey.SECONDS, survey.GIGABYTES)
    assert found.as_known, found

"""Two DETRs by two teams: equal without the Model Garden's differences, each of which is named."""

import json

import pytest

pytest.importorskip("transformers")

from examples.detr import compare
from parity.auditing.result import Unpaired

EFFECTS = ("encoder_norm", "mask_rule")  # in the default suite; the others are slow


@pytest.fixture(scope="module")
def reconciled():
    return compare.audit_pair([], 0, (), "reconciled")


def test_both_are_equal_without_the_differences(reconciled):
    assert reconciled.verdict == "equal"
    assert reconciled.taps > 190
    assert reconciled.unpaired == Unpaired((), ())
    weights = reconciled.claimed("weights")
    assert weights.cases > 130
    stages = {row.stage for row in reconciled.layers}
    assert stages == {"input", "backbone", "transformer", "heads"}


def test_what_is_on_one_side_only_is_told_with_its_reason(reconciled):
    told = [one for one in reconciled.not_verified if "only: " in one]
    assert any("the port's layer has its ReLU inside" in one for one in told)
    assert all(one.partition("only: ")[2] for one in told)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_difference_alone_is_found_at_one_place_and_named(name):
    found = compare.effect(name, 0)
    assert found["named"], found
    assert found["places"] == 1
    assert found["logits"] > 1e-6


def test_a_planted_fault_is_found_and_named():
    found = compare.planted("position-in-value", 1)
    assert found["detected"]
    assert found["place_correct"], found
    assert found["cause_correct"], found


@pytest.mark.slow
def test_everything_is_equal_or_named(tmp_path, capsys, parity):
    assert compare.main(["--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "holds"
    assert result["reconciled"]["verdict"] == "equal"
    assert set(result["reconciled"]["float32_ratio"]) == {"eager", "graph", "xla"}
    published = result["published"]
    assert published["verdict"] == "different"
    assert published["explained"] == published["places"] > 50
    assert [one["name"] for one in result["differences"]] == list(compare.TEXTS)
    assert all(one["cause_correct"] for one in result["faults"])
    status, told, _ = parity("verify", tmp_path / "report")
    assert status == 0, told
    assert parity("explain", tmp_path / "published")[0] == 1


def test_help_has_an_example_and_the_exit_statuses(capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert compare.EXAMPLE in text
    assert "Exit status: 0" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "compare: --seed is -1\n  expected a whole number from 0\n"),
        (
            [],
            "compare: --out {out} is no folder\n  a file has that name\n  name another folder\n",
        ),
    ],
)
def test_bad_input_is_answered_in_lines_and_with_2(words, message, tmp_path, capsys):
    out = tmp_path / "file"
    if not words:
        out.write_text("")
    assert compare.main(["--out", str(out), *words]) == 2
    assert capsys.readouterr().err == message.format(out=out)

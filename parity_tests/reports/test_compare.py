"""Two recordings compared: what got worse is a regression, what rounding explains is none."""

import copy
import json

import pytest

from parity.claims import claim
from parity.errors import InputError
from parity_tests.reports import recorded
from reports.compare import compare, markdown
from reports.loading import of_result


def both(before, after):
    return compare([of_result(before)], [of_result(after)])


def regressions(result):
    return {
        (one["kind"], one["name"])
        for pair in result["pairs"]
        for one in pair["changes"]
        if one["regression"]
    }


@pytest.mark.parametrize("make", [recorded.audit, recorded.training_step, recorded.evaluation])
def test_the_same_result_has_no_changes(make):
    result = both(make(), make())
    assert (result["verdict"], result["regressions"]) == ("no regression", 0)
    assert [pair["changes"] for pair in result["pairs"]] == [()]


def test_a_claim_that_held_and_fails_is_a_regression():
    result = both(recorded.audit(), recorded.audit(worst=1e6))
    assert ("claim", "same_function") in regressions(result)
    assert ("tensor", "backbone.stem.conv1:output [same_function]") in regressions(result)
    assert regressions(both(recorded.audit(worst=1e6), recorded.audit())) == set()


@pytest.mark.parametrize(("times", "found"), [(3.0, False), (0.2, False), (20.0, True)])
def test_an_error_within_its_limit_may_grow_by_rounding_alone(times, found):
    """The twin: twenty times is within the limit of 32 floors, and is still noticed."""
    result = both(recorded.audit(), recorded.audit(worst=times))
    names = {name for kind, name in regressions(result) if kind == "tensor"}
    assert names == ({"backbone.stem.conv1:output [same_function]"} if found else set())
    assert all(pair["unchanged"] > 10 for pair in result["pairs"])


@pytest.mark.parametrize(("loss", "found"), [(2.5 + 3e-14, False), (2.5 + 2e-12, True)])
def test_a_loss_may_move_by_its_rounding_alone(loss, found):
    result = both(recorded.training_step(), recorded.training_step(loss))
    assert bool(regressions(result)) is found


def test_a_score_whose_interval_lies_below_the_earlier_one_is_a_regression():
    before, after, slightly = recorded.evaluation(), recorded.evaluation(), recorded.evaluation()
    for result, shift in ((after, -0.2), (slightly, -0.001)):
        side = result["sides"]["tf"]
        side["miou"] += shift
        for end in ("low", "value", "high"):
            side["intervals"]["mIoU"][end] += shift
    assert ("score", "tf, mIoU") in regressions(both(before, after))
    assert ("score", "tf, mIoU") not in regressions(both(before, slightly))
    assert regressions(both(after, before)) <= {("claim", "metric_code/tf")}


def test_versions_are_named_and_are_no_regression():
    after = copy.deepcopy(recorded.audit())
    after["provenance"]["packages"]["torch"] = "2.14.0"
    (pair,) = both(recorded.audit(), after)["pairs"]
    (change,) = pair["changes"]
    assert (change["kind"], change["name"]) == ("version", "packages.torch")
    assert (change["before"], change["after"]) == ("2.13.0", "2.14.0")
    assert not change["regression"]


def test_a_trajectory_that_strays_further_is_a_regression():
    def result(ratio):
        measured = {
            "rule": "running",
            "port": {"0": ratio * 1e-15, "1": ratio * 2e-15},
            "beside": {"0": 1e-15, "1": 2e-15},
            "least": 2e-16,
            "limit": {"name": "floor_factor", "times": 1},
        }
        return {
            "schema": "maskformer-replication/trajectory/1",
            "config": "tiny",
            "dtype": "float64",
            "claims": [claim("twin_loss_gap", "The loss stays", measured, "why", "run")],
        }

    assert regressions(both(result(1.0), result(3.0))) == set()
    assert regressions(both(result(1.0), result(9.0))) == {("claim", "twin_loss_gap")}


def test_what_has_nothing_in_common_is_refused():
    with pytest.raises(InputError, match="no result in common"):
        both(recorded.audit(), recorded.evaluation())
    other = recorded.training_step() | {"config": "coco_r50"}
    with pytest.raises(InputError, match="training-step coco_r50"):
        both(recorded.training_step(), other)


def test_the_command_compares_files_and_writes_a_summary(tmp_path, parity):
    paths = []
    for name, worst in (("before", 1.0), ("after", 1e6)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_bytes(of_result(recorded.audit(worst)).files[""])
    summary = tmp_path / "summary.md"
    status, out, _ = parity("compare", *paths, "--markdown", summary)
    assert status == 1
    assert "regression: same_function: holds, " in out
    assert out.splitlines()[-1].startswith("verdict: regression (")
    text = summary.read_text()
    assert text.startswith("## :x: regression: ")
    assert "| :x: | `same_function` | holds, " in text
    status, out, _ = parity("compare", paths[0], paths[0], "--json")
    assert (status, json.loads(out)["verdict"]) == (0, "no regression")
    assert parity("compare", paths[0], tmp_path / "missing.json")[0] == 2


def test_the_summary_of_equal_results_says_so():
    text = markdown(both(recorded.audit(), recorded.audit()), "a", "b")
    assert text.startswith("## :white_check_mark: no regression: b against a")
    assert "No claim, tensor or score changed." in text

"""Two recordings compared: what got worse is a regression, what rounding explains is none."""

import copy
import hashlib
import json
from dataclasses import replace

import pytest

from parity.claims import claim
from parity.errors import InputError
from parity.measurements import Multiple, Running
from parity_tests.reports import recorded
from parity_tests.reports.test_samples import SAMPLE
from reports.chapters.trajectory import TrajectoryResult
from reports.compare import compare, markdown
from reports.loading import load, of_result


def both(before, after):
    return compare([of_result(before)], [of_result(after)])


def regressions(result):
    return {(one.kind, one.name) for pair in result.pairs for one in pair.changes if one.regression}


@pytest.mark.parametrize("make", [recorded.audit, recorded.training_step, recorded.evaluation])
def test_the_same_result_has_no_changes(make):
    result = both(make(), make())
    assert (result.verdict, result.regressions) == ("no regression", 0)
    assert [pair.changes for pair in result.pairs] == [()]


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
    assert all(pair.unchanged > 10 for pair in result.pairs)


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
    (pair,) = both(recorded.audit(), after).pairs
    (change,) = pair.changes
    assert (change.kind, change.name) == ("version", "packages.torch")
    assert (change.before, change.after) == ("2.13.0", "2.14.0")
    assert not change.regression


def test_a_trajectory_that_strays_further_is_a_regression():
    def result(ratio):
        measured = Running(
            {"0": ratio * 1e-15, "1": ratio * 2e-15},
            {"0": 1e-15, "1": 2e-15},
            2e-16,
            Multiple("floor_factor", 1),
        )
        return TrajectoryResult(
            verdict="holds",
            config="tiny",
            dtype="float64",
            base_lr=1e-6,
            batch=1,
            size="32x64",
            execution="graph",
            beside="twin",
            worst={},
            steps=(),
            claims=(claim("twin_loss_gap", "The loss stays", measured, "why", "run"),),
        )

    assert regressions(both(result(1.0), result(3.0))) == set()
    assert regressions(both(result(1.0), result(9.0))) == {("claim", "twin_loss_gap")}


def test_what_has_nothing_in_common_is_refused():
    with pytest.raises(InputError, match="no result in common"):
        both(recorded.audit(), recorded.evaluation())
    other = recorded.training_step() | {"config": "coco_r50"}
    with pytest.raises(InputError, match="training-step coco_r50"):
        both(recorded.training_step(), other)


def of_inputs(worst, name):
    """An audit on other images."""
    result = recorded.audit(worst)
    result["inputs"][0] |= {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}
    return of_result(result)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_audits_of_one_configuration_each_is_compared_with_its_own(order):
    before = [of_inputs(1.0, "china.jpg"), of_inputs(1.0, "flower.jpg")]
    after = [of_inputs(1e6, "china.jpg"), of_inputs(1.0, "flower.jpg")]
    result = compare(before, after[::order])
    assert ("claim", "same_function") in regressions(result)
    first, second = result.pairs
    assert "china.jpg" in first.name
    assert "flower.jpg" in second.name
    assert [one for one in second.changes if one.regression] == []
    assert compare(before, before[::order]).verdict == "no regression"


def of_seed(one, seed):
    settings = {**one.result.settings, "seed": seed}
    return replace(one, result=replace(one.result, settings=settings))


def test_runs_of_two_seeds_are_two_pairs():
    (one,) = load([SAMPLE / "evidence" / "07-run"])
    runs = [of_seed(one, 0), of_seed(one, 1)]
    result = compare(runs, runs[::-1])
    assert [pair.name for pair in result.pairs] == [
        "run scenes_tiny (seed 0)",
        "run scenes_tiny (seed 1)",
    ]
    assert compare(runs, runs[:1]).only_before == ("run scenes_tiny (seed 1)",)


def test_what_nothing_tells_apart_is_refused_and_both_files_are_named(tmp_path, parity):
    folder = tmp_path / "audits"
    folder.mkdir()
    files = [folder / "one.json", folder / "two.json"]
    for file, worst in zip(files, (1.0, 1e6), strict=True):
        file.write_bytes(of_result(recorded.audit(worst)).files[""])
    for words in ((folder, files[0]), (files[0], folder)):
        status, out, err = parity("compare", *words)
        assert (status, out) == (2, "")
        assert all(str(file) in err for file in files)
    files[1].write_bytes(files[0].read_bytes())  # a copy is the same recording
    assert parity("compare", folder, files[0])[0] == 0


def test_what_differs_in_its_subject_alone_is_refused_with_the_difference():
    with pytest.raises(InputError, match=r"differ in inputs \(china.jpg .*, flower.jpg .*\)"):
        compare([of_inputs(1.0, "china.jpg")], [of_inputs(1.0, "flower.jpg")])
    (one,) = load([SAMPLE / "evidence" / "07-run"])
    with pytest.raises(InputError, match=r"differ in seed \(0, 1\)"):
        compare([one], [of_seed(one, 1)])


def test_a_result_that_does_not_say_what_it_is_about_is_refused():
    with pytest.raises(InputError, match=r"is not a complete .*/audit/2\n  it lacks inputs"):
        of_result({k: v for k, v in recorded.audit().items() if k != "inputs"})


def test_the_sample_compared_with_itself_has_no_changes():
    sample = load([SAMPLE / "evidence"])
    result = compare(sample, sample)
    assert len(result.pairs) == len(sample)
    assert len({pair.name for pair in result.pairs}) == len(sample)
    assert [pair.changes for pair in result.pairs] == [()] * len(sample)


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
    assert text.startswith("## :white_check_mark: no regression: `b` against `a`")
    assert "No claim, tensor or score changed." in text

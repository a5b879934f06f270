"""Both sides from several seeds: the test over seeds, its control, and what may not be asked."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from parity.errors import InputError
from parity.measurements import judge
from parity.records import json_text
from parity_tests.implementations.trainer.test_train_verb import recorded
from replication.runs.curves import draw_curves, smoothed
from replication.runs.seeds import compare_seeds, train_seeds
from replication.runs.trainers import Request
from reports.chapters.seeds import Control, SeedsResult
from reports.loading import of_result
from reports.subjects import difference, subject

CURVE = np.linspace(10, 1, 40)


def pairs(folder, qualities):
    """Runs of both sides by seed, whose images find segments with these probabilities."""
    return {
        seed: {
            side: recorded(folder / f"seed_{seed}" / side, side, CURVE * (1 + 0.01 * seed), quality)
            for side, quality in zip(("torch", "tf"), both, strict=True)
        }
        for seed, both in enumerate(qualities)
    }


def p_of(differences, margin):
    """The larger p of two one-sided t-tests, by another library."""
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    return max(above, below)


@pytest.mark.parametrize(
    ("qualities", "verdict"),
    [
        ([(0.70, 0.71), (0.72, 0.70), (0.69, 0.70), (0.70, 0.70)], "equivalent"),
        ([(0.70, 0.50), (0.72, 0.51), (0.69, 0.52), (0.70, 0.50)], "not shown"),
    ],
    ids=["alike", "worse"],
)
def test_sides_that_are_alike_are_equivalent_and_a_worse_one_is_not(tmp_path, qualities, verdict):
    result = compare_seeds(pairs(tmp_path, qualities), 6.0)
    assert result.verdict == verdict
    differences = result.scores["panoptic_quality"].differences
    assert result.p_value == pytest.approx(p_of(differences, 6.0), rel=1e-9)
    interval = result.scores["panoptic_quality"].interval
    low, high = stats.t.interval(
        0.9, 3, np.mean(differences), np.std(differences, ddof=1) / math.sqrt(4)
    )
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)
    assert (verdict == "equivalent") == (low > -6 and high < 6)  # the same test, the other way
    again = SeedsResult.from_json(json.loads(json_text(result.to_json())))
    assert again.to_json() == result.to_json()
    (claim,) = again.claims
    judged = claim.measured.judge()
    assert (judged.value, judged.verdict) == (claim.value, claim.verdict)
    assert claim.verdict == {"equivalent": "holds"}.get(verdict, verdict)
    assert len(result.files) == 4 * 2 * 3


def test_the_control_is_every_two_seeds_of_one_side(tmp_path):
    result = compare_seeds(pairs(tmp_path, [(0.7, 0.7), (0.5, 0.7), (0.8, 0.7)]), 3.0)
    found = result.scores["panoptic_quality"]
    a, b, c = found.scores["torch"]
    control = found.between_seeds["torch"]
    assert control.mean == pytest.approx((abs(a - b) + abs(a - c) + abs(b - c)) / 3)
    assert control.largest == pytest.approx(abs(b - c))
    assert found.between_seeds["tf"] == Control(0, 0)


def test_one_difference_more_or_a_spread_of_none_is_judged():
    def judged(differences, margin=3.0):
        named = {str(i): value for i, value in enumerate(differences)}
        return judge({"rule": "equivalence", "differences": named, "margin": margin, "limit": 0.05})

    assert judged([0.5, 0.5, 0.5]).holds
    assert not judged([3.5, 3.5, 3.5]).holds
    assert not judged([0.5]).holds
    assert not judged([0.5, math.nan, 0.5]).holds
    values = [0.4, -1.3, 2.0, 0.1, -0.6]
    assert judged(values).value == pytest.approx(p_of(values, 3.0), rel=1e-9)
    assert judged(values).holds
    assert not judged(values, 1.0).holds


def test_scores_that_are_all_within_the_margin_show_no_equivalence():
    measured = {
        "rule": "equivalence", "differences": {"0": 0.0, "1": 0.0}, "margin": 3.0, "limit": 0.05
    }  # fmt: skip
    assert judge({**measured, "best": 3.5}).holds
    assert not judge({**measured, "best": 0.5}).holds
    found = judge({**measured, "best": 0.0})
    assert (found.holds, found.value) == (False, 1.0)


def test_runs_of_other_settings_are_one_clear_error(tmp_path):
    folders = pairs(tmp_path, [(0.7, 0.7), (0.7, 0.7)])
    folders[1]["torch"] = recorded(tmp_path / "longer", "torch", np.ones(50), 0.7)
    folders[1]["tf"] = recorded(tmp_path / "longer_too", "tf", np.ones(50), 0.7)
    with pytest.raises(InputError, match="50 steps"):
        compare_seeds(folders, 3.0)


def test_what_cannot_be_tested_is_refused_before_any_training(tmp_path):
    request = Request(tmp_path / "run", ("torch", "tf"), {})
    with pytest.raises(InputError, match="1 seeds were asked for"):
        train_seeds(request, range(1), 3.0)
    with pytest.raises(InputError, match="the margin is 0"):
        train_seeds(request, range(5), 0.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--side", "tf", "--seeds", 3), "--seeds 3 compares two sides"),
        (("--margin", 2), "--margin needs --seeds"),
    ],
)
def test_words_that_do_not_fit_are_one_clear_error(parity, tmp_path, words, fact):
    status, _, error = parity("train", "--out", tmp_path / "run", *words)
    assert status == 2
    assert fact in error


def test_finished_seeds_are_compared_and_drawn_by_the_command(parity, tmp_path):
    """Nothing is trained again; the picture has both sides and is the same each time."""
    for seed, folders in pairs(tmp_path, [(0.7, 0.71), (0.7, 0.69), (0.71, 0.7)]).items():
        assert set(folders) == {"torch", "tf"}
        (tmp_path / f"seed_{seed}" / "comparison.json").write_text("{}")
    words = ("train", "--side", "both", "--out", tmp_path, "--resume", "--seeds", 3, "--margin")
    status, text, error = parity(*words, 6, "--json")
    assert status == 0, error
    assert json.loads(text) == json.loads((tmp_path / "seeds.json").read_text())
    first = (tmp_path / "curves.svg").read_bytes()
    assert b"torch" in first
    status, text, _ = parity(*words, 0.01)
    assert status == 1
    assert "verdict: not shown" in text
    assert (tmp_path / "curves.svg").read_bytes() == first


def test_the_line_of_a_curve_is_a_median_of_its_neighbours(tmp_path):
    values = np.arange(30.0)
    values[15] = 1e6  # one row that is off does not show
    line = smoothed(values)
    assert len(line) == 30
    assert line[15] == pytest.approx(16)
    run = recorded(tmp_path / "run", "torch", CURVE, 0.7)
    draw_curves({"torch": [run]}, tmp_path / "one.svg")
    assert (tmp_path / "one.svg").stat().st_size > 1000


def test_comparisons_of_seeds_are_told_apart_by_seeds_and_margin(tmp_path):
    folders = pairs(tmp_path, [(0.70, 0.71), (0.72, 0.70), (0.69, 0.70)])
    one, other, fewer = (
        subject(of_result(compare_seeds(found, margin)))
        for found, margin in ((folders, 6.0), (folders, 3.0), ({0: folders[0], 2: folders[2]}, 6.0))
    )
    assert difference(one, other) == "margin (6.0, 3.0)"
    assert difference(one, fewer) == "seeds (1, none more)"

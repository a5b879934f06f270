"""Edits of plain functions: they are made and undone, and the right one explains a difference."""

import sys

import numpy as np
import pytest

from maskformer.model import solver
from parity.causes.source import edits, explained, functions_of, setting_mistakes, shared_mistakes
from parity.errors import InputError
from parity.planting import edited
from replication.faults.benches.host import Part, part_claim

RATES = solver.SolverConfig(max_iter=100, steps=(60,))


def clamped(value, low, high):
    return max(low, min(value, high))


def test_an_edit_lasts_for_its_context_alone():
    before = clamped(5, 0, 3)
    changed = set()
    for one in edits([clamped]):
        with one.planted():
            try:
                changed.add(clamped(5, 0, 3))
            except (TypeError, NameError):  # an edit may break the program
                continue
        assert clamped(5, 0, 3) == before
    assert len(changed) > 1


def test_the_edit_that_gives_the_port_s_results_is_named():
    ours = {x: min(0, min(x, 3)) for x in (-1, 2, 5)}
    found = explained(
        lambda: {x: clamped(x, 0, 3) for x in ours}, lambda one: one == ours, [clamped]
    )
    assert any("`min` instead of `max`" in text for text in found)


def test_equal_results_by_another_program_are_not_explained():
    ours = {x: x**3 + 7 for x in (-1, 2, 5)}
    run = lambda: {x: clamped(x, 0, 3) for x in ours}  # noqa: E731
    assert explained(run, lambda one: one == ours, [clamped]) == []


def test_a_setting_of_a_frozen_dataclass_is_set_and_restored():
    texts = {}
    for one in setting_mistakes(RATES):
        with one.planted():
            texts[one.text] = (RATES.gamma, RATES.steps)
    assert texts["setting gamma is 0.5 instead of 0.1"] == (0.5, (60,))
    assert solver.SolverConfig(max_iter=100, steps=(60,)) == RATES


def test_a_setting_that_several_have_is_set_in_all_of_them():
    first, second, third = (
        solver.SolverConfig(max_iter=count, steps=(60,)) for count in (100, 100, 90)
    )
    texts = {}
    for one in shared_mistakes([first, second, third]):
        with one.planted():
            texts[one.text] = [each.max_iter for each in (first, second, third)]
    assert texts["setting max_iter is 200 instead of 100"] == [200, 200, 90]
    assert texts["setting gamma is 0.5 instead of 0.1"] == [100, 100, 90]
    assert not any("instead of 90" in text for text in texts)
    assert (first, third) == (second, solver.SolverConfig(max_iter=90, steps=(60,)))


def test_an_edited_copy_is_seen_by_its_users_alone():
    user = sys.modules[__name__]
    with edited(solver, "if step >= solver.warmup_iters:\n        return solver.gamma", "if 1:\n"
                "        return 2 * solver.gamma", user):  # fmt: skip
        assert user.solver.learning_rate(RATES, 50) == pytest.approx(2e-4)
        assert functions_of(sys.modules["maskformer.model.solver"])
    assert user.solver.learning_rate(RATES, 50) == pytest.approx(1e-4)
    with pytest.raises(InputError, match="0 places to change"), edited(solver, "no such", "", user):
        pass


def _part() -> Part:
    def run(keys):
        return {("rates", str(step)): solver.learning_rate(RATES, step) for step in range(0, 90, 9)}

    return Part("schedule", "title", run(None), run, {"": functions_of(solver)}, [RATES])


def test_a_part_that_agrees_holds_and_one_that_does_not_is_placed_and_explained():
    part = _part()
    assert part_claim(part, part.run(None), "").verdict == "holds"
    wrong = {key: value * (5 if value < 5e-5 else 1) for key, value in part.expected.items()}
    one = part_claim(part, wrong, "")
    assert (one.verdict, one.place.text) == ("fails", "schedule: rates")
    assert one.cause == "setting gamma is 0.5 instead of 0.1"


def test_a_result_that_the_port_lacks_fails():
    part = _part()
    some = dict(list(part.expected.items())[1:])
    assert part_claim(part, some, "").verdict == "fails"


def following(values):
    """Each value, on a line of a comprehension, by the last place that it has."""
    places = {}
    for place, value in enumerate(values):
        places[value] = place
    count = {
        value: values[place]
        for value, place in places.items()
    }  # fmt: skip
    return places, count


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        # the lines of a comprehension are those of its function
        (({5: 2, 7: 1}, {5: 7, 7: 5}), "`values[place - 1]` instead of `values[place]`"),
        # the first place stays
        (({5: 0, 7: 1}, {5: 5, 7: 7}), "`places.setdefault(value, place)`"),
        # no edit gives these
        (({5: 2, 7: 1}, {5: 6, 7: 8}), None),
    ],
)
def test_edits_of_what_is_looked_up_are_named(ours, text):
    found = explained(lambda: following([5, 7, 5]), lambda one: one == ours, [following])
    assert found == [] if text is None else any(text in one for one in found), found


def test_an_index_that_is_one_late_and_begins_again_is_named():
    counted = lambda: [looked_up(name, {"a": 0, "b": 1}) for name in "ab"]  # noqa: E731
    found = explained(counted, lambda one: one == [1, 0], [looked_up])
    assert any("(index[name] + 1) % len(index)" in one for one in found)


def looked_up(name, index):
    place = index[name]
    return place


def shares(right, true, predicted):
    """Three ratios, and whether something is missing."""
    union = true + predicted - right
    whole = np.maximum(true, 2.5)
    chosen = true > 0
    missing = right.min() < 0 or true.min() < 0 or predicted.min() < 5
    return (right / union)[chosen], whole, right.sum() / chosen.sum(), missing


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        (
            lambda a, b, c: ((a / np.maximum(b, 2.5))[b > 0], a.sum() / 2, True),
            "`right / whole` instead of `right / union`",
        ),
        (
            lambda a, b, c: ((a / (b + c - a))[b > 0], a.mean(), True),
            "`right.mean()` instead of `right.sum() / chosen.sum()`",
        ),
        (
            lambda a, b, c: ((a / (b + c - a))[b > 0], a.sum() / 2, False),
            "`right.min() < 0` instead of `right.min() < 0 or",
        ),
        (lambda a, b, c: ((a / 7.5)[b > 0], a.sum() / 2, True), None),
    ],
)
def test_a_ratio_by_another_quantity_is_named(ours, text):
    given = np.array([1.0, 2.0, 1.0]), np.array([2.0, 5.0, -1.0]), np.array([4.0, 3.0, 9.0])
    shown, *rest = ours(*given)
    wanted = shown, np.maximum(given[1], 2.5), *rest

    def same(found):
        return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))

    found = explained(lambda: shares(*given), same, [shares])
    assert found == [] if text is None else any(text in one for one in found), found

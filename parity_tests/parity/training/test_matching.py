"""Matchings are equal, or as cheap, which decides nothing; one that is dearer is wrong."""

import json

import numpy as np
import pytest

from parity.claims import verdict_of
from parity.measurements import judge
from parity.records import strict
from parity.training.matching import Problem, matching_claim

TIED = np.array([[1.0, 5.0], [1.0, 5.0], [4.0, 9.0]])
"""Costs of three queries and two targets, the first two queries alike."""
DUALS = (np.array([0.0, 0.0, 0.0]), np.array([1.0, 5.0]))
WANTED = [(0, 0), (1, 1)]
EXCHANGED = [(0, 1), (1, 0)]
DEARER = [(0, 0), (2, 1)]


def judged(in_place, alone, told_otherwise=None):
    """The claim on one problem, with the port's pairs in both ways."""
    both = [
        {"target_of_query": pairs, "query_of_target": told_otherwise or pairs}
        for pairs in (in_place, alone)
    ]
    problem = Problem("final layer, image 0", TIED, WANTED, *both, DUALS)
    return matching_claim([problem], None, lambda own: None, "parity audit --train")


@pytest.mark.parametrize(
    ("in_place", "alone", "verdict"),
    [
        (WANTED, WANTED, "holds"),
        (EXCHANGED, WANTED, "not decided"),
        (EXCHANGED, EXCHANGED, "not decided"),
        (DEARER, WANTED, "fails"),
        (EXCHANGED, DEARER, "fails"),
        ([(0, 0)], WANTED, "fails"),
        ([(0, 0), (0, 1)], WANTED, "fails"),
    ],
)
def test_pairs_as_cheap_decide_nothing(in_place, alone, verdict):
    found = judged(in_place, alone)
    assert found.verdict == verdict
    again = json.loads(json.dumps(strict(found.measured.to_json())))
    assert judge(again).verdict == verdict


def test_ways_that_tell_other_pairs_are_wrong():
    """Though either would be as cheap by itself."""
    assert judged(EXCHANGED, EXCHANGED, told_otherwise=WANTED).verdict == "fails"


def test_a_matching_a_little_dearer_is_wrong():
    """The twin: what rounding cannot explain is no tie."""
    costs = TIED.copy()
    costs[1, 1] = 5.0 - 1e-12
    both = [{"target_of_query": EXCHANGED}] * 2
    problem = Problem("final layer, image 0", costs, WANTED, *both, DUALS)
    found = matching_claim([problem], None, lambda own: None, "parity audit --train")
    assert found.verdict == "fails"


def test_a_tie_leaves_the_whole_undecided_and_says_so():
    found = judged(EXCHANGED, EXCHANGED)
    assert verdict_of([found]) == "not decided"
    assert verdict_of([found, judged(DEARER, DEARER)]) == "different"

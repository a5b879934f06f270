"""`parity.assignment` proves optimality, and finds faults, without trusting a solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment as scipy_assignment

from parity.assignment import certify, second_best_margin


def _duals(cost, rows, columns):
    """Optimal duals of a square or wide problem by Bellman-Ford on the exchange graph."""
    n, m = cost.shape
    v = np.zeros(m)
    held = columns[np.argsort(rows)]
    for _ in range(n + 1):
        u = cost[np.arange(n), held] - v[held]
        v = np.minimum(v, (cost - u[:, None]).min(axis=0))
    return cost[np.arange(n), held] - v[held], v


def _problem(seed, n, m):
    cost = np.random.default_rng(seed).normal(size=(n, m))
    rows, columns = scipy_assignment(cost)
    return cost, rows, columns, *_duals(cost, rows, columns)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 8))
def test_certificate_holds_for_the_optimum(seed, n, extra):
    certificate = certify(*_problem(seed, n, n + extra))
    assert certificate.holds, str(certificate)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(0, 8))
def test_certificate_fails_for_swapped_pairs(seed, n, extra):
    cost, rows, columns, u, v = _problem(seed, n, n + extra)
    worse = columns.copy()
    worse[[0, 1]] = worse[[1, 0]]
    certificate = certify(cost, rows, worse, u, v)
    assert not certificate.holds
    assert certificate.gap >= second_best_margin(cost, rows, columns, u, v) * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 4), st.booleans())
def test_margin_equals_the_best_of_all_assignments_that_lack_a_pair(seed, n, extra, tall):
    cost, rows, columns, u, v = _problem(seed, n, n + extra)
    best = cost[rows, columns].sum()
    others = []
    for i, j in zip(rows, columns, strict=True):
        without = cost.copy()
        without[i, j] = 1e6
        others.append(without[scipy_assignment(without)].sum() - best)
    margin = (
        second_best_margin(cost.T, columns, rows, v, u)
        if tall
        else second_best_margin(cost, rows, columns, u, v)
    )
    if min(others) > 1e5:
        assert margin == np.inf
    else:
        assert margin == pytest.approx(min(others), rel=1e-9, abs=1e-12)


def test_margin_of_a_tie_is_zero():
    cost = np.ones((2, 3))
    assert second_best_margin(cost, [0, 1], [0, 1], np.ones(2), np.zeros(3)) == 0.0


@pytest.mark.parametrize(
    ("rows", "columns", "fault"),
    [
        ([0], [0], "1 pairs, but should be 2"),
        ([0, 0], [0, 1], "a row is used twice"),
        ([0, 1], [2, 2], "a column is used twice"),
        ([0, 1], [-1, 2], "a column is outside 0..2"),
    ],
)
def test_certificate_names_pairs_that_are_no_assignment(rows, columns, fault):
    certificate = certify(np.ones((2, 3)), rows, columns, np.ones(2), np.zeros(3))
    assert not certificate.holds
    assert fault in str(certificate)


@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("change", [0.1, -0.1])
def test_certificate_fails_for_one_wrong_dual(side, change):
    cost, rows, columns, u, v = _problem(3, 8, 10)
    (u if side == "rows" else v)[columns[0] if side == "columns" else 0] += change
    assert not certify(cost, rows, columns, u, v).holds


def test_message_states_gap_and_limit():
    text = str(certify(np.eye(2), [0, 1], [0, 1], np.zeros(2), np.zeros(2)))
    assert text.startswith("gap to the dual bound is 2, should be at most ")

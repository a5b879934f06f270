"""The batched solver under XLA: scipy's cost on everything, proven optimal by its own duals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment as scipy_assignment

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from parity.assignment import certify, rounding_limit, second_best_margin
from tf_impl import linear_sum_assignment as solver

tf = pytest.importorskip("tensorflow")

SHAPES = ((100, 100), (100, 150), (20, 33), (7, 7), (1, 2))  # counts vary the columns from 0
KINDS = ("uniform", "normal", "integers", "constant_rows", "constant_columns", "ties", "structured")
PROBLEMS = 8


@tf.function(jit_compile=True)
def _solve(cost, columns):
    return solver.linear_sum_assignment(cost, columns)


def _costs(rng, kind, n, m):
    if kind == "uniform":
        return rng.random((n, m))
    if kind == "normal":
        return rng.normal(size=(n, m))
    if kind == "integers":
        return rng.integers(-3, 4, (n, m)).astype(float)
    if kind == "constant_rows":
        return np.repeat(rng.normal(size=(n, 1)), m, axis=1)
    if kind == "constant_columns":
        return np.repeat(rng.normal(size=(1, m)), n, axis=0)
    if kind == "ties":
        return rng.normal(size=3)[rng.integers(0, 3, (n, m))]
    return rng.random((n, 1)) * rng.random((1, m))  # Machol and Wien's hard instances


def _run(cost, columns):
    result = _solve(tf.constant(cost), tf.constant(columns, tf.int32))
    return solver.Assignment(*(value.numpy() for value in result))


def _check(cost, count, result, b):
    """One problem against scipy and against its own duals; returns whether scipy's pairs agree."""
    real = cost[:, :count]
    dtype = str(cost.dtype)
    rows = np.flatnonzero(result.column_of_row[b] >= 0)
    columns = result.column_of_row[b][rows]
    assert result.status[b] == solver.SOLVED
    assert np.array_equal(result.row_of_column[b][columns], rows)
    assert np.count_nonzero(result.row_of_column[b] >= 0) == len(rows)
    assert not result.column_duals[b][count:].any()

    duals = result.row_duals[b], result.column_duals[b][:count]
    certificate = certify(real, rows, columns, *duals, dtype=dtype)
    assert certificate.holds, f"{certificate} [{cost.shape[0]}x{count}]"
    longer = duals[0] if cost.shape[0] >= count else duals[1]
    paired = rows if cost.shape[0] >= count else columns
    assert (longer <= 0).all()
    assert not np.delete(longer, paired).any()

    i, j = scipy_assignment(real.astype(np.float64))
    gap = abs(real[rows, columns].astype(np.float64).sum() - real[i, j].astype(np.float64).sum())
    assert gap <= certificate.limit, f"cost gap to scipy is {gap}, limit {certificate.limit}"
    same = np.array_equal(rows, i) and np.array_equal(columns, j)
    if not same:
        margin = second_best_margin(real, rows, columns, *duals)
        scale = max(np.abs(real).max(), *(np.abs(dual).max() for dual in duals))
        assert margin <= rounding_limit(len(rows), float(scale), dtype), "unique, but pairs differ"
    return same


@settings(max_examples=2000 // PROBLEMS)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(["float32", "float64"]),
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(-20, 20), st.floats(0, 1)),
        min_size=PROBLEMS,
        max_size=PROBLEMS,
    ),
    st.integers(0, 2**31),
)
def test_assignment_has_the_cost_of_scipy_and_certified_duals(shape, dtype, problems, seed):
    n, m = shape
    rng = np.random.default_rng(seed)
    cost = np.stack(
        [_costs(rng, kind, n, m) * 10.0**exponent for kind, exponent, _ in problems]
    ).astype(dtype)
    counts = np.array([round(share * m) for *_, share in problems])
    result = _run(cost, counts)
    for b in range(PROBLEMS):
        _check(cost[b], counts[b], result, b)


def test_assignment_is_that_of_scipy_where_it_is_unique():
    rng = np.random.default_rng(5)
    cost = rng.random((96, 100, 40))
    result = _run(cost, np.full(96, 40))
    assert all(_check(cost[b], 40, result, b) for b in range(96))


def test_certificate_fails_for_the_result_with_swapped_pairs():
    cost = np.random.default_rng(0).random((1, 100, 40))
    result = _run(cost, np.array([40]))
    rows = np.flatnonzero(result.column_of_row[0] >= 0)
    columns = result.column_of_row[0][rows]
    columns[[0, 1]] = columns[[1, 0]]
    duals = result.row_duals[0], result.column_duals[0]
    assert not certify(cost[0], rows, columns, *duals).holds


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_costs_that_are_not_finite_set_the_status_and_leave_the_others_alone(bad, dtype):
    cost = np.random.default_rng(1).random((8, 100, 40)).astype(dtype)
    counts = np.full(8, 30)
    clean = _run(cost, counts)
    cost[2, 17, 3] = bad  # a real target
    cost[5, 17, 35] = bad  # beyond the count: never read
    result = _run(cost, counts)
    assert result.status.tolist() == [0, 0, solver.NOT_FINITE, 0, 0, 0, 0, 0]
    assert (result.column_of_row[2] == -1).all()
    assert (result.row_of_column[2] == -1).all()
    assert not result.row_duals[2].any()
    others = np.arange(8) != 2
    for value, expected in zip(result, clean, strict=True):
        np.testing.assert_array_equal(value[others], expected[others])


def test_costs_whose_differences_overflow_are_not_solved():
    cost = np.full((8, 100, 40), 3e38, np.float32)
    cost[:, ::2] = -3e38
    cost[:, :, 1:] *= -1
    counts = np.array([40, 0, 1, 40, 40, 40, 40, 40])
    result = _run(cost, counts)
    for b in range(8):
        if result.status[b] == solver.SOLVED:
            rows = np.flatnonzero(result.column_of_row[b] >= 0)
            assert len(rows) == counts[b]
        else:
            assert result.status[b] == solver.UNSOLVED
            assert (result.column_of_row[b] == -1).all()


def test_no_targets_give_no_pairs():
    result = _run(np.zeros((8, 100, 40)), np.zeros(8))
    assert (result.column_of_row == -1).all()
    assert (result.status == solver.SOLVED).all()
    empty = _run(np.zeros((2, 5, 0)), np.zeros(2))
    assert empty.column_of_row.tolist() == [[-1] * 5] * 2


def test_eager_and_compiled_results_agree():
    cost = np.random.default_rng(2).random((4, 7, 9)).astype("float32")
    columns = tf.constant([9, 7, 3, 0])
    eager = solver.linear_sum_assignment(tf.constant(cost), columns)
    for value, compiled in zip(eager, _run(cost, columns.numpy()), strict=True):
        np.testing.assert_array_equal(value, compiled)

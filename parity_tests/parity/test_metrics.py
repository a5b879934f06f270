"""The gap of two arrays, on arrays made by hand and against plain numpy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity import metrics
from parity.metrics import Gap, gap, perturb_ulp, worst
from parity.records import json_text, plain, typed

FLOATS = st.floats(-1e3, 1e3, width=32)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=5)


def test_gap_of_equal_arrays_is_zero():
    array = np.arange(24.0).reshape(2, 3, 4)
    found = gap(array, array.copy())
    assert (found.l2, found.max, found.problem) == (0.0, 0.0, None)


def test_gap_numbers_by_hand():
    found = gap(np.array([3.0, 4.0, 1.0, 0.0]), np.array([3.0, 4.0, 0.0, 0.0]))
    assert found.l2 == pytest.approx(1 / 5, rel=1e-15)
    assert found.max == pytest.approx(1 / 2.5, rel=1e-15)
    assert (found.where, found.value, found.reference) == ((2,), 1.0, 0.0)
    assert found.rms == pytest.approx(2.5)
    assert found.peak == pytest.approx(4 / 2.5)


@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from([np.float32, np.float64]))
def test_gap_equals_plain_numpy_in_any_memory_order(data, shape, dtype):
    a = data.draw(hnp.arrays(dtype, shape, elements=FLOATS))
    b = data.draw(hnp.arrays(np.float64, shape, elements=FLOATS))
    order = data.draw(st.permutations(range(len(shape))))
    turned = a.transpose(order).copy().transpose([order.index(i) for i in range(a.ndim)])
    found = gap(turned, b)
    difference = np.abs(a.astype(np.float64) - b)
    norm, rms = np.linalg.norm(b), np.linalg.norm(b) / math.sqrt(b.size)
    if norm == 0:
        assert found.l2 == (0.0 if not difference.any() else math.inf)
        return
    assert found.l2 == pytest.approx(np.linalg.norm(difference) / norm, rel=1e-12, abs=1e-300)
    assert found.max == pytest.approx(difference.max() / rms, rel=1e-12, abs=1e-300)
    assert difference[found.where] == difference.max()
    assert (found.value, found.reference) == (a[found.where], b[found.where])


@pytest.mark.parametrize("block", [1, 7, 100])
def test_gap_does_not_depend_on_blocks(monkeypatch, block):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 5, 7, 4))
    whole = gap(a, b)
    monkeypatch.setattr(metrics, "BLOCK", block)
    parts = gap(a, b)
    assert parts.l2 == pytest.approx(whole.l2, rel=1e-14)
    assert (parts.max, parts.where) == (pytest.approx(whole.max, rel=1e-14), whole.where)


def test_gap_finds_one_wrong_element_of_many():
    rng = np.random.default_rng(1)
    b = rng.normal(size=(3, 64, 120, 9))
    a = b.copy()
    a[2, 17, 99, 4] += 50.0
    assert gap(a, b).where == (2, 17, 99, 4)


@pytest.mark.parametrize("factor", [1e-200, 1e200, 1e-307])
def test_gap_of_tiny_and_huge_numbers(factor):
    b = np.array([3.0, 4.0, 0.0, 0.0]) * factor
    a = np.array([3.0, 4.0, 1.0, 0.0]) * factor
    assert gap(a, b).l2 == pytest.approx(0.2, rel=1e-3)
    assert gap(b, b).l2 == 0.0
    assert gap(b, b).peak == pytest.approx(gap(a, b).peak) == pytest.approx(1.6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_below_the_smallest_normal_one_are_as_good_as_zero(dtype):
    """TensorFlow flushes them, torch does not; either may be the narrower side."""
    tiny = np.finfo(dtype).tiny
    b = np.array([0.5, 0.25, 0.0]) * tiny
    zero = np.zeros(3, dtype)
    assert gap(zero, b).l2 == gap(zero, b).max == 0.0
    assert gap(b.astype(dtype), np.zeros(3)).l2 == 0.0
    b[1] = 2 * tiny
    assert gap(zero, b).l2 == 1.0
    assert gap(zero.astype(np.float64), np.full(3, 1e-300)).l2 == 1.0


def test_gap_from_zero_reference():
    zero = np.zeros((2, 2))
    assert gap(zero, zero).l2 == 0.0
    assert gap(zero + 1e-30, zero).l2 == math.inf
    assert gap(zero + 1e-30, zero).max == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gap_of_numbers_that_both_have_so_is_that_of_all_others(bad):
    b = np.random.default_rng(0).normal(size=(2, 3))
    a = b + 1e-3
    rest = gap(a.ravel()[:5], b.ravel()[:5])
    a[1, 2] = b[1, 2] = bad
    found = gap(a, b)
    assert (found.problem, found.same_not_finite) == (None, 1)
    assert found.l2 == pytest.approx(rest.l2, rel=1e-12)
    assert found.max == pytest.approx(rest.max, rel=1e-12)
    assert gap(a.astype(np.float32), b, ulps=True).problem is None
    b[1, 2] = -bad if math.isinf(bad) else math.inf
    assert gap(a, b).problem is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("port", "reference"), [(1, 0), (0, 1)])
def test_gap_of_non_finite_numbers_is_a_problem_on_either_side(bad, port, reference):
    a, b = np.ones((2, 3)), np.ones((2, 3))
    if port:
        a[1, 2] = bad
    if reference:
        b[1, 2] = bad
    found = gap(a, b)
    sides = " and the ".join(["port"] * port + ["reference"] * reference)
    assert found.problem == f"non-finite numbers at 1 of 6 places, first in the {sides}"
    assert found.where == (1, 2)
    assert found.l2 == found.max == math.inf


def test_gap_never_broadcasts_or_transposes():
    assert gap(np.ones((1, 3)), np.ones((3, 1))).problem == "shape (1, 3) instead of (3, 1)"
    assert gap(np.ones(3), np.ones((1, 3))).problem == "shape (3,) instead of (1, 3)"


def test_gap_of_integers_is_exact():
    a = np.array([[1, 2], [3, 4]])
    assert gap(a, a.astype(np.int32)).l2 == 0.0
    found = gap(a + np.array([[0, 0], [0, 1]]), a)
    assert found.problem == "1 of 4 exact values differ"
    assert (found.where, found.value, found.reference) == ((1, 1), 5.0, 4.0)


def test_gap_of_integers_and_floats_is_a_problem():
    assert gap(np.ones(2), np.ones(2, int)).problem == "dtype float64 instead of int64"


def test_gap_of_empty_arrays_is_zero():
    assert gap(np.ones((0, 3)), np.ones((0, 3))).max == 0.0


def test_ulps_count_neighbours():
    b = np.array([1.0, -1.0, 0.0, 1.0], np.float32)
    a = np.nextafter(b, np.float32(2))
    a[3] = 1.0
    assert gap(a, b.astype(np.float64), ulps=True).ulps == (1, 1, 1)
    many = np.ones(1000, np.float32)
    moved = many.copy()
    moved[:20] += np.float32(2**-23) * 5
    assert gap(moved, many, ulps=True).ulps == (0, 5, 5)
    assert gap(-many, many, ulps=True).ulps[2] == 2 * 0x3F800000
    assert gap(many.astype(np.float64), many, ulps=True).ulps is None


@given(
    shape=SHAPES,
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    data=st.data(),
)
def test_perturb_ulp_moves_each_element_by_at_most_one_place(shape, seed, dtype, data):
    array = data.draw(hnp.arrays(dtype, shape))
    before = array.copy()
    moved = perturb_ulp(array, seed)
    np.testing.assert_array_equal(array, before)
    assert moved.dtype == array.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        down = np.nextafter(array, dtype(-np.inf))
        up = np.nextafter(array, dtype(np.inf))
    same = (moved == array) | (np.isnan(moved) & np.isnan(array))
    assert (same | (moved == up) | (moved == down)).all()
    assert same[(array == 0) | ~np.isfinite(array)].all()
    assert np.isfinite(moved)[np.isfinite(array)].all()
    np.testing.assert_array_equal(perturb_ulp(array, seed), moved)


def test_perturb_ulp_uses_all_three_moves():
    moved = perturb_ulp(np.ones(3000), 0)
    counts = np.unique(moved, return_counts=True)[1]
    assert len(counts) == 3
    assert counts.min() > 900
    np.testing.assert_array_equal(perturb_ulp(np.arange(5), 0), np.arange(5))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("units", [2, 4, 127])
def test_perturb_ulp_moves_by_so_many_places(dtype, units):
    """Numbers that have no such neighbours on one of their sides stay."""
    integers = {2: np.int16, 4: np.int32, 8: np.int64}[np.dtype(dtype).itemsize]
    largest = np.array(np.finfo(dtype).max).view(integers)
    places = np.array([0, 1, units - 1, units, 999, largest - units, largest - units + 1, largest])
    array = np.repeat(places.astype(integers), 200).view(dtype)
    for sign in (1, -1):
        moved = perturb_ulp(sign * array, 0, units)
        assert np.isfinite(moved).all()
        moves = np.abs(moved).view(integers).astype(int) - array.view(integers)
        assert set(moves[np.isin(array.view(integers), places[3:6])]) == {-units, 0, units}
        assert not moves[~np.isin(array.view(integers), places[3:6])].any()


def test_worst_takes_each_metric_apart_and_keeps_problems():
    one, other = Gap(1.0, 5.0, where=(3,)), Gap(2.0, 4.0)
    assert worst([one, other]) == Gap(2.0, 5.0, where=(3,))
    assert worst([one, metrics.failed("shape"), other]).problem == "shape"


@given(
    st.builds(
        Gap,
        l2=st.floats(0),
        max=st.floats(0),
        where=st.tuples(st.integers(0), st.integers(0)),
        value=st.floats(allow_nan=False),
        shape=st.tuples(st.integers(0)),
        ulps=st.none() | st.tuples(*[st.integers(0)] * 3),
        problem=st.none() | st.text(),
    )
)
def test_gap_survives_strict_json(found):
    assert typed(Gap, json.loads(json_text(plain(found)))) == found

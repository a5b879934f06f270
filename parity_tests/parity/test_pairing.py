"""Taps are paired by name, and their axes by name, never by shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.pairing import Comparison, align, compare, pair, tap_gap
from parity.trace import Tap, Trace

KEYS = st.lists(st.text("abc", max_size=3), unique=True)


def tap(axes, array, path="a", same_as=None):
    return Tap(path, "output", "", 0, axes, array, same_as)


@given(a=KEYS, b=KEYS)
def test_pair_uses_every_key_exactly_once(a, b):
    found = pair(a, b)
    assert [key for key in b if key in a] == list(found.both)
    assert sorted(found.both + found.only_a) == sorted(a)
    assert sorted(found.both + found.only_b) == sorted(b)


def test_pair_renames():
    found = pair(["x/a", "x/b"], ["a", "c"], rename=lambda key: key.removeprefix("x/"))
    assert (found.both, found.only_a, found.only_b) == (("a",), ("x/b",), ("c",))
    with pytest.raises(ValueError, match=r"^x and y are both renamed to z$"):
        pair(["x", "y"], ["z"], rename=lambda key: "z")


@given(order=st.permutations("NCHW"))
def test_axes_are_matched_by_name(order):
    array = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    axes = "".join(order)
    turned = array.transpose(["NCHW".index(axis) for axis in axes])
    np.testing.assert_array_equal(align(tap(axes, turned), "NCHW"), array)
    assert tap_gap(tap(axes, turned), tap("NCHW", array)).max == 0.0


def test_swapped_square_axes_are_a_difference():
    array = np.random.default_rng(0).normal(size=(2, 3, 7, 7))
    swapped = np.ascontiguousarray(array.transpose(0, 1, 3, 2))
    found = tap_gap(tap("NCHW", swapped), tap("NCHW", array))
    assert found.l2 > 0.5
    assert tap_gap(tap("NCWH", swapped), tap("NCHW", array)).l2 == 0.0


def test_other_axis_names_are_a_problem_never_a_guess():
    array = np.ones((2, 3))
    found = tap_gap(tap("NC", array), tap("ND", array))
    assert found.problem == "axes NC instead of ND"
    assert tap_gap(tap("N", array[:, 0]), tap("NC", array)).problem == "axes N instead of NC"


def test_other_shapes_are_a_problem_after_axes_are_matched():
    found = tap_gap(tap("NHC", np.ones((2, 5, 3))), tap("NCH", np.ones((2, 3, 4))))
    assert found.problem == "shape (2, 3, 5) instead of (2, 3, 4)"


def test_comparison_tells_what_lacks_a_partner():
    reference, port = Trace(), Trace()
    for path in "ab":
        reference.add(tap("N", np.ones(2), path))
    for path in "bc":
        port.add(tap("N", np.ones(2), path))
    comparison = Comparison(reference)
    for one in port.values():
        comparison(one)
    assert list(comparison.gaps) == ["b:output"]
    assert (comparison.unpaired, comparison.missing()) == (["c:output"], ["a:output"])


def test_comparison_takes_over_gaps_of_the_same_tensor_only():
    one, other = np.ones(3), np.full(3, 2.0)
    reference, port = Trace(), Trace()
    reference.add(tap("N", one, "a"))
    reference.add(tap("N", one, "b", "a:output"))
    reference.add(tap("N", other, "c"))
    for path in "abc":
        port.add(tap("N", one, path, None if path == "a" else "a:output"))
    gaps = compare(port, reference)
    assert gaps["a:output"] is gaps["b:output"]
    assert gaps["c:output"].l2 == 0.5


def test_comparison_counts_steps_where_asked():
    reference, port = Trace(), Trace()
    reference.add(tap("N", np.ones(3)))
    port.add(tap("N", np.full(3, 1 + 2**-23, np.float32)))
    assert compare(port, reference)["a:output"].ulps is None
    assert compare(port, reference, ulps=lambda key: True)["a:output"].ulps == (1, 1, 1)

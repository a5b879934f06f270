"""Ticks stand inside their scale, apart from each other, however small the numbers are."""

import itertools

from hypothesis import assume, given
from hypothesis import strategies as st

from reports.drawing.axes import Scale, tick_label

numbers = st.floats(1e-18, 1e6)


@given(numbers, st.floats(1.01, 1e9), st.booleans(), st.integers(2, 6))
def test_ticks_are_inside_the_scale_and_differ(low, factor, log, most):
    assume(low * factor < 1e12)
    scale = Scale.of([low, low * factor], 0.0, 130.0, log)
    ticks = scale.ticks(most)
    assert len(ticks) > 1
    assert all(scale.low * (1 - 1e-9) <= tick <= scale.high * (1 + 1e-9) for tick in ticks)
    places = [scale.place(tick) for tick in ticks]
    assert all(after - before > 10 for before, after in itertools.pairwise(places))


def test_gaps_of_rounding_size_have_labels_of_their_own():
    ticks = Scale.of([2e-16, 7e-15], 0.0, 130.0, log=True).ticks(4)
    assert [tick_label(tick) for tick in ticks] == ["2e-16", "5e-16", "1e-15", "2e-15", "5e-15"]
    ticks = Scale.of([3e-15, 4e-15], 0.0, 130.0).ticks(4)
    assert len({tick_label(tick) for tick in ticks}) == len(ticks) > 1


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(2, 6))
def test_steps_have_ticks_at_whole_numbers(first, more, most):
    scale = Scale.of([first, first + more], 0.0, 130.0, whole=True)
    ticks = scale.ticks(most)
    assert ticks
    assert all(tick == round(tick) for tick in ticks)
    assert all(scale.low - 1e-6 <= tick <= scale.high + 1e-6 for tick in ticks)


def test_a_single_step_stands_between_its_neighbours():
    assert Scale.of([12], 0.0, 130.0, whole=True).ticks(4) == [11, 12, 13]

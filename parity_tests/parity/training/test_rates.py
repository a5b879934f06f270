"""Why learning rates differ, from the numbers alone."""

import numpy as np
import pytest

from parity.training.rates import schedule_causes

PLACES = (0, 1, 3, 4, 5, 7, 8, 9)


def rate(step: int) -> float:
    """1e-3, a tenth from 4 on, a hundredth from 8 on."""
    return 1e-3 * 0.1 ** ((step >= 4) + (step >= 8))


def first_cause(ours) -> str | None:
    every = {step: rate(step) for step in range(max(PLACES) + 2)}
    return next(schedule_causes({at: rate(at) for at in PLACES}, ours, every), None)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (lambda at: rate(max(at - 1, 0)), "the rate is that of the update before"),
        (lambda at: rate(at + 1), "the rate is that of the update after"),
        (lambda at: 1e-3, "the schedule does not reach the optimizer"),
        (lambda at: 0.5 * rate(at), "the rate is 0.5 times as large"),
        (lambda at: float(np.float32(rate(at))), "the rate is computed in float32"),
        (
            lambda at: rate(at) if at < 8 else rate(at - 8),
            "from update 8 on the schedule begins anew",
        ),
        (
            lambda at: rate(at) if at < 8 else 1e-4,
            "from update 8 on the rate is that of update 7 again, 0.0001",
        ),
        (
            lambda at: rate(at) if at < 9 else -1e-6,
            "the rate is not held at its end: it is -1e-06 in update 9",
        ),
        (
            lambda at: rate(at) if at < 9 else float("nan"),
            "the rate is not held at its end: it is nan in update 9",
        ),
    ],
)
def test_a_mistake_of_a_schedule_is_named(changed, text):
    assert first_cause({at: changed(at) for at in PLACES}) == text


def test_an_edit_says_more_than_that_a_rate_is_one_of_before():
    ours = {at: rate(at) if at < 8 else 1e-4 for at in PLACES}
    every = {step: rate(step) for step in range(max(PLACES) + 2)}
    theirs = {at: rate(at) for at in PLACES}
    found = schedule_causes(theirs, ours, every, edited=lambda: "steps is (4,)")
    assert [*found] == [
        "steps is (4,)",
        "from update 8 on the rate is that of update 7 again, 0.0001",
    ]


def test_two_rates_are_no_line():
    """Of two values any others are a multiple, so that no other end is seen in them."""
    every = {step: 1e-3 if step < 4 else 1e-4 for step in range(max(PLACES) + 2)}
    ours = {at: 1e-3 if at < 4 else 5e-4 for at in PLACES}
    assert [*schedule_causes({at: every[at] for at in PLACES}, ours, every)] == []


def test_a_schedule_that_begins_anew_is_named_long_past_its_end():
    places = (0, 1, 4, 8, 16)
    every = {at: rate(at) for one in places for at in (one - 1, one, one + 1) if at >= 0}
    ours = {at: rate(at % 8) for at in places}
    found = next(schedule_causes({at: rate(at) for at in places}, ours, every))
    assert found == "from update 8 on the schedule begins anew"


def test_what_fits_nothing_is_not_explained():
    rng = np.random.default_rng(0)
    assert first_cause({at: float(rng.uniform(1e-4, 1e-3)) for at in PLACES}) is None

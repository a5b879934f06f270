"""Numbers and nested values are shown as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.document import describe, flatten, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.1e-15, "3.1e-15"),
        (2.44e-7, "2.4e-7"),
        (1.27, "1.27"),
        (99.95, "100"),
        (624917.0, "624,917"),
        (1.23e9, "1.2e9"),
        (0.0, "0"),
        (0, "0"),
        (45012038, "45,012,038"),
        (math.nan, "not a number"),
        (-math.inf, "-infinite"),
        (None, "none"),
        (True, "yes"),
        ("bit-identical", "bit-identical"),
    ],
)
def test_number_reads_well(value, text):
    assert number(value) == text


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_number_keeps_two_digits(value):
    shown = float(number(value).replace(",", ""))
    assert abs(shown - value) <= 0.0501 * value


def test_nested_values_are_described_on_one_line():
    assert describe({"p50": 0.5, "sizes": [427, 640]}) == "p50: 0.5; sizes: 427, 640"
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": []}) == [
        ("a.b", "1"),
        ("a.c.d", "none"),
        ("e", "none"),
    ]

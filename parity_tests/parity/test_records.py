"""A written result is strict JSON with the same content, and a line for each small value."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from parity.records import json_text, strict

numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=90))
values = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=30), inner, max_size=6)
    ),
    max_leaves=40,
)


@given(values)
def test_json_text_holds_the_same(value):
    text = json_text(value)
    assert text.endswith("\n")
    assert json.loads(text) == strict(value)


def test_numbers_that_json_cannot_hold_are_words():
    assert json_text({"a": math.inf, "b": math.nan}) == '{"a": "inf", "b": "nan"}\n'


def test_a_case_stands_on_one_line():
    cases = [[f"layer.{index}:output", {"l2": [0.1, 0.2]}, None] for index in range(9)]
    lines = json_text({"schema": "a/1", "claims": [{"measured": {"cases": cases}}]}).splitlines()
    assert [line.strip().rstrip(",") for line in lines if "layer." in line] == [
        json.dumps(case) for case in cases
    ]
    assert lines[1] == ' "schema": "a/1",'

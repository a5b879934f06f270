"""The error of a user's input: its three lines, wherever it was raised."""

import pickle

import pytest

from parity.errors import InputError
from parity.trace import TraceError


@pytest.mark.parametrize("kind", [InputError, TraceError])
def test_input_error_is_the_same_from_another_process(kind):
    error = kind("a fact", "its evidence\nof a file\x07", "an action")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "a fact\n  its evidence\\nof a file\\x07\n  an action"


def test_error_within_an_input_error_is_one_line():
    found = InputError("a fact", InputError("another", "with evidence", "and action"), "an action")
    assert str(found) == "a fact\n  another; with evidence; and action\n  an action"
    assert str(InputError("a fact", OSError(2, "No such file"))) == (
        "a fact\n  [Errno 2] No such file"
    )


def test_input_error_of_a_long_text_is_cut():
    assert len(str(InputError("x" * 10**6, "y" * 10**6))) < 10**4

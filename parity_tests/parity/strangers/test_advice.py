"""Inputs that hide mistakes are told, and others are not."""

import numpy as np
import pytest

from parity.auditing.advice import easy
from parity_tests.parity.strangers.models import numbers


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((numbers(2, 3, 45, 45),), ["square"]),
        ((numbers(2, 3, 64, 96),), ["32 divides"]),
        ((numbers(1, 3, 45, 52),), ["batch of 1"]),
        ({"ids": np.ones((2, 7), int)}, ["everywhere"]),
        ((numbers(2, 3, 45, 52), numbers(2, 7)), []),
    ],
)
def test_easy_inputs_are_told(inputs, words):
    found = easy(inputs)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))

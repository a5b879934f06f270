"""What a weight is beside the reference's: equal, rounded, of another shape, or another."""

import numpy as np
import pytest
import torch

from parity.weights.standing import condensed, kind_of

DRAWN = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def rounded(dtype):
    return torch.from_numpy(DRAWN).to(dtype).float().numpy()


@pytest.mark.parametrize(
    ("ours", "kind"),
    [
        (DRAWN.copy(), None),
        (DRAWN.astype(np.float64), None),
        (rounded(torch.float16), "rounded to float16"),
        (rounded(torch.bfloat16), "rounded to bfloat16"),
        # Cut off instead of rounded.
        ((DRAWN.view(np.uint32) & 0xFFFF0000).view(np.float32), "rounded to bfloat16"),
        (np.nextafter(DRAWN, np.float32(9)), "other values"),
        (2 * rounded(torch.float16), "other values"),
        (np.zeros_like(DRAWN), "other values"),
        (DRAWN[::-1], "the same numbers in another order"),
        (DRAWN[:, :4], "another shape"),
    ],
)
def test_a_weight_has_one_kind(ours, kind):
    assert kind_of(DRAWN, ours) == kind


def test_names_that_differ_in_numbers_are_told_once():
    texts = ["blocks.0.norm1.weight: a", "stem.weight: a", "blocks.1.norm1.weight: a", "0.bias: b"]
    assert condensed(texts) == [
        "2 \N{MULTIPLICATION SIGN} blocks.*.norm1.weight: a",
        "stem.weight: a",
        "0.bias: b",
    ]
    assert condensed(["0.w [5, 2] of 0.w", "11.w [5, 2] of 11.w"]) == [
        "2 \N{MULTIPLICATION SIGN} *.w [5, 2] of *.w"
    ]
    assert condensed(["a.0 [5, 2]", "a.0 [6, 2]"]) == ["a.0 [5, 2]", "a.0 [6, 2]"]

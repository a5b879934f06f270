"""Run-length results: exact round trips, and the records of each kind of prediction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from maskformer.data.panoptic_format import Segment
from maskformer.inference.prediction import Instance, PanopticPrediction
from maskformer.inference.run_length import (
    decode_mask,
    encode_mask,
    instance_results,
    panoptic_results,
    semantic_results,
)
from parity.errors import InputError


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans())
)
def test_masks_survive(mask: np.ndarray) -> None:
    encoded = encode_mask(mask)
    assert encoded["size"] == list(mask.shape)
    assert np.array_equal(decode_mask(encoded), mask)
    assert coco_mask.area({**encoded, "counts": encoded["counts"].encode()}) == mask.sum()
    if mask.shape[0] == mask.shape[1] and not np.array_equal(mask, mask.T):
        assert not np.array_equal(decode_mask(encode_mask(mask.T)), mask)


def test_records_carry_the_data_set_s_categories() -> None:
    ids = np.array([[1, 1, 0], [2, 2, 2]], np.int32)
    found = panoptic_results(
        PanopticPrediction(ids, (Segment(1, 0), Segment(2, 2))), 42, [10, 20, 30]
    )
    assert [(r["image_id"], r["id"], r["category_id"]) for r in found] == [(42, 1, 10), (42, 2, 30)]
    assert np.array_equal(decode_mask(found[1]["segmentation"]), ids == 2)
    labels = np.array([[0, 2], [2, 2]])
    found = semantic_results(labels, 42, [10, 20, 30])
    assert [r["category_id"] for r in found] == [10, 30]
    assert np.array_equal(decode_mask(found[1]["segmentation"]), labels == 2)
    found = instance_results([Instance(1, 0.75, ids == 1)], 42, [10, 20, 30])
    assert (found[0]["category_id"], found[0]["score"]) == (20, 0.75)


def test_other_arrays_are_refused() -> None:
    with pytest.raises(InputError, match="a mask is int64"):
        encode_mask(np.zeros((2, 2), np.int64))
    with pytest.raises(InputError, match="have no `counts`"):
        decode_mask({"size": [2, 2]})

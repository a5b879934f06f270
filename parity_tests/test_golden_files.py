"""The reader of golden files reads what the files say, and refuses what they do not."""

import numpy as np
import pytest

from parity_tests import golden_files

ALL_CASES = golden_files.cases()


def test_cases_lists_every_model_case():
    assert len(ALL_CASES) == 18
    assert golden_files.cases("tiny") == [
        "tiny_64x96",
        "tiny_batch2",
        "tiny_enc2",
        "tiny_nodeepsup",
        "tiny_prenorm",
    ]


@pytest.mark.parametrize("case", ["tiny_64x96", "coco_r50_batch2"])
def test_load_separates_arrays_from_texts(case):
    arrays, meta = golden_files.load(case)
    assert meta["case"] == case
    assert len(meta["grad_names"]) == len(arrays["grad_norms"])
    assert all(value.dtype.kind != "U" for value in arrays.values())
    with pytest.raises(ValueError, match="read-only"):
        arrays["image_0"][0, 0, 0] = 1


def test_select_takes_the_stored_positions():
    arrays = {
        "x": np.arange(0, 24, 5, dtype=np.float32),
        "x__shape": np.array([2, 3, 4]),
        "x__stride": np.array(5),
    }
    full = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(golden_files.select(arrays, "x", full), arrays["x"])


def test_select_refuses_a_transposed_tensor():
    arrays, _ = golden_files.load("tiny_64x96")
    shape = tuple(arrays["feat_res2__shape"])
    assert golden_files.select(arrays, "feat_res2", np.zeros(shape)).shape == (
        arrays["feat_res2"].shape
    )
    with pytest.raises(AssertionError, match="feat_res2 has shape"):
        golden_files.select(arrays, "feat_res2", np.zeros(shape[::-1]))


def test_statistics_match_an_array_stored_in_full():
    arrays, _ = golden_files.load("tiny_64x96")
    full = [key for key in arrays if int(arrays.get(f"{key}__stride", 0)) == 1]
    assert len(full) > 5
    for key in full:
        stored = arrays[f"{key}__stats"]
        gap = np.abs(golden_files.statistics(arrays[key]) - stored).max() / stored[2]
        assert gap < 1e-6, f"{key} statistics differ by {gap:.1e} of the maximum, above 1e-6"


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 2359296])
def test_sample_index_is_increasing_and_inside(size):
    index = golden_files.sample_index(size)
    assert len(index) == min(size, 64)
    assert index[0] == 0
    assert index[-1] < size
    assert (np.diff(index) > 0).all()


def test_sample_index_covers_exactly_the_stored_values():
    arrays, meta = golden_files.load("tiny_64x96")
    spec = {
        name: shape for name, shape, *_ in golden_files.read_json("state_spec/tiny.json")["entries"]
    }
    for name, row in zip(meta["grad_names"], arrays["grad_samples"], strict=True):
        stored = np.isfinite(row).sum()
        assert stored == len(golden_files.sample_index(int(np.prod(spec[name])))), name


def test_unpack_masks_inverts_packing():
    masks = np.random.default_rng(0).random((3, 5, 13)) > 0.5
    arrays = {"m_packed": np.packbits(masks, axis=-1), "m_shape": np.array(masks.shape)}
    np.testing.assert_array_equal(golden_files.unpack_masks(arrays, "m"), masks)


def test_unpack_masks_of_targets_are_disjoint():
    arrays, _ = golden_files.load("tiny_64x96")
    masks = golden_files.unpack_masks(arrays, "tgt_masks_0")
    assert masks.shape == (len(arrays["tgt_labels_0"]), 64, 96)
    assert masks.sum(axis=0).max() == 1
    assert masks.any(axis=(1, 2)).all()

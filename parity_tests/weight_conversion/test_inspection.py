"""What is said of a tensor's numbers is what NumPy finds of all of them at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from parity_tests.weight_conversion.samples import write_safetensors
from weight_conversion import inspection
from weight_conversion.inspection import inspect

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])


def described(path, array):
    """What is said of a file's only tensor."""
    write_safetensors(path / "w.safetensors", {"a": array})
    (one,) = inspect(path / "w.safetensors").tensors
    return one


@given(data=st.data(), dtype=FLOATS, part=st.integers(1, 8))
def test_numbers_of_a_tensor_are_those_of_numpy(tmp_path_factory, data, dtype, part):
    """Whatever pieces it is taken in, and with numbers that are not finite among them."""
    shape = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
    elements = st.floats(-1e4, 1e4, width=16) | st.sampled_from([np.nan, np.inf, -np.inf])
    array = data.draw(arrays.arrays(dtype, shape, elements=elements))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "PART", part)
        found = described(tmp_path_factory.mktemp("file"), array)
    if not array.size:
        assert found.not_finite is None
        return
    kept = np.float64(array[np.isfinite(array)])
    assert found.not_finite == array.size - kept.size
    if not kept.size:
        assert found.mean is None
        return
    assert (found.minimum, found.maximum) == (kept.min(), kept.max())
    scale = np.abs(kept).max() * 1e-13
    assert found.mean == pytest.approx(kept.mean(), rel=1e-13, abs=scale)
    assert found.std == pytest.approx(kept.std(), rel=1e-12, abs=scale)


def test_the_deviation_does_not_cancel(tmp_path):
    """Of numbers around a million, squares alone would leave none of their digits."""
    array = 1e6 + np.random.default_rng(0).normal(0, 1e-6, 200_000)
    assert described(tmp_path, array).std == pytest.approx(array.std(), rel=1e-9)


def test_tensors_keep_their_order(tmp_path):
    names = {f"t{index}": np.full(1000, index, np.float32) for index in range(40)}
    write_safetensors(tmp_path / "w.safetensors", names)
    found = inspect(tmp_path / "w.safetensors").tensors
    assert [(one.name, one.mean) for one in found] == [(f"t{i}", float(i)) for i in range(40)]

"""Reads `parity_tests/golden/`: numbers computed by the original code, never by this project's."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from replication.faults.golden.reader import Arrays, read

DIRECTORY = Path(__file__).parent / "golden"
SAMPLES = 64  # stored values of each parameter's gradient and update


def cases(config: str = "") -> list[str]:
    """All model cases whose name starts with `config`, sorted."""
    paths = DIRECTORY.glob(f"{config}*.npz")
    return sorted(path.stem for path in paths if not path.stem.startswith("golden_"))


@functools.lru_cache(maxsize=4)
def load(case: str) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and texts of `<case>.npz`, see `read`; `case` is also `golden_matcher` etc."""
    return read(DIRECTORY / f"{case}.npz")


def read_json(name: str) -> Any:
    """The content of a JSON file, by its path below the directory (`state_spec/tiny.json`)."""
    return json.loads((DIRECTORY / name).read_text())


def select(arrays: Arrays, key: str, actual: np.ndarray) -> np.ndarray:
    """The values of the full tensor `actual` at the positions stored as `arrays[key]`.

    `actual` has the original's layout (NCHW, [out, in], ...). Raises AssertionError where its shape
    is not the original's, so that a transposed tensor is never compared.
    """
    actual = np.asarray(actual)
    shape = tuple(arrays[f"{key}__shape"]) if f"{key}__shape" in arrays else arrays[key].shape
    assert actual.shape == shape, f"{key} has shape {actual.shape}, but should have {shape}"
    stride = int(arrays.get(f"{key}__stride", 1))
    return actual if stride == 1 else actual.reshape(-1)[::stride]


def statistics(actual: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and largest magnitude, float64 [3]; compare with `K__stats`."""
    values = np.asarray(actual, np.float64)
    return np.array([values.mean(), values.std(), np.abs(values).max()])


def sample_index(size: int) -> np.ndarray:
    """Flat positions of the stored values of a parameter of `size` elements, int64 [min(size, 64)].

    Stored rows have 64 columns; beyond `size` they hold NaN.
    """
    count = min(size, SAMPLES)
    return np.arange(count, dtype=np.int64) * size // count


def unpack_masks(arrays: Arrays, key: str) -> np.ndarray:
    """The masks stored as `<key>_packed` and `<key>_shape`, bool [N, H, W]."""
    shape = tuple(int(size) for size in arrays[f"{key}_shape"])
    bits = np.unpackbits(arrays[f"{key}_packed"], axis=-1, count=shape[-1])
    return bits.astype(bool).reshape(shape)

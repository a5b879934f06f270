"""Windows of enlarged photographs: Pillow's levels, for every size and place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskformer.data import pillow_bilinear
from maskformer.data.pillow_bilinear import enlarged_window


def whole(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def drawn(seed: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int, int, int]]:
    """Noise with black and white, a size that is no smaller, and a window of it."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 90, 2)
    image = rng.choice([0, 1, 127, 128, 254, 255], (*shape, 3)).astype(np.uint8)
    size = tuple(int(n) for n in shape + rng.integers(0, 150, 2))
    extent = [int(rng.integers(1, n + 1)) for n in size]
    place = [int(rng.integers(0, n - part + 1)) for n, part in zip(size, extent, strict=True)]
    return image, size, (*place, *extent)


@given(seed=st.integers(0, 2**32))
def test_a_window_is_pillow_s(seed: int) -> None:
    image, size, (top, left, height, width) = drawn(seed)
    wanted = whole(image, size)[top : top + height, left : left + width]
    found = enlarged_window(image, size, (top, left, height, width))
    wrong = int((found != wanted).sum())
    assert wrong == 0, f"differing levels are {wrong}, but should be 0 [{size}, {image.shape}]"


def test_one_large_photograph() -> None:
    image = np.random.default_rng(0).integers(0, 256, (427, 640, 3), np.uint8)
    wanted = whole(image, (800, 1199))[100:612, 300:812]
    assert np.array_equal(enlarged_window(image, (800, 1199), (100, 300, 512, 512)), wanted)


def test_one_rounding_instead_of_two_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    image, size, window = drawn(5)
    whole_window = enlarged_window(image, size, window)
    monkeypatch.setattr(pillow_bilinear, "_HALF", 0)
    assert (enlarged_window(image, size, window) != whole_window).any()

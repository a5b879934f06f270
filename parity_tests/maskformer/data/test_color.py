"""Colours: equal to the original's transform on OpenCV, level by level."""

import numpy as np
import pytest

from maskformer.data import color
from maskformer.data.augmentation import Color
from maskformer.data.color import apply_color, hsv_to_rgb, rgb_to_hsv
from parity_tests import golden_files

GOLDEN, _ = golden_files.load("golden_color")
CASES = sorted(key for key in GOLDEN if key != "image_rgb")


def _parameters(case: str) -> Color:
    if case.startswith("full"):
        return Color(10.0, 1.2, 1.2, 9, contrast_first="branch1" in case)
    name, value = case.split("_")
    return Color(**{name: int(value) if name == "hue" else float(value)})


@pytest.mark.parametrize("case", CASES)
def test_color_equals_the_original(case: str) -> None:
    changed = apply_color(GOLDEN["image_rgb"], _parameters(case))
    wrong = int((changed != GOLDEN[case]).sum())
    assert wrong == 0, f"differing levels are {wrong}, but should be 0 [{case}]"


def test_color_rounding_everywhere_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(color, "VECTOR_BLOCK", 1 << 20)
    changed = apply_color(GOLDEN["image_rgb"], _parameters("hue_7"))
    assert (changed != GOLDEN["hue_7"]).any()


def test_color_order_of_contrast_is_noticed() -> None:
    full = next(case for case in CASES if "branch1" in case)
    other = apply_color(GOLDEN["image_rgb"], Color(10.0, 1.2, 1.2, 9, contrast_first=False))
    assert (other != GOLDEN[full]).any()


def test_hsv_equals_opencv_on_all_hues_and_random_colors() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the second witness")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (256, 96, 3), dtype=np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    assert (rgb_to_hsv(image) == hsv).all()
    turned = hsv.copy()
    turned[..., 0] = rng.integers(0, 180, hsv.shape[:2])
    assert (hsv_to_rgb(turned) == cv2.cvtColor(turned, cv2.COLOR_HSV2RGB)).all()

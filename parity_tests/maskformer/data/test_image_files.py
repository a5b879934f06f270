"""One reader of images: the same pixels and the same errors on every way in."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskformer.data import image_files
from maskformer.data.annotated import Record, read_photograph
from maskformer.data.images import parse_size, read_image, resize_short_side
from parity.errors import InputError
from parity.reading import bounds

HUGE = pytest.param(10**400, id="huge")
GREY16 = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))


def saved(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_16_bits_gives_its_upper_8_on_every_way(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"x{suffix}", GREY16)
    wanted = np.repeat((GREY16 >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(path), wanted)
    np.testing.assert_array_equal(read_photograph(Record("x", path, 48, 64)), wanted)
    np.testing.assert_array_equal(image_files.photograph(path.read_bytes(), "x"), wanted)
    clipped = np.asarray(Image.open(path).convert("RGB"))
    assert np.mean(clipped == 255) > 0.9, "the plain conversion is right, so this proves nothing"


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_modes_without_certain_colours_are_refused_on_every_way(kind: type, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", GREY16.astype(kind))
    texts = []
    for read in (lambda: read_image(path), lambda: read_photograph(Record("x.tif", path, 48, 64))):
        with pytest.raises(InputError, match=r"the photograph has mode [IF]") as caught:
            read()
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(monkeypatch, tmp_path) -> None:
    path = saved(tmp_path / "x.png", np.zeros((40, 50, 3), np.uint8))
    read_image(path)
    monkeypatch.setattr(bounds, "PIXELS", 40 * 50 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=r"is too large\n  40x50 pixels"):
        read_image(path)
    with pytest.raises(InputError, match=r"is too large\n  40x50 pixels"):
        image_files.values(path, "x", "label map")


@pytest.mark.parametrize("side", [0, -1, bounds.PIXELS // 10, 100_000, HUGE])
def test_an_image_that_would_be_too_large_is_refused_before_it_is_resized(monkeypatch, side):
    monkeypatch.setattr(Image.Image, "resize", lambda *words: pytest.fail("it was resized"))
    with pytest.raises(InputError, match="the short side is"):
        resize_short_side(np.zeros((4, 6, 3), np.uint8), side)


@pytest.mark.parametrize(
    "text", ["100000x100000", "²x3", f"{'9' * 5000}x1", f"1x{bounds.PIXELS + 1}"]
)
def test_a_size_that_nobody_computes_is_refused(text):
    with pytest.raises(InputError, match="--size"):
        parse_size(text)


def test_an_eps_named_jpg_starts_nothing(monkeypatch, tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with Image.open(path) as picture:
        assert picture.format == "EPS", "Pillow would not open it, so this proves nothing"
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(InputError, match="is no JPEG, PNG, TIFF, BMP or WEBP image"):
        read_image(path)

"""The one reader of image files: photographs, label maps and segment maps, from a path or bytes.

Formats are a closed list, an image's size is looked at before it is decoded, and modes that have
no certain meaning are refused; every fault is an InputError that names the image.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parity.errors import InputError
from parity.reading import bounds

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""Decoders that may look at a file, whatever its name; none of them starts another program."""

_EXIF_ORIENTATION = 274
_TRANSPOSITIONS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_COLOURS = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
)
"""Modes of 8 bits that are colours, or grey, without a doubt."""


@contextlib.contextmanager
def opened(source: Path | bytes, name: str, what: str = "photograph") -> "Iterator[Image.Image]":
    """The picture, its size checked, its pixels not yet decoded; errors while it is used as well.

    Args: source: a path, or the bytes of a file; name of the image for messages; what it is.
    Raises InputError for a file that is missing, empty, no image of `FORMATS`, broken, or larger
    than `bounds.PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError  # reports are judged without Pillow

    place = source if isinstance(source, Path) else "its record"
    try:
        if isinstance(source, Path) and not source.is_file():
            raise InputError(
                f"{name}: the {what} is missing",
                f"{source} {'is no file' if source.exists() else 'does not exist'}",
                "Put the file there, or remove the image from the annotations.",
            )
        stream = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(stream, formats=FORMATS) as picture:
            if picture.width * picture.height > bounds.PIXELS:
                raise _too_large(name, what, f"{picture.height}x{picture.width} pixels: {place}")
            yield picture
    except Image.DecompressionBombError as error:
        raise _too_large(name, what, f"{place}: {error}") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: the {what} cannot be read",
            f"{place} is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image",
            "Save it as one of them, or fetch the file again.",
        ) from None
    except (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name}: the {what} cannot be read", f"{place}: {error}", "Fetch the file again."
        ) from None


def _too_large(name: str, what: str, evidence: str) -> InputError:
    return InputError(
        f"{name}: the {what} is too large",
        evidence,
        f"At most {bounds.PIXELS:,} pixels are decoded: make it smaller, or cut it.",
    )


def size(path: Path, name: str) -> tuple[int, int]:
    """Height and width of a photograph when it is turned as its EXIF orientation says."""
    with opened(path, name) as picture:
        turned = picture.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def photograph(source: Path | bytes, name: str) -> np.ndarray:
    """uint8 [H,W,3], RGB, upright: EXIF rotation is applied, grey becomes RGB, alpha is dropped.

    That is what detectron2's `data/detection_utils.py: read_image` gives for format "RGB", but for
    grey of 16 bits, whose upper 8 are taken, where detectron2 makes almost all of it white.
    Raises InputError as `opened` does, and for modes that are no certain colours.
    """
    from PIL.Image import Transpose

    with opened(source, name) as picture:
        picture.load()
        turn = _TRANSPOSITIONS.get(picture.getexif().get(_EXIF_ORIENTATION))
        upright = picture if turn is None else picture.transpose(Transpose[turn])
        # Pillow opens some PNGs of 16 bits as 32-bit integers
        if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format == "PNG"):
            grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.mode not in _COLOURS:
            raise InputError(
                f"{name}: the photograph has mode {upright.mode}",
                "its values are no colours from 0 to 255, and nothing says which are meant",
                "Save it with 8 bits a channel, or as grey with 16.",
            )
        return np.asarray(upright.convert("RGB"))


def is_plain(encoded: bytes, name: str) -> str | None:
    """The format of a photograph that every decoder reads the same: 8 bits, upright; else None."""
    with opened(encoded, name) as picture:
        plain = picture.mode in ("L", "RGB") and picture.getexif().get(_EXIF_ORIENTATION, 1) == 1
        return picture.format if plain else None


def values(source: Path | bytes, name: str, what: str) -> tuple[np.ndarray, str]:
    """The pixels as they are stored, without any conversion, and their mode.

    [H,W] or [H,W,C] of Pillow's type for the mode. Raises InputError as `opened` does.
    """
    with opened(source, name, what) as picture:
        return np.asarray(picture), picture.mode

"""Masks of COCO's instances, as polygons or run lengths, checked before they are drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from parity.errors import InputError

_FARTHEST = 1e6  # pixels
_FEWEST = 6  # numbers of a polygon: three corners


def mask_of(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """The mask bool [H,W] of an instance: polygons, or run lengths as numbers or compressed.

    Args: size: height and width of the image; where it stands, for messages.
    Raises InputError for anything else, and for run lengths of another size.
    """
    if isinstance(segmentation, list) and segmentation:
        mask = np.zeros(size, bool)
        for polygon in segmentation:
            mask |= _polygon(polygon, size, where)
        return mask
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        raise InputError(
            f"{where} has no segmentation",
            "expected: polygons, or run lengths with size and counts",
            "A box alone is no mask: leave the annotation out.",
        )
    if segmentation["size"] != list(size):
        raise InputError(
            f"{where}: its run lengths are of an image {segmentation['size']!r}"[:200],
            f"the image is {list(size)} (height, width)",
        )
    return _runs(segmentation["counts"], size, where)


def _polygon(polygon: Any, size: tuple[int, int], where: str) -> np.ndarray:
    is_numbers = isinstance(polygon, list) and all(
        isinstance(value, int | float) and abs(value) < _FARTHEST for value in polygon
    )
    if not is_numbers or len(polygon) % 2 or len(polygon) < _FEWEST:
        raise InputError(
            f"{where}: a polygon is no list of x, y, x, y, ...",
            f"expected: an even count of numbers, at least {_FEWEST}",
        )
    corners = np.array(polygon, np.float64).reshape(-1, 2)
    # what lies outside makes no pixel, and would cost memory for each of its own
    inside = np.clip(corners, 0, (size[1], size[0])).reshape(-1).tolist()
    return coco_mask.decode(coco_mask.frPyObjects([inside], *size)).any(axis=2)


def _runs(counts: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Run lengths, of zeros and ones in turn, down the columns; checked before they are drawn."""
    if isinstance(counts, str):
        counts = _uncompressed(counts, where)
    whole = size[0] * size[1]
    is_numbers = isinstance(counts, list) and len(counts) <= whole + 2
    if not is_numbers or not all(type(n) is int and 0 <= n <= whole for n in counts):
        raise InputError(f"{where}: its run lengths are no counts of pixels")
    if sum(counts) != whole:
        raise InputError(
            f"{where}: its run lengths add up to {sum(counts):,} pixels", f"the image has {whole:,}"
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size, order="F")


def _uncompressed(text: str, where: str) -> list[int]:
    """The counts of COCO's text (`maskApi.c: rleFrString`): five bits a letter, lowest first.

    From the fourth on each is the difference to the one two before it.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InputError(f"{where}: its run lengths hold the letter {letter!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise InputError(f"{where}: its run lengths end within a number")
    return counts

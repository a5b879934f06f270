"""Images as arrays: reading photographs, drawing synthetic ones, and padding a batch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskformer.model.config import ModelConfig
from parity.errors import InputError
from parity.reading import bounds


def read_image(path: str | Path) -> np.ndarray:
    """uint8 [H,W,3], RGB, upright, of a photograph that is named by its path.

    Raises InputError as `image_files.photograph` does.
    """
    from maskformer.data.image_files import photograph

    return photograph(Path(path), f"image {Path(path).name}")


def resize_short_side(image: np.ndarray, short_side: int) -> np.ndarray:
    """uint8 [H',W',3] whose short side has `short_side` pixels: Pillow's bilinear, in uint8.

    This is detectron2's `ResizeShortestEdge` without a limit on the long side. Raises InputError
    for a `short_side` below 1, and where it would have more than `bounds.PIXELS`.
    """
    from PIL import Image

    if not 1 <= short_side <= bounds.PIXELS:
        raise InputError(
            f"the short side is {short_side} pixels", f"expected 1 to {bounds.PIXELS:,}"
        )
    scale = short_side / min(image.shape[:2])
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    if height * width > bounds.PIXELS:
        raise _too_large(f"the short side is {short_side} pixels: {height}x{width}")
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def synthetic_image(height: int, width: int, index: int) -> np.ndarray:
    """uint8 [height,width,3]: colour waves, flat rectangles and noise, fixed by the arguments."""
    key = hashlib.sha256(f"image {height} {width} {index}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key[:8], "little")))
    rows = np.linspace(0, 2 * np.pi, height)[:, None, None]
    columns = np.linspace(0, 2 * np.pi, width)[None, :, None]
    waves = rng.uniform(1, 3, (2, 3))
    image = 128 + 45 * np.sin(waves[0] * rows + waves[1] * columns + rng.uniform(0, 6, 3))
    for _ in range(8):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        bottom, right = top + int(rng.integers(1, height)), left + int(rng.integers(1, width))
        image[top:bottom, left:right] = rng.uniform(0, 255, 3)
    image += rng.uniform(-20, 20, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    """(height, width) from "HxW"; raises InputError for anything else, and more pixels than an
    image that is read may have. `option` is what the text was given with."""
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise InputError(
            f"{option} {text!r} is no size",
            "expected HxW in pixels",
            f"for example {option} 97x131",
        )
    is_long = max(len(height), len(width)) > bounds.DIGITS
    if is_long or int(height) * int(width) > bounds.PIXELS:
        raise _too_large(f"{option} {text}")
    return int(height), int(width)


def size_for(config: ModelConfig, text: str, option: str = "--size") -> tuple[int, int]:
    """The same of an image that the model can take: raises InputError for a smaller one too."""
    size = parse_size(text, option)
    if min(size) < config.minimum_size:
        raise InputError(
            f"{option} {text} is too small",
            f"{config.name} needs at least {config.minimum_size} pixels in both directions, the "
            "stride of its coarsest features",
            "give a larger size, such as 64x96",
        )
    return size


def _too_large(told: str) -> InputError:
    return InputError(
        f"{told} is too large",
        f"an image has at most {bounds.PIXELS:,} pixels",
        "give a smaller size, such as 640x640",
    )


def batch_images(
    images: Sequence[np.ndarray], config: ModelConfig
) -> tuple[np.ndarray, np.ndarray]:
    """One padded batch: uint8 [N,H,W,3] and the valid sizes int32 [N,2].

    H and W are the largest of the images, rounded up to `config.size_divisibility` where that is
    not 0 (detectron2's `structures/image_list.py`). Raises InputError for an image with a side
    below the coarsest stride.
    """
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        if min(height, width) < config.minimum_size:
            raise InputError(
                f"image {number} is {height}x{width} pixels",
                f"{config.name} needs {config.minimum_size} both ways, its coarsest stride",
                "give a larger image",
            )
    step = max(config.size_divisibility, 1)
    height, width = (
        -(-max(image.shape[axis] for image in images) // step) * step for axis in (0, 1)
    )
    batch = np.zeros((len(images), height, width, 3), np.uint8)
    for slot, image in zip(batch, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return batch, np.array([image.shape[:2] for image in images], np.int32)


Size = tuple[int, int]

"""The scaled and flipped copies of an image that multi-scale testing averages over."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from maskformer.errors import InputError
from maskformer.inputs import InputConfig


def short_side_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Height and width with the short side at `short`, or less where the long side would pass
    `longest`; halves round up (detectron2's `ResizeShortestEdge.get_output_shape`).
    """
    scale = short / min(height, width)
    if height < width:
        new_height, new_width = float(short), scale * width
    else:
        new_height, new_width = scale * height, float(short)
    if max(new_height, new_width) > longest:
        scale = longest / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


def augmented_images(image: np.ndarray, inputs: InputConfig) -> Iterator[tuple[np.ndarray, bool]]:
    """Each scaled copy of an image and whether it is mirrored: scale by scale, plain copy first.

    As in detectron2's `DatasetMapperTTA`, `image` is the one the model would see without
    augmentation, that is, already resized for testing.

    Args: image uint8 [H,W,3]. Yields uint8 [h,w,3], resized with PIL's bilinear filter.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"the image is {image.dtype} {list(image.shape)}", "expected: uint8 [H, W, 3]"
        )
    for short in inputs.tta_min_sizes:
        height, width = short_side_size(*image.shape[:2], short, inputs.tta_max_size)
        scaled = np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        )
        yield scaled, False
        if inputs.tta_flip:
            yield np.ascontiguousarray(scaled[:, ::-1]), True

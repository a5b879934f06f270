"""The scaled and flipped copies of an image that multi-scale testing averages over."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from maskformer.data.augmentation import resized_shape
from maskformer.model.inputs import InputConfig
from parity.errors import InputError


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
        height, width = resized_shape(*image.shape[:2], short, inputs.tta_max_size)
        scaled = np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        )
        yield scaled, False
        if inputs.tta_flip:
            yield np.ascontiguousarray(scaled[:, ::-1]), True

"""How images reach a published model: training sizes, crops and colours, test sizes."""

from dataclasses import dataclass

from parity.errors import InputError

MAPPERS = ("mask_former_semantic", "mask_former_panoptic", "detr_panoptic")
CROP_TYPES = ("absolute", "absolute_range")


def _check(condition: bool, fact: str, expected: str) -> None:
    if not condition:
        raise InputError(fact, f"expected: {expected}")


@dataclass(frozen=True)
class CropConfig:
    """A random crop. `size` is (height, width) in pixels, or for "absolute_range" (least, most).

    A crop in which one class covers more than `single_category_max_area` of the labelled pixels is
    drawn again (1.0: never).
    """

    type: str = "absolute"
    size: tuple[int, int] = (512, 512)
    single_category_max_area: float = 1.0

    def __post_init__(self) -> None:
        _check(
            self.type in CROP_TYPES, f"inputs.crop.type is {self.type!r}", f"one of {CROP_TYPES}"
        )
        _check(
            len(self.size) == 2 and min(self.size) >= 1,
            f"inputs.crop.size is {self.size}",
            "two sizes of at least 1 pixel",
        )
        _check(
            0.0 < self.single_category_max_area <= 1.0,
            f"inputs.crop.single_category_max_area is {self.single_category_max_area}",
            "a value in (0, 1]",
        )
        _check(
            self.type == "absolute" or self.single_category_max_area == 1.0,
            f"inputs.crop limits a category's area to {self.single_category_max_area}",
            'type "absolute": the size of an example must not depend on its labels',
        )


@dataclass(frozen=True)
class InputConfig:
    """Input settings of training and testing; lengths in pixels; images are RGB.

    `mapper` names the original's dataset mapper. The short side of a training image is drawn from
    `min_sizes_train`, its long side stays within `max_size_train`. `size_divisibility` is the
    mapper's own padding (-1: none), not the model's. The `tta_*` settings belong to the published
    multi-scale results. Defaults are detectron2's (`config/defaults.py`) and the original's.
    """

    mapper: str = "mask_former_semantic"
    min_sizes_train: tuple[int, ...] = (800,)
    max_size_train: int = 1333
    crop: CropConfig | None = None
    color_aug_ssd: bool = False
    size_divisibility: int = -1
    min_size_test: int = 800
    max_size_test: int = 1333
    tta_min_sizes: tuple[int, ...] = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
    tta_max_size: int = 4000
    tta_flip: bool = True

    def __post_init__(self) -> None:
        _check(self.mapper in MAPPERS, f"inputs.mapper is {self.mapper!r}", f"one of {MAPPERS}")
        for name in ("min_sizes_train", "tta_min_sizes"):
            sizes = getattr(self, name)
            _check(
                len(sizes) >= 1 and min(sizes) >= 1,
                f"inputs.{name} is {sizes}",
                "one or more sizes of at least 1 pixel",
            )
        for name in ("max_size_train", "min_size_test", "max_size_test", "tta_max_size"):
            _check(
                getattr(self, name) >= 1, f"inputs.{name} is {getattr(self, name)}", "at least 1"
            )
        _check(
            self.size_divisibility == -1 or self.size_divisibility >= 1,
            f"inputs.size_divisibility is {self.size_divisibility}",
            "-1 for no padding, or at least 1",
        )

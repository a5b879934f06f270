"""Input settings that several data tests share."""

from maskformer.model.inputs import CropConfig, InputConfig

COCO = InputConfig(
    "detr_panoptic",
    (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    1333,
    CropConfig("absolute_range", (384, 600)),
)
ADE20K = InputConfig(
    "mask_former_semantic",
    tuple(int(x * 0.1 * 512) for x in range(5, 21)),
    2048,
    CropConfig("absolute", (512, 512)),
    True,
    512,
)
SMALL_COCO = InputConfig("detr_panoptic", (64, 72, 80), 128, CropConfig("absolute_range", (48, 64)))
SMALL_ADE20K = InputConfig(
    "mask_former_semantic", (48, 72, 96), 200, CropConfig("absolute", (64, 64)), True, 64
)
SMALL_PANOPTIC = InputConfig(
    "mask_former_panoptic", (48, 72, 96), 200, CropConfig("absolute", (64, 64)), True, 64
)

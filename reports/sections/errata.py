"""Known errata of published numbers, and what else is known of them, each with its source."""

from dataclasses import dataclass

ORIGINAL = "facebookresearch/MaskFormer"


@dataclass(frozen=True)
class Erratum:
    """One remark on a published number: the configs that it concerns, its text and its source."""

    configs: tuple[str, ...]
    text: str
    source: str


ERRATA = (
    Erratum(
        ("coco_r50",),
        "The metrics.json published with the R50 COCO model ends at PQ 40.5, the table says 46.5. "
        "The table stands: the file's PQ was computed with a post-processing bug that has been "
        "fixed since. The file's losses stand.",
        f"{ORIGINAL}, issue 12",
    ),
    Erratum(
        ("coco_r50", "coco_r101"),
        "Training with 16 images a step for the same number of steps gives a similar result as "
        "with the published 64.",
        f"{ORIGINAL}, issue 56",
    ),
    Erratum(
        ("coco_r50",),
        "An independent reproduction reports PQ 46.85.",
        "mmdetection, MaskFormer R50",
    ),
)

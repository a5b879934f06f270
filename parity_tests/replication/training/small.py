"""Configurations that are small enough for a test and have every kind of layer."""

from maskformer.model import zoo
from maskformer.model.config import ModelConfig


def small_swin() -> ModelConfig:
    """`tiny` on a Swin with one or two blocks per stage and every kind of dropout."""
    backbone = {
        "depths": (1, 1, 2, 1),
        "embed_dim": 24,
        "num_heads": (1, 2, 4, 8),
        "drop_rate": 0.1,
        "attn_drop_rate": 0.1,
    }
    swin = zoo.model_config("coco_swin_tiny").replace(backbone=backbone).backbone
    return zoo.model_config("tiny").replace(backbone=swin)


def small_per_pixel(name: str) -> ModelConfig:
    """The per-pixel model `name` of the zoo on the same Swin, smaller and with fewer classes."""
    published = zoo.model_config(name)
    classes = 11
    return published.replace(
        backbone=small_swin().backbone,
        num_classes=classes,
        pixel_decoder={"conv_dim": 64, "mask_dim": 64},
        predictor={
            "hidden_dim": 64,
            "num_queries": classes,
            "nheads": 4,
            "dim_feedforward": 128,
            "dec_layers": 2,
        },
    )

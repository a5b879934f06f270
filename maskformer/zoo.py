"""The published MaskFormers by name, as data."""

import difflib
from dataclasses import dataclass

from maskformer.coco import THING_IDS
from maskformer.config import InferenceConfig, ModelConfig, PixelDecoderConfig, PredictorConfig
from maskformer.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One entry of the zoo."""

    name: str
    model: ModelConfig


_COCO_R50 = ModelConfig(
    name="coco_r50",
    num_classes=133,
    pixel_decoder=PixelDecoderConfig(
        name="TransformerEncoderPixelDecoder", transformer_enc_layers=6
    ),
    predictor=PredictorConfig(in_feature="transformer_encoder"),
    inference=InferenceConfig(
        panoptic_on=True, object_mask_threshold=0.8, overlap_threshold=0.8, thing_ids=THING_IDS
    ),
    size_divisibility=0,
)

_TINY = _COCO_R50.replace(
    name="tiny",
    num_classes=13,
    pixel_decoder={"conv_dim": 64, "mask_dim": 64, "transformer_enc_layers": 1},
    predictor={
        "hidden_dim": 64,
        "num_queries": 20,
        "nheads": 4,
        "dim_feedforward": 128,
        "dec_layers": 2,
    },
    inference={"thing_ids": (0, 1, 2, 4, 5, 6, 8)},
)

ENTRIES: dict[str, Entry] = {model.name: Entry(model.name, model) for model in (_COCO_R50, _TINY)}


def names() -> tuple[str, ...]:
    """Every name `get` knows, in the zoo's order."""
    return tuple(ENTRIES)


def get(name: str) -> Entry:
    """The entry called `name`.

    Raises:
        InputError: no such entry; the message has the nearest names.
    """
    if name not in ENTRIES:
        nearest = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.3) or list(ENTRIES)[:3]
        raise InputError(
            f"no config is called {name!r}",
            f"nearest: {', '.join(nearest)}",
            f"`parity zoo` lists all {len(ENTRIES)}",
        )
    return ENTRIES[name]


def model_config(name: str) -> ModelConfig:
    """The model of the entry called `name`; raises as `get` does."""
    return get(name).model

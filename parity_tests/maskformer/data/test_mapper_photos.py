"""The three mappers against the original's on two COCO photographs, where those are at hand.

MASKFORMER_ORACLE_PHOTOS is the path of `golden_data.npz`, MASKFORMER_COCO_SAMPLE the folder with
`input_images/`, `panoptic_examples/` and `panoptic_examples.json`. Neither may be redistributed.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskformer.data.annotated import Annotated
from maskformer.data.augmentation import (
    Crop,
    Flip,
    Pad,
    Resize,
    Step,
    resized_shape,
    source_indices,
)
from maskformer.data.mapper import Mapped, apply_steps, apply_to_labels, expand_masks
from maskformer.data.panoptic_dataset import read_panoptic_images

GOLDEN = os.environ.get("MASKFORMER_ORACLE_PHOTOS")
SAMPLE = os.environ.get("MASKFORMER_COCO_SAMPLE")
pytestmark = pytest.mark.skipif(
    not (GOLDEN and SAMPLE),
    reason="MASKFORMER_ORACLE_PHOTOS and MASKFORMER_COCO_SAMPLE name no files: the photographs may "
    "not be redistributed",
)
PHOTOGRAPHS = ("142238", "439180")


def _resize(example: Annotated, short: int, longest: int = 10**6) -> Resize:
    return Resize(*resized_shape(*example.image.shape[:2], short, longest))


PANOPTIC_CASES = {
    "short96": lambda e: (_resize(e, 96),),
    "short128_max150": lambda e: (_resize(e, 128, 150),),
    "flip_short80": lambda e: (Flip(), _resize(e, 80)),
    "resize150_crop_short96": lambda e: (_resize(e, 150), Crop(17, 31, 100, 120), Resize(96, 115)),
    "crop64x48_upscale90": lambda e: (Crop(100, 200, 48, 64), Resize(90, 120)),
    "pan_short73_crop_pad128": lambda e: (_resize(e, 73), Crop(0, 5, 73, 90), Pad(128, 128)),
}
SEMANTIC_CASES = {
    "sem_short100_crop96_pad96": lambda e: (_resize(e, 100), Crop(3, 20, 96, 96)),
    "sem_short73_crop_pad128": lambda e: (_resize(e, 73), Crop(0, 5, 73, 90), Pad(128, 128)),
    "sem_short61_nopad": lambda e: (_resize(e, 61),),
}
"""The steps behind each stored case; crop boxes are those that the stored images show."""


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def photographs(golden: dict[str, np.ndarray]) -> dict[str, Annotated]:
    root = Path(SAMPLE)
    images = read_panoptic_images(
        root / "panoptic_examples.json", root / "input_images", root / "panoptic_examples"
    )
    wanted = {int(k): v for k, v in json.loads(str(golden["category_map"])).items()}
    assert {c.id: i for i, c in enumerate(images.categories)} == wanted
    return {record.source_id: images.load(i) for i, record in enumerate(images.records)}


def _semantic(example: Annotated) -> Annotated:
    """The labels that the stored cases were made from: void and crowds are 255."""
    classes = np.where(example.is_crowd, 255, example.class_ids)
    table = np.concatenate([[255], classes]).astype(np.uint8)
    return Annotated(example.image, labels=table[example.segments])


def _check(golden: dict[str, np.ndarray], case: str, mapped: Mapped) -> None:
    wanted = golden[f"{case}_image"].transpose(1, 2, 0)
    assert mapped.image.shape == wanted.shape
    wrong = int((mapped.image != wanted).sum())
    assert wrong == 0, f"differing levels are {wrong}, but should be 0 [{case}]"
    assert mapped.class_ids.tolist() == golden[f"{case}_classes"].tolist()


def _masks(golden: dict[str, np.ndarray], case: str) -> np.ndarray:
    shape = tuple(golden[f"{case}_masks_shape"])
    bits = np.unpackbits(golden[f"{case}_masks_packed"], axis=-1)
    return bits[..., : shape[-1]].astype(bool)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("case", PANOPTIC_CASES)
def test_panoptic_mappers_equal_the_original(golden, photographs, case, photograph) -> None:
    example = photographs[photograph]
    steps: tuple[Step, ...] = PANOPTIC_CASES[case](example)
    name = f"{case}_{photograph}"
    mapped = apply_steps(example, steps)
    _check(golden, name, mapped)
    masks = expand_masks(mapped.target_map, len(mapped.class_ids))
    assert (masks == _masks(golden, name)).all()
    if f"{name}_sem_seg" in golden:
        both = replace(example, labels=_semantic(example).labels)
        assert (apply_steps(both, steps).labels == golden[f"{name}_sem_seg"]).all()


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("case", SEMANTIC_CASES)
def test_semantic_mapper_equals_the_original(golden, photographs, case, photograph) -> None:
    example = _semantic(photographs[photograph])
    mapped = apply_steps(example, SEMANTIC_CASES[case](example))
    name = f"{case}_{photograph}"
    _check(golden, name, mapped)
    assert (mapped.labels == golden[f"{name}_sem_seg"]).all()
    masks = expand_masks(mapped.target_map, len(mapped.class_ids))
    assert (masks == (mapped.labels[None] == mapped.class_ids[:, None, None])).all()


def test_flip_after_the_resize_is_noticed(golden, photographs) -> None:
    """In the other photograph the two orders happen to agree."""
    example = photographs["142238"]
    mapped = apply_steps(example, (_resize(example, 80), Flip()))
    masks = expand_masks(mapped.target_map, len(mapped.class_ids))
    assert (masks != _masks(golden, "flip_short80_142238")).any()


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_labels_by_pillows_rule_are_noticed(golden, photographs, photograph) -> None:
    example = _semantic(photographs[photograph])
    steps = SEMANTIC_CASES["sem_short61_nopad"](example)
    rows, columns = source_indices(steps, *example.labels.shape, "pillow")
    wanted = golden[f"sem_short61_nopad_{photograph}_sem_seg"]
    assert (apply_to_labels(example.labels, rows, columns, 255) != wanted).any()

"""What a model predicts for one image, and the host's part of making it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskformer.data.images import Size
from maskformer.data.panoptic_format import VOID, Segment
from maskformer.model.config import ModelConfig
from parity.errors import InputError

RESULTS = ("scores", "labels", "panoptic", "instances")


@dataclass(frozen=True)
class QueryDecisions:
    """Everything that panoptic inference decides per query and pixel, in sizes that never change.

    `score` float [Q] and `label` int [Q]: each query's most probable class, no-object included;
    `keep` bool [Q]: a class, with a score above the threshold; `owner` int [H,W]: the kept query
    with the largest score x mask probability, -1 where none is kept; `area` int [Q]: pixels owned;
    `full_area` int [Q]: pixels with a mask probability of at least one half.
    """

    score: np.ndarray
    label: np.ndarray
    keep: np.ndarray
    owner: np.ndarray
    area: np.ndarray
    full_area: np.ndarray


@dataclass(frozen=True)
class PanopticPrediction:
    """Segment ids int32 [H,W] from 1, 0 where there is none; segments with contiguous classes."""

    ids: np.ndarray
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Instance:
    """One thing: its contiguous class, its score in 0..1 and its mask bool [H,W]."""

    category_id: int
    score: float
    mask: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The results asked for, at the output size; None for the others.

    `scores` float [K,H,W]: class scores of MaskFormer, logits of a per-pixel head; `labels` int32
    [H,W]: their argmax.
    """

    scores: np.ndarray | None = None
    labels: np.ndarray | None = None
    panoptic: PanopticPrediction | None = None
    instances: tuple[Instance, ...] | None = None


def merge_queries(
    decisions: QueryDecisions, thing_ids: Sequence[int], overlap_threshold: float
) -> PanopticPrediction:
    """Turns queries into segments, in query order (the original's `panoptic_inference`).

    A query that lost more than `1 - overlap_threshold` of its own mask to others is dropped, and
    its pixels stay void. Queries of one stuff class share a segment; every thing is its own.
    """
    segment_of = np.zeros(len(decisions.keep) + 1, np.int32)  # the last is the owner -1
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    things = frozenset(thing_ids)
    for query in np.flatnonzero(decisions.keep):
        area, full_area = int(decisions.area[query]), int(decisions.full_area[query])
        if area == 0 or full_area == 0 or area / full_area < overlap_threshold:
            continue
        label = int(decisions.label[query])
        if label in stuff:
            segment_of[query] = stuff[label]
            continue
        segments.append(Segment(len(segments) + 1, label))
        segment_of[query] = len(segments)
        if label not in things:
            stuff[label] = len(segments)
    return PanopticPrediction(segment_of[decisions.owner], tuple(segments))


def to_dataset_ids(
    prediction: PanopticPrediction, dataset_ids: Mapping[int, int] | Sequence[int]
) -> tuple[Segment, ...]:
    """The segments with the data set's category ids: `dataset_ids[contiguous class]`."""
    return tuple(Segment(s.id, dataset_ids[s.category_id]) for s in prediction.segments)


def to_labels(prediction: PanopticPrediction, void_label: int = 255) -> np.ndarray:
    """Contiguous classes int32 [H,W] of a panoptic prediction, `void_label` where there is none."""
    class_of = np.full(len(prediction.segments) + 1, void_label, np.int32)
    for segment in prediction.segments:
        class_of[segment.id] = segment.category_id
    class_of[VOID] = void_label
    return class_of[prediction.ids]


def resizes_before_combining(config: ModelConfig) -> bool:
    """Whether mask logits (True) or class scores (False) are resized to the output size.

    Panoptic models always resize the masks (the original's `MaskFormer.from_config`).
    """
    return config.inference.sem_seg_postprocess_before_inference or config.inference.panoptic_on


def padded_size(image_sizes: Sequence[Size], divisibility: int) -> Size:
    """Height and width that images are padded to: their largest, up to a multiple if not 0."""
    height, width = (max(size[axis] for size in image_sizes) for axis in (0, 1))
    step = max(divisibility, 1)
    return -(-height // step) * step, -(-width // step) * step


def wanted_results(config: ModelConfig, results: Sequence[str] | None) -> tuple[str, ...]:
    """`results`, or what the original returns for this config. Raises InputError for others."""
    if results is None:
        return ("scores", "labels", "panoptic") if config.inference.panoptic_on else RESULTS[:2]
    for result in results:
        if result not in RESULTS:
            raise InputError(f"the result {result!r} is not known", f"expected: some of {RESULTS}")
        if result == "panoptic" and not config.inference.panoptic_on:
            raise InputError(
                f"{config.name or 'this config'} makes no panoptic predictions",
                "inference.panoptic_on is False",
                "Ask for labels, or use a panoptic config.",
            )
        if result == "instances" and (config.is_per_pixel or not resizes_before_combining(config)):
            raise InputError(
                f"{config.name or 'this config'} makes no instances",
                "its masks are combined before they reach the output size",
                "Use a panoptic config, or set inference.sem_seg_postprocess_before_inference.",
            )
    return tuple(results)


def check_outputs(
    config: ModelConfig,
    shapes: Mapping[str, Sequence[int]],
    padded: Size,
    image_sizes: Sequence[Size],
    output_sizes: Sequence[Size],
) -> None:
    """Raises InputError unless outputs of these shapes can be post-processed at these sizes."""
    classes = config.num_classes
    expected = (
        {"sem_seg": (None, classes, None, None)}
        if config.is_per_pixel
        else {"pred_logits": (None, None, classes + 1), "pred_masks": (None, None, None, None)}
    )
    for key, pattern in expected.items():
        if key not in shapes:
            raise InputError(
                f"the outputs have no `{key}`",
                f"they have: {', '.join(sorted(shapes)) or 'nothing'}",
                f"{config.head} predicts {' and '.join(expected)}.",
            )
        shape = tuple(shapes[key])
        if len(shape) != len(pattern) or any(
            wanted not in (None, got) for wanted, got in zip(pattern, shape, strict=True)
        ):
            text = ", ".join("*" if wanted is None else str(wanted) for wanted in pattern)
            raise InputError(f"`{key}` is {list(shape)}", f"expected: [{text}]")
        if shape[0] != len(image_sizes) or shape[0] != len(output_sizes):
            raise InputError(
                f"`{key}` holds {shape[0]} images",
                f"{len(image_sizes)} image sizes and {len(output_sizes)} output sizes are given",
            )
    if not config.is_per_pixel and shapes["pred_logits"][1] != shapes["pred_masks"][1]:
        raise InputError(
            f"{shapes['pred_logits'][1]} queries have a class",
            f"{shapes['pred_masks'][1]} have a mask; expected: the same number",
        )
    for i, (image, output) in enumerate(zip(image_sizes, output_sizes, strict=True)):
        if min(*image, *output) < 1:
            raise InputError(
                f"image {i}: sizes are {tuple(image)} and {tuple(output)}",
                "expected: (height, width) of at least 1 pixel",
            )
        if image[0] > padded[0] or image[1] > padded[1]:
            raise InputError(
                f"image {i} is {tuple(image)}",
                f"it does not fit the padded size {tuple(padded)}; order is (height, width)",
            )


def check_finite(finite: Sequence[bool]) -> None:
    """Raises InputError for the first image whose outputs are not all finite."""
    for i, good in enumerate(finite):
        if not good:
            raise InputError(
                f"image {i}: the model's outputs hold NaN or infinity",
                "no class or segment can be read from them",
                "Check the weights and the input; `parity audit` names the first bad layer.",
            )

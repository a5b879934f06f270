"""Where two sides predict differently, and whether float32 rounding can explain it.

A decision is certain where the float64 reference's margin is larger than what the claims on numbers
allow two scores to move: in float32 twice 4 x the reference's own error, in float64 twice 32 x. A
pixel that differs although its decision is certain is unexplained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from maskformer.data.images import Size
from maskformer.data.panoptic_format import VOID, Segment, count_equal
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from parity.judge import FUNCTION_FACTOR, PRECISION_FACTOR
from replication.sides.implementation import Frame
from replication.sides.side import REFERENCE, Side, implementation, open_side
from replication.sides.torch_side import query_probabilities
from replication.sides.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Certain:
    """Whether each pixel's decision is certain: bool [H,W]; `panoptic` None without segments."""

    labels: np.ndarray
    panoptic: np.ndarray | None


@dataclass(frozen=True)
class Difference:
    """`pixels` bool [H,W] that differ, and segments of either side without a partner."""

    pixels: np.ndarray
    segments: int


def panoptic_difference(
    first_ids: np.ndarray,
    first: tuple[Segment, ...],
    second_ids: np.ndarray,
    second: tuple[Segment, ...],
) -> Difference:
    """Compares two panoptic maps [H,W] whatever their segments are numbered.

    Segments are partners where their classes are equal and their IoU is above one half (Kirillov et
    al. 2019, section 4.1: then the partner is unique). A pixel differs unless both sides give it to
    partners, or both to none.
    """
    classes = [{s.id: s.category_id for s in one} for one in (first, second)]
    (ours, theirs), counts = count_equal(first_ids, second_ids)
    areas: list[dict[int, int]] = [{}, {}]
    for values, area in ((ours, areas[0]), (theirs, areas[1])):
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            area[value] = area.get(value, 0) + count
    partners = {VOID: VOID}
    for a, b, shared in zip(ours.tolist(), theirs.tolist(), counts.tolist(), strict=True):
        if VOID in (a, b) or classes[0][a] != classes[1][b]:
            continue
        if 2 * shared > areas[0][a] + areas[1][b] - shared:
            partners[a] = b
    partner_of = np.full(max(areas[0]) + 1, -1, np.int64)
    for a, b in partners.items():
        if a < len(partner_of):
            partner_of[a] = b
    matched = len(partners) - 1
    alone = len(first) + len(second) - 2 * matched
    return Difference(partner_of[first_ids] != second_ids, alone)


@dataclass(frozen=True)
class Disagreement:
    """How two sides differ on one image.

    `differs` and `unexplained` bool [H,W]: pixels of another segment or label, and those of them
    whose decision was certain; `segments`: of either side without a partner.
    """

    differs: np.ndarray
    unexplained: np.ndarray
    panoptic_pixels: int
    label_pixels: int
    segments: int

    @property
    def unexplained_pixels(self) -> int:
        """How many pixels rounding does not explain."""
        return int(self.unexplained.sum())


def disagreement(
    labels: Sequence[np.ndarray],
    segments: Sequence[tuple[np.ndarray, tuple[Segment, ...]]] | None,
    certain: Callable[[], Certain],
) -> Disagreement | None:
    """Two sides' predictions of one image compared; None where they are the same.

    Args: labels [H,W] of both; (ids [H,W], segments) of both, or None; certain: gives the certain
    decisions, called where something differs only.
    """
    label_pixels = labels[0] != labels[1]
    found = Difference(np.zeros_like(label_pixels), 0)
    if segments is not None:
        found = panoptic_difference(*segments[0], *segments[1])
    differs = label_pixels | found.pixels
    if not differs.any():
        return None
    sure = certain()
    unexplained = label_pixels & sure.labels
    if segments is not None:
        unexplained |= found.pixels & sure.panoptic
    return Disagreement(
        differs, unexplained, int(found.pixels.sum()), int(label_pixels.sum()), found.segments
    )


@dataclass(frozen=True)
class Margins:
    """Judges pixels by the reference's own decisions, in float64 and in float32."""

    config: ModelConfig
    inputs: InputConfig
    weights: Weights

    @cached_property
    def _references(self) -> tuple[Side, Side]:
        return tuple(
            open_side(REFERENCE, self.config, self.inputs, self.weights, dtype=dtype)
            for dtype in ("float64", "float32")
        )

    def certain(self, image: np.ndarray) -> Certain:
        """Which decisions rounding cannot change. Args: image uint8 [H,W,3]."""
        (exact, frame), (single, _) = (one.outputs(image) for one in self._references)
        sizes = (frame.padded, frame.valid, frame.size)
        return certain_decisions(self.config, exact, single, *sizes, np.float32)


def certain_decisions(
    config: ModelConfig,
    exact: Mapping[str, "torch.Tensor"],
    moved: Mapping[str, "torch.Tensor"],
    padded: Size,
    valid: Size,
    size: Size,
    dtype: type,
) -> Certain:
    """Which decisions of the float64 reference no run in `dtype` may make otherwise.

    Args: exact: the reference's outputs for one image in float64; moved: the same by a run with the
    rounding of `dtype`, whose distance is the reference's own error; padded, valid, size: of the
    network's input, the image in it, and the results.
    """
    runs, frame = (exact, moved), Frame(padded, valid, size, size)
    predict = implementation(REFERENCE).predict
    scores = [predict(one, config, frame, ("scores",)).scores for one in runs]
    rounding = _Rounding.of(dtype)
    labels = _top_margin(scores[0]) > 2 * _allowed(*scores, rounding)
    if not config.inference.panoptic_on:
        return Certain(labels, None)
    del scores
    probabilities = (query_probabilities(one, frame) for one in runs)
    return Certain(labels, _certain_segments(config, *probabilities, rounding))


def _certain_segments(
    config: ModelConfig,
    exact: tuple[np.ndarray, np.ndarray],
    moved: tuple[np.ndarray, np.ndarray],
    rounding: "_Rounding",
) -> np.ndarray:
    """Bool [H,W] from class probabilities [Q,K+1] and mask probabilities [Q,H,W] of both runs."""
    (classes, masks), (moved_classes, moved_masks) = exact, moved
    threshold, overlap = config.inference.object_mask_threshold, config.inference.overlap_threshold
    allowed = _allowed(classes, moved_classes, rounding)
    score, label = classes.max(axis=1), classes.argmax(axis=1)
    class_is_sure = _top_margin(classes.T) > 2 * allowed
    kept = class_is_sure & (label != config.num_classes) & (score > threshold + allowed)
    dropped = (class_is_sure & (label == config.num_classes)) | (score <= threshold - allowed)

    # One query at a time: all of them weighted would be as much memory again as all masks.
    weights = _Weighted(score, masks)
    moved_weights = _Weighted(moved_classes.max(axis=1), moved_masks)
    best = np.full(masks.shape[1:], -np.inf)
    for query in np.flatnonzero(kept):
        np.maximum(best, weights[query], out=best)
    # Every query that may own the pixel, whatever rounding does.
    reach = 2 * _allowed(weights, moved_weights, rounding)
    possible = np.zeros(masks.shape, bool)
    for query in np.flatnonzero(~dropped):
        possible[query] = weights[query] + reach >= best
    owners = possible.sum(axis=0)
    owner = possible.argmax(axis=0)

    mask_allowed = _allowed(masks, moved_masks, rounding)
    full = [
        np.array([np.count_nonzero(one >= 0.5 + sign * mask_allowed) for one in masks])
        for sign in (1, -1)
    ]
    area = [(possible & (owners == 1)).sum(axis=(1, 2)), possible.sum(axis=(1, 2))]
    stays = (area[0] > 0) & (full[0] > 0) & (area[0] >= overlap * full[1])
    goes = (area[1] == 0) | (full[1] == 0) | (area[1] < overlap * full[0])
    sure = kept & (stays | goes)
    return (owners == 0) | ((owners == 1) & sure[owner])


@dataclass(frozen=True)
class _Weighted:
    """Mask probabilities [Q,H,W] times the class score of their query, made when asked for."""

    scores: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, query: int) -> np.ndarray:
        return self.scores[query] * self.masks[query]


def _top_margin(scores: np.ndarray) -> np.ndarray:
    """Largest minus second largest along axis 0; infinite where there is only one."""
    if len(scores) == 1:
        return np.full(scores.shape[1:], np.inf)
    largest, second = np.maximum(scores[0], scores[1]), np.minimum(scores[0], scores[1])
    for one in scores[2:]:
        np.maximum(second, np.minimum(largest, one), out=second)
        np.maximum(largest, one, out=largest)
    return largest - second


@dataclass(frozen=True)
class _Rounding:
    """One rounding of a precision, and how many of the reference's own errors its claim allows."""

    epsilon: float
    factor: float

    @classmethod
    def of(cls, dtype: type) -> "_Rounding":
        factor = FUNCTION_FACTOR if dtype is np.float64 else PRECISION_FACTOR
        return cls(float(np.finfo(dtype).eps), factor)


def _allowed(
    exact: np.ndarray | _Weighted, moved: np.ndarray | _Weighted, rounding: _Rounding
) -> float:
    """What the claim on its precision allows one score to be off, of the reference's largest error.

    That error is at least one rounding of the largest score.
    """
    error = largest = 0.0
    for index in range(len(exact)):
        ours, theirs = exact[index], moved[index]
        error = np.maximum(error, np.abs(theirs - ours).max())  # also where that is no number
        largest = np.maximum(largest, np.abs(ours).max())
    return rounding.factor * float(np.maximum(error, rounding.epsilon * largest))

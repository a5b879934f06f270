"""What an evaluation records: scores of one or both sides, and how they compare."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from maskformer.metrics.panoptic_quality import PanopticScore
from maskformer.metrics.statistics import Comparison, Equivalence, Interval, Missing
from parity.results import Result


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class's scores; None where it does not occur, and without segments."""

    id: int
    name: str
    isthing: bool
    iou: float | None
    accuracy: float | None
    pq: float | None = None
    sq: float | None = None
    rq: float | None = None


@dataclass(frozen=True, kw_only=True)
class SideScores:
    """What one side scored: `panoptic` by group of classes, `intervals` by score."""

    miou: float
    miou_2021: float
    fwiou: float
    macc: float
    pacc: float
    panoptic: Mapping[str, PanopticScore] = field(default_factory=dict)
    intervals: Mapping[str, Interval | Missing]
    per_class: tuple[ClassScores, ...]
    seconds: float = 0.0

    def of(self, name: str) -> float | None:
        """A score as pages call it, "mIoU" or "PQ GROUP"; None where there is none."""
        group = self.panoptic.get(name.removeprefix("PQ "))
        return self.miou if name == "mIoU" else None if group is None else group.pq

    def interval(self, name: str) -> Interval | None:
        """The interval of a score; None where there is none."""
        found = self.intervals.get(name)
        return None if isinstance(found, Missing) else found


@dataclass(frozen=True)
class ScoreComparison:
    """One score of two sides compared over the same images."""

    difference: Comparison | Missing
    equivalence: Equivalence | Missing


@dataclass(frozen=True)
class ImageDifference:
    """What differs in one image, in pixels and segments; `unexplained` by rounding."""

    image: str
    panoptic_pixels: int
    label_pixels: int
    segments: int
    unexplained: int


@dataclass(frozen=True, kw_only=True)
class EvaluationComparison:
    """Two sides compared; `of` says which is subtracted from which, as "tf - torch".

    `agreement` are the scores of the second side with the first as the truth.
    """

    of: str
    images_that_differ: int
    pixels: int
    panoptic_pixels: int
    label_pixels: int
    segments: int
    unexplained: int
    disagreements: tuple[ImageDifference, ...]
    agreement: Mapping[str, float]
    scores: Mapping[str, ScoreComparison]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(Result):
    """One or both sides evaluated on a data set; scores are in 0..1.

    Args:
        port_weights, port_weights_sha256: of the port's own weights, where it has some.
        products: passes of bfloat16 in which the second side makes its products, as a TPU does; 0
            where both sides are as they are.
        test_size: (short, long) side of images.
        pictures: files beside the result.
    """

    schema: ClassVar[str] = "maskformer-replication/evaluation/1"

    config: str
    config_sha256: str
    weights: str
    weights_sha256: str
    port_weights: str = ""
    port_weights_sha256: str | None = None
    data: str
    layout: str
    split: str
    images: int
    products: int = 0
    test_size: tuple[int, int]
    augmented: bool
    sides: Mapping[str, SideScores]
    comparison: EvaluationComparison | None = None
    pictures: tuple[str, ...] = ()
    versions: Mapping[str, str]
    seconds: float = 0.0

    @property
    def random(self) -> bool:
        """Whether the weights are random numbers."""
        return self.weights.startswith("seeded:")

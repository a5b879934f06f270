"""Batches of static shape from images of many shapes: which examples go together, decided ahead.

The plan needs sizes and draws only, so it costs no decoding, is the same for both frameworks, and
continues exactly where a saved state left off.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.errors import InputError

COCO_BUCKETS: tuple[tuple[int, int], ...] = (
    (640, 864),
    (864, 640),
    (800, 1088),
    (1088, 800),
    (800, 1344),
    (1344, 800),
)
"""(height, width) of padded COCO batches: short side up to 800, long side up to 1333, so that every
training image of the published configs fits one; sides are multiples of 32."""


@dataclass(frozen=True)
class Batch:
    """Examples of one batch: their positions in the run, and the shape they are padded to."""

    shape: tuple[int, int]
    positions: tuple[int, ...]


@dataclass
class BatchPlan:
    """An endless sequence of batches whose examples fit one bucket each, in order of arrival.

    `shape_at(position)` gives height and width of an example after its draws. Examples wait until
    their bucket is full; `state()` holds the next position and those that wait, and `BatchPlan(...,
    **state)` continues from there.
    """

    shape_at: Callable[[int], tuple[int, int]]
    buckets: Sequence[tuple[int, int]]
    batch_size: int
    position: int = 0
    waiting: dict[str, list[int]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises InputError for an example that fits no bucket."""
        while True:
            position, self.position = self.position, self.position + 1
            shape = choose_bucket(*self.shape_at(position), self.buckets)
            key = f"{shape[0]}x{shape[1]}"
            queue = self.waiting.setdefault(key, [])
            queue.append(position)
            if len(queue) == self.batch_size:
                self.waiting[key] = []
                return Batch(shape, tuple(queue))

    def state(self) -> dict[str, Any]:
        """Plain JSON-able values that continue this plan."""
        return {
            "position": self.position,
            "waiting": {key: list(queue) for key, queue in self.waiting.items() if queue},
        }


def choose_bucket(height: int, width: int, buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The smallest bucket (by area, then order) that holds `height` x `width`.

    Raises InputError where none does.
    """
    fitting = [bucket for bucket in buckets if height <= bucket[0] and width <= bucket[1]]
    if not fitting:
        raise InputError(
            f"an example of {height}x{width} (height x width) fits no bucket",
            f"buckets: {', '.join(f'{h}x{w}' for h, w in buckets)}",
            "Add a larger bucket, or lower inputs.max_size_train.",
        )
    return min(fitting, key=lambda bucket: bucket[0] * bucket[1])

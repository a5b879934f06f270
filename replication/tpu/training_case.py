"""What replicas and the references beside them train: a model, its optimizer, same batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.data.images import batch_images, synthetic_image
from maskformer.family import family_of
from parity.errors import InputError
from parity.metrics import perturb_ulp
from replication.sides.weights import Weights, load_weights

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from maskformer.model.zoo import Entry


@dataclass(frozen=True)
class GlobalBatch:
    """The images of all replicas, uint8 [N,H,W,3], one replica's after the other's; their `sizes`
    int32 [N,2], and targets as both sides take them."""

    images: np.ndarray
    sizes: np.ndarray
    targets: Any

    def part(self, replica: int, count: int) -> "GlobalBatch":
        """The `count` images of one replica."""
        own = slice(replica * count, (replica + 1) * count)
        return GlobalBatch(self.images[own], self.sizes[own], self.targets[own])


@dataclass(frozen=True)
class Case:
    """A training of `len(batches)` updates on `replicas` replicas of `per_replica` images.

    A replica's images are computed in `parts`. `solver` is the published one from its full rate on;
    targets are padded to `most`.
    """

    config: "ModelConfig"
    solver: "SolverConfig"
    weights: Weights
    batches: Sequence[GlobalBatch]
    replicas: int
    per_replica: int
    most: int
    parts: int = 1

    @property
    def of_parts(self) -> "Case":
        """The same updates with a replica for each part."""
        return replace(
            self,
            replicas=self.replicas * self.parts,
            per_replica=self.per_replica // self.parts,
            parts=1,
        )

    @property
    def clip(self) -> float | None:
        """The norm that all gradients together are clipped to."""
        return self.solver.clip_value if self.solver.clip_type == "full_model" else None

    def moved(self, seed: int | None, units: int = 1) -> Weights:
        """The weights, where there is a seed each moved by up to `units` in the last place."""
        if seed is None:
            return self.weights
        state = {
            key: perturb_ulp(np.asarray(one), seed + index, units)
            for index, (key, one) in enumerate(self.weights.state.items())
        }
        return replace(self.weights, state=state)


def training_case(
    entry: "Entry", size: tuple[int, int], share: tuple[int, int], steps: int, most: int
) -> Case:
    """Seeded weights, and another batch of synthetic images and targets for each step.

    `share` is the number of replicas, and of images of each. Raises InputError where an image has
    more targets than `most`, since the reference drops none.
    """
    replicas, per_replica = share
    config, height, width = entry.model, *size
    batches = []
    for step in range(steps):
        count = replicas * per_replica
        drawn = [synthetic_image(height, width, step * count + one) for one in range(count)]
        images, sizes = batch_images(drawn, config)
        targets = family_of(config).targets(config, sizes, images.shape[1:3], step)
        if not config.is_per_pixel:
            _check_room(max(len(one["labels"]) for one in targets), most)
        batches.append(GlobalBatch(images, sizes, targets))
    solver = replace(entry.solver, warmup_iters=0)  # the first rate of a warm-up may be zero
    weights = load_weights("seeded:0", config)
    return Case(config, solver, weights, batches, replicas, per_replica, most)


def _check_room(largest: int, most: int) -> None:
    if largest > most:
        raise InputError(
            f"--targets is {most}",
            f"an image has {largest} targets, and the reference drops none",
            f"Give at least {largest}.",
        )

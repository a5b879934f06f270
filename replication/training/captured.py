"""Both sides of a training step, to be captured each where its framework is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.family import family_of
from parity.captures.training import Trained
from replication.sides.implementation import Implementation
from replication.training.sides import port_side, reference_side

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig


@dataclass(frozen=True)
class StepCase:
    """A batch, uint8 [N,H,W,3] with valid sizes, and how both sides train on it."""

    config: "ModelConfig"
    solver: "SolverConfig"
    images: np.ndarray
    sizes: np.ndarray

    def of(
        self, side: str, implementation: Implementation, dtype: str = "float64"
    ) -> Callable[[Any], Trained]:
        """What makes of a side's model in a precision what trains it, from the full rate on."""
        held = "float64" if dtype == "float64" else "float32"
        solver = replace(self.solver, warmup_iters=0)  # the first rate of a warm-up may be zero

        def trained(model: Any) -> Trained:
            targets = family_of(self.config).targets(
                self.config, self.sizes, self.images.shape[1:3]
            )
            given = (self.config, self.images, self.sizes, targets, held)
            batch = implementation.batch(*given)
            made = reference_side if side == "reference" else port_side
            one = made(
                model,
                solver,
                held,
                inputs=implementation.inputs(self.images, self.sizes, held),
                loss=implementation.loss(model, batch.targets),
                axes=implementation.axes,
            )
            losses = _reference_losses if side == "reference" else _port_losses
            return Trained(one, lambda: losses(model, batch))

        return trained


def _reference_losses(model: Any, batch: Any) -> Mapping[str, float]:
    import torch

    from torch_reference.train_step import batch_losses

    with torch.no_grad():
        found = batch_losses(model, model(batch.images, batch.sizes), batch.targets)
    return {name: float(value) for name, value in found.items()}


def _port_losses(model: Any, batch: Any) -> Mapping[str, float]:
    from tf_impl.train_step import batch_losses

    outputs = model(batch.images, sizes=batch.sizes, training=False)
    found, _ = batch_losses(model, outputs, batch.targets)
    return {name: float(value) for name, value in found.items()}

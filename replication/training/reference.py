"""One training step of the reference in float64, against which the port's stages are held."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.family import family_of
from parity.on_disk import ArraysOnDisk, TraceOnDisk
from parity.steps import Steps, give_back
from parity.training.sides import Side
from parity.training.updates import Updates, measure_updates
from replication.sides.torch_side import TORCH, target_of_query
from replication.training.sides import reference_side

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from replication.sides.weights import Weights


@dataclasses.dataclass(frozen=True)
class ReferenceStep:
    """One float64 training step of the reference without dropout, and how rounding moves it.

    `targets` are those of both sides: segments per image, or labels for a per-pixel head.
    `gradients` is the trace, on disk, with its `floors`; `outputs` are the model's, tensors;
    `pairs` int [L,B,Q] the target of each query or -1. `updates` is what one update makes of these
    gradients.
    """

    config: "ModelConfig"
    solver: "SolverConfig"
    images: np.ndarray
    sizes: np.ndarray
    targets: Any
    batch: Any
    side: Side
    recorder: Any
    gradients: Any
    floors: Mapping[str, Any]
    outputs: Any
    pairs: np.ndarray | None
    losses: Mapping[str, float]
    updates: Updates

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.side.model

    @property
    def total(self) -> float:
        """The weighted sum of the losses."""
        from torch_reference.criterion import weighted_total

        return float(weighted_total(self.losses, self.config.loss))

    def before(self, name: str) -> np.ndarray:
        """The weights of one parameter before the update, float64."""
        return self.updates.before[name]

    def gradient(self, name: str) -> np.ndarray | None:
        """The gradient of one parameter; None where it has none."""
        return self.updates.gradients[0][name]


def reference_step(
    config: "ModelConfig",
    solver: "SolverConfig",
    weights: "Weights",
    images: np.ndarray,
    sizes: np.ndarray,
    steps: Steps,
) -> ReferenceStep:
    """Runs the reference; arguments as of `training_claims`."""
    import torch

    from parity.gradients import parameter_key
    from torch_reference import train_step

    # The first rate of a warm-up may be zero.
    solver = dataclasses.replace(solver, warmup_iters=0)
    family = family_of(config)
    targets = family.targets(config, sizes, images.shape[1:3])
    with steps("training step of the reference, float64"):
        model = TORCH.build(config, weights, "float64")
        batch = TORCH.batch(config, images, sizes, targets, "float64")
        side = reference_side(
            model,
            solver,
            "float64",
            inputs=TORCH.inputs(images, sizes, "float64"),
            loss=TORCH.loss(model, batch.targets),
            axes=TORCH.axes,
        )
        recorder, gradients = side.gradient_recorder("eager", None), TraceOnDisk()
        recorder(side.inputs, gradients.add)
        calls = recorder.calls
        give_back()
        with torch.no_grad():
            outputs = model(batch.images, batch.sizes)
            losses = train_step.batch_losses(model, outputs, batch.targets)
            matched = family.matching(config) is not None
            pairs = reference_pairs(model, outputs, batch.targets) if matched else None
    with steps("rounding floor of the gradients"):
        floors = side.built.framework.measure_floors(recorder, side.inputs, gradients)
        recorder.calls = calls
        give_back()
    with steps("one update of the reference and its twins"):
        keys = {key: parameter_key(key) for key in side.parameters()}
        found = ArraysOnDisk(
            (key, gradients[one].array if one in gradients else None) for key, one in keys.items()
        )
        updates = measure_updates(side, [found], ArraysOnDisk(side.state(side.tensors)))
    named = {name: float(value) for name, value in losses.items()}
    given = config, solver, images, sizes, targets, batch
    return ReferenceStep(*given, side, recorder, gradients, floors, outputs, pairs, named, updates)


def layer_names(config: "ModelConfig", outputs: Any) -> list[str]:
    """What the decoder layers of a model's outputs are called, the final one first."""
    layers = family_of(config).outputs.layers(outputs)
    return ["final", *(f"aux {index}" for index in range(len(layers) - 1))]


def reference_pairs(model: Any, outputs: Any, targets: Any) -> np.ndarray:
    """The target of each query, int [L,B,Q], by the reference's matcher; -1 for none."""
    queries = family_of(model.config).matching(model.config).queries
    return target_of_query(model.criterion.match(outputs, targets), queries)

"""One training step of the reference in float64, against which the port's stages are held."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replication.progress import Steps

if TYPE_CHECKING:
    from maskformer.config import ModelConfig
    from maskformer.solver import SolverConfig
    from replication.pair import Weights

UPDATE_TWINS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class ReferenceStep:
    """One float64 training step of the reference without dropout, and how rounding moves it.

    `targets` are those of both sides: segments per image, or labels for a per-pixel head.
    `gradients` is the trace, with its `floors`; `outputs` are the model's, tensors; `pairs` int
    [L,B,Q] the target of each query or -1. `after` are the weights by key after one update;
    `update_floors` their largest gaps to runs whose weights started moved by up to one unit in the
    last place.
    """

    config: "ModelConfig"
    solver: "SolverConfig"
    images: np.ndarray
    sizes: np.ndarray
    targets: Any
    model: Any
    batch: Any
    recorder: Any
    inputs: Mapping[str, Any]
    gradients: Any
    floors: Mapping[str, Any]
    outputs: Any
    pairs: np.ndarray | None
    losses: Mapping[str, float]
    weights: "Weights"
    after: Mapping[str, np.ndarray]
    update_floors: Mapping[str, Any]

    @property
    def total(self) -> float:
        """The weighted sum of the losses."""
        from torch_reference.criterion import weighted_total

        return float(weighted_total(self.losses, self.config.loss))

    def before(self, name: str) -> np.ndarray:
        """The weights of one parameter before the update, float64."""
        return self.weights.state[name].astype(np.float64)

    def gradient(self, name: str) -> np.ndarray | None:
        """The gradient of one parameter; None where it has none."""
        from parity.gradients import parameter_key

        key = parameter_key(name)
        return self.gradients[key].array if key in self.gradients else None


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

    from parity import capture_torch
    from parity.gradients_torch import GradientRecorder
    from parity.metrics import gap, worst
    from replication import pair, training_pair
    from torch_reference import train_step
    from torch_reference.optimizer import build_optimizer

    # The first rate of a warm-up may be zero.
    solver = dataclasses.replace(solver, warmup_iters=0)
    targets: Any = training_pair.synthetic_targets(config, sizes, images.shape[1:3])
    if config.is_per_pixel:
        targets = training_pair.label_map(targets, config.ignore_value)
    inputs = pair.reference_inputs(images, sizes, "float64")
    with steps("training step of the reference, float64"):
        model = pair.build_reference(config, weights, "float64")
        batch = training_pair.reference_batch(config, images, sizes, targets, "float64")
        loss = training_pair.reference_loss(model, batch.targets)
        recorder = GradientRecorder(model, pair.REFERENCE_AXES, loss)
        _, gradients = recorder(inputs)
        losses, _ = train_step.backward(model, batch)
        with torch.no_grad():
            outputs = model(batch.images, batch.sizes)
            pairs = None if config.is_per_pixel else _pairs(model, outputs, batch.targets)
    with steps("rounding floor of the gradients"):
        floors = capture_torch.measure_floors(recorder, inputs, gradients)
    with steps("one update of the reference and its twins"):

        def updated() -> dict[str, np.ndarray]:
            train_step.train_step(model, build_optimizer(model, solver), batch)
            return {key: p.detach().numpy().copy() for key, p in model.named_parameters()}

        after = updated()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weights.state[key]))
        moved = []
        # The optimizer divides small gradients by themselves: one twin may miss what another moves.
        for seed in UPDATE_TWINS:
            with recorder.perturbed(seed):
                twin = updated()
            moved.append({key: gap(twin.pop(key), array) for key, array in after.items()})
        update_floors = {key: worst(gaps[key] for gaps in moved) for key in after}
        model.zero_grad(set_to_none=True)
    return ReferenceStep(
        config,
        solver,
        images,
        sizes,
        targets,
        model,
        batch,
        recorder,
        inputs,
        gradients,
        floors,
        outputs,
        pairs,
        {name: float(value) for name, value in losses.items()},
        weights,
        after,
        update_floors,
    )


def layer_names(outputs: Any) -> list[str]:
    """What the decoder layers of a model's outputs are called, the final one first."""
    return ["final", *(f"aux {index}" for index in range(len(outputs.get("aux_outputs", ()))))]


def layers_of(outputs: Any) -> list[Any]:
    """The outputs of every decoder layer, the final one first."""
    return [outputs, *outputs.get("aux_outputs", ())]


def _pairs(model: Any, outputs: Any, targets: Any) -> np.ndarray:
    layers = layers_of(outputs)
    pairs = np.full((len(layers), *outputs["pred_logits"].shape[:2]), -1)
    for index, layer in enumerate(layers):
        for image, (queries, chosen) in enumerate(model.criterion.matcher(layer, targets)):
            pairs[index, image, queries] = chosen
    return pairs

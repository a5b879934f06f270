"""One training step of the reference in float64, against which the port's stages are held."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskformer.family import family_of
from parity.steps import Steps
from replication.sides.torch_side import TORCH, target_of_query

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from replication.sides.weights import Weights

UPDATE_TWINS = (0, 1)


class Update(NamedTuple):
    """Weights float64 by state-dict key after one update, and the gradients' norm before it.

    `norm` is a float64 array of no axes: the norm before clipping.
    """

    weights: dict[str, np.ndarray]
    norm: np.ndarray


class Floors(NamedTuple):
    """The gaps that rounding alone makes in an `Update`."""

    weights: Mapping[str, Any]
    norm: Any


@dataclasses.dataclass(frozen=True)
class ReferenceStep:
    """One float64 training step of the reference without dropout, and how rounding moves it.

    `targets` are those of both sides: segments per image, or labels for a per-pixel head.
    `gradients` is the trace, with its `floors`; `outputs` are the model's, tensors; `pairs` int
    [L,B,Q] the target of each query or -1. `updated` is what one update makes of these gradients;
    `update_floors` the largest gaps of its weights, by key, and of its norm when gradients and
    weights are moved by up to one unit in the last place and the sum of the norm is reordered.
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
    updated: "Update"
    update_floors: "Floors"

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
        return _gradient(self.gradients, name)


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

    from parity.frameworks.torch import capture as capture_torch
    from parity.frameworks.torch.gradients import GradientRecorder
    from torch_reference import train_step

    # The first rate of a warm-up may be zero.
    solver = dataclasses.replace(solver, warmup_iters=0)
    family = family_of(config)
    targets = family.targets(config, sizes, images.shape[1:3])
    matching = family.matching(config)
    inputs = TORCH.inputs(images, sizes, "float64")
    with steps("training step of the reference, float64"):
        model = TORCH.build(config, weights, "float64")
        batch = TORCH.batch(config, images, sizes, targets, "float64")
        loss = TORCH.loss(model, batch.targets)
        recorder = GradientRecorder(model, TORCH.axes, loss)
        _, gradients = recorder(inputs)
        with torch.no_grad():
            outputs = model(batch.images, batch.sizes)
            losses = train_step.batch_losses(model, outputs, batch.targets)
            pairs = None if matching is None else reference_pairs(model, outputs, batch.targets)
    with steps("rounding floor of the gradients"):
        floors = capture_torch.measure_floors(recorder, inputs, gradients)
    with steps("one update of the reference and its twins"):
        found = _parameter_gradients(model, gradients)
        updated = reference_update(model, solver, found)
        update_floors = _update_floors(model, solver, found, updated)
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
        updated,
        update_floors,
    )


def reference_update(
    model: Any, solver: "SolverConfig", gradients: Mapping[str, np.ndarray | None]
) -> Update:
    """One clipped update of the reference by given `gradients`; the model keeps its weights.

    Args:
        model: the reference, float64.
        solver: the optimizer's.
        gradients: one array per parameter, by state-dict key; None where it has none.
    """
    import torch

    from torch_reference.optimizer import build_optimizer
    from torch_reference.train_step import gradients as found

    parameters = dict(model.named_parameters())
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    for key, parameter in parameters.items():
        value = gradients[key]
        parameter.grad = None if value is None else torch.from_numpy(value.copy())
    try:
        norm = torch.nn.utils.get_total_norm(list(found(model).values()))
        build_optimizer(model, solver).step()
        after = {key: parameter.detach().numpy().copy() for key, parameter in parameters.items()}
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(before[key])
    return Update(after, norm.numpy())


def _update_floors(
    model: Any,
    solver: "SolverConfig",
    gradients: Mapping[str, np.ndarray | None],
    updated: Update,
) -> Floors:
    """The largest gaps of `updated` to updates that differ from it by rounding alone."""
    from parity.frameworks.torch.capture import perturbed, reordered
    from parity.metrics import Gap, gap, perturb_ulp, worst

    weights: dict[str, list[Gap]] = {key: [] for key in updated.weights}
    norms = []

    def note(twin: Update) -> None:
        for key, array in updated.weights.items():
            weights[key].append(gap(twin.weights.pop(key), array))
        norms.append(gap(twin.norm, updated.norm))

    for seed in UPDATE_TWINS:
        moved = {
            key: None if value is None else perturb_ulp(value, seed)
            for key, value in gradients.items()
        }
        with perturbed(model, seed):
            note(reference_update(model, solver, moved))
    with reordered():
        note(reference_update(model, solver, gradients))
    return Floors({key: worst(gaps) for key, gaps in weights.items()}, worst(norms))


def _parameter_gradients(model: Any, gradients: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    """The gradients of a trace by the key of the parameter; None for one that has none."""
    return {key: _gradient(gradients, key) for key, _ in model.named_parameters()}


def _gradient(gradients: Mapping[str, Any], name: str) -> np.ndarray | None:
    from parity.gradients import parameter_key

    key = parameter_key(name)
    return gradients[key].array if key in gradients else None


def layer_names(config: "ModelConfig", outputs: Any) -> list[str]:
    """What the decoder layers of a model's outputs are called, the final one first."""
    layers = family_of(config).outputs.layers(outputs)
    return ["final", *(f"aux {index}" for index in range(len(layers) - 1))]


def reference_pairs(model: Any, outputs: Any, targets: Any) -> np.ndarray:
    """The target of each query, int [L,B,Q], by the reference's matcher; -1 for none."""
    queries = family_of(model.config).matching(model.config).queries
    return target_of_query(model.criterion.match(outputs, targets), queries)

"""The PyTorch side of a comparison: model, arguments, batches, losses, updates."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.data.targets import Target
from maskformer.model.config import ModelConfig
from maskformer.model.solver import SolverConfig
from maskformer.model.tensor_axes import axis_names
from replication.sides.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch


REFERENCE_AXES = partial(axis_names, image="NCHW", tokens="SNC")


REFERENCES = ("builtin", "original", "hf")


def build_reference(
    config: ModelConfig, weights: Weights, dtype: str, kind: str = "builtin"
) -> "torch.nn.Module":
    """The PyTorch model in eval mode with `weights`, computing in `dtype`.

    `kind` "original" builds facebookresearch/MaskFormer itself, "hf" transformers' MaskFormer, each
    where it is installed.
    """
    import torch

    if kind == "hf":
        from weight_conversion import hugging_face_model

        return hugging_face_model.build(config, weights.state).to(getattr(torch, dtype))
    if kind == "original":
        from torch_reference import original

        model = original.build(config)
    else:
        import torch_reference

        model = torch_reference.build(config)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in weights.state.items()}
    model.load_state_dict(tensors)
    return model.eval().to(getattr(torch, dtype))


def reference_inputs(batch: np.ndarray, sizes: np.ndarray, dtype: str) -> dict[str, Any]:
    """The PyTorch model's arguments for a batch uint8 [N,H,W,3] and its sizes int32 [N,2]."""
    return {"images": batch.transpose(0, 3, 1, 2).astype(dtype), "sizes": sizes}


def reference_batch(
    config: ModelConfig,
    images: np.ndarray,
    sizes: np.ndarray,
    targets: "Sequence[Target] | np.ndarray",
    dtype: str,
) -> Any:
    """`torch_reference.train_step.Batch` of images uint8 [N,H,W,3] and their targets.

    A per-pixel head takes labels int [N,H,W] as `targets`.
    """
    import torch

    from torch_reference.train_step import Batch

    inputs = reference_inputs(images, sizes, dtype)
    if config.is_per_pixel:
        wanted: Any = torch.from_numpy(np.asarray(targets, np.int64))
    else:
        wanted = [
            {name: torch.from_numpy(np.array(array)) for name, array in target.items()}
            for target in targets
        ]
    return Batch(torch.from_numpy(inputs["images"]), torch.from_numpy(inputs["sizes"]), wanted)


def reference_loss(model: Any, targets: Any) -> Any:
    """The loss of a step as a function of the PyTorch model's outputs."""
    from torch_reference.criterion import weighted_total
    from torch_reference.train_step import batch_losses

    return lambda outputs: weighted_total(batch_losses(model, outputs, targets), model.config.loss)


class ReferenceRun:
    """The PyTorch side, one update at a time; dropout is off."""

    def __init__(
        self,
        config: ModelConfig,
        solver: SolverConfig,
        weights: Any,
        dtype: str,
        seed: int | None = None,
    ) -> None:
        """With `seed`, the weights start moved by up to one unit in the last place."""
        import torch

        from parity.metrics import perturb_ulp
        from torch_reference.optimizer import build_optimizer
        from torch_reference.schedule import SolverSchedule

        self.config, self.dtype = config, dtype
        self.model = build_reference(config, weights, dtype)
        if seed is not None:
            for index, parameter in enumerate(self.model.parameters()):
                moved = perturb_ulp(parameter.detach().numpy(), seed + index)
                parameter.data = torch.from_numpy(moved)
        self.optimizer = build_optimizer(self.model, solver)
        self.schedule = SolverSchedule(self.optimizer, solver)

    def step(self, images: Any, sizes: Any, targets: Any) -> dict[str, Any]:
        """One update: losses, total, norm, pairs."""

        from torch_reference.train_step import train_step

        kept: list[Any] = []
        batch = reference_batch(self.config, images, sizes, targets, self.dtype)
        hook = self.model.criterion.matcher.register_forward_hook(
            lambda module, args, found: kept.append(found)
        )
        try:
            result = train_step(self.model, self.optimizer, batch)
        finally:
            hook.remove()
        self.schedule.step()
        queries = self.config.predictor.num_queries
        return {
            "losses": {name: float(value) for name, value in result.losses.items()},
            "total": float(result.total),
            "norm": float(result.gradient_norm),
            "pairs": _target_of_query(kept, queries),
        }

    def weights(self) -> "dict[str, np.ndarray]":
        """The parameters by state-dict key; views, valid until the next step."""
        return {key: p.detach().numpy() for key, p in self.model.named_parameters()}


def _target_of_query(kept: Sequence[Any], queries: int) -> "np.ndarray":
    """int [L,B,Q] from each layer's (queries, targets) per image; -1 where unmatched."""
    import numpy as np

    found = np.full((len(kept), len(kept[0]), queries), -1)
    for layer, images in enumerate(kept):
        for image, (rows, columns) in enumerate(images):
            found[layer, image, rows] = columns
    return found

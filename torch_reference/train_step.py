"""One training step of either kind of head: forward, losses, gradients, clipping, update.

Mirrors `tf_impl/train_step.py`. Dropout and drop path follow the model's mode; batch norm is frozen
in either. Under data parallelism `model` is a DistributedDataParallel, which averages gradients.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_reference.criterion import per_pixel_losses, weighted_total


class Batch(NamedTuple):
    """`images` [B,3,H,W] RGB in 0..255, their valid `sizes` int [B,2], and the targets.

    `targets` are those of `SetCriterion`, or labels int64 [B,H,W] of a per-pixel head.
    """

    images: Tensor
    sizes: Tensor
    targets: Any


class StepResult(NamedTuple):
    """Unweighted losses by name, their weighted sum, and the gradients' norm before clipping."""

    losses: dict[str, Tensor]
    total: Tensor
    gradient_norm: Tensor


def batch_losses(model: nn.Module, outputs: dict[str, Any], targets: Any) -> dict[str, Tensor]:
    """Unweighted losses of predictions, with those of the auxiliary outputs."""
    if model.config.is_per_pixel:
        return per_pixel_losses(outputs, targets, model.config.ignore_value)
    return model.criterion(outputs, targets)


def backward(model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The losses and their weighted sum; its gradients are the parameters' `grad` on return."""
    plain = getattr(model, "module", model)
    model.zero_grad(set_to_none=True)
    losses = batch_losses(plain, model(batch.images, batch.sizes), batch.targets)
    total = weighted_total(losses, plain.config.loss)
    total.backward()
    return {name: value.detach() for name, value in losses.items()}, total.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter that has one, by state-dict key."""
    plain = getattr(model, "module", model)
    return {key: p.grad for key, p in plain.named_parameters() if p.grad is not None}


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> StepResult:
    """Changes the weights by one update of `torch_reference.optimizer`, which clips by itself."""
    losses, total = backward(model, batch)
    norm = nn.utils.get_total_norm(list(gradients(model).values()))
    optimizer.step()
    return StepResult(losses, total, norm)

"""One training step of either kind of head: forward, losses, gradients, clipping, update.

Mirrors `tf_impl/train_step.py`. Dropout and drop path follow the model's mode; batch norm is frozen
in either. Under data parallelism `model` is a DistributedDataParallel, which averages gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_reference.criterion import Divisors, per_pixel_losses, weighted_total
from torch_reference.matcher import Indices


class Batch(NamedTuple):
    """`images` [B,3,H,W] RGB in 0..255, their valid `sizes` int [B,2], and the targets.

    `targets` are those of `SetCriterion`, or labels int64 [B,H,W] of a per-pixel head.
    """

    images: Tensor
    sizes: Tensor
    targets: Any


class Forward(NamedTuple):
    """Predictions of the final layer, unweighted losses by name, their weighted sum, and pairs.

    `matching` holds the pairs of every decoder layer, the final one first (None for a per-pixel
    head).
    """

    outputs: dict[str, Tensor]
    losses: dict[str, Tensor]
    total: Tensor
    matching: list[Indices] | None


class StepResult(NamedTuple):
    """What `Forward` holds, and the gradients' norm before clipping."""

    losses: dict[str, Tensor]
    total: Tensor
    gradient_norm: Tensor
    outputs: dict[str, Tensor]
    matching: list[Indices] | None


def batch_losses(model: nn.Module, outputs: dict[str, Any], targets: Any) -> dict[str, Tensor]:
    """Unweighted losses of predictions, with those of the auxiliary outputs."""
    return matched_losses(model, outputs, targets)[0]


def matched_losses(
    model: nn.Module, outputs: dict[str, Any], targets: Any, divisors: Divisors | None = None
) -> tuple[dict[str, Tensor], list[Indices] | None]:
    """`batch_losses`, and the pairs of every decoder layer (None for a per-pixel head).

    `divisors` are those of a part of a batch.
    """
    if model.config.is_per_pixel:
        return per_pixel_losses(outputs, targets, model.config.ignore_value), None
    matching = model.criterion.match(outputs, targets)
    return model.criterion.losses(outputs, targets, matching, divisors), matching


def backward(model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The losses and their weighted sum; its gradients are the parameters' `grad` on return."""
    found = forward_backward(model, batch)
    return found.losses, found.total


def forward_backward(model: nn.Module, batch: Batch) -> Forward:
    """As `backward`, with the predictions and the pairs; nothing carries a gradient any more."""
    plain = getattr(model, "module", model)
    model.zero_grad(set_to_none=True)
    outputs = model(batch.images, batch.sizes)
    losses, matching = matched_losses(plain, outputs, batch.targets)
    total = weighted_total(losses, plain.config.loss)
    total.backward()
    return Forward(
        {key: value.detach() for key, value in outputs.items() if key != "aux_outputs"},
        {name: value.detach() for name, value in losses.items()},
        total.detach(),
        matching,
    )


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter that has one, by state-dict key."""
    plain = getattr(model, "module", model)
    return {key: p.grad for key, p in plain.named_parameters() if p.grad is not None}


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    find: Callable[[nn.Module, Batch], Forward] | None = None,
) -> StepResult:
    """Changes the weights by one update of `torch_reference.optimizer`, which clips by itself.

    `find` does what `forward_backward` does, which is called where it is None.
    """
    found = (find or forward_backward)(model, batch)
    norm = nn.utils.get_total_norm(list(gradients(model).values()))
    optimizer.step()
    return StepResult(found.losses, found.total, norm, found.outputs, found.matching)

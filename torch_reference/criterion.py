"""The training loss of mask classification; owns the class weights that the state dict carries.

Mirrors the semantics of the original's `mask_former/modeling/criterion.py`. Padding counts as
background: the original does not mask it.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import distributed, nn

from maskformer.model.config import LossConfig, ModelConfig
from torch_reference.matcher import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    HungarianMatcher,
    Indices,
    Targets,
)

Normalisation = Literal["ddp_mean", "global"]
Outputs = dict[str, Any]


class SetCriterion(nn.Module):
    """Class, focal and dice losses of every decoder layer, each layer matched on its own.

    Holds `empty_weight` [K+1]: ones, and the no-object weight last. A replica's losses are scaled
    so that their *mean* over replicas is the loss of the step. With `normalisation` "ddp_mean",
    the original's, masks are counted over all replicas, at least one per replica, and the class
    loss is averaged per replica; with "global" the mean is what one process would compute on the
    whole batch.
    """

    def __init__(self, config: ModelConfig, normalisation: Normalisation = "ddp_mean") -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.normalisation = normalisation
        self.matcher = HungarianMatcher(config.loss)
        empty_weight = torch.ones(config.num_classes + 1)
        empty_weight[-1] = config.loss.no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    def forward(self, outputs: Outputs, targets: Targets) -> dict[str, torch.Tensor]:
        """Unweighted losses `loss_ce`, `loss_mask`, `loss_dice`, and `..._i` of aux output i.

        `outputs` as the model returns them; `targets` has per image `labels` int64 [T] and `masks`
        bool [T,H,W], all of one size.
        """
        return self.losses(outputs, targets, self.match(outputs, targets))

    def match(self, outputs: Outputs, targets: Targets) -> list[Indices]:
        """Optimal pairs of all decoder layers, the final one first, then the aux outputs."""
        return [self.matcher(layer, targets) for layer in _layers(outputs)]

    def losses(
        self, outputs: Outputs, targets: Targets, matching: list[Indices]
    ) -> dict[str, torch.Tensor]:
        """The losses for given pairs; see `forward`."""
        num_masks = self._num_masks(targets, outputs["pred_logits"])
        losses = {}
        for number, (layer, indices) in enumerate(zip(_layers(outputs), matching, strict=True)):
            suffix = f"_{number - 1}" if number else ""
            mask, dice = self._mask_losses(layer["pred_masks"], targets, indices)
            losses[f"loss_ce{suffix}"] = self._class_loss(layer["pred_logits"], targets, indices)
            losses[f"loss_mask{suffix}"] = mask / num_masks
            losses[f"loss_dice{suffix}"] = dice / num_masks
        return losses

    def _class_loss(self, logits: torch.Tensor, targets: Targets, indices: Indices) -> torch.Tensor:
        """Cross entropy [B,Q,K+1]: a mean weighted by the weights of the classes asked for."""
        classes = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        for b, (queries, matched) in enumerate(indices):
            classes[b, queries] = targets[b]["labels"][matched]
        flat, classes = logits.flatten(0, 1), classes.flatten()
        if self.normalisation == "ddp_mean":
            return F.cross_entropy(flat, classes, self.empty_weight)
        total = _sum_over_replicas(self.empty_weight[classes].sum())
        summed = F.cross_entropy(flat, classes, self.empty_weight, reduction="sum")
        return summed / total * _replicas()

    def _mask_losses(
        self, masks: torch.Tensor, targets: Targets, indices: Indices
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Focal and dice losses summed over matched masks, logits upsampled to the target size."""
        matched = torch.cat([masks[b, queries] for b, (queries, _) in enumerate(indices)])
        wanted = torch.cat([targets[b]["masks"][index] for b, (_, index) in enumerate(indices)])
        upsampled = F.interpolate(
            matched[:, None], size=wanted.shape[-2:], mode="bilinear", align_corners=False
        )
        logits, wanted = upsampled.flatten(1), wanted.flatten(1).to(masks)
        return focal_loss(logits, wanted).sum(), dice_loss(logits, wanted).sum()

    def _num_masks(self, targets: Targets, like: torch.Tensor) -> torch.Tensor:
        """The divisor of a replica's summed mask losses; float32 arithmetic, as in the original."""
        count = sum(len(target["labels"]) for target in targets)
        total = _sum_over_replicas(torch.tensor(count, dtype=torch.float32, device=like.device))
        if self.normalisation == "ddp_mean":
            return torch.clamp(total / _replicas(), min=1).to(like.dtype)
        return torch.clamp(total, min=1).to(like.dtype) / _replicas()


def _layers(outputs: Outputs) -> list[Outputs]:
    """The predictions of every decoder layer, the final one first."""
    return [outputs, *outputs.get("aux_outputs", ())]


def focal_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Focal loss [N] of mask logits [N,P] against binary targets [N,P], mean over pixels."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    of_target = probability * targets + (1 - probability) * (1 - targets)
    alpha = FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)
    return (alpha * (1 - of_target) ** FOCAL_GAMMA * entropy).mean(1)


def dice_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dice loss [N], smoothed by 1, of mask logits [N,P] against binary targets [N,P]."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(1)
    return 1 - (overlap + 1) / (probability.sum(1) + targets.sum(1) + 1)


def per_pixel_losses(
    outputs: Outputs, labels: torch.Tensor, ignore_value: int
) -> dict[str, torch.Tensor]:
    """`loss_sem_seg`, and `loss_sem_seg_i` of aux output i, of a per-pixel baseline.

    `outputs` holds class logits `sem_seg` [B,K,h,w], upsampled to the size of `labels` int64
    [B,H,W]; pixels labelled `ignore_value` do not count in the mean. Source: the original's
    `heads/per_pixel_baseline.py`.
    """
    losses = {"loss_sem_seg": _pixel_loss(outputs["sem_seg"], labels, ignore_value)}
    for i, aux in enumerate(outputs.get("aux_outputs", ())):
        losses[f"loss_sem_seg_{i}"] = _pixel_loss(aux["sem_seg"], labels, ignore_value)
    return losses


def _pixel_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_value: int) -> torch.Tensor:
    logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=ignore_value)


def weighted_total(losses: dict[str, torch.Tensor], weights: LossConfig) -> torch.Tensor:
    """The sum that is minimised; aux losses weigh as much as the final ones."""
    by_name = {
        "loss_ce": weights.class_weight,
        "loss_mask": weights.mask_weight,
        "loss_dice": weights.dice_weight,
        "loss_sem_seg": 1.0,
    }
    return sum(by_name[name.rstrip("_0123456789")] * value for name, value in losses.items())


def _replicas() -> int:
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def _sum_over_replicas(value: torch.Tensor) -> torch.Tensor:
    if _replicas() > 1:
        distributed.all_reduce(value)
    return value

"""The training loss of mask classification; owns the class weights that the state dict carries.

Mirrors the semantics of the original's `mask_former/modeling/criterion.py`. Padding counts as
background: the original does not mask it.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import distributed, nn

from maskformer.model.config import LossConfig, ModelConfig
from parity.errors import InputError
from torch_reference.matcher import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    HungarianMatcher,
    Indices,
    Targets,
)

Normalisation = Literal["ddp_mean", "global"]
Outputs = dict[str, Any]


class Divisors(NamedTuple):
    """What the losses of a part of a replica's batch are divided by, scalars of the whole batch.

    `masks` divides summed mask losses, `classes` the summed class loss; None by the part's own.
    """

    masks: torch.Tensor
    classes: torch.Tensor | None


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
        self.num_queries = config.predictor.num_queries
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
        self,
        outputs: Outputs,
        targets: Targets,
        matching: list[Indices],
        divisors: Divisors | None = None,
    ) -> dict[str, torch.Tensor]:
        """The losses for given pairs; see `forward`. `divisors` are those of a part of a batch."""
        like = outputs["pred_logits"]
        num_masks = divisors.masks if divisors else self._num_masks(targets, like)
        losses = {}
        for number, (layer, indices) in enumerate(zip(_layers(outputs), matching, strict=True)):
            suffix = f"_{number - 1}" if number else ""
            mask, dice = self._mask_losses(layer["pred_masks"], targets, indices)
            logits = layer["pred_logits"]
            losses[f"loss_ce{suffix}"] = self._class_loss(logits, targets, indices, divisors)
            losses[f"loss_mask{suffix}"] = mask / num_masks
            losses[f"loss_dice{suffix}"] = dice / num_masks
        return losses

    def divisors(self, targets: Targets, like: torch.Tensor, parts: int) -> Divisors:
        """What divides the losses of each of `parts` equal parts of the batch of these targets.

        The mean over parts and replicas is then the loss of the step. Raises InputError for more
        targets than queries with "global": which of them are paired is not known before.
        """
        masks = self._num_masks(targets, like, parts)
        if self.normalisation == "ddp_mean":
            return Divisors(masks, None)
        most = max((len(target["labels"]) for target in targets), default=0)
        if most > self.num_queries:
            raise InputError(
                f"an image has {most} targets",
                f"there are {self.num_queries} queries, and parts of a batch are divided by the "
                "classes of all pairs, which are not known before the last part",
                'Lower the capacity, or take the normalisation "ddp_mean".',
            )
        weights = self.empty_weight.to(like)
        labels = torch.cat([target["labels"] for target in targets])
        unpaired = len(targets) * self.num_queries - len(labels)
        total = weights[labels].sum() + unpaired * weights[-1]
        return Divisors(masks, _sum_over_replicas(total) / (_replicas() * parts))

    def _class_loss(
        self,
        logits: torch.Tensor,
        targets: Targets,
        indices: Indices,
        divisors: Divisors | None = None,
    ) -> torch.Tensor:
        """Cross entropy [B,Q,K+1]: a mean weighted by the weights of the classes asked for."""
        classes = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        for b, (queries, matched) in enumerate(indices):
            classes[b, queries] = targets[b]["labels"][matched]
        flat, classes = logits.flatten(0, 1), classes.flatten()
        if self.normalisation == "ddp_mean":
            return F.cross_entropy(flat, classes, self.empty_weight)
        summed = F.cross_entropy(flat, classes, self.empty_weight, reduction="sum")
        if divisors is not None and divisors.classes is not None:
            return summed / divisors.classes
        total = _sum_over_replicas(self.empty_weight[classes].sum())
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

    def _num_masks(self, targets: Targets, like: torch.Tensor, parts: int = 1) -> torch.Tensor:
        """The divisor of a part's summed mask losses; float32 arithmetic, as in the original."""
        count = sum(len(target["labels"]) for target in targets)
        total = _sum_over_replicas(torch.tensor(count, dtype=torch.float32, device=like.device))
        if self.normalisation == "ddp_mean":
            return torch.clamp(total / (_replicas() * parts), min=1).to(like.dtype)
        return torch.clamp(total, min=1).to(like.dtype) / (_replicas() * parts)


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

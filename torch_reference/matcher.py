"""Which prediction learns which target: matching costs and the optimal assignment.

Mirrors the semantics of the original's `mask_former/modeling/matcher.py`.
"""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from maskformer.model.config import LossConfig

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2

Targets = list[dict[str, torch.Tensor]]
Indices = list[tuple[torch.Tensor, torch.Tensor]]


def focal_costs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean focal loss [Q,T] of each mask logits [Q,P] against each binary target [T,P]."""
    probability = logits.sigmoid()
    # Not softplus, which in torch is the identity above 20: 1e-10 away from the cross entropy.
    positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -F.logsigmoid(logits)
    negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -F.logsigmoid(-logits)
    return (positive @ targets.T + negative @ (1 - targets).T) / logits.shape[1]


def dice_costs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dice loss [Q,T], smoothed by 1, of each mask logits [Q,P] against each target [T,P]."""
    probability = logits.sigmoid()
    overlap = 2 * (probability @ targets.T)
    total = probability.sum(-1)[:, None] + targets.sum(-1)[None, :]
    return 1 - (overlap + 1) / (total + 1)


class HungarianMatcher(nn.Module):
    """Pairs predictions and targets of each image at the least total cost."""

    def __init__(self, weights: LossConfig) -> None:
        super().__init__()
        self.weights = weights

    @torch.no_grad()
    def costs(
        self, logits: torch.Tensor, masks: torch.Tensor, target: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Costs [Q,T] of one image from class logits [Q,K+1] and mask logits [Q,h,w].

        `target` holds `labels` int64 [T] and `masks` bool [T,H,W]; these are brought to h x w by
        the nearest rule. The class cost is minus the probability of the target's class.
        """
        target_masks = target["masks"].to(masks)[:, None]
        target_masks = F.interpolate(target_masks, size=masks.shape[-2:], mode="nearest")
        flat, target_flat = masks.flatten(1), target_masks.flatten(1)
        return (
            self.weights.mask_weight * focal_costs(flat, target_flat)
            - self.weights.class_weight * logits.softmax(-1)[:, target["labels"]]
            + self.weights.dice_weight * dice_costs(flat, target_flat)
        )

    @torch.no_grad()
    def forward(self, outputs: dict[str, torch.Tensor], targets: Targets) -> Indices:
        """Per image (queries, targets), int64 [min(Q,T)] each, queries increasing."""
        indices = []
        for logits, masks, target in zip(
            outputs["pred_logits"], outputs["pred_masks"], targets, strict=True
        ):
            pairs = linear_sum_assignment(self.costs(logits, masks, target).cpu().numpy())
            indices.append(tuple(torch.as_tensor(index, dtype=torch.int64) for index in pairs))
        return indices

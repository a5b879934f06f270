"""Early signs of a collapsing training, of one batch; defined in `maskformer.runs.run_record`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_reference.matcher import Indices, Targets


def sentinel_counts(outputs: dict[str, Tensor], targets: Targets, indices: Indices) -> Tensor:
    """float64 [6]: what `sentinels` divides, so that the counts of replicas add up.

    Pairs whose class is right, pairs; queries that say no-object, queries; the sum of the pairs'
    IoUs, pairs whose target has a pixel at the mask's size.

    Args: outputs: "pred_logits" [B,Q,K+1] and "pred_masks" [B,Q,h,w] of the final layer; indices:
    its pairs.
    """
    logits, masks = outputs["pred_logits"], outputs["pred_masks"]
    classes = logits.argmax(dim=-1)
    right = pairs = shown = 0
    iou = torch.zeros((), dtype=torch.float64)
    for b, (queries, matched) in enumerate(indices):
        target = targets[b]
        right += int((classes[b, queries] == target["labels"][matched]).sum())
        pairs += len(queries)
        small = F.interpolate(target["masks"][:, None].float(), masks.shape[-2:])[:, 0]
        wanted = small[matched] > 0
        found = masks[b, queries] > 0
        union = (found | wanted).sum(dim=(1, 2))
        present = wanted.any(dim=2).any(dim=1)
        overlap = (found & wanted).sum(dim=(1, 2))[present].double()
        iou += (overlap / union[present]).sum().cpu()
        shown += int(present.sum())
    no_object = int((classes == logits.shape[-1] - 1).sum())
    counts = (right, pairs, no_object, classes.numel(), float(iou), shown)
    return torch.tensor(counts, dtype=torch.float64)


def sentinels(counts: Tensor) -> dict[str, float]:
    """The shares by name, of counts summed over replicas; NaN where there is nothing to divide."""
    shares = (counts[0::2] / counts[1::2]).tolist()
    return dict(
        zip(("matched_class_accuracy", "no_object_rate", "matched_iou"), shares, strict=True)
    )

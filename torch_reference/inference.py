"""From the model's outputs to class scores, labels and segments, as the original computes them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskformer.data.images import Size
from maskformer.inference.multi_scale import augmented_images
from maskformer.inference.prediction import (
    Instance,
    PanopticPrediction,
    Prediction,
    QueryDecisions,
    check_finite,
    check_outputs,
    merge_queries,
    padded_size,
    resizes_before_combining,
    wanted_results,
)
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig

Model = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


@torch.no_grad()
def predict(
    outputs: Mapping[str, Tensor],
    config: ModelConfig,
    padded: Size,
    image_sizes: Sequence[Size],
    output_sizes: Sequence[Size] | None = None,
    results: Sequence[str] | None = None,
) -> list[Prediction]:
    """One prediction per image at its output size, as the original's `MaskFormer.forward` makes it.

    Args: outputs: "pred_logits" [B,Q,K+1] and "pred_masks" [B,Q,h,w] logits, or "sem_seg"
    [B,K,H,W] logits of a per-pixel head; padded: (height, width) of the model's input; image_sizes:
    its valid part per image; output_sizes: of the results, the image sizes unless given; results:
    of "scores", "labels", "panoptic", "instances", unless given those the original returns.
    Raises InputError for shapes and sizes that do not fit, and for outputs that are not finite.
    """
    output_sizes = image_sizes if output_sizes is None else output_sizes
    results = wanted_results(config, results)
    shapes = {key: value.shape for key, value in outputs.items() if key != "aux_outputs"}
    check_outputs(config, shapes, padded, image_sizes, output_sizes)
    used = ("sem_seg",) if config.is_per_pixel else ("pred_logits", "pred_masks")
    check_finite(
        [
            all(bool(outputs[key][i].isfinite().all()) for key in used)
            for i in range(len(image_sizes))
        ]
    )
    predictions = []
    for i, (image_size, output_size) in enumerate(zip(image_sizes, output_sizes, strict=True)):
        if config.is_per_pixel:
            scores = sem_seg_postprocess(outputs["sem_seg"][i], image_size, output_size)
            predictions.append(_prediction(scores, results))
            continue
        logits, masks = outputs["pred_logits"][i], _resize(outputs["pred_masks"][i], padded)
        if resizes_before_combining(config):
            masks = sem_seg_postprocess(masks, image_size, output_size)
        scores = panoptic = instances = None
        if "scores" in results or "labels" in results:
            scores = semantic_inference(logits, masks)
            if not resizes_before_combining(config):
                scores = sem_seg_postprocess(scores, image_size, output_size)
        if "panoptic" in results:
            panoptic = panoptic_inference(logits, masks, config)
        if "instances" in results:
            instances = instance_inference(logits, masks, config)
        predictions.append(_prediction(scores, results, panoptic, instances))
    return predictions


def sem_seg_postprocess(values: Tensor, image_size: Size, output_size: Size) -> Tensor:
    """[C,H,W] with its padding cut off, resized bilinearly to [C,*output_size]."""
    return _resize(values[:, : image_size[0], : image_size[1]], output_size)


def semantic_inference(logits: Tensor, masks: Tensor) -> Tensor:
    """Class scores [K,H,W] of class logits [Q,K+1] and mask logits [Q,H,W].

    Cheng et al. 2021, section 3.4: the sum over queries of class times mask probability.
    """
    return torch.einsum("qc,qhw->chw", logits.softmax(dim=-1)[:, :-1], masks.sigmoid())


def decide_queries(logits: Tensor, masks: Tensor, config: ModelConfig) -> QueryDecisions:
    """What panoptic inference decides for class logits [Q,K+1] and mask logits [Q,H,W]."""
    scores, labels = logits.softmax(dim=-1).max(dim=-1)
    keep = (labels != config.num_classes) & (scores > config.inference.object_mask_threshold)
    probabilities = masks.sigmoid()
    queries = len(scores)
    kept = keep.nonzero().flatten()
    owner = torch.full(masks.shape[1:], -1, dtype=torch.int64, device=masks.device)
    if len(kept):
        owner = kept[(scores[kept, None, None] * probabilities[kept]).argmax(dim=0)]
    area = torch.bincount(owner.flatten() + 1, minlength=queries + 1)[1:]
    full_area = (probabilities >= 0.5).sum(dim=(1, 2))
    parts = (scores, labels, keep, owner, area, full_area)
    return QueryDecisions(*(part.cpu().numpy() for part in parts))


def panoptic_inference(logits: Tensor, masks: Tensor, config: ModelConfig) -> PanopticPrediction:
    """Segments of class logits [Q,K+1] and mask logits [Q,H,W] (the original's function)."""
    inference = config.inference
    decisions = decide_queries(logits, masks, config)
    return merge_queries(decisions, inference.thing_ids, inference.overlap_threshold)


def instance_inference(logits: Tensor, masks: Tensor, config: ModelConfig) -> tuple[Instance, ...]:
    """Things, best first: queries whose most probable class is one, with a mask that is not empty.

    The score is the class probability times the mean mask probability inside the mask, as in
    Mask2Former (Cheng et al. 2022, "instance segmentation"); the original has no such function.
    """
    scores, labels = logits.softmax(dim=-1).max(dim=-1)
    probabilities = masks.sigmoid()
    inside = probabilities >= 0.5
    sizes = inside.sum(dim=(1, 2))
    quality = (probabilities * inside).sum(dim=(1, 2)) / sizes.clamp(min=1)
    things = torch.tensor(config.inference.thing_ids, device=labels.device)
    chosen = (torch.isin(labels, things) & (sizes > 0)).nonzero().flatten()
    total = scores * quality
    order = chosen[total[chosen].argsort(descending=True, stable=True)]
    return tuple(
        Instance(int(labels[i]), float(total[i]), inside[i].cpu().numpy()) for i in order.tolist()
    )


@torch.no_grad()
def predict_with_augmentation(
    model: Model, image: np.ndarray, config: ModelConfig, inputs: InputConfig, output_size: Size
) -> np.ndarray:
    """Class scores [K,*output_size] averaged over scales and mirror images.

    As the original's `SemanticSegmentorWithTTA`, one image at a time.

    Args: model: images [1,3,H,W] and sizes int32 [1,2] to outputs; image uint8 [H,W,3] as the model
    sees it without augmentation; inputs: scales and whether to mirror.
    """
    dtype = next((p.dtype for p in getattr(model, "parameters", tuple)()), torch.float32)
    total, count = None, 0
    for scaled, mirrored in augmented_images(image, inputs):
        size = scaled.shape[:2]
        padded = padded_size([size], config.size_divisibility)
        batch = torch.zeros(1, 3, *padded, dtype=dtype)
        batch[0, :, : size[0], : size[1]] = torch.from_numpy(scaled.transpose(2, 0, 1).copy())
        outputs = model(batch, torch.tensor([size], dtype=torch.int32))
        scores = predict(outputs, config, padded, [size], [output_size], ("scores",))[0].scores
        scores = scores[:, :, ::-1] if mirrored else scores
        total = scores if total is None else total + scores
        count += 1
    return total / count


def _prediction(
    scores: Tensor | None,
    results: Sequence[str],
    panoptic: PanopticPrediction | None = None,
    instances: tuple[Instance, ...] | None = None,
) -> Prediction:
    return Prediction(
        scores.cpu().numpy() if "scores" in results else None,
        scores.argmax(dim=0).to(torch.int32).cpu().numpy() if "labels" in results else None,
        panoptic,
        instances,
    )


def _resize(values: Tensor, size: Size) -> Tensor:
    """[C,H,W] -> [C,*size], bilinear, pixel centres aligned."""
    return F.interpolate(values[None], size=tuple(size), mode="bilinear", align_corners=False)[0]

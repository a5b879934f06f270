"""From the model's outputs to class scores, labels and segments, in one function XLA compiles.

Sizes differ from image to image, shapes do not: each image brings its own two small resize matrices
and is computed on a canvas of fixed size. What has no fixed size, the list of segments, is made on
the host from fixed-size decisions (`maskformer.inference.prediction`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from maskformer.data.images import Size
from maskformer.inference.multi_scale import augmented_images
from maskformer.inference.prediction import (
    Instance,
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
from parity.errors import InputError
from tf_impl.layers import bilinear_matrix

Model = Callable[[tf.Tensor, tf.Tensor], Mapping[str, tf.Tensor]]


@dataclass(frozen=True)
class ResizePlan:
    """Matrices float64 that resize one batch; rows of zeros fill the canvas beyond an image.

    `mask_rows` [B,H,h] and `mask_columns` [B,W,w] take mask logits to where they are combined;
    `class_rows` [B,H',H] and `class_columns` [B,W',W] take class scores from there to the canvas,
    or are None where masks are combined on the canvas. `sizes` int32 [B,2] are the output sizes.
    """

    mask_rows: np.ndarray | None
    mask_columns: np.ndarray | None
    class_rows: np.ndarray | None
    class_columns: np.ndarray | None
    sizes: np.ndarray


def resize_plan(
    config: ModelConfig,
    grid: Size,
    padded: Size,
    image_sizes: Sequence[Size],
    output_sizes: Sequence[Size],
    canvas: Size,
) -> ResizePlan:
    """The plan that computes the original's interpolations for a batch.

    The upsampling to the padded size, the cut and the resize to the output size are linear in each
    direction, so a chain of them is one matrix.

    Args: grid: (height, width) of the mask logits, or of a per-pixel head's logits; the other
    sizes as in `predict`.
    """

    def onto_canvas(axis: int, from_grid: Callable[[int], np.ndarray]) -> np.ndarray:
        matrices = []
        for image, output in zip(image_sizes, output_sizes, strict=True):
            matrix = bilinear_matrix(output[axis], image[axis]) @ from_grid(axis)[: image[axis]]
            matrices.append(np.pad(matrix, ((0, canvas[axis] - output[axis]), (0, 0))))
        return np.stack(matrices)

    def upsampled(axis: int) -> np.ndarray:
        return bilinear_matrix(padded[axis], grid[axis])

    def identity(axis: int) -> np.ndarray:
        return np.eye(grid[axis] if config.is_per_pixel else padded[axis])

    sizes = np.array(output_sizes, np.int32)
    if config.is_per_pixel:
        return ResizePlan(None, None, onto_canvas(0, identity), onto_canvas(1, identity), sizes)
    if resizes_before_combining(config):
        return ResizePlan(onto_canvas(0, upsampled), onto_canvas(1, upsampled), None, None, sizes)
    masks = (np.stack([upsampled(axis)] * len(sizes)) for axis in (0, 1))
    return ResizePlan(*masks, onto_canvas(0, identity), onto_canvas(1, identity), sizes)


def infer(
    outputs: Mapping[str, tf.Tensor],
    plan: Mapping[str, tf.Tensor],
    config: ModelConfig,
    results: Sequence[str],
    canvas: Size,
) -> dict[str, tf.Tensor]:
    """The device's part: fixed-size tensors only, compiles under XLA.

    Args: outputs: as in `predict`; plan: the fields of a `ResizePlan` as tensors; canvas: (height,
    width) of everything returned.
    Returns: "finite" bool [B]; as asked for "scores" [B,K,H,W], "labels" int32 [B,H,W]; for
    "panoptic" the fields of `QueryDecisions` with a batch axis, as "query_*"; for "instances"
    "instance_score" [B,Q] and "instance_mask" bool [B,Q,H,W].
    """
    if config.is_per_pixel:
        logits = outputs["sem_seg"]
        found = {"finite": _finite(logits)}
        return found | _semantic(_apply(plan["class_rows"], logits, plan["class_columns"]), results)
    logits, masks = outputs["pred_logits"], outputs["pred_masks"]
    found = {"finite": _finite(logits) & _finite(masks)}
    classes = tf.nn.softmax(logits)
    probabilities = tf.sigmoid(_apply(plan["mask_rows"], masks, plan["mask_columns"]))
    if "scores" in results or "labels" in results:
        scores = tf.einsum("bqk,bqhw->bkhw", classes[..., :-1], probabilities)
        if "class_rows" in plan:
            scores = _apply(plan["class_rows"], scores, plan["class_columns"])
        found |= _semantic(scores, results)
    if "panoptic" in results or "instances" in results:
        valid = tf.logical_and(
            tf.range(canvas[0])[None, :, None] < plan["sizes"][:, 0, None, None],
            tf.range(canvas[1])[None, None, :] < plan["sizes"][:, 1, None, None],
        )
        inside = (probabilities >= 0.5) & valid[:, None]
        full_area = tf.reduce_sum(tf.cast(inside, tf.int32), axis=(2, 3))
        best = tf.reduce_max(classes, axis=-1)
        label = tf.argmax(classes, axis=-1, output_type=tf.int32)
        found |= {"query_score": best, "query_label": label, "query_full_area": full_area}
    if "panoptic" in results:
        threshold = config.inference.object_mask_threshold
        keep = (label != config.num_classes) & (best > tf.cast(threshold, best.dtype))
        # Products are not negative, so a dropped query's -1 never wins over a kept one.
        weighted = tf.where(
            keep[..., None, None],
            best[..., None, None] * probabilities,
            -tf.ones_like(probabilities),
        )
        owner = tf.argmax(weighted, axis=1, output_type=tf.int32)
        owner = tf.where(valid & tf.reduce_any(keep, axis=1)[:, None, None], owner, -1)
        queries = tf.range(logits.shape[1])[None, :, None, None]
        area = tf.reduce_sum(tf.cast(owner[:, None] == queries, tf.int32), axis=(2, 3))
        found |= {"query_keep": keep, "query_owner": owner, "query_area": area}
    if "instances" in results:
        weight = tf.cast(inside, probabilities.dtype)
        sums = tf.reduce_sum(probabilities * weight, axis=(2, 3))
        quality = sums / tf.cast(tf.maximum(full_area, 1), sums.dtype)
        found |= {"instance_score": best * quality, "instance_mask": inside}
    return found


@functools.lru_cache(maxsize=8)
def compiled(
    config: ModelConfig, results: tuple[str, ...], canvas: Size, jit_compile: bool
) -> Callable[..., dict[str, tf.Tensor]]:
    """`infer` as a `tf.function`, one per config, results and canvas: (outputs, plan) -> tensors.

    It is traced once for each shape of the outputs.
    """

    @tf.function(autograph=False, jit_compile=jit_compile)
    def function(outputs, plan):
        return infer(outputs, plan, config, results, canvas)

    return function


def predict(
    outputs: Mapping[str, tf.Tensor],
    config: ModelConfig,
    padded: Size,
    image_sizes: Sequence[Size],
    output_sizes: Sequence[Size] | None = None,
    results: Sequence[str] | None = None,
    *,
    canvas: Size | None = None,
    jit_compile: bool = True,
) -> list[Prediction]:
    """One prediction per image at its output size, as the original's `MaskFormer.forward` makes it.

    Args: outputs: "pred_logits" [B,Q,K+1] and "pred_masks" [B,Q,h,w] logits, or "sem_seg"
    [B,K,H,W] logits of a per-pixel head; padded: (height, width) of the model's input; image_sizes:
    its valid part per image; output_sizes: of the results, the image sizes unless given; results:
    of "scores", "labels", "panoptic", "instances", unless given those the original returns;
    canvas: at least the largest output size, which it is unless given. One canvas for a whole data
    set is one compilation.
    Raises InputError for shapes and sizes that do not fit, and for outputs that are not finite.
    """
    output_sizes = image_sizes if output_sizes is None else output_sizes
    results = wanted_results(config, results)
    used = ("sem_seg",) if config.is_per_pixel else ("pred_logits", "pred_masks")
    used_outputs = {key: outputs[key] for key in used if key in outputs}
    shapes = {key: value.shape for key, value in outputs.items() if key != "aux_outputs"}
    check_outputs(config, shapes, padded, image_sizes, output_sizes)
    largest = tuple(max(size[axis] for size in output_sizes) for axis in (0, 1))
    canvas = largest if canvas is None else tuple(canvas)
    if canvas[0] < largest[0] or canvas[1] < largest[1]:
        raise InputError(
            f"the canvas is {canvas}", f"the largest output is {largest}; order is (height, width)"
        )
    grid = tuple(used_outputs[used[-1]].shape[-2:])
    plan = resize_plan(config, grid, padded, image_sizes, output_sizes, canvas)
    dtype = used_outputs[used[-1]].dtype
    tensors = {
        name: tf.constant(value, tf.int32 if name == "sizes" else dtype)
        for name, value in vars(plan).items()
        if value is not None
    }
    found = compiled(config, results, canvas, jit_compile)(used_outputs, tensors)
    found = {name: tensor.numpy() for name, tensor in found.items()}
    check_finite(found["finite"])
    return [
        _prediction(found, i, tuple(size), config, results) for i, size in enumerate(output_sizes)
    ]


def predict_with_augmentation(
    model: Model, image: np.ndarray, config: ModelConfig, inputs: InputConfig, output_size: Size
) -> np.ndarray:
    """Class scores [K,*output_size] averaged over scales and mirror images.

    As the original's `SemanticSegmentorWithTTA`, one image at a time.

    Args: model: images [1,H,W,3] and sizes int32 [1,2] to outputs; image uint8 [H,W,3] as the model
    sees it without augmentation; inputs: scales and whether to mirror.
    """
    dtype = getattr(model, "compute_dtype", "float32")
    total, count = None, 0
    for scaled, mirrored in augmented_images(image, inputs):
        size = scaled.shape[:2]
        padded = padded_size([size], config.size_divisibility)
        batch = np.zeros((1, *padded, 3))
        batch[0, : size[0], : size[1]] = scaled
        outputs = model(tf.constant(batch, dtype), tf.constant([size], tf.int32))
        scores = predict(outputs, config, padded, [size], [output_size], ("scores",))[0].scores
        scores = scores[:, :, ::-1] if mirrored else scores
        total = scores if total is None else total + scores
        count += 1
    return total / count


def _prediction(
    found: Mapping[str, np.ndarray],
    index: int,
    size: Size,
    config: ModelConfig,
    results: Sequence[str],
) -> Prediction:
    def cut(name: str) -> np.ndarray:
        return found[name][index][..., : size[0], : size[1]]

    panoptic = instances = None
    if "panoptic" in results:
        decisions = QueryDecisions(
            *(found[f"query_{name}"][index] for name in ("score", "label", "keep")),
            cut("query_owner"),
            *(found[f"query_{name}"][index] for name in ("area", "full_area")),
        )
        inference = config.inference
        panoptic = merge_queries(decisions, inference.thing_ids, inference.overlap_threshold)
    if "instances" in results:
        scores, labels = found["instance_score"][index], found["query_label"][index]
        masks, areas = cut("instance_mask"), found["query_full_area"][index]
        chosen = np.isin(labels, config.inference.thing_ids) & (areas > 0)
        instances = tuple(
            Instance(int(labels[i]), float(scores[i]), masks[i])
            for i in np.argsort(-scores, kind="stable")
            if chosen[i]
        )
    return Prediction(
        cut("scores") if "scores" in results else None,
        cut("labels") if "labels" in results else None,
        panoptic,
        instances,
    )


def _semantic(scores: tf.Tensor, results: Sequence[str]) -> dict[str, tf.Tensor]:
    found = {"scores": scores} if "scores" in results else {}
    if "labels" in results:
        found["labels"] = tf.argmax(scores, axis=1, output_type=tf.int32)
    return found


def _apply(rows: tf.Tensor, values: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """[B,C,h,w] -> [B,C,H,W]: every map times its image's matrices [B,H,h] and [B,W,w]."""
    return tf.matmul(rows[:, None], tf.matmul(values, columns[:, None], transpose_b=True))


def _finite(values: tf.Tensor) -> tf.Tensor:
    """Whether each image of [B,...] is finite: bool [B]."""
    return tf.reduce_all(tf.math.is_finite(values), axis=list(range(1, len(values.shape))))

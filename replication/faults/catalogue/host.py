"""Faults on the host: the input pipeline, post-processing, evaluation, metrics: edited copies."""

from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

import tf_impl.dataset as dataset
import tf_impl.evaluation as evaluation
import tf_impl.inference as inference
from maskformer.data import augmentation, mapper
from maskformer.inference import prediction
from maskformer.metrics import panoptic_quality, semantic_iou
from parity.faults import Fault, Plant
from replication.faults.catalogue.forward import PORT
from replication.faults.catalogue.planting import (
    constant,
    copied,
    copied_beneath,
    function,
    maker,
    method,
    settings,
)

ROUNDED = "int(new_height + 0.5), int(new_width + 0.5)"
SIGMOID = 'tf.sigmoid(_apply(plan["mask_rows"], masks, plan["mask_columns"]))'

_made = maker("stage id what plant places causes imitates")


def _fault(
    stage: str, id: str, what: str, plant: Plant, places: tuple[str, ...], *given: Any
) -> Fault:
    named = tuple(f"{stage}: {place}" for place in places)
    return _made(stage, id, what, plant, named, *given, bench=stage)


def _edited(module: ModuleType, old: str, new: str) -> Plant:
    user = {augmentation: dataset, mapper: dataset, prediction: inference}.get(module, evaluation)
    return copied(module, old, new, user)


def _dropped_when_cropped(target_map, class_ids, capacity):
    """Segments that the crop has cut away are not targets."""
    left = np.unique(target_map[target_map >= 0])
    table = np.full(len(class_ids) + 1, -1, np.int32)
    table[left] = np.arange(len(left))
    return mapper.pad_targets(table[target_map], class_ids[left], capacity)


def _background_when_cropped(target_map, class_ids, capacity):
    """Segments that the crop has cut away become class 0."""
    class_ids = class_ids.copy()
    class_ids[~np.isin(np.arange(len(class_ids)), target_map)] = 0
    return mapper.pad_targets(target_map, class_ids, capacity)


DATA = (
    _fault(
        "data", "data-size-floored", "sizes are floored instead of rounded",
        _edited(augmentation, ROUNDED, "int(new_height), int(new_width)"), ("draws Resize",),
        ("instead of `0.5`", "instead of `new_height + 0.5`"), "the Model Garden's augmentation",
    ),
    _fault(
        "data", "data-long-side-not-capped", "the long side is not capped",
        _edited(augmentation, "if longest > max_size:", "if False:"), ("draws Resize",),
        ("longest > max_size", "max_size_train"),
    ),
    _fault(
        "data", "data-long-side-at-96", "the long side is capped lower, so that scales are lost",
        settings("coco", max_size_train=96), ("draws Resize",), ("max_size_train is 96",), PORT,
    ),
    _fault(
        "data", "data-long-side-for-short", "the size drawn is that of the long side",
        _edited(augmentation, "scale = short_side * 1.0 / min(height, width)",
                "scale = short_side * 1.0 / max(height, width)"), ("draws Resize",),
        ("`max(height, width)` instead of `min(height, width)`", "`max` instead of `min`",
         "`height > width` instead of `height < width`", "if height < width"),
    ),
    _fault(
        "data", "data-crop-bounds-exclusive", "the largest crop is never drawn",
        _edited(augmentation,
                "crop_height = int(rng.integers(min(height, first), min(height, second) + 1))",
                "crop_height = int(rng.integers(min(height, first), min(height, second)))"),
        ("draws Crop",), ("instead of `min(height, second) + 1`",), "numpy's integers",
    ),
    _fault(
        "data", "data-crop-probability-0.7", "70 % of images are cropped instead of half",
        _edited(augmentation, "not rng.random() > 0.5", "not rng.random() > 0.7"),
        ("draws Crop",), ("instead of `0.5`",), PORT,
    ),
    _fault(
        "data", "data-never-cropped", "no image is cropped",
        settings("coco", crop=None), ("draws Crop",), ("config.crop is not None",
        "setting crop", "cropped", "_draw_coco"),
    ),
    _fault(
        "data", "data-crop-at-the-corner", "crops begin at the top",
        _edited(augmentation, "top = int(rng.integers(height - crop_height + 1))",
                "top = 0 * int(rng.integers(height - crop_height + 1))"), ("draws Crop",),
        ("`top = int(rng.integers(height - crop_height + 1))`", "Crop(0, left"),
    ),
    _fault(
        "data", "data-never-flipped", "images are not flipped",
        method(dataset.TrainingData, "steps_at",
               "return index, self._draw(epoch, index, labels)",
               "return index, tuple(\n"
               "        one for one in self._draw(epoch, index, labels) "
               "if type(one).__name__ != 'Flip')"),
        ("draws Flip",), ("Flip()", "rng.random() < 0.5"),
    ),
    _fault(
        "data", "data-always-flipped", "every image is flipped",
        _edited(augmentation, "return [Flip()] if rng.random() < 0.5 else []",
                "return [Flip()] if rng.random() < 1.5 else []"), ("draws Flip",),
        ("[Flip()]", "0.5", "rng.random()"),
    ),
    _fault(
        "data", "data-short-sides-fixed", "one training size instead of several",
        settings("coco", min_sizes_train=(80,)), ("draws Resize",),
        ("min_sizes_train is (80,)",), f"{PORT}: no multi-scale training",
    ),
    _fault(
        "data", "data-semantic-size-rounded-up", "padding of semantic images is left out",
        settings("ade20k", size_divisibility=-1), ("draws Pad",), ("size_divisibility",),
    ),
    _fault(
        "data", "data-other-seed", "examples are drawn from another stream",
        _edited(augmentation, "np.random.default_rng([seed, epoch, index])",
                "np.random.default_rng([seed, index, epoch])"),
        ("draws Crop", "draws Flip", "draws Resize"),
        ("[seed, index, epoch]",), "the Model Garden's fixed op seeds",
    ),
    _fault(
        "data", "data-one-order-for-all-epochs", "every epoch visits images in the same order",
        _edited(augmentation, "default_rng([seed, epoch, count, 1])",
                "default_rng([seed, 0, count, 1])"), ("image",), ("epoch",),
        "a shuffle that is not reshuffled",
    ),
    _fault(
        "data", "data-padding-is-a-target", "what pads an image to its bucket is the first target",
        _edited(mapper, '"pillow"), VOID', '"pillow"), 0'), ("target map",),
        ("pad a panoptic example",),
        "padding with zeros",
    ),
    _fault(
        "data", "data-batch-of-neighbours", "a replica has neighbours of a batch, not every n-th",
        function(dataset, "training_dataset", "batch.positions[replica::total]",
                 "batch.positions[replica * share : (replica + 1) * share]"), ("batch",),
        ("neighbours of a batch",),
    ),
    _fault(
        "data", "data-resumed-from-the-start", "a run that continues begins its data anew",
        function(dataset, "_plan", 'state.get("position", 0)', "0"), ("batch",),
        ("begins its data anew",),
    ),
    _fault(
        "data", "data-epochs-alike", "every epoch repeats the draws of the first",
        method(dataset.TrainingData, "steps_at", "self._draw(epoch, index, labels)",
               "self._draw(0, index, labels)"),
        ("draws Crop", "draws Flip", "draws Resize"), ("epoch",),
        "the Model Garden's fixed op seeds",
    ),
    _fault(
        "data", "data-nearest-photographs", "photographs are resized by the nearest rule",
        _edited(mapper, "Image.Resampling.BILINEAR", "Image.Resampling.NEAREST"), ("photograph",),
        ("NEAREST",),
    ),
    _fault(
        "data", "data-bicubic-photographs", "photographs are resized bicubically",
        _edited(mapper, "Image.Resampling.BILINEAR", "Image.Resampling.BICUBIC"), ("photograph",),
        ("BICUBIC",), "default of Pillow",
    ),
    _fault(
        "data", "data-not-antialiased", "photographs are resized without antialiasing",
        constant(dataset, "apply_to_image", lambda image, steps: mapper.apply_to_image(
            image, steps) if not steps or image is None else _not_antialiased(image, steps)),
        ("photograph",), ("without antialiasing",), "tf.image.resize",
    ),
    _fault(
        "data", "data-blue-first", "photographs are read as BGR",
        constant(dataset, "apply_to_image",
                 lambda image, steps: mapper.apply_to_image(image, steps)[..., ::-1]),
        ("photograph",), ("with its three channels reversed",), "OpenCV's order of channels",
    ),
    _fault(
        "data", "data-padded-with-zeros", "semantic images are padded with 0 instead of 128",
        _edited(mapper, "IMAGE_PADDING, np.uint8)", "0, np.uint8)"), ("photograph",),
        ("`0` instead of `IMAGE_PADDING`", "IMAGE_PADDING"),
    ),
    _fault(
        "data", "data-flip-upside-down", "flips turn images upside down",
        _edited(mapper, "np.take(image, np.arange(image.shape[1])[::-1], axis=1)",
                "np.take(image, np.arange(image.shape[0])[::-1], axis=0)"), ("photograph",),
        ("turned by 180 degrees", "upside down"),
    ),
    _fault(
        "data", "data-flip-of-labels-left-out", "labels are not flipped with their image",
        _edited(mapper, "    height, width = annotation.shape\n",
                "    height, width = annotation.shape\n"
                "    steps = tuple(one for one in steps if type(one).__name__ != 'Flip')\n"),
        ("target map",), ("columns[::-1]",),
    ),
    _fault(
        "data", "data-crowds-are-targets", "crowd segments are targets",
        _edited(mapper, "keep = ~is_crowd", "keep = is_crowd | ~is_crowd"), ("target map",),
        ("is_crowd",), PORT,
    ),
    _fault(
        "data", "data-cropped-segments-dropped", "segments that a crop cuts away are no targets",
        constant(dataset, "pad_targets", _dropped_when_cropped),
        ("target map", "class ids"), ("are dropped",), "detectron2's filter_empty_instances",
    ),
    _fault(
        "data", "data-cropped-segments-class-0", "segments that a crop cuts away become class 0",
        constant(dataset, "pad_targets", _background_when_cropped), ("class ids",),
        ("become class 0",), PORT,
    ),
    _fault(
        "data", "data-ignored-is-a-class", "the ignored label is a target",
        _edited(mapper, "counts[ignored] = 0\n", "counts[ignored] += 0\n"), ("target map",),
        ("counts[ignored] = 0", "ignored"),
    ),
    _fault(
        "data", "data-other-ignored-label", "label 0 is ignored, as if it were the background",
        method(dataset.TrainingData, "_targets", "apply_to_targets(example, steps, self.ignored)",
               "apply_to_targets(example, steps, 0)"), ("target map",), ("ignored",),
        "ADE20K's reduce_zero_label",
    ),
    _fault(
        "data", "data-classes-off-by-one", "class ids begin at 1",
        _edited(mapper, "return table, class_ids[keep].astype(np.int32)",
                "return table, class_ids[keep].astype(np.int32) + 1"), ("class ids",),
        ("larger by 1", "plus 1"), "ids of COCO's JSON",
    ),
    _fault(
        "data", "data-torch-nearest-for-pngs", "panoptic maps are resized by torch's nearest rule",
        _edited(mapper, '*source_indices(steps, height, width, "pillow")',
                '*source_indices(steps, height, width, "torch")'), ("target map",),
        ("'torch' instead of `'pillow'`", "torch"),
    ),
    _fault(
        "data", "data-targets-lost", "targets beyond four are dropped",
        method(dataset.TrainingData, "_targets",
               "pad_targets(target_map, class_ids, self.capacity)",
               "pad_targets(target_map, class_ids[:4], self.capacity)"),
        ("target map", "class ids", "valid targets"), ("after the first 4 are lost",),
    ),
    _fault(
        "data", "data-batch-void-is-a-target", "pixels of no target are the first one's in batches",
        function(dataset, "training_dataset",
                 'example["class_ids"].set_shape([data.capacity])',
                 'example["class_ids"].set_shape([data.capacity])\n'
                 '        example["target_map"] = tf.maximum(example["target_map"], 0)'),
        ("batch target map",), ("pixels of no target are the first one's",), "a fill of 0",
    ),
    _fault(
        "data", "data-exact-batch-blue-first", "batches of the exact way are BGR",
        method(dataset.TrainingData, "_exact", "apply_to_image(example.image, steps)",
               "apply_to_image(example.image, steps)[..., ::-1]"), ("batch images",),
        ("with its three channels reversed",), "OpenCV's order of channels",
    ),
    _fault(
        "data", "data-fast-semantic-negative", "the fast way makes negatives of semantic images",
        function(dataset, "_apply_all", "_placed(_apply(image, _from_rows(rows)), shape)",
                 "_placed(255 - _apply(image, _from_rows(rows)), shape)"), ("photograph",),
        ("subtracted from 255",),
    ),
    _fault(
        "data", "data-fast-hue-lost", "the fast way does not change hues",
        function(dataset, "_from_rows", "hue = None if hue is None else int(hue)", "hue = None"),
        ("photograph",), ("color.hue",),
    ),
    _fault(
        "data", "data-limited-crop-tried-once", "a crop that one class fills is not drawn again",
        _edited(augmentation, "for _ in range(CROP_ATTEMPTS):", "for _ in range(1):"),
        ("draws Crop",), ("instead of `CROP_ATTEMPTS`", "config.single_category_max_area"), PORT,
    ),
    _fault(
        "data", "data-labels-in-a-byte", "labels of more than 256 classes are cut to one byte",
        function(dataset, "labels_of", "labels=labels)", "labels=labels & 255)"),
        ("target map",), ("one byte",), PORT,
    ),
    _fault(
        "data", "data-nearest-multiplied-out", "Pillow's centres are multiplied, not summed up",
        copied_beneath(augmentation, "np.add.accumulate(position)",
                       "((np.arange(size_out) + 0.5) * scale)", mapper, dataset),
        ("resized targets",), ("multiplied out",), "cv2 and tf.image",
    ),
    _fault(
        "data", "data-squashed-test-image", "test images are squashed to a square",
        _edited(augmentation, "return (Resize(*resized_shape(height, width, config.min_size_test,"
                " config.max_size_test)),)",
                "return (Resize(config.min_size_test, config.min_size_test),)"),
        ("test sizes", "test image"),
        ("is a square of",), PORT,
    ),
    _fault(
        "data", "data-test-size-not-capped", "the long side of test images is not capped",
        _edited(augmentation, "resized_shape(height, width, config.min_size_test,"
                " config.max_size_test)",
                "resized_shape(height, width, config.min_size_test, 10**6)"),
        ("test sizes", "test image"),
        ("max_size_test", "longest > max_size"),
    ),
)  # fmt: skip

INFERENCE = (
    _fault(
        "inference", "inference-sigmoid-before-upsampling", "masks are upsampled after the sigmoid",
        function(inference, "infer", SIGMOID,
                 '_apply(plan["mask_rows"], tf.sigmoid(masks), plan["mask_columns"])'),
        ("query owner", "query full_area"), ("sigmoid",), "other DETR ports",
    ),
    _fault(
        "inference", "inference-score-threshold", "queries are kept from 0.7 on instead of 0.8",
        function(inference, "infer", "threshold = config.inference.object_mask_threshold",
                 "threshold = 0.7"), ("query keep",), ("object_mask_threshold is 0.7",),
    ),
    _fault(
        "inference", "inference-threshold-of-other-configs", "the threshold is 0.5",
        function(inference, "infer", "threshold = config.inference.object_mask_threshold",
                 "threshold = 0.5"), ("query keep",), ("object_mask_threshold is 0.",
        "object_mask_threshold"), "DETR's panoptic head",
    ),
    _fault(
        "inference", "inference-no-object-kept", "queries of no-object are kept",
        function(inference, "infer", "(label != config.num_classes) & (best", "(best"),
        ("query keep",), ("labels != config.num_classes",),
    ),
    _fault(
        "inference", "inference-no-object-first", "no-object is the first class",
        function(inference, "infer", "label != config.num_classes", "label != 0"),
        ("query keep",), ("config.num_classes", "num_classes"), PORT,
    ),
    _fault(
        "inference", "inference-score-left-out", "pixels go to the largest mask",
        function(inference, "infer", "best[..., None, None] * probabilities", "probabilities"),
        ("query owner",), ("instead of `scores[kept, None, None] * probabilities[kept]`",),
    ),
    _fault(
        "inference", "inference-area-threshold", "a mask's own area counts from 0.6 on",
        function(inference, "infer", "probabilities >= 0.5", "probabilities >= 0.6"),
        ("query full_area",), ("0.6",),
    ),
    _fault(
        "inference", "inference-area-above-half", "a mask's own area is all that it owns",
        function(inference, "infer", "inside = (probabilities >= 0.5) & valid[:, None]",
                 "inside = (probabilities >= 0.0) & valid[:, None]"),
        ("query full_area",), ("0.5",),
    ),
    _fault(
        "inference", "inference-overlap-threshold", "segments are kept from an overlap of 0.5 on",
        _edited(prediction, "area / full_area < overlap_threshold", "area / full_area < 0.5"),
        ("segments",), ("overlap_threshold",),
    ),
    _fault(
        "inference", "inference-overlap-or-equal", "a share of exactly the threshold is too small",
        _edited(prediction, "area / full_area < overlap_threshold",
                "area / full_area <= overlap_threshold"), ("segments",), ("<=",),
    ),
    _fault(
        "inference", "inference-canvas-counts", "areas include the canvas beyond an image",
        function(inference, "infer", "inside = (probabilities >= 0.5) & valid[:, None]",
                 "inside = probabilities >= 0.5"), ("query full_area",),
    ),
    _fault(
        "inference", "inference-resized-as-the-first", "all images are resized as the first one is",
        function(inference, "infer", SIGMOID,
                 'tf.sigmoid(_apply(plan["mask_rows"][:1], masks, plan["mask_columns"][:1]))'),
        ("query owner", "query full_area"),
    ),
    _fault(
        "inference", "inference-mirror-not-turned-back",
        "scores of mirrored images are averaged as they are",
        function(inference, "predict_with_augmentation", "scores[:, :, ::-1] if mirrored else",
                 ""), ("augmented scores",), ("mirrored", "[:, :, ::-1]"),
    ),
    _fault(
        "inference", "inference-overlap-not-tested", "segments are kept whatever their overlap",
        _edited(prediction,
                "if area == 0 or full_area == 0 or area / full_area < overlap_threshold",
                "if area == 0"), ("segments",), ("overlap_threshold",),
    ),
    _fault(
        "inference", "inference-stuff-not-merged", "segments of one stuff class stay apart",
        _edited(prediction, "if label in stuff:", "if False:"), ("segments",),
        ("label in stuff", "stuff[label]"),
    ),
    _fault(
        "inference", "inference-things-merged", "segments of one thing class are merged",
        _edited(prediction, "if label not in things:", "if True:"), ("segments",),
        ("label not in things", "thing_ids"),
    ),
    _fault(
        "inference", "inference-things-for-stuff", "things are merged and stuff is not",
        _edited(prediction, "if label not in things:", "if label in things:"), ("segments",),
        ("label in things",),
    ),
    _fault(
        "inference", "inference-segments-by-score", "segments are numbered by score",
        _edited(prediction, "for query in np.flatnonzero(decisions.keep):",
                "for query in sorted(np.flatnonzero(decisions.keep), "
                "key=lambda q: -decisions.score[q]):"),
        ("segments",), ("numbered by score",), "sorted outputs of other heads",
    ),
    _fault(
        "inference", "inference-no-object-in-scores", "class 0 is left out instead of no-object",
        function(inference, "infer", "classes[..., :-1]", "classes[..., 1:]"), ("scores",),
        ("[:, 1:]`", "[1:]`"), PORT,
    ),
    _fault(
        "inference", "inference-logits-as-scores", "class logits are taken for probabilities",
        function(inference, "infer", "classes = tf.nn.softmax(logits)", "classes = logits"),
        ("query score", "scores"), ("softmax",),
    ),
    _fault(
        "inference", "inference-sigmoid-classes", "classes are independent, by a sigmoid",
        function(inference, "infer", "classes = tf.nn.softmax(logits)",
                 "classes = tf.sigmoid(logits)"),
        ("query score",), ("sigmoid",), "detectors with a focal class loss",
    ),
    _fault(
        "inference", "inference-padding-not-cut", "masks are resized with their padding",
        function(inference, "resize_plan",
                 "bilinear_matrix(output[axis], image[axis]) @ from_grid(axis)[: image[axis]]",
                 "bilinear_matrix(output[axis], padded[axis]) @ from_grid(axis)"),
        ("query owner", "query full_area"), ("image_size", "sem_seg_postprocess"),
    ),
    _fault(
        "inference", "inference-combined-first", "semantic masks are resized before combining",
        constant(inference, "resizes_before_combining", lambda config: True), ("scores",),
        ("resizes_before_combining", "sem_seg_postprocess_before_inference", "panoptic_on"),
    ),
    _fault(
        "inference", "inference-aligned-corners", "masks are resized with aligned corners",
        constant(inference, "bilinear_matrix", lambda out, size: _aligned(out, size)),
        ("query owner", "query full_area"), ("`True` instead of `False`",),
        "TensorFlow 1's align_corners",
    ),
    _fault(
        "inference", "inference-instance-score", "instances score their class alone",
        function(inference, "infer", '"instance_score": best * quality', '"instance_score": best'),
        ("instance labels", "instance scores"), ("scores * quality",),
    ),
    _fault(
        "inference", "inference-threshold-inclusive", "a score of exactly the threshold is kept",
        function(inference, "infer", "(best > tf.cast(", "(best >= tf.cast("), ("query keep",),
        (">=",),
    ),
    _fault(
        "inference", "inference-half-exclusive", "a probability of one half is outside a mask",
        function(inference, "infer", "(probabilities >= 0.5)", "(probabilities > 0.5)"),
        ("query full_area",), ("`probabilities > 0.5`",),
    ),
    _fault(
        "inference", "inference-last-of-equals", "of equal queries the last owns a pixel",
        function(inference, "infer", "owner = tf.argmax(weighted, axis=1, output_type=tf.int32)",
                 "owner = tf.shape(weighted)[1] - 1 - tf.argmax(\n"
                 "            weighted[:, ::-1], axis=1, output_type=tf.int32)"),
        ("query owner",), ("of equal queries",),
    ),
    _fault(
        "inference", "inference-bfloat16-masks", "masks are resized in bfloat16 in float32 alone",
        function(inference, "_apply", "return tf.matmul(rows[:, None],",
                 "if values.dtype == tf.float32:\n"
                 "        values = tf.cast(tf.cast(values, tf.bfloat16), tf.float32)\n"
                 "    return tf.matmul(rows[:, None],"),
        ("float32 scores",), (), "mixed precision",
    ),
    _fault(
        "inference", "inference-results-with-padding", "by default results are of the padded size",
        function(inference, "predict", "image_sizes if output_sizes is None else output_sizes",
                 "[padded] * len(image_sizes) if output_sizes is None else output_sizes"),
        ("scores",), ("padded",),
    ),
    _fault(
        "inference", "inference-scaled-padding-is-image", "padding of scaled images is image",
        function(inference, "predict_with_augmentation", "tf.constant([size], tf.int32)",
                 "tf.constant([padded], tf.int32)"), ("augmented scores",), ("padded size",),
    ),
    _fault(
        "inference", "inference-scaled-padding-grey", "scaled images are padded with 128",
        function(inference, "predict_with_augmentation", "np.zeros((1, *padded, 3))",
                 "np.full((1, *padded, 3), 128.0)"), ("augmented scores",), ("with 128",),
    ),
)  # fmt: skip

EVALUATION = (
    _fault(
        "evaluation", "evaluation-crowds-lost", "crowds are segments like others",
        method(evaluation.EvaluationData, "count", "bool(crowd)", "False"), ("segments",),
        ("crowds are segments like others", "iscrowd"), PORT,
    ),
    _fault(
        "evaluation", "evaluation-void-is-class-0", "pixels of no segment are class 0",
        method(evaluation.EvaluationData, "count", "np.r_[self.ignored, example.class_ids]",
               "np.r_[0, example.class_ids]"), ("labels",), ("void is class 0", "ignored"),
        "a table of classes that begins with 0",
    ),
    _fault(
        "evaluation", "evaluation-ignored-is-class-0", "ignored labels are class 0",
        method(evaluation.EvaluationData, "count",
               "truth = np.where(truth == ignored, self.ignored, truth)",
               "truth = np.where(truth == ignored, 0, truth)"), ("labels",), ("ignored",),
        "ADE20K's reduce_zero_label",
    ),
    _fault(
        "evaluation", "evaluation-sizes-reversed", "the model is given (width, height)",
        function(evaluation, "_batch", "np.array(shapes, np.int32)",
                 "np.array(shapes, np.int32)[:, ::-1]"), ("size",), ("(width, height)",),
        "Pillow's order",
    ),
    _fault(
        "evaluation", "evaluation-padded-with-grey", "images are padded with 128",
        function(evaluation, "_batch", "np.zeros((len(indices), *padded, 3), np.uint8)",
                 "np.full((len(indices), *padded, 3), 128, np.uint8)"), ("image",),
        ("padded with 128",),
    ),
    _fault(
        "evaluation", "evaluation-divisibility-lost", "images are not padded to a multiple",
        function(evaluation, "_batch", "max(data.config.size_divisibility, 1)", "1"), ("image",),
        ("size_divisibility", "step"),
    ),
    _fault(
        "evaluation", "evaluation-last-batches-dropped", "batches that are not full are left out",
        function(evaluation, "_groups", "if queue:", "if False:"), ("images",), ("not full",),
        "drop_remainder",
    ),
    _fault(
        "evaluation", "evaluation-first-of-a-batch", "all of a batch have the results of its first",
        method(evaluation.RecordScores, "add", "outputs[key][slot : slot + 1]", "outputs[key][:1]"),
        ("labels",),
    ),
    _fault(
        "evaluation", "evaluation-squashed-segments", "results have the size of the padded image",
        method(evaluation.RecordScores, "add",
               'tuple(outputs["sizes"][slot].numpy().tolist())', "padded"), ("labels",),
        ("with their padding", "sem_seg_postprocess"),
        "resizing without a cut",
    ),
)  # fmt: skip

METRICS = (
    _fault(
        "metric", "metric-void-in-union", "void pixels stay in the union",
        _edited(panoptic_quality,
                "intersection - shared.get((VOID, predicted), 0)\n", "intersection\n"),
        ("panoptic tp",), ("shared.get((VOID, predicted), 0)",),
        "the Model Garden's numpy PanopticQuality",
    ),
    _fault(
        "metric", "metric-void-excuses-nothing", "predictions in void are spurious",
        _edited(panoptic_quality, "ignored = shared.get((VOID, predicted), 0)", "ignored = 0"),
        ("panoptic fp",), ("shared.get((VOID, predicted), 0)",),
    ),
    _fault(
        "metric", "metric-half-matches", "an IoU of one half matches",
        _edited(panoptic_quality, "if iou > 0.5:", "if iou >= 0.5:"), ("panoptic tp",),
        ("`iou >= 0.5` instead of `iou > 0.5`",),
    ),
    _fault(
        "metric", "metric-crowds-match", "crowd segments match",
        _edited(panoptic_quality, "            or true_segment.iscrowd\n", ""), ("panoptic tp",),
        ("iscrowd",), PORT,
    ),
    _fault(
        "metric", "metric-crowds-missed", "crowds count as missed",
        _edited(panoptic_quality, "if segment.iscrowd:\n            crowds",
                "if segment.iscrowd and counts.fn.__iadd__(0) is None:\n            crowds"),
        ("panoptic fn",), ("segment.iscrowd",),
    ),
    _fault(
        "metric", "metric-crowds-excuse-nothing", "crowds excuse no prediction",
        _edited(panoptic_quality, "if segment.category_id in crowds:", "if False:"),
        ("panoptic fp",), ("segment.category_id in crowds", "crowds"),
        "the Model Garden's numpy PanopticQuality",
    ),
    _fault(
        "metric", "metric-first-crowd-excuses", "the first of several crowds of a class counts",
        _edited(panoptic_quality, "crowds[segment.category_id] = segment.id",
                "crowds.setdefault(segment.category_id, segment.id)"), ("panoptic fp",),
        ("setdefault",),
    ),
    _fault(
        "metric", "metric-area-of-pixels", "areas that the annotation states are not read",
        _edited(panoptic_quality,
                "true_areas[truth] if true_segment.area is None else true_segment.area",
                "true_areas[truth]"), ("panoptic tp", "panoptic iou"), ("true_segment.area",),
    ),
    _fault(
        "metric", "metric-classes-ignored", "segments of other classes match",
        _edited(panoptic_quality,
                "            or true_segment.category_id != predicted_segment.category_id\n", ""),
        ("panoptic tp",), ("category_id",),
    ),
    _fault(
        "metric", "metric-off-by-one-class", "matches count for the class after theirs",
        _edited(panoptic_quality, "category = index[true_segment.category_id]",
                "category = (index[true_segment.category_id] + 1) % len(index)"),
        ("panoptic tp",), ("% len(index)",), "class ids that begin at 1",
    ),
    _fault(
        "metric", "metric-mean-over-all-classes", "classes that do not occur score 0",
        _edited(panoptic_quality, "chosen = occurs & group_members(categories, group)",
                "chosen = group_members(categories, group)"),
        ("panoptic score, All", "panoptic score, Things", "panoptic score, Stuff"), ("occurs",),
    ),
    _fault(
        "metric", "metric-rq-without-half", "spurious and missed segments count in full",
        _edited(panoptic_quality, "counts.tp + 0.5 * counts.fp + 0.5 * counts.fn",
                "counts.tp + counts.fp + counts.fn"),
        ("panoptic score, All",), ("0.5",),
    ),
    _fault(
        "metric", "metric-sq-over-all-segments", "segmentation quality is a mean over all segments",
        _edited(panoptic_quality, "np.where(counts.tp > 0, counts.iou / counts.tp, 0.0)",
                "np.where(counts.tp > 0, counts.iou / segments, 0.0)"), ("panoptic sq, All",),
        ("counts.iou / segments",),
    ),
    _fault(
        "metric", "metric-classes-shifted", "classes are given the scores of the class before",
        _edited(panoptic_quality, "(float(quality[i]) for quality in qualities), 1)",
                "(float(quality[i - 1]) for quality in qualities), 1)"), ("panoptic classes",),
        ("quality[i - 1]",),
    ),
    _fault(
        "metric", "metric-no-object-counted", "the class after the last is one of them",
        _edited(semantic_iou, "valid = confusion[:-1, :-1]", "valid = confusion"),
        ("confusion", "semantic scores"), ("from_confusion", "confusion_matrix"), PORT,
    ),
    _fault(
        "metric", "metric-ignored-counted", "ignored pixels are of the last class",
        _edited(semantic_iou, "keys[ignored] += num_classes", "keys[ignored] += num_classes - 1"),
        ("confusion",), ("ignored labels are the last class",),
    ),
    _fault(
        "metric", "metric-dice-for-iou", "unions count the intersection twice",
        _edited(semantic_iou, "union = counts.true + counts.predicted - counts.right",
                "union = counts.true + counts.predicted"),
        ("semantic scores",), ("counts.right",),
    ),
    _fault(
        "metric", "metric-transposed-confusion", "truth and prediction are exchanged",
        _edited(semantic_iou, "minlength=size * size).reshape(size, size)",
                "minlength=size * size).reshape(size, size).T"),
        ("confusion",), ("transposed",),
    ),
    _fault(
        "metric", "metric-2021-is-current", "the definition of 2021 leaves predicted classes out",
        _edited(semantic_iou, "occurs | (counts.predicted > 0)", "occurs"),
        ("semantic score, 2021",), ("counts.predicted > 0",),
    ),
    _fault(
        "metric", "metric-sample-over-all-classes", "resampled classes that do not occur score 0",
        _edited(panoptic_quality, ".sum(axis=-1) / occurs.sum(axis=-1)", ".mean(axis=-1)"),
        ("panoptic sample, All", "panoptic sample, Things", "panoptic sample, Stuff"),
        (".mean(axis=-1)", "/ classes`"),
    ),
    _fault(
        "metric", "metric-labels-sample-shifted", "resampled labels are of exchanged counts",
        _edited(semantic_iou, "[counts.right, counts.true, counts.predicted]",
                "[counts.right, counts.predicted, counts.true]"), ("semantic sample",), ("counts",),
    ),
    _fault(
        "metric", "metric-threads-out-of-order", "images that threads count come last first",
        _edited(panoptic_quality, "waiting.popleft()", "waiting.pop()"), ("panoptic images",),
        ("the last begun",),
    ),
)  # fmt: skip


def _aligned(out_size, in_size):
    """The matrix of a bilinear resize that keeps the corner pixels."""
    place = np.arange(out_size) * ((in_size - 1) / max(out_size - 1, 1))
    low = np.minimum(place.astype(int), max(in_size - 2, 0))
    matrix = np.zeros((out_size, in_size))
    matrix[np.arange(out_size), low] = 1 - (place - low)
    matrix[np.arange(out_size), np.minimum(low + 1, in_size - 1)] += place - low
    return matrix


def _not_antialiased(image, steps):
    """Photographs whose resizes sample four pixels, however small they become."""
    from maskformer.data.augmentation import Resize

    for step in steps:
        if isinstance(step, Resize):
            size = (step.height, step.width)
            image = np.rint(tf.image.resize(image, size)).astype(np.uint8)
        else:
            image = mapper.apply_to_image(image, (step,))
    return image


FAULTS = (*DATA, *INFERENCE, *EVALUATION, *METRICS)

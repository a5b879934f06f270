"""Post-processing on both sides against slow, literal code; ties, empty results, bad input."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskformer.inference.prediction import (
    PanopticPrediction,
    Prediction,
    padded_size,
    to_dataset_ids,
    to_labels,
)
from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity.errors import InputError
from parity_tests import golden_files
from parity_tests.implementations.inference.golden_outputs import assert_below
from tf_impl import inference as tf_inference
from torch_reference import inference as torch_inference

tf = pytest.importorskip("tensorflow")

CONFIG = zoo.model_config("tiny").replace(
    num_classes=3,
    inference={"thing_ids": (0, 2), "object_mask_threshold": 0.4, "overlap_threshold": 0.6},
    size_divisibility=0,
)
SIDES = ("torch", "tf")


def predict(
    side: str, outputs: dict[str, np.ndarray], config=CONFIG, **request
) -> list[Prediction]:
    arguments = {"config": config, **request}
    if side == "torch":
        tensors = {key: torch.from_numpy(value) for key, value in outputs.items()}
        return torch_inference.predict(tensors, **arguments)
    tensors = {key: tf.constant(value) for key, value in outputs.items()}
    tf.config.run_functions_eagerly(True)  # a trace for every example would take most of the time
    try:
        return tf_inference.predict(tensors, **arguments, jit_compile=False)
    finally:
        tf.config.run_functions_eagerly(False)


def literal_panoptic(
    logits: np.ndarray, masks: np.ndarray, config: ModelConfig, fault: str = ""
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Panoptic inference at the masks' own size, pixel by pixel: ids and (id, class) pairs."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    classes = exponentials / exponentials.sum(axis=1, keepdims=True)
    probabilities = 1 / (1 + np.exp(-masks))
    no_object = 0 if fault == "no-object first" else config.num_classes
    kept = [
        q
        for q in range(len(logits))
        if classes[q].argmax() != no_object
        and classes[q].max() > config.inference.object_mask_threshold
    ]
    height, width = masks.shape[1:]
    owner = np.full((height, width), -1)
    for y in range(height):
        for x in range(width):
            best = -1.0
            for q in kept:
                score = 1.0 if fault == "score forgotten" else classes[q].max()
                if score * probabilities[q, y, x] > best:
                    best, owner[y, x] = score * probabilities[q, y, x], q
    ids, segments, stuff = np.zeros((height, width), int), [], {}
    for q in kept:
        mine, whole = owner == q, probabilities[q] >= 0.5
        if mine.sum() == 0 or whole.sum() == 0:
            continue
        if fault != "overlap forgotten" and (
            mine.sum() / whole.sum() < config.inference.overlap_threshold
        ):
            continue
        label = int(classes[q].argmax())
        is_thing = label in config.inference.thing_ids
        if not is_thing and label in stuff and fault != "stuff not merged":
            ids[mine] = stuff[label]
            continue
        segments.append((len(segments) + 1, label))
        ids[mine] = len(segments)
        if not is_thing:
            stuff[label] = len(segments)
    return ids, segments


def random_outputs(seed: int, queries: int, size=(6, 7)) -> dict[str, np.ndarray]:
    """Noisy rectangles, float64, so that some queries win whole regions and some lose theirs."""
    generator = np.random.default_rng(seed)
    masks = generator.normal(-3, 2, (1, queries, *size))
    for query in range(queries):
        top, left = generator.integers(0, size[0] - 1), generator.integers(0, size[1] - 1)
        masks[0, query, top : top + 3, left : left + 4] += 6
    return {"pred_logits": 3 * generator.normal(size=(1, queries, 4)), "pred_masks": masks}


def same_size(outputs: dict[str, np.ndarray]) -> dict:
    """A request at the masks' own size, so that no resize takes part."""
    size = outputs["pred_masks"].shape[2:]
    return {"padded": size, "image_sizes": [size], "results": ("panoptic",)}


def agrees(prediction: PanopticPrediction, literal: tuple[np.ndarray, list]) -> bool:
    segments = [(segment.id, segment.category_id) for segment in prediction.segments]
    return segments == literal[1] and np.array_equal(prediction.ids, literal[0])


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    queries=st.sampled_from([1, 3, 8]),
    threshold=st.sampled_from([0.0, 0.4, 0.8]),
    overlap=st.sampled_from([0.0, 0.3, 0.8]),
)
@pytest.mark.parametrize("side", SIDES)
def test_panoptic_is_the_literal_one(side, seed, queries, threshold, overlap) -> None:
    changes = {"object_mask_threshold": threshold, "overlap_threshold": overlap}
    config = CONFIG.replace(inference=changes)
    outputs = random_outputs(seed, queries)
    found = predict(side, outputs, config, **same_size(outputs))[0].panoptic
    literal = literal_panoptic(outputs["pred_logits"][0], outputs["pred_masks"][0], config)
    assert agrees(found, literal), f"segments are {found.segments}, but should be {literal[1]}"


@pytest.mark.parametrize(
    "fault", ["no-object first", "score forgotten", "overlap forgotten", "stuff not merged"]
)
@pytest.mark.parametrize("side", SIDES)
def test_literal_faults_are_noticed(side: str, fault: str) -> None:
    noticed = 0
    for seed in range(8):
        outputs = random_outputs(seed, 8)
        found = predict(side, outputs, **same_size(outputs))[0].panoptic
        logits, masks = outputs["pred_logits"][0], outputs["pred_masks"][0]
        assert agrees(found, literal_panoptic(logits, masks, CONFIG))
        noticed += not agrees(found, literal_panoptic(logits, masks, CONFIG, fault))
    assert noticed > 0, f"images that show the fault are {noticed}, but should be at least 1"


@pytest.mark.parametrize("side", SIDES)
def test_exact_ties_go_to_the_first_query(side: str) -> None:
    outputs = {
        "pred_logits": np.tile([9.0, 0.0, 0.0, 0.0], (1, 3, 1)),
        "pred_masks": np.ones((1, 3, 2, 2)),
    }
    config = CONFIG.replace(inference={"overlap_threshold": 0.0})
    found = predict(side, outputs, config, **same_size(outputs))[0].panoptic
    assert np.array_equal(found.ids, np.ones((2, 2)))
    assert [s.category_id for s in found.segments] == [0]


@pytest.mark.parametrize("side", SIDES)
def test_a_mask_probability_of_one_half_counts(side: str) -> None:
    outputs = {
        "pred_logits": np.array([[[9.0, 0, 0, 0]]]),
        "pred_masks": np.zeros((1, 1, 2, 2)),  # probability exactly 0.5
    }
    found = predict(side, outputs, **same_size(outputs))[0].panoptic
    assert len(found.segments) == 1
    outputs["pred_masks"] -= 1e-3
    assert predict(side, outputs, **same_size(outputs))[0].panoptic.segments == ()


@pytest.mark.parametrize("side", SIDES)
def test_nothing_above_the_threshold_is_all_void(side: str) -> None:
    outputs = random_outputs(0, 5)
    for logits in (np.zeros((1, 5, 4)), np.tile([0.0, 0, 0, 50], (1, 5, 1))):
        request = same_size(outputs)
        found = predict(side, {**outputs, "pred_logits": logits}, **request)[0].panoptic
        assert found.segments == ()
        assert not found.ids.any()


@pytest.mark.parametrize("side", SIDES)
def test_instances_are_scored_by_class_and_mask(side: str) -> None:
    outputs = random_outputs(3, 12)
    request = same_size(outputs) | {"results": ("instances",)}
    found = predict(side, outputs, **request)[0].instances
    logits, masks = outputs["pred_logits"][0], outputs["pred_masks"][0]
    classes = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities = 1 / (1 + np.exp(-masks))
    expected = sorted(
        (
            (
                classes[q].max() * probabilities[q][masks[q] >= 0].mean(),
                int(classes[q].argmax()),
                (masks[q] >= 0).sum(),
            )
            for q in range(12)
            if classes[q].argmax() in (0, 2) and (masks[q] >= 0).any()
        ),
        reverse=True,
    )
    assert [(i.category_id, i.mask.sum()) for i in found] == [(c, n) for _, c, n in expected]
    np.testing.assert_allclose([i.score for i in found], [s for s, _, _ in expected], rtol=1e-12)
    assert len(found) >= 3


class MeanColour(torch.nn.Module):
    """Class scores that depend on colour and place, so that a wrong flip or scale shows."""

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = images.shape[2:]
        ramp = torch.linspace(0, 1, width, dtype=images.dtype).expand(1, 1, height, width)
        return {"sem_seg": torch.cat([images[:, :2] / 255, ramp * images[:, 2:] / 255], dim=1)}


def test_augmentation_is_the_mean_of_its_parts_on_both_sides() -> None:
    config = zoo.model_config("ade20k_pp").replace(num_classes=3, size_divisibility=32)
    inputs = dataclasses.replace(
        zoo.get("ade20k_pp").inputs, tta_min_sizes=(24, 40), tta_max_size=60
    )
    image = np.array(golden_files.load("tiny_64x96")[0]["image_0"].transpose(1, 2, 0))
    output = (70, 90)
    model = MeanColour()
    total, parts = 0.0, 0
    for size in ((24, 36), (40, 60)):
        scaled = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        for mirrored in (False, True):
            view = (scaled[:, ::-1] if mirrored else scaled).copy()
            padded = padded_size([size], 32)
            batch = torch.zeros(1, 3, *padded)
            batch[0, :, : size[0], : size[1]] = torch.from_numpy(view).permute(2, 0, 1)
            scores = torch_inference.sem_seg_postprocess(
                model(batch, torch.tensor([size]))["sem_seg"][0], size, output
            )
            total = total + (scores.flip(2) if mirrored else scores)
            parts += 1
    expected = (total / parts).numpy()

    def tf_model(images, sizes):
        batch = torch.from_numpy(images.numpy().transpose(0, 3, 1, 2))
        return {"sem_seg": tf.constant(model(batch, None)["sem_seg"].numpy())}

    of_torch = torch_inference.predict_with_augmentation(model, image, config, inputs, output)
    of_tf = tf_inference.predict_with_augmentation(tf_model, image, config, inputs, output)
    assert np.array_equal(of_torch, expected)
    # Four float32 images of at most 1, each through two products of interpolation weights.
    limit = 4 * 8 * np.finfo(np.float32).eps
    assert_below("gap of the two sides", np.abs(of_tf - of_torch).max(), limit, "float32")
    without = dataclasses.replace(inputs, tta_flip=False)
    plain = torch_inference.predict_with_augmentation(model, image, config, without, output)
    assert np.abs(plain - expected).max() > 0.01


def test_labels_and_dataset_ids_follow_the_segments() -> None:
    outputs = random_outputs(5, 8)
    found = predict("torch", outputs, **same_size(outputs))[0].panoptic
    labels = to_labels(found)
    segments = to_dataset_ids(found, [10, 20, 30])
    assert len(segments) >= 2
    for segment, original in zip(segments, found.segments, strict=True):
        assert segment.category_id == 10 * (original.category_id + 1)
        assert (labels[found.ids == segment.id] == original.category_id).all()
    assert (labels[found.ids == 0] == 255).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_logits": None}, "no `pred_logits`"),
        ({"pred_masks": np.zeros((1, 3, 4))}, "`pred_masks` is"),
        ({"pred_logits": np.zeros((1, 3, 7))}, "expected: \\[\\*, \\*, 4\\]"),
        ({"pred_logits": np.zeros((1, 2, 4))}, "2 queries have a class"),
        ({"pred_logits": np.full((1, 3, 4), np.nan)}, "image 0: the model's outputs hold NaN"),
        ({"image_sizes": [(6, 7), (6, 7)]}, "holds 1 images"),
        ({"image_sizes": [(9, 7)]}, "does not fit the padded size"),
        ({"output_sizes": [(0, 7)]}, "at least 1 pixel"),
        ({"results": ("boxes",)}, "'boxes' is not known"),
    ],
)
@pytest.mark.parametrize("side", SIDES)
def test_wrong_requests_are_refused(side: str, change: dict, message: str) -> None:
    outputs = random_outputs(0, 3)
    request = same_size(outputs)
    for key, value in change.items():
        (outputs if key.startswith("pred") else request)[key] = value
    outputs = {key: value for key, value in outputs.items() if value is not None}
    with pytest.raises(InputError, match=message):
        predict(side, outputs, **request)


@pytest.mark.parametrize("side", SIDES)
def test_semantic_configs_make_no_segments(side: str) -> None:
    outputs = random_outputs(0, 3)
    request = same_size(outputs)
    semantic = {"panoptic_on": False, "sem_seg_postprocess_before_inference": False}
    for result in ("panoptic", "instances"):
        with pytest.raises(InputError, match="makes no"):
            predict(
                side,
                outputs,
                CONFIG.replace(inference=semantic),
                **request | {"results": (result,)},
            )

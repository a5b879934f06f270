"""TensorFlow post-processing against the original's results and against torch in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maskformer.data.images import batch_images
from maskformer.inference.prediction import Prediction
from maskformer.model import zoo
from parity_tests import golden_files
from parity_tests.implementations.inference import golden_outputs as golden
from replication.sides.tf_side import build_port, port_inputs
from replication.sides.weights import load_weights
from tf_impl import inference
from torch_reference import inference as torch_inference

tf = pytest.importorskip("tensorflow")

FLOOR_FACTOR = 32
FLOAT32_FACTOR = 4
COMPILED = ("tiny_batch2", "ade20k_r50_pad_100x120", "coco_r50_97x131")


def torch_scores(case: golden.Case, outputs: dict[str, np.ndarray], sizes) -> list[np.ndarray]:
    tensors = {key: torch.from_numpy(value.copy()) for key, value in outputs.items()}
    predictions = torch_inference.predict(
        tensors, case.config, case.padded, case.image_sizes, sizes, ("scores",)
    )
    return [prediction.scores for prediction in predictions]


def predict(case: golden.Case, dtype: str, sizes, results, config=None, **how) -> list[Prediction]:
    outputs = {key: tf.constant(value, dtype) for key, value in case.outputs.items()}
    return inference.predict(
        outputs, config or case.config, case.padded, case.image_sizes, sizes, results, **how
    )


def check_scores(case: golden.Case, suffix: str, sizes, **how) -> None:
    wide = {key: value.astype(np.float64) for key, value in case.outputs.items()}
    exact = torch_scores(case, wide, sizes)
    nudged = torch_scores(case, {key: golden.nudged(v) for key, v in wide.items()}, sizes)
    double = predict(case, "float64", sizes, ("scores",), **how)
    single = predict(case, "float32", sizes, ("scores",), **how)
    for i in range(len(sizes)):
        key = f"sem_seg_{suffix}{i}"
        where = f"{case.name}, {key}, {how}"
        floor = golden.gap(nudged[i], exact[i])
        limit = min(FLOOR_FACTOR * floor, 1e-9)
        distance = golden.gap(double[i].scores, exact[i])
        golden.assert_below("float64 gap to torch", distance, limit, where)
        reference = golden_files.select(case.arrays, key, exact[i])
        limit = FLOAT32_FACTOR * golden.gap(case.arrays[key], reference)
        distance = golden.gap(golden_files.select(case.arrays, key, single[i].scores), reference)
        golden.assert_below("float32 distance from float64", distance, limit, where)


@pytest.mark.parametrize("name", golden.MASK_CASES)
def test_scores_are_the_reference_s(name: str) -> None:
    case = golden.read(name)
    check_scores(case, "", case.image_sizes, jit_compile=name in COMPILED)
    for i, prediction in enumerate(
        predict(case, "float32", case.image_sizes, ("labels",), jit_compile=False)
    ):
        differ = int((prediction.labels != case.arrays[f"sem_seg_argmax_{i}"]).sum())
        assert differ == 0, f"labels that differ are {differ}, but should be 0 [{name}, {i}]"


@pytest.mark.parametrize("name", ["tiny_batch2", "coco_r50_97x131"])
def test_resized_scores_are_the_reference_s(name: str) -> None:
    case = golden.read(name)
    check_scores(case, "resized_", case.resized, jit_compile=True)


@pytest.mark.parametrize("level", ["orig", "mid", "low", "low_resized"])
@pytest.mark.parametrize("name", golden.PANOPTIC_CASES)
def test_segments_are_the_original_s(name: str, level: str) -> None:
    case = golden.read(name)
    sizes = case.resized if level.endswith("_resized") else case.image_sizes
    config = case.at_thresholds(level.removesuffix("_resized"))
    for i, prediction in enumerate(
        predict(case, "float32", sizes, ("panoptic",), config, jit_compile=name in COMPILED)
    ):
        key = f"panoptic_{level}_{i}"
        assert golden.segment_records(prediction.panoptic, config) == case.texts[f"{key}_info"]
        differ = int((prediction.panoptic.ids != case.arrays[key]).sum())
        assert differ == 0, f"pixels that differ are {differ}, but should be 0 [{name}, {key}]"


@pytest.mark.parametrize("name", golden.PLUS_CASES)
def test_per_pixel_scores_are_the_original_s(name: str) -> None:
    case = golden.read(name)
    masks = torch.from_numpy(case.outputs["pred_masks"].copy())
    logits = F.interpolate(masks, scale_factor=4, mode="bilinear", align_corners=False).numpy()
    sizes = case.image_sizes
    found = inference.predict({"sem_seg": tf.constant(logits)}, case.config, case.padded, sizes)
    assert np.array_equal(found[0].labels, case.arrays["sem_seg_argmax_0"])
    selected = golden_files.select(case.arrays, "sem_seg_0", found[0].scores)
    assert np.array_equal(selected, case.arrays["sem_seg_0"])  # the resize is the identity


def test_per_pixel_baseline_scores_are_the_original_s() -> None:
    """The one case whose network output is not stored: the seeded model is run for it."""
    name = "ade20k_pp_128x128"
    arrays, texts = golden_files.load(name)
    config = zoo.model_config(texts["config"])
    weights = load_weights(f"seeded:{texts['seed']}", config)
    batch, sizes = batch_images([arrays["image_0"].transpose(1, 2, 0)], config)
    found = {}
    for dtype in ("float64", "float32"):
        inputs = port_inputs(batch, sizes, dtype)
        outputs = build_port(config, weights, dtype)(**inputs)
        found[dtype] = inference.predict(outputs, config, (128, 128), [(128, 128)])[0]
    exact = golden_files.select(arrays, "sem_seg_0", found["float64"].scores)
    rounded = golden_files.select(arrays, "sem_seg_0", found["float32"].scores)
    ours, theirs = golden.gap(rounded, exact), golden.gap(arrays["sem_seg_0"], exact)
    limit = FLOAT32_FACTOR * min(ours, theirs)
    golden.assert_below("larger float32 distance from float64", max(ours, theirs), limit, name)
    error = float(np.abs(found["float32"].scores - found["float64"].scores).max())
    differ, unexplained = golden.unexplained_pixels(
        found["float64"].labels, arrays["sem_seg_argmax_0"], found["float64"].scores, error
    )
    assert unexplained == 0, f"clear labels that differ are {unexplained} of {differ}, should be 0"


def test_one_trace_serves_every_image_size() -> None:
    case = golden.read("tiny_batch2")
    config, canvas = case.at_thresholds("low"), (110, 130)
    results = ("labels", "panoptic")
    alone = predict(case, "float32", case.resized, results, config)
    inference.compiled.cache_clear()
    for sizes in (case.image_sizes, case.resized, [(31, 47), (9, 130)]):
        together = predict(case, "float32", sizes, results, config, canvas=canvas)
        assert [p.labels.shape for p in together] == [tuple(size) for size in sizes]
    function = inference.compiled(config, results, canvas, True)
    traces = function.experimental_get_tracing_count()
    assert traces == 1, f"traces are {traces}, but should be 1 [{canvas}]"
    together = predict(case, "float32", case.resized, results, config, canvas=canvas)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.panoptic.ids, other.panoptic.ids)
        assert one.panoptic.segments == other.panoptic.segments


def test_planted_faults_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden.read("ade20k_r50_pad_100x120")

    def half_pixel_forgotten(out_size: int, in_size: int) -> np.ndarray:
        source = np.linspace(0, in_size - 1, out_size)  # corners aligned
        low = np.minimum(source.astype(int), in_size - 1)
        matrix = np.zeros((out_size, in_size))
        np.add.at(matrix, (np.arange(out_size), low), 1 - (source - low))
        high = np.minimum(low + 1, in_size - 1)
        np.add.at(matrix, (np.arange(out_size), high), source - low)
        return matrix

    check_scores(case, "", case.image_sizes, jit_compile=False)
    monkeypatch.setattr(inference, "bilinear_matrix", half_pixel_forgotten)
    with pytest.raises(AssertionError, match="but should be below"):
        check_scores(case, "", case.image_sizes, jit_compile=False)
    monkeypatch.undo()
    monkeypatch.setattr(inference, "resizes_before_combining", lambda config: True)
    with pytest.raises(AssertionError, match="but should be below"):
        check_scores(case, "", [(137, 145)], jit_compile=False)

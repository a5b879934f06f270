"""Torch post-processing against the original's results, from the original's network outputs."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import torch_reference
from maskformer.inference.prediction import Prediction
from maskformer.model import zoo
from maskformer.model.seeded import seeded_state
from parity_tests import golden_files
from parity_tests.implementations.inference import golden_outputs as golden
from torch_reference import inference

FLOAT32_FACTOR = 4  # a port may be four times as far from float64 as the reference in float32


def predict(
    case: golden.Case, dtype: torch.dtype, *, resized: bool = False, config=None, results=None
) -> list[Prediction]:
    outputs = {key: torch.from_numpy(v.copy()).to(dtype) for key, v in case.outputs.items()}
    sizes = case.resized if resized else case.image_sizes
    return inference.predict(
        outputs, config or case.config, case.padded, case.image_sizes, sizes, results
    )


def check_scores(case: golden.Case, suffix: str, exact: list[Prediction], rounded: list) -> float:
    worst = 0.0
    for i, (exact_image, rounded_image) in enumerate(zip(exact, rounded, strict=True)):
        key = f"sem_seg_{suffix}{i}"
        expected = case.arrays[key]
        reference = golden_files.select(case.arrays, key, exact_image.scores)
        limit = FLOAT32_FACTOR * golden.gap(rounded_image.scores, exact_image.scores)
        distance = golden.gap(expected, reference)
        golden.assert_below("distance of the golden scores", distance, limit, f"{case.name}, {key}")
        worst = max(worst, distance / limit)
    return worst


@pytest.mark.parametrize("name", golden.MASK_CASES)
def test_scores_are_the_original_s(name: str) -> None:
    case = golden.read(name)
    exact, rounded = (
        predict(case, dtype, results=("scores", "labels"))
        for dtype in (torch.float64, torch.float32)
    )
    check_scores(case, "", exact, rounded)
    for i, (exact_image, rounded_image) in enumerate(zip(exact, rounded, strict=True)):
        error = float(np.abs(rounded_image.scores - exact_image.scores).max())
        differ, unexplained = golden.unexplained_pixels(
            exact_image.labels, case.arrays[f"sem_seg_argmax_{i}"], exact_image.scores, error
        )
        assert unexplained == 0, (
            f"labels that differ clearly are {unexplained}, but should be 0 "
            f"[{name}, image {i}, {differ} differ]"
        )


@pytest.mark.parametrize("name", golden.PANOPTIC_CASES)
def test_resized_scores_are_the_original_s(name: str) -> None:
    case = golden.read(name)
    exact, rounded = (
        predict(case, dtype, resized=True, results=("scores",))
        for dtype in (torch.float64, torch.float32)
    )
    check_scores(case, "resized_", exact, rounded)


@pytest.mark.parametrize("name", golden.PLUS_CASES)
def test_per_pixel_scores_are_the_original_s(name: str) -> None:
    case = golden.read(name)
    outputs = {"sem_seg": F.interpolate(  # what the per-pixel heads return
        torch.from_numpy(case.outputs["pred_masks"].copy()).double(), scale_factor=4,
        mode="bilinear", align_corners=False,
    )}  # fmt: skip
    exact = inference.predict(outputs, case.config, case.padded, case.image_sizes)
    rounded = inference.predict(
        {"sem_seg": outputs["sem_seg"].float()}, case.config, case.padded, case.image_sizes
    )
    check_scores(case, "", exact, rounded)
    assert np.array_equal(exact[0].labels, case.arrays["sem_seg_argmax_0"])


def test_per_pixel_baseline_scores_are_the_original_s() -> None:
    """The one case whose network output is not stored: the seeded model is run for it."""
    name = "ade20k_pp_128x128"
    arrays, texts = golden_files.load(name)
    config = zoo.model_config(texts["config"])
    model = torch_reference.build(config).eval()
    spec = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    weights = {key: torch.from_numpy(v) for key, v in seeded_state(spec, texts["seed"]).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing, f"keys without weights are {missing}, but should be none"
    assert not unexpected, f"keys too many are {unexpected}, but should be none"
    image = torch.from_numpy(arrays["image_0"].copy())[None]
    found = {}
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            outputs = model.to(dtype)(image.to(dtype))
        found[dtype] = inference.predict(outputs, config, (128, 128), [(128, 128)])[0]
    exact, rounded = found[torch.float64], found[torch.float32]
    limit = FLOAT32_FACTOR * golden.gap(rounded.scores, exact.scores)
    reference = golden_files.select(arrays, "sem_seg_0", exact.scores)
    distance = golden.gap(arrays["sem_seg_0"], reference)
    golden.assert_below("distance of the golden scores", distance, limit, name)
    error = float(np.abs(rounded.scores - exact.scores).max())
    differ, unexplained = golden.unexplained_pixels(
        exact.labels, arrays["sem_seg_argmax_0"], exact.scores, error
    )
    assert unexplained == 0, f"clear labels that differ are {unexplained} of {differ}, should be 0"


@pytest.mark.parametrize("level", ["orig", "mid", "low", "low_resized"])
@pytest.mark.parametrize("name", golden.PANOPTIC_CASES)
def test_segments_are_the_original_s(name: str, level: str) -> None:
    case = golden.read(name)
    resized = level.endswith("_resized")
    config = case.at_thresholds(level.removesuffix("_resized"))
    for dtype in (torch.float32, torch.float64):
        predictions = predict(case, dtype, resized=resized, config=config, results=("panoptic",))
        for i, prediction in enumerate(predictions):
            key = f"panoptic_{level}_{i}"
            where = f"{name}, {key}, {dtype}"
            assert golden.segment_records(prediction.panoptic, config) == case.texts[f"{key}_info"]
            differ = int((prediction.panoptic.ids != case.arrays[key]).sum())
            assert differ == 0, f"pixels that differ are {differ}, but should be 0 [{where}]"


def test_planted_faults_change_the_result() -> None:
    case = golden.read("coco_r50_batch2")
    config = case.at_thresholds("low")
    expected = [case.arrays[f"panoptic_low_{i}"] for i in range(2)]
    infos = [case.texts[f"panoptic_low_{i}_info"] for i in range(2)]

    def agrees(predictions: list[Prediction], used=config) -> bool:
        return all(
            golden.segment_records(p.panoptic, used) == info and np.array_equal(p.panoptic.ids, ids)
            for p, info, ids in zip(predictions, infos, expected, strict=True)
        )

    assert agrees(predict(case, torch.float32, config=config, results=("panoptic",)))
    for fault in (
        {"overlap_threshold": 0.8},
        {"object_mask_threshold": 0.0},
        {"thing_ids": ()},  # things merged
        {"thing_ids": tuple(range(133))},  # stuff not merged
    ):
        faulty = config.replace(inference=fault)
        predictions = predict(case, torch.float32, config=faulty, results=("panoptic",))
        assert not agrees(predictions), fault
    outputs = {key: torch.from_numpy(v.copy()) for key, v in case.outputs.items()}
    rolled = {**outputs, "pred_logits": outputs["pred_logits"].roll(1, dims=-1)}
    assert not agrees(inference.predict(rolled, config, case.padded, case.image_sizes))
    wrong_padding = inference.predict(outputs, config, (128, 128), case.image_sizes)
    assert not agrees(wrong_padding)


def test_aligned_corners_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden.read("tiny_64x96")
    rounded, exact = predict(case, torch.float32), predict(case, torch.float64)

    def aligned(values: torch.Tensor, size) -> torch.Tensor:
        return F.interpolate(values[None], size=tuple(size), mode="bilinear", align_corners=True)[0]

    monkeypatch.setattr(inference, "_resize", aligned)
    with pytest.raises(AssertionError, match="but should be below"):
        check_scores(case, "", predict(case, torch.float64), predict(case, torch.float32))
    monkeypatch.undo()
    check_scores(case, "", exact, rounded)

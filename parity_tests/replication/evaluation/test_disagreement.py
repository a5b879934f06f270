"""What counts as a difference, what rounding explains, and the audit's claims about both."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskformer.data.panoptic_format import Segment
from maskformer.inference.prediction import PanopticPrediction
from maskformer.model import zoo
from parity.claims import Claim
from parity.files import output_folder
from replication.evaluation.disagreement import (
    Certain,
    certain_decisions,
    disagreement,
    panoptic_difference,
)
from replication.forward.inference import Inputs, inference_claims
from replication.sides.implementation import Frame
from replication.sides.side import implementation

CONFIG = zoo.model_config("scenes_tiny").replace(
    num_classes=4,
    inference={"thing_ids": (0, 1), "object_mask_threshold": 0.3, "overlap_threshold": 0.5},
)
SIZE = (12, 16)


def drawn_outputs(rng: np.random.Generator, images: int = 1) -> dict[str, np.ndarray]:
    """Random logits of 6 queries in float64, on the grid of a 12x16 image."""
    return {
        "pred_logits": rng.normal(0, 2, (images, 6, 5)),
        "pred_masks": rng.normal(0, 2, (images, 6, 3, 4)),
    }


def moved(outputs: dict[str, np.ndarray], rng: np.random.Generator, by: float):
    """Every logit moved by at most `by`, half of them by exactly that."""

    def step(values: np.ndarray) -> np.ndarray:
        exact = rng.random(values.shape) < 0.5
        return by * np.where(
            exact, rng.choice([-1, 1], values.shape), rng.uniform(-1, 1, values.shape)
        )

    return {key: value + step(value) for key, value in outputs.items()}


def tensors(outputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in outputs.items()}


def predict(outputs: dict[str, np.ndarray]):
    results = ("labels", "panoptic")
    frame = Frame(SIZE, SIZE, SIZE, SIZE)
    return implementation("torch").predict(tensors(outputs), CONFIG, frame, results)


def both(first, second) -> tuple[list, list]:
    segments = [(one.panoptic.ids, one.panoptic.segments) for one in (first, second)]
    return [first.labels, second.labels], segments


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1e-2, 0.1]))
def test_decisions_that_rounding_changes_are_never_certain(seed: int, by: float) -> None:
    rng = np.random.default_rng(seed)
    exact = drawn_outputs(rng)
    runs = (tensors(exact), tensors(moved(exact, rng, by)))
    certain = certain_decisions(CONFIG, *runs, SIZE, SIZE, SIZE, np.float32)
    other = predict(moved(exact, rng, by))
    found = disagreement(*both(predict(exact), other), lambda: certain)
    unexplained = 0 if found is None else found.unexplained_pixels
    assert unexplained == 0, f"unexplained pixels are {unexplained}, but should be 0 [{seed}, {by}]"


def test_certain_decisions_are_most_where_rounding_is_small_and_fewer_where_it_is_large() -> None:
    shares = []
    for by in (1e-9, 1e-2, 0.3):
        counts = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            exact = drawn_outputs(rng)
            runs = (tensors(exact), tensors(moved(exact, rng, by)))
            certain = certain_decisions(CONFIG, *runs, SIZE, SIZE, SIZE, np.float32)
            counts += [certain.labels.mean(), certain.panoptic.mean()]
        shares.append(float(np.mean(counts)))
    assert shares[0] > 0.99, f"certain pixels are {shares[0]:.3f}, but should be above 0.99"
    assert shares[0] > shares[1] > shares[2]


def test_another_query_s_mask_is_unexplained() -> None:
    detected = 0
    for seed in range(30):
        exact = drawn_outputs(np.random.default_rng(seed))
        runs = (tensors(exact), tensors(exact))
        certain = certain_decisions(CONFIG, *runs, SIZE, SIZE, SIZE, np.float32)
        wrong = {**exact, "pred_masks": np.roll(exact["pred_masks"], 1, axis=1)}
        found = disagreement(*both(predict(exact), predict(wrong)), lambda c=certain: c)
        detected += found is not None and found.unexplained_pixels > 0
    assert detected >= 28, f"faults detected are {detected} of 30, but should be 28 or more"


def test_numbering_of_segments_is_no_difference() -> None:
    ids = np.array([[1, 1, 2], [0, 3, 3]], np.int32)
    segments = (Segment(1, 0), Segment(2, 0), Segment(3, 2))
    other_ids = np.array([0, 7, 5, 2], np.int32)[ids]
    others = (Segment(7, 0), Segment(5, 0), Segment(2, 2))
    same = panoptic_difference(ids, segments, other_ids, others)
    assert (int(same.pixels.sum()), same.segments) == (0, 0)
    other_class = (Segment(7, 1), *others[1:])
    found = panoptic_difference(ids, segments, other_ids, other_class)
    assert (int(found.pixels.sum()), found.segments) == (2, 2)
    lost = np.where(other_ids == 2, 0, other_ids)
    found = panoptic_difference(ids, segments, lost, others[:2])
    assert (int(found.pixels.sum()), found.segments) == (2, 1)


def test_equal_predictions_are_not_explained_at_all() -> None:
    labels = np.zeros((2, 2), np.int32)
    panoptic = PanopticPrediction(np.ones((2, 2), np.int32), (Segment(1, 0),))
    segments = [(panoptic.ids, panoptic.segments)] * 2

    def never() -> Certain:
        raise AssertionError("margins are computed, but should not be")

    assert disagreement([labels, labels], segments, never) is None


def test_audit_claims_hold_for_equal_outputs_and_fail_for_a_fault() -> None:
    rng = np.random.default_rng(5)
    reference = drawn_outputs(rng, images=2)
    floors = [moved(reference, rng, 1e-14)]
    single = {key: value.astype(np.float32) for key, value in reference.items()}
    inputs = Inputs(SIZE, [SIZE, (9, 13)])

    def claims(port, port32) -> dict[str, Claim]:
        runs = {"eager": (single, port32)}
        found = inference_claims(CONFIG, inputs, reference, floors, port, runs, "parity audit")
        return {claim.id: claim for claim in found}

    found = claims(moved(reference, rng, 1e-14), single)
    names = ["inference_scores", "inference_float64", "metric_float64"]
    names += ["inference_eager", "metric_eager"]
    assert list(found) == names
    for claim in found.values():
        assert claim.verdict == "holds", claim

    rolled = {**reference, "pred_logits": np.roll(reference["pred_logits"], 1, axis=2)}
    found = claims(rolled, {key: value.astype(np.float32) for key, value in rolled.items()})
    assert {claim.verdict for claim in found.values()} == {"fails"}
    assert found["metric_float64"].value > 0.5

    slightly = {**reference, "pred_logits": reference["pred_logits"] * (1 + 1e-7)}
    found = claims(slightly, single)
    assert found["inference_scores"].verdict == "fails"
    assert found["inference_eager"].verdict == "holds"

    broken = {**reference, "pred_masks": np.full_like(reference["pred_masks"], np.nan)}
    found = claims(broken, single)
    assert found["inference_float64"].verdict == "fails"
    assert "NaN" in found["inference_float64"].derivation
    assert found["inference_eager"].verdict == "holds"


def test_an_interrupted_folder_leaves_the_old_one(tmp_path) -> None:
    out = tmp_path / "out"
    for text in ("old", "new"):
        with output_folder(out) as folder:
            (folder / "a").mkdir()
            (folder / "a" / f"{text}.txt").write_text(text)

    def fail() -> None:
        with output_folder(out) as folder:
            (folder / "b.txt").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.rglob("*.txt")] == ["new.txt"]

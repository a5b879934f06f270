"""Predictions of any program get panopticapi's own scores, and say which image lacks one."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from maskformer.data.panoptic_format import (
    Category,
    ImageInfo,
    Segment,
    describe_segments,
    write_dataset,
)
from parity.errors import InputError
from replication.evaluation.submissions import open_truth, score_files

CATEGORIES = (Category(2, "cat", True), Category(5, "dog", True), Category(9, "sky", False))
SIZE = (48, 64)
IMAGES = 12


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, dict[int, int]]:
    """Rectangles over each other: ids [H,W] with void, and the category of each id."""
    ids = np.zeros(SIZE, np.int64)
    for number in range(int(rng.integers(2, 7))):
        top, left = rng.integers(0, 40, 2)
        ids[top : top + rng.integers(6, 30), left : left + rng.integers(6, 40)] = (
            70_000 + 9 * number
        )
    present = [value for value in np.unique(ids).tolist() if value]
    return ids, {value: int(rng.choice([2, 5, 9])) for value in present}


def moved(ids: np.ndarray, by: int) -> np.ndarray:
    return np.roll(ids, by, axis=1)


def written(folder: Path, seed: int, shift: int | None) -> Path:
    """The truth without `shift`; else a prediction of it that is moved, and wrong in places."""
    rng = np.random.default_rng(seed)

    def items():
        for number in range(1, IMAGES + 1):
            ids, categories = drawn(rng)
            crowds = [value for value in categories if value % 5 == 0] if shift is None else []
            if shift is not None:
                ids = moved(ids, shift)
                categories = {
                    value: 5 if (value + number) % 7 == 0 else one
                    for value, one in categories.items()
                }
            segments = describe_segments(ids, categories, crowds)
            if shift is not None:
                segments = tuple(Segment(one.id, one.category_id) for one in segments)
            yield ImageInfo(number, f"{number}.jpg", *SIZE), ids, segments

    path = folder / "panoptic.json"
    write_dataset(path, folder / "panoptic", CATEGORIES, items())
    if shift is not None:  # as other programs write them: annotations alone
        content = json.loads(path.read_text())
        path.write_text(json.dumps({"annotations": content["annotations"]}))
    return path


def scores(truth: Path, *predictions: Path) -> dict:
    return score_files(
        open_truth(truth, None),
        [(one, None) for one in predictions],
        margin=0.001,
        resamples=200,
        workers=1,
    )


def test_scores_are_panopticapi_s(tmp_path: Path) -> None:
    evaluation = pytest.importorskip("panopticapi.evaluation")
    truth = written(tmp_path / "truth", 3, None)
    mine = written(tmp_path / "mine", 3, 2)
    whole = json.loads(mine.read_text())
    mine.write_text(json.dumps({**json.loads(truth.read_text()), **whole}))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = evaluation.pq_compute(
            str(truth), str(mine), str(truth.with_suffix("")), str(mine.with_suffix(""))
        )
    ours = scores(truth, mine).predictions[str(mine)]
    for group in ("All", "Things", "Stuff"):
        for key in ("pq", "sq", "rq"):
            found = getattr(ours.panoptic[group], key)
            assert found == pytest.approx(theirs[group][key], rel=1e-12)
    assert 0 < theirs["All"]["pq"] < 1


def test_the_truth_scores_one_and_a_moved_prediction_less(tmp_path: Path) -> None:
    truth = written(tmp_path / "truth", 4, None)
    same, other = written(tmp_path / "a", 4, 0), written(tmp_path / "b", 4, 3)
    result = scores(truth, same, other)
    first, second = result.predictions.values()
    assert first.miou > second.miou > 0
    assert len(first.per_image) == IMAGES
    difference = result.comparison.scores["PQ All"].difference.interval
    assert difference.low < difference.value < difference.high < 0


def test_a_void_pixel_is_never_right(tmp_path: Path) -> None:
    truth = written(tmp_path / "truth", 5, None)
    empty = written(tmp_path / "a", 5, 0)
    content = json.loads(empty.read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"] = []
        from PIL import Image

        Image.new("RGB", SIZE[::-1]).save(tmp_path / "a" / "panoptic" / annotation["file_name"])
    empty.write_text(json.dumps(content))
    found = scores(truth, empty).predictions[str(empty)]
    assert found.miou == 0
    assert found.panoptic["All"].pq == 0


def test_an_image_without_a_prediction_is_named(tmp_path: Path) -> None:
    truth, mine = written(tmp_path / "truth", 6, None), written(tmp_path / "mine", 6, 1)
    content = json.loads(mine.read_text())
    del content["annotations"][4]
    mine.write_text(json.dumps(content))
    with pytest.raises(InputError, match="image 5 has no prediction"):
        scores(truth, mine)

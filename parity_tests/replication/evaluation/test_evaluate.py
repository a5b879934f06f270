"""`parity evaluate` and `parity predict` from photographs to scores, and what they refuse."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from maskformer.data.dataset_layout import open_split
from maskformer.data.panoptic_format import read_dataset
from maskformer.metrics import panoptic_quality, semantic_iou
from maskformer.model import zoo
from maskformer.scenes.scenes import CATEGORIES
from parity_tests.replication.evaluation.conftest import Parity
from replication.sides.side import IMPLEMENTATIONS
from replication.sides.weights import load_weights

EVALUATE = ("evaluate", "--config", "scenes_tiny", "--weights", "seeded:1")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_scenes_tiny_has_the_scenes_classes() -> None:
    model = zoo.model_config("scenes_tiny")
    things = tuple(c for c, category in enumerate(CATEGORIES) if category.isthing)
    assert model.num_classes == len(CATEGORIES)
    assert model.inference.thing_ids == things


@pytest.mark.usefixtures("small")
def test_both_sides_are_equal_on_scenes(parity: Parity, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (*EVALUATE, "--data", scenes, "--first", 4, "--worst", 2, "--out", out, "--json")
    status, text, _ = parity(*words)
    result = json.loads(text)
    comparison = result["comparison"]
    assert (status, result["verdict"], result["images"]) == (0, "equal", 4)
    assert comparison["unexplained"] == 0
    assert comparison["agreement"]["PQ"] > 0.99
    assert set(comparison["scores"]) >= {"PQ All", "mIoU"}
    assert json.loads((out / "evaluation.json").read_text()) == result
    kept = out / "evidence" / "01-evaluation" / "evaluation.json"
    assert json.loads(kept.read_text()) == result
    assert "Every class" in (out / "report.html").read_text()

    assert len(result["pictures"]) == 2
    for name in result["pictures"]:
        assert pixels(out / name).shape[1] > 400

    truth = open_split(scenes / "coco", "val2017").dataset
    truth = dataclasses.replace(truth, annotations=truth.annotations[:4])
    for side in ("torch", "tf"):
        found = result["sides"][side]
        written = read_dataset(out / side / "panoptic.json", out / side / "panoptic")
        assert sum(len(annotation.segments) for annotation in written.annotations) > 4
        total = panoptic_quality.PanopticCounts.zeros(17)
        for _, counts in panoptic_quality.count_images(
            panoptic_quality.pair_datasets(truth, written), truth.categories
        ):
            total = total + counts
        pq = panoptic_quality.score(total, truth.categories, ("All",)).groups["All"].pq
        assert found["panoptic"]["All"]["pq"] == pytest.approx(pq, abs=1e-15)
        assert found["intervals"]["mIoU"]["low"] <= found["miou"]
        assert len(found["per_class"]) == 17


@pytest.mark.usefixtures("small")
def test_swapped_classes_of_one_side_are_unexplained(
    parity: Parity, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = IMPLEMENTATIONS["tf"]

    def swapped(config, weights, dtype):
        key = "sem_seg_head.predictor.class_embed.bias"
        state = {**weights.state, key: np.roll(weights.state[key], 1)}
        return ours.build(config, dataclasses.replace(weights, state=state), dtype)

    monkeypatch.setitem(IMPLEMENTATIONS, "tf", dataclasses.replace(ours, build=swapped))
    out = tmp_path / "out"
    words = (*EVALUATE, "--data", scenes, "--first", 2, "--worst", 1, "--out", out)
    status, text, _ = parity(*words)
    assert status == 1
    assert "verdict: different" in text
    result = json.loads((out / "evaluation.json").read_text())
    assert result["comparison"]["unexplained"] > 100
    red = pixels(out / result["pictures"][0]) == (255, 0, 60)
    assert red.all(axis=2).sum() > 100


def test_tensorflow_s_own_checkpoint_is_compared_with_pytorch_s(
    parity: Parity, scenes: Path, tmp_path: Path, small: zoo.Entry
) -> None:
    state = load_weights("seeded:1", small.model).state
    key = "sem_seg_head.predictor.class_embed.bias"
    for name, changed in (("a", state), ("b", {**state, key: np.roll(state[key], 1)})):
        save_file(dict(changed), tmp_path / f"{name}.safetensors")
    source, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    words = ("evaluate", "--config", "scenes_tiny", "--data", scenes, "--first", 2, "--json")
    words = (*words, "--weights", source, "--port-weights")
    status, text, _ = parity(*words, source)
    assert (status, json.loads(text)["port_weights"]) == (0, str(source))
    status, text, _ = parity(*words, other)
    result = json.loads(text)
    assert (status, result["verdict"]) == (1, "different")
    assert result["port_weights_sha256"] != result["weights_sha256"]


@pytest.mark.usefixtures("small")
def test_products_of_a_tpu_are_compared_with_full_ones(
    parity: Parity, scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (*EVALUATE, "--data", scenes, "--first", 2, "--worst", 1, "--json")
    status, text, _ = parity(*words, "--products", 1, "--out", out)
    result = json.loads(text)
    assert (status, result["verdict"], result["products"]) == (0, "evaluated", 1)
    assert list(result["sides"]) == ["tf", "tf, 1 pass"]
    comparison = result["comparison"]
    assert comparison["of"] == "tf, 1 pass - tf"
    assert 0 < comparison["panoptic_pixels"] < comparison["pixels"] / 2
    assert parity("verify", out)[0] == 0
    # More passes change less.
    status, text, _ = parity(*words, "--products", 6)
    assert json.loads(text)["comparison"]["panoptic_pixels"] < comparison["panoptic_pixels"]
    for wrong in (("--products", 2), ("--products", 1, "--port-weights", "seeded:1")):
        status, _, errors = parity(*words, *wrong)
        assert (status, errors.splitlines()[0].startswith("parity: ")) == (2, True)


@pytest.mark.usefixtures("semantic")
def test_semantic_evaluation_is_detectron2_s(parity: Parity, scenes: Path, tmp_path: Path) -> None:
    words = (*EVALUATE, "--data", scenes, "--side", "torch", "--first", 3, "--json")
    results = []
    for extra in ((), ("--tta",)):
        out = tmp_path / f"out{len(extra)}"
        status, text, _ = parity(*words, "--out", out, *extra)
        result = json.loads(text)
        results.append(result)
        assert (status, result["verdict"]) == (0, "evaluated")
        assert "panoptic" not in result["sides"]["torch"]
        truth = open_split(scenes / "ADEChallengeData2016", "validation")
        names = [record.image_path.stem for record in truth.records[:3]]
        predicted = [pixels(out / "torch" / "labels" / f"{name}.png") for name in names]
        counts = semantic_iou.count_images(
            ((truth.labels(i), one) for i, one in enumerate(predicted)), 17
        )
        miou = semantic_iou.score(counts.total()).miou
        assert result["sides"]["torch"]["miou"] == pytest.approx(miou, abs=1e-15)
    assert results[0]["sides"]["torch"]["pacc"] != results[1]["sides"]["torch"]["pacc"]


def _without_images(folder: Path) -> None:
    shutil.rmtree(folder / "coco")
    shutil.rmtree(folder / "ADEChallengeData2016")


def _without_photograph(folder: Path) -> None:
    (folder / "coco" / "val2017" / "000000000002.jpg").unlink()


def _cut_photograph(folder: Path) -> None:
    path = folder / "coco" / "val2017" / "000000000002.jpg"
    content = path.read_bytes()
    path.unlink()  # the other layout's file is the same one
    path.write_bytes(content[: len(content) // 2])


def _no_photograph(folder: Path) -> None:
    path = folder / "coco" / "val2017" / "000000000002.jpg"
    path.unlink()
    path.write_text("not an image")


def _other_ids(folder: Path) -> None:
    path = folder / "coco" / "panoptic_val2017" / "000000000001.png"
    Image.fromarray(pixels(path) + np.uint8(1)).save(path)


def _fewer_classes(folder: Path) -> None:
    path = folder / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(path.read_text())
    used = {s["category_id"] for a in content["annotations"] for s in a["segments_info"]}
    unused = [c for c in content["categories"] if c["id"] not in used]
    content["categories"].remove(unused[0])
    path.write_text(json.dumps(content))


def _thing_becomes_stuff(folder: Path) -> None:
    path = folder / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(path.read_text())
    content["categories"][3]["isthing"] = 0
    path.write_text(json.dumps(content))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (_without_images, "holds no data set"),
        (_without_photograph, "image 2: the photograph is missing"),
        (_cut_photograph, "image 2: the photograph cannot be read"),
        (_no_photograph, "image 2: the photograph cannot be read"),
        (_other_ids, "is in the PNG and not in the JSON"),
        (_fewer_classes, "predicts 17 classes, the data set has 16"),
        (_thing_becomes_stuff, "class 3 is a thing for scenes_tiny"),
    ],
)
def test_broken_data_is_one_error_and_writes_nothing(
    parity: Parity, scenes: Path, tmp_path: Path, breaks: Callable[[Path], None], says: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    breaks(data)
    words = (*EVALUATE, "--data", data, "--side", "torch", "--out", tmp_path / "out")
    _refused(parity, words, says, tmp_path, {"data"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--config", "tiny"), "tiny predicts 13 classes, the data set has 17"),
        (("--config", "ade20k_r50"), "ade20k_r50 predicts 150 classes, the data set has 17"),
        (("--config", "scenes_tiny", "--side", "jax"), "--side is 'jax'"),
        (("--config", "scenes_tiny", "--first", 0), "--first is 0"),
        (
            ("--config", "scenes_tiny", "--side", "tf", "--port-weights", "x.pkl"),
            "--port-weights does not go with --side tf",
        ),
        (("--config", "scenes_tiny", "--split", "test"), "has no split 'test'"),
        (("--config", "scenes_tiny", "--tta"), "--tta does not fit scenes_tiny"),
        (("--config", "ade20k_r50", "--tta"), "--tta does not go with --side both"),
        (("--config", "scenes_tiny", "--weights", "seeded:x"), "has no seed"),
        (("--config", "scenes_tiny", "--weights", "missing.pkl"), "missing.pkl"),
        ((), "no config is given"),
    ],
)
def test_wrong_words_are_one_error(
    parity: Parity, scenes: Path, tmp_path: Path, words: tuple, says: str
) -> None:
    words = ("evaluate", "--data", scenes, "--out", tmp_path / "out", *words)
    _refused(parity, words, says, tmp_path, set())


@pytest.mark.usefixtures("small")
def test_predict_draws_and_writes_panoptic_json(
    parity: Parity, scenes: Path, tmp_path: Path
) -> None:
    photographs = sorted((scenes / "coco" / "val2017").glob("*.jpg"))[:2]
    words = ("predict", "--config", "scenes_tiny", "--weights", "seeded:1")
    status, text, _ = parity(*words, *photographs, "--out", tmp_path / "out")
    assert status == 0
    assert len(text.splitlines()) == 4
    written = read_dataset(tmp_path / "out/tf/panoptic.json", tmp_path / "out/tf/panoptic")
    assert len(written.annotations) == 2
    for annotation, path in zip(written.annotations, photographs, strict=True):
        size = pixels(path).shape[:2]
        assert written.ids(annotation).shape == size
        picture = pixels(tmp_path / "out/tf/pictures" / f"{path.stem}.png")
        assert picture.shape[1] > size[1]
        names = {written.categories[segment.category_id].name for segment in annotation.segments}
        assert names <= {category.name for category in CATEGORIES}


@pytest.mark.usefixtures("semantic")
def test_predict_writes_labels_of_a_semantic_config(
    parity: Parity, scenes: Path, tmp_path: Path
) -> None:
    path = scenes / "coco" / "val2017" / "000000000001.jpg"
    words = ("predict", path, "--config", "scenes_tiny", "--side", "torch", "--json")
    status, text, _ = parity(*words, "--out", tmp_path / "out")
    rows = json.loads(text)["sides"]["torch"]
    labels = pixels(tmp_path / "out/torch/labels/000000000001.png")
    assert status == 0
    assert [CATEGORIES[c].name for c in np.unique(labels)] == rows[0]["segments"]


def test_predict_refuses_what_it_cannot_read(parity: Parity, scenes: Path, tmp_path: Path) -> None:
    good = scenes / "coco" / "val2017" / "000000000001.jpg"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:200])
    small = tmp_path / "000000000001.jpg"
    shutil.copy(good, small)
    words = ("predict", "--config", "scenes_tiny", "--out", tmp_path / "out")
    kept = {"broken.jpg", "000000000001.jpg"}
    _refused(
        parity,
        (*words, good, broken),
        "image broken.jpg: the photograph cannot be read",
        tmp_path,
        kept,
    )
    _refused(
        parity,
        (*words, good, tmp_path / "no.jpg"),
        "image no.jpg: the photograph is missing",
        tmp_path,
        kept,
    )
    _refused(parity, (*words, good, small), "two images are called 000000000001", tmp_path, kept)


def _refused(parity: Parity, words: tuple, says: str, folder: Path, kept: set[str]) -> None:
    status, text, error = parity(*words)
    assert status == 2
    assert text == ""
    assert says in error
    assert error.startswith("parity: ")
    assert len(error.splitlines()) <= 4
    assert "Traceback" not in error
    left = {path.name for path in folder.iterdir()}
    assert left == kept, f"left behind are {left - kept}, but should be nothing"

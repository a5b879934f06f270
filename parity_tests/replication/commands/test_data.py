"""`parity data` from the outside: what it prints and writes, what it refuses, and after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskformer.scenes.scenes import write_scenes

Parity = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `coco` and `ADEChallengeData2016`: 10 training and 2 validation images."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 12, seed=3, size=96, val_share=1 / 6)
    return folder


@pytest.fixture
def parity(parity: Parity) -> Parity:
    """parity(*words): runs `parity data`; returns exit status, standard output and error."""
    return lambda *words: parity("data", *words)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_scenes_then_records_then_inspect(parity: Parity, tmp_path: Path) -> None:
    drawn, records, sheet = tmp_path / "scenes", tmp_path / "records", tmp_path / "sheet.png"
    status, out, err = parity("scenes", drawn, "--images", 5, "--longest", 64, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["images"] == {"train": 4, "val": 1}

    words = ("tfrecord", drawn / "coco", records, "--shards", 1, "--json")
    status, out, err = parity(*words)
    result = json.loads(out)["splits"]
    assert (status, err) == (0, "")
    assert {name: one["images"] for name, one in result.items()} == {"train2017": 4, "val2017": 1}
    assert _names(records) == {"train2017", "val2017"}

    words = ("inspect", records / "train2017", "--sheet", sheet, "--pixel-difference", 2)
    status, out, err = parity(*words, "--json")
    result = json.loads(out)
    assert (status, err) == (0, "")
    assert result["images"] == 4
    assert result["pixel_difference"]["largest"] <= 1
    assert result["pixel_difference"]["targets"] == 0
    with Image.open(sheet) as picture:
        assert np.asarray(picture).std() > 0
    found = json.loads(parity("inspect", drawn / "coco", "--split", "train2017", "--json")[1])
    assert found["classes"] == result["classes"]


def test_people_get_text(parity: Parity, scenes: Path, tmp_path: Path) -> None:
    status, out, _ = parity("inspect", scenes / "ADEChallengeData2016", "--split", "validation")
    assert status == 0
    assert ": 2 images" in out
    assert "% of the pixels" in out
    status, out, _ = parity(
        "tfrecord", scenes / "coco", tmp_path, "--split", "val2017", "--shards", 2
    )
    assert status == 0
    assert "2 images in 2 shards" in out


@pytest.mark.parametrize("verb", ["scenes", "tfrecord", "inspect"])
def test_help_has_an_example(parity: Parity, verb: str) -> None:
    status, out, _ = parity(verb, "--help")
    assert status == 0
    assert f"parity data {verb} " in " ".join(out.split())


def test_progress_is_on_standard_error_of_a_terminal(
    parity: Parity, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes a stream for a terminal
    for words, title in (
        (("scenes", tmp_path / "new", "--images", 2, "--longest", 64), "draw"),
        (("tfrecord", scenes / "coco", tmp_path / "r", "--shards", 1), "pack train2017"),
        (("inspect", scenes / "coco"), "check"),
    ):
        status, out, err = parity(*words, "--json")
        assert status == 0
        assert title in err
        json.loads(out)


def _no_photograph(folder: Path) -> None:
    (folder / "coco" / "train2017" / "000000000004.jpg").unlink()


def _cut_json(folder: Path) -> None:
    path = folder / "coco" / "annotations" / "panoptic_train2017.json"
    path.write_bytes(path.read_bytes()[:300])


def _stray_segment(folder: Path) -> None:
    path = folder / "coco" / "panoptic_train2017" / "000000000004.png"
    ids = np.asarray(Image.open(path)).copy()
    ids[:3, :3] = 77
    Image.fromarray(ids).save(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_photograph, "image 4: the photograph is missing"),
        (_cut_json, "cannot be read as JSON"),
        (_stray_segment, "is in the PNG and not in the JSON"),
    ],
)
def test_broken_data_is_one_error(
    parity: Parity, scenes: Path, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    shutil.copytree(scenes, tmp_path / "data")
    damage(tmp_path / "data")
    source, out, sheet = tmp_path / "data" / "coco", tmp_path / "out", tmp_path / "sheet.png"
    _refused(parity, ("inspect", source, "--split", "train2017", "--sheet", sheet), says)
    assert not sheet.exists()
    words = ("tfrecord", source, out, "--split", "train2017", "--shards", 1, "--json")
    _refused(parity, words, says)
    assert _names(out / "train2017") == set(), "no half shard is left"


def test_a_changed_record_is_one_error(parity: Parity, scenes: Path, tmp_path: Path) -> None:
    words = ("tfrecord", scenes / "coco", tmp_path, "--split", "val2017", "--shards", 1)
    assert parity(*words)[0] == 0
    (shard,) = (tmp_path / "val2017").glob("*.tfrecord")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    _refused(parity, ("inspect", shard.parent), "was changed after it was written")
    assert parity(*words)[0] == 0
    assert parity("inspect", shard.parent, "--json")[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("scenes", "{out}", "--images", 1), "--images is 1"),
        (("scenes", "{out}", "--longest", 8), "--longest is 8"),
        (("scenes", "{scenes}"), "already holds a data set"),
        (("tfrecord", "{scenes}/no", "{out}"), "is not a folder"),
        (("tfrecord", "{scenes}", "{out}"), "holds no data set"),
        (("tfrecord", "{scenes}/coco", "{out}", "--split", "test"), "has no split 'test'"),
        (("tfrecord", "{scenes}/coco", "{out}", "--shards", 0), "--shards is 0"),
        (("tfrecord", "{scenes}/coco", "{out}", "--shards", 11), "--shards is 11"),
        (("inspect", "{out}"), "is not a folder"),
        (("inspect", "{scenes}/coco", "--images", 0), "--images is 0"),
        (("inspect", "{scenes}/coco", "--pixel-difference", 1), "holds no records"),
        (("inspect", "{scenes}/coco", "--pixel-difference", -1), "--pixel-difference is -1"),
        (
            ("inspect", "{scenes}/ADEChallengeData2016", "--ignored", 3),
            "the ignored label 3 is a class",
        ),
    ],
)
def test_wrong_words_are_one_error(
    parity: Parity, scenes: Path, tmp_path: Path, words: tuple, says: str
) -> None:
    places = {"scenes": scenes, "out": tmp_path / "out"}
    filled = [word.format(**places) if isinstance(word, str) else word for word in words]
    before = sorted(scenes.rglob("*"))
    _refused(parity, filled, says)
    assert sorted(scenes.rglob("*")) == before
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [], "nothing is written"


@pytest.mark.parametrize(
    "words", [("scenes",), ("tfrecord", "a"), ("inspect", "a", "--no"), ("x",)]
)
def test_wrong_usage_exits_with_two(parity: Parity, words: tuple) -> None:
    status, out, err = parity(*words)
    assert (status, out) == (2, "")
    assert "Traceback" not in err


def _refused(parity: Parity, words: tuple | list, says: str) -> None:
    status, out, err = parity(*words)
    assert (status, out) == (2, "")
    assert says in err
    assert err.startswith("parity: ")
    assert 2 <= len(err.splitlines()) <= 3 or "faults of" in err.splitlines()[0]
    assert "Traceback" not in err


_COMMAND = "from replication.cli import main; main()"


def test_kill_and_run_again(parity: Parity, scenes: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as a shard is there: whole shards stay as they are, the rest is written."""
    out = tmp_path / "train2017"
    words = ("tfrecord", scenes / "coco", tmp_path, "--split", "train2017", "--shards", 10)
    command = [sys.executable, "-c", _COMMAND, "data", *map(str, words), "--workers", "1"]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(out.glob("*.json")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {}
    for beside in out.glob("*-of-*.json"):
        shard = beside.with_suffix(".tfrecord")
        assert shard.stat().st_size == json.loads(beside.read_text())["bytes"]
        finished[shard] = shard.stat().st_mtime_ns
    assert 1 <= len(finished) < 10
    _refused(parity, ("inspect", out), "has no manifest.json")
    assert parity(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "written again"
    assert not [name for name in _names(out) if name.endswith(".partial")]
    whole = tmp_path / "whole"
    assert parity(*words[:2], whole, *words[3:])[0] == 0
    for path in (whole / "train2017").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name

"""Where a verb cannot write, and whatever a name holds, there is one error of three lines."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from parity_tests.docs.test_own_data import made
from parity_tests.weight_conversion.samples import write_safetensors

TRUTH = "mine/annotations/panoptic_val.json"
VERBS = {
    "inspect": ("inspect", "w.safetensors", "--out", "{}"),
    "data scenes": ("data", "scenes", "{}", "--images", "2", "--longest", "96"),
    "data convert": ("data", "convert", "photos/val", "{}", "--instances", "val.json"),
    "data inspect": ("data", "inspect", "mine", "--split", "val", "--sheet", "{}/a.png"),
    "data inspect --out": ("data", "inspect", "mine", "--split", "val", "--out", "{}"),
    "score": ("score", TRUTH, TRUTH, "--out", "{}"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch, parity) -> Path:
    monkeypatch.chdir(tmp_path)
    made(tmp_path, "val", 2, 3)
    (tmp_path / "file").write_text("dear")
    write_safetensors(tmp_path / "w.safetensors", {"a": np.ones(3, np.float32)})
    words = ("photos/val", "mine", "--instances", "val.json", "--split", "val")
    assert parity("data", "convert", *words)[0] == 0
    return tmp_path


def check(result: tuple[int, str, str]) -> str:
    status, _, errors = result
    told = errors[errors.index("parity: ") :]
    assert status == 2, errors
    assert "Traceback" not in errors
    assert 2 <= len(told.splitlines()) <= 3, errors
    return told


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_below_a_file_is_one_error(verb: str, place: Path, parity) -> None:
    before = sorted(place.rglob("*"))
    check(parity(*(word.format("file/out") for word in VERBS[verb])))
    assert sorted(place.rglob("*")) == before
    assert (place / "file").read_text() == "dear"


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_error(verb: str, place: Path, parity, monkeypatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", full)
    (place / "new").mkdir()
    folder = "new" if "--sheet" in VERBS[verb] else "new/out"
    told = check(parity(*(word.format(folder) for word in VERBS[verb])))
    assert "No space left" in told
    assert not [path for path in place.rglob("*") if path.name.endswith(".partial")]


def test_names_are_shown_as_they_are(place: Path, parity) -> None:
    name = "a[/b][red]x[link=http://example.org]"
    write_safetensors(place / "n.safetensors", {name: np.ones(3, np.float32)})
    status, out, errors = parity("inspect", "n.safetensors")
    assert status == 0, errors
    shown = "".join(character for character in out if not character.isspace())
    assert "[/b]" in shown
    assert "[red]" in shown


def test_controls_in_a_path_are_escaped(place: Path, parity) -> None:
    status, _, errors = parity("inspect", "a\x1b[2Jb\nc\udc80.pth")
    assert status == 2
    assert errors.splitlines()[0] == "parity: a\\x1b[2Jb\\nc\\udc80.pth does not exist"

"""Where a verb cannot write, and whatever a name holds, there is one error of three lines."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maskformer.model import zoo
from parity_tests.docs.test_own_data import made
from parity_tests.docs.test_readme import chapter
from parity_tests.replication.commands.test_options import MEASURING
from parity_tests.weight_conversion.samples import as_torch, write_safetensors, write_torch
from replication.sides.weights import load_weights
from reports.loading import load
from reports.render import write_report

EQUAL = Path(__file__).parents[2] / "reports" / "mixer" / "equal.json"

TRUTH = "mine/annotations/panoptic_val.json"
SMALL = "--config tiny --size 64x64 --execution eager"
OWN = "--config scenes_tiny --classes data --data mine"
ONE_STEP = "--train-split val --eval-split val --steps 1 --batch 1"
VERBS = {
    "inspect": "inspect w.safetensors --out {}",
    "convert": "convert tiny.pth {} --to safetensors --config tiny",
    "predict": "predict photos/val/0.jpg --config tiny --side torch --out {}",
    "data scenes": "data scenes {} --images 2 --longest 96",
    "data convert": "data convert photos/val {} --instances val.json",
    "data tfrecord": "data tfrecord mine {} --split val --shards 1",
    "data inspect --sheet": "data inspect mine --split val --sheet {}/a.png",
    "data inspect": "data inspect mine --split val --out {}",
    "score": f"score {TRUTH} {TRUTH} --out {{}}",
    "report": "report equal.json --out {}",
    "verify": "verify page --out {}",
    "explain": "explain equal.json --out {}",
    "compare": "compare equal.json equal.json --out {}",
    "compare --markdown": "compare equal.json equal.json --markdown {}/a.md",
    "import-run": "import-run metrics.json --config tiny --out {}",
    "new-pair": "new-pair compare.py:Block compare.py:Port --file {}/pair.py",
    "capture": f"capture {SMALL} --out {{}}",
    "audit": f"audit {SMALL} --out {{}}",
    "trajectory": "trajectory --steps 1 --size 64x64 --out {}",
    "initial-weights": "initial-weights --config tiny --out {}",
    "faults run": "faults run layer-norm-epsilon-1e-6 --out {}",
    "faults clean": "faults clean --runs 1 --execution eager --out {}",
    "preflight": "preflight --config tiny --image-size 64x64 --out {}",
    "evaluate": f"evaluate {OWN} --first 1 --side torch --out {{}}",
    "train": f"train {OWN} {ONE_STEP} --side both --out {{}}",
    "demo": "demo --small --out {}",
}
LONG = {"audit", "trajectory", "initial-weights", "faults run", "faults clean", "preflight"}
LONG |= {"evaluate", "train", "demo"}
EVERY = [pytest.param(verb, marks=pytest.mark.slow if verb in LONG else ()) for verb in VERBS]


@pytest.fixture
def place(tmp_path: Path, monkeypatch, parity) -> Path:
    monkeypatch.chdir(tmp_path)
    made(tmp_path, "val", 2, 3)
    (tmp_path / "file").write_text("dear")
    shutil.copyfile(EQUAL, tmp_path / "equal.json")
    (tmp_path / "compare.py").write_text(chapter()["python"])
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "total_loss": 3.5, "lr": 1e-4}\n')
    write_safetensors(tmp_path / "w.safetensors", {"a": np.ones(3, np.float32)})
    words = ("photos/val", "mine", "--instances", "val.json", "--split", "val")
    assert parity("data", "convert", *words)[0] == 0
    return tmp_path


@pytest.fixture
def full(place: Path) -> Iterator[Path]:
    """A folder on a disk of its own, on which files can be made, and nothing written to them."""
    folder = place / "full"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with contextlib.suppress(OSError), (folder / "filling").open("wb", 0) as file:
            while True:
                file.write(b"x" * 4096)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def words_of(verb: str, folder: object) -> list[str]:
    """The command line; what only this verb reads is made before."""
    if verb == "convert":
        state = load_weights("seeded:1", zoo.model_config("tiny")).state
        write_torch(Path("tiny.pth"), {"model": as_torch({k: v.copy() for k, v in state.items()})})
    if verb == "verify":
        write_report(load([Path("equal.json")]), Path("page"))
    return [word.format(folder) for word in VERBS[verb].split()]


def test_every_verb_that_writes_is_tried() -> None:
    writing = MEASURING | {"new-pair", "data scenes", "data convert", "data tfrecord"}
    assert {verb.partition(" --")[0] for verb in VERBS} == writing


def check(result: tuple[int, str, str]) -> str:
    status, _, errors = result
    told = errors[errors.index("parity: ") :]
    assert status == 2, errors
    assert "Traceback" not in errors
    assert 2 <= len(told.splitlines()) <= 3, errors
    return told


@pytest.mark.parametrize("verb", EVERY)
def test_a_folder_below_a_file_is_one_error(verb: str, place: Path, parity) -> None:
    words = words_of(verb, "file/out")
    before = sorted(place.rglob("*"))
    check(parity(*words))
    assert sorted(place.rglob("*")) == before
    assert (place / "file").read_text() == "dear"


@pytest.mark.parametrize("verb", EVERY)
def test_a_full_disk_is_one_error(verb: str, full: Path, parity) -> None:
    is_folder = verb not in ("data inspect --sheet", "compare --markdown", "new-pair")
    told = check(parity(*words_of(verb, full / "out" if is_folder else full)))
    assert "No space left" in told or "is full" in told, told
    assert not [path for path in full.rglob("*") if path.name.endswith(".partial")]


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

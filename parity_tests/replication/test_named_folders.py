"""Verbs touch the folders that they are given, and no other file of a user.

Python's audit events say what is opened, made, renamed and removed, and which programs and
connections are started. What TensorFlow's C++ opens is not among them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from parity_tests.docs.test_own_data import made
from parity_tests.weight_conversion.samples import as_torch, write_torch

ROOT = Path(__file__).parents[2]
WATCHED = """
import json, os, sys
events = []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        mode, flags = arguments[1] or "", arguments[2] or 0
        kind = "write" if set(mode) & set("wax+") or flags & WRITES else "read"
        events.append((kind, os.path.abspath(os.fsdecode(arguments[0]))))
    elif event in CHANGES:
        events.extend(
            ("write", os.path.abspath(os.fsdecode(one)))
            for one in arguments[:2] if isinstance(one, (str, bytes))
        )
    elif event in ("subprocess.Popen", "os.system", "socket.connect"):
        events.append((event, str(arguments[:2])))

sys.addaudithook(hook)
from replication import cli
for words in json.loads(sys.argv[1]):
    sys.argv = ["parity", *words]
    try:
        cli.main()
    except SystemExit as stopped:
        if stopped.code not in (0, None):
            print("FAILED", words, stopped.code, file=sys.stderr)
with open(os.environ["EVENTS"], "w") as stream:
    json.dump(events, stream)
"""


def watched(folder: Path, *commands: list) -> list[tuple[str, str]]:
    """What the commands did, run one after the other in `folder`."""
    for name in ("home", "temporary"):
        (folder / name).mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "temporary"),
        "EVENTS": str(folder / "events.json"),
    }
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stderr, done.stderr
    return [tuple(event) for event in json.loads((folder / "events.json").read_text())]


def strays(events: list, folder: Path, read: set[str], written: set[str]) -> list:
    """Events outside the folders that may be read and written, and outside the system's own."""
    system = [Path(sys.prefix), Path(sys.base_prefix), ROOT, *map(Path, sys.path[1:])]
    system += [Path(name) for name in ("/proc", "/sys", "/etc", "/usr", "/lib", "/dev", "/opt")]
    mine = {"home", "temporary", "events.json"}
    writable = [folder / name for name in (*written, *mine)]
    readable = [*system, *writable, *(folder / name for name in read)]

    def is_below(path: str, folders: list[Path]) -> bool:
        return any(Path(path).is_relative_to(one) for one in folders)

    found = []
    for kind, what in events:
        if kind not in ("read", "write"):
            found.append((kind, what))
        elif kind == "write" and not is_below(what, [*writable, Path("/dev"), Path("/proc")]):
            # an unfinished result lies beside what it will be; `folder` itself is made, being there
            inside = Path(what).is_relative_to(folder)
            first = Path(what).relative_to(folder).parts[:1] if inside else ("",)
            unfinished = all(p.startswith(".") and p.endswith((".partial", ".old")) for p in first)
            if not unfinished:
                found.append((kind, what))
        elif kind == "read" and not is_below(what, readable) and Path(what).is_file():
            found.append((kind, what))
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made(tmp_path, "val", 2, 3)
    (tmp_path / "out").mkdir()
    return tmp_path


def test_verbs_of_data_and_scores_stay_in_their_folders(place: Path) -> None:
    truth = "mine/annotations/panoptic_val.json"
    events = watched(
        place,
        ["data", "convert", "photos/val", "mine", "--instances", "val.json", "--split", "val"],
        ["data", "inspect", "mine", "--split", "val", "--sheet", "out/sheet.png", "--json"],
        ["score", truth, truth, "--out", "out", "--json"],
        ["zoo", "tiny", "--json"],
    )
    assert strays(events, place, {"photos", "val.json"}, {"mine", "out"}) == []


def test_verbs_of_checkpoints_and_predictions_stay_in_their_folders(place: Path) -> None:
    from maskformer.model import zoo
    from replication.sides.weights import load_weights

    state = load_weights("seeded:1", zoo.model_config("tiny")).state
    write_torch(place / "w.pth", {"model": as_torch({k: v.copy() for k, v in state.items()})})
    events = watched(
        place,
        ["inspect", "w.pth", "--json"],
        ["convert", "w.pth", "out/w.safetensors", "--to", "safetensors", "--config", "tiny"],
        ["convert", "--verify", "out/w.safetensors.receipt.json"],
        ["predict", "photos/val/0.jpg", "--config", "tiny", "--side", "torch", "--out", "seen"],
    )
    assert strays(events, place, {"w.pth", "photos"}, {"out", "seen"}) == []


def test_what_leaves_the_folders_is_noticed(place: Path) -> None:
    (place / "photos" / "val" / "1.jpg").unlink()
    (place / "photos" / "val" / "1.jpg").symlink_to(place / "elsewhere.jpg")
    Image.new("RGB", (128, 96)).save(place / "elsewhere.jpg")
    events = watched(
        place,
        ["data", "convert", "photos/val", "mine", "--instances", "val.json", "--split", "val"],
    )
    assert strays(events, place, {"photos", "val.json"}, {"mine"}) == []
    assert strays(events, place, {"val.json"}, {"mine"}), "reading photographs is not seen"
    assert strays(events, place, {"photos", "val.json"}, set()), "writing is not seen"

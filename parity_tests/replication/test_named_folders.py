"""Verbs touch the folders that they are given, and no other file of a user.

Python's audit events say what is opened, made, renamed and removed, and which programs and
connections are started. What TensorFlow's C++ opens is not among them: of verbs that leave reading
or writing to it, the system's calls are traced as well.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from maskformer.model import zoo
from parity_tests.docs.test_own_data import made
from parity_tests.docs.test_readme import chapter
from parity_tests.replication.commands.test_options import MEASURING, OTHERS
from parity_tests.weight_conversion.samples import as_torch, write_torch
from replication.sides.weights import load_weights

ROOT = Path(__file__).parents[2]
HOOK = """
import os, sys
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# which argument is the folder, as a descriptor, that the first and the second name are below
CHANGES = {
    "os.mkdir": (2,), "os.rename": (2, 3), "os.remove": (1,), "os.rmdir": (1,), "os.link": (2, 3),
    "os.symlink": (2, 2), "os.truncate": (),
}
EVENTS = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def place(name, folder):
    base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    return os.path.normpath(os.path.join(base, os.fsdecode(name)))

def note(kind, what):
    os.write(EVENTS, f"{kind}\\t{what!r}\\n".encode())

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        mode, flags = arguments[1] or "", arguments[2] or 0
        kind = "write" if set(mode) & set("wax+") or flags & WRITES else "read"
        note(kind, os.path.abspath(os.fsdecode(arguments[0])))
    elif event in CHANGES:
        for index, one in enumerate(arguments[:2]):
            if isinstance(one, (str, bytes)):
                at = CHANGES[event][index:index + 1]
                note("write", place(one, arguments[at[0]] if at else -1))
    elif event in ("subprocess.Popen", "os.system", "socket.connect"):
        program = os.fsdecode(arguments[0]) if event == "subprocess.Popen" else ""
        # children of this Python are watched as well; the others say what machine, fonts and
        # commit these are
        if program not in (sys.executable, "uname", "fc-list", "git"):
            note(event, str(arguments[:2]))

sys.addaudithook(hook)
"""
RUN = """
import json, sys
from replication import cli
for words in json.loads(sys.argv[1]):
    sys.argv = ["parity", *words]
    try:
        cli.main()
    except SystemExit as stopped:
        if stopped.code not in (0, None):
            print("FAILED", words, stopped.code, file=sys.stderr)
"""
FAULT = "layer-norm-epsilon-1e-6"
OWN = ("--config", "scenes_tiny", "--classes", "data", "--data", "mine")
MADE = "data convert photos/val mine --instances val.json --split val"
TRUTH = "mine/annotations/panoptic_val.json"


@dataclass(frozen=True)
class Work:
    """Commands that follow each other, and what of the folder they may read and write."""

    read: set[str]
    written: set[str]
    commands: tuple[str, ...]


WORK = {
    "data": Work(
        {"photos", "val.json"},
        {"mine", "out"},
        (
            MADE,
            "data inspect mine --split val --sheet out/sheet.png --json",
            "data tfrecord mine out/records --split val --shards 1",
            "data scenes out/scenes --images 2",
            f"score {TRUTH} {TRUTH} --out out --json",
            "zoo tiny --json",
        ),
    ),
    "checkpoints": Work(
        {"w.pth", "photos"},
        {"out", "seen"},
        (
            "inspect w.pth --json",
            "convert w.pth out/w.safetensors --to safetensors --config tiny",
            "convert --verify out/w.safetensors.receipt.json",
            "predict photos/val/0.jpg --config tiny --side torch --out seen",
        ),
    ),
    "measuring": Work(
        set(),
        {"out", "page"},
        (
            "audit --config tiny --size 64x64 --execution eager --out out/audit --json",
            "capture --config tiny --size 64x64 --execution eager --out out/trace --json",
            "trajectory --steps 2 --size 64x64 --out out/steps --json",
            "initial-weights --config tiny --out out/weights --json",
            "faults list --json",
            f"faults run {FAULT} --out out/faults --json",
            "faults clean --runs 1 --execution eager --out out/clean",
            "explain out/audit/audit.json --json",
            "compare out/audit out/audit --json",
            "report out --out page",
            "verify page --json",
        ),
    ),
    "training": Work(
        {"photos", "val.json", "metrics.json"},
        {"mine", "out"},
        (
            MADE,
            f"train {' '.join(OWN)} --train-split val --eval-split val --steps 1 --batch 1 "
            "--out out/run",
            f"evaluate {' '.join(OWN)} --first 1 --side torch --out out/scored --json",
            "import-run metrics.json --config tiny --out out/imported",
        ),
    ),
    "pairs": Work(
        {"compare.py"},
        {"out"},
        (
            "new-pair compare.py:Block compare.py:Port --file out/pair.py",
            "match compare.py:pair --json",
        ),
    ),
    "programs": Work(
        set(), {"out"}, ("preflight --config tiny --image-size 64x64 --out out/preflight",)
    ),
    "demo": Work(set(), {"out"}, ("demo --small --out out/demo",)),
}
TRACED = Work(
    {"photos", "val.json", "w.pth"},
    {"mine", "out"},
    (
        MADE,
        "convert w.pth out/tf --to tf --config tiny",
        "convert out/tf out/back.safetensors --to safetensors --config tiny",
        "data tfrecord mine out/records --split val --shards 1",
        f"train {' '.join(OWN)} --side tf --train-split val --eval-split val --steps 1 --batch 1 "
        "--out out/run",
    ),
)
CALLS = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink"),
    *("unlinkat", "rmdir", "link", "linkat", "symlink", "symlinkat", "truncate", "connect"),
)
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<name>(?:[^"\\]|\\.)*)"')
CALL = re.compile(r"(?P<call>\w+)\((?P<arguments>.*)\)\s+= (?!-1)")
LONG = {"measuring", "programs", "demo"}
GROUPS = ("data", "faults")


def watched(folder: Path, *commands: str, tracer: Sequence[str] = ()) -> list[tuple[str, str]]:
    """What the commands and their children did, run one after the other in `folder`.

    `tracer` is a command that runs another one and sees what it asks of the system.
    """
    for name in ("home", "temporary", "hooks"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "hooks" / "sitecustomize.py").write_text(HOOK)
    # a test that compiled a model leaves the folder of its compiler in the variables
    others = ("PYTEST", "TORCHINDUCTOR")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(others)},
        "PYTHONPATH": f"{folder / 'hooks'}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "temporary"),
        "EVENTS": str(folder / "events"),
    }
    words = json.dumps([command.split() for command in commands])
    done = subprocess.run(
        [*tracer, sys.executable, "-c", RUN, words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stderr, done.stderr
    lines = (folder / "events").read_text().splitlines()
    return [(kind, ast.literal_eval(what)) for kind, what in (one.split("\t", 1) for one in lines)]


def asked_of_the_system(log: Path, folder: Path) -> list[tuple[str, str]]:
    """The calls of a log of strace that succeeded, as `watched` gives events."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        call = CALL.search(line)
        if not call:
            continue
        if call["call"] == "connect":
            if "AF_INET" in line:
                found.append(("socket.connect", line))
            continue
        is_open = call["call"].startswith("open")
        changes = not is_open or re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", line)
        for one in PATH.finditer(call["arguments"]):
            path = os.path.normpath(os.path.join(folder, one["folder"] or "", one["name"]))
            found.append(("write" if changes else "read", path))
    return found


def strays(events: list, folder: Path, read: set[str], written: set[str]) -> list:
    """Events outside the folders that may be read and written, and outside the system's own."""
    system = [Path(sys.prefix), Path(sys.base_prefix), ROOT, *map(Path, sys.path[1:])]
    system += [Path(name) for name in ("/proc", "/sys", "/etc", "/usr", "/lib", "/dev", "/opt")]
    mine = {"home", "temporary", "events", "hooks"}
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


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if one in LONG else ()) for one in WORK]
)
def test_verbs_stay_in_their_folders(name: str, place: Path) -> None:
    work = WORK[name]
    if "w.pth" in work.read:
        state = load_weights("seeded:1", zoo.model_config("tiny")).state
        write_torch(place / "w.pth", {"model": as_torch({k: v.copy() for k, v in state.items()})})
    (place / "compare.py").write_text(chapter()["python"])
    (place / "metrics.json").write_text('{"iteration": 19, "total_loss": 3.5, "lr": 1e-4}\n')
    found = strays(watched(place, *work.commands), place, work.read, work.written)
    assert not found, "\n".join(map(str, found))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_what_tensorflow_opens_lies_in_the_folders(place: Path, tmp_path_factory) -> None:
    state = load_weights("seeded:1", zoo.model_config("tiny")).state
    write_torch(place / "w.pth", {"model": as_torch({k: v.copy() for k, v in state.items()})})
    log = tmp_path_factory.mktemp("traced") / "log"
    tracer = ("strace", "-f", "-y", "-s", "4096", "-e", f"trace={','.join(CALLS)}", "-o", str(log))
    watched(place, *TRACED.commands, tracer=tracer)
    events = asked_of_the_system(log, place)
    assert any(kind == "write" and what.endswith(".index") for kind, what in events)
    assert any(kind == "write" and ".tfrecord" in what for kind, what in events)
    found = strays(events, place, TRACED.read, TRACED.written)
    # git says what commit this is
    found = [one for one in found if one[0] != "read" or ".git" not in Path(one[1]).parts]
    assert not found, "\n".join(map(str, found))
    assert strays(events, place, set(), set()), "what is opened is not seen"


def test_every_verb_is_watched() -> None:
    commands = [one.split() for work in WORK.values() for one in work.commands]
    run = {" ".join(words[: 1 + (words[0] in GROUPS)]) for words in commands}
    assert run == MEASURING | OTHERS


def test_what_leaves_the_folders_is_noticed(place: Path) -> None:
    (place / "photos" / "val" / "1.jpg").unlink()
    (place / "photos" / "val" / "1.jpg").symlink_to(place / "elsewhere.jpg")
    Image.new("RGB", (128, 96)).save(place / "elsewhere.jpg")
    events = watched(place, MADE)
    assert strays(events, place, {"photos", "val.json"}, {"mine"}) == []
    assert strays(events, place, {"val.json"}, {"mine"}), "reading photographs is not seen"
    assert strays(events, place, {"photos", "val.json"}, set()), "writing is not seen"

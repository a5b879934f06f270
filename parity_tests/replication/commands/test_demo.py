"""`parity demo`: the report is complete or not there, and says what the stages recorded."""

import contextlib
import json
import re
import shlex
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from maskformer.runs.run_record import REQUIRED, RunRecord
from parity.errors import InputError
from parity.files import kept_folder
from parity.records import write_json
from parity_tests.reports import recorded
from replication.commands import demo
from replication.story.stages import FULL, SHORT, STAGES, Stage
from reports.chapters import evaluation
from reports.kinds import KINDS
from reports.loading import of_result

EVALUATED = f"{evaluation.KIND.name}.json"
TEMPORARY = re.compile(r"\.partial|/\.[a-z]+\.[a-z0-9_]{8}")


def stage(name, result, seconds=(30.0, 10.0)):
    def run(story):
        with story.steps(f"{name} of {story.scale.config}"):
            return [write_json(result, story.kept, f"{name}.json")] if result else []

    return Stage(name, f"{name} of {{config}}", 1, *seconds, run)


def test_a_told_story_is_a_verified_report(tmp_path, capsys):
    stages = [stage("audit", recorded.audit()), stage("scenes", None)]
    found, clock = demo.tell(tmp_path / "out", stages, SHORT)
    assert demo.holds(found)
    assert list(clock.seconds) == ["audit", "scenes"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "kept" / "audit.json").is_file()
    assert "1 of 2: audit of scenes_tiny; about 1 min left" in capsys.readouterr().err


def test_a_story_with_a_claim_that_fails_does_not_hold(tmp_path):
    found, clock = demo.tell(tmp_path / "out", [stage("audit", recorded.audit(1e6))])
    assert not demo.holds(found)
    described = demo.described(found, clock, tmp_path / "out")
    assert described["verdict"] == "different"
    assert "same_function" in {one["id"] for one in described["failing"]}


def test_a_story_that_breaks_off_leaves_nothing(tmp_path):
    def broken(story):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.tell(tmp_path / "out", [Stage("b", "b", 1, 1.0, 1.0, broken)])
    assert list(tmp_path.iterdir()) == []


class Interrupted:
    """Three stages, the second of which breaks off the first time; `ran` are the stages that ran.

    `change` may alter what is kept before the story is told again.
    """

    def __init__(self, out):
        self.out, self.ran, self.breaks = out, [], True
        names = ("first", "second", "third")
        self.stages = [Stage(name, name, 1, 1.0, 1.0, partial(self.run, name)) for name in names]

    def run(self, name, story):
        self.ran.append(name)
        (story.kept / f"{name}.half").touch()
        if name == "second" and self.breaks:
            raise KeyboardInterrupt
        return [write_json(recorded.audit(), story.kept, f"{name}.json")]

    def told(self, scale=SHORT):
        """Tells the story; the stages that ran."""
        self.ran = []
        with contextlib.suppress(KeyboardInterrupt):
            demo.tell(self.out, self.stages, scale)
        self.breaks = False
        return self.ran


def test_a_story_that_breaks_off_goes_on_after_its_finished_stages(tmp_path, capsys):
    one = Interrupted(tmp_path / "out")
    assert one.told() == ["first", "second"]
    kept = {path.name for path in (one.out / "kept").iterdir()}
    assert kept == {"first.half", "first.json", "stages.json"}
    assert "1 of 3 stages are kept in" in capsys.readouterr().err
    assert one.told() == ["second", "third"]
    assert json.loads((one.out / "report.json").read_text())["claims"]
    assert one.told() == ["first", "second", "third"]


@pytest.mark.parametrize("edit", ["another scale", "a file is gone", "half a file"])
def test_stages_of_another_story_are_told_again(tmp_path, edit):
    one = Interrupted(tmp_path / "out")
    one.told()
    if edit == "a file is gone":
        (one.out / "kept" / "first.json").unlink()
    if edit == "half a file":
        (one.out / "kept" / "stages.json").write_text('{"schema":')
    assert one.told(FULL if edit == "another scale" else SHORT) == ["first", "second", "third"]


def told_early(result):
    """A stage that tells this result while it runs."""
    usual = stage("audit", result)

    def run(story):
        story.first(of_result(result).result)
        return usual.run(story)

    return replace(usual, run=run)


def test_the_first_verdict_is_printed_while_the_model_is_compared(tmp_path, capsys):
    demo.tell(tmp_path / "out", [told_early(recorded.audit()), stage("scenes", None)], SHORT)
    lines = capsys.readouterr().err.splitlines()
    (at,) = (index for index, line in enumerate(lines) if line.startswith("first verdict: equal ("))
    assert at < next(index for index, line in enumerate(lines) if line.startswith("2 of 2"))
    demo.tell(tmp_path / "wrong", [told_early(recorded.audit(1e6))], SHORT)
    assert "first verdict: different (" in capsys.readouterr().err


def beside(name):
    """The stage of the story with this name, in a process of its own."""
    return replace(next(one for one in STAGES if one.name == name), beside=True)


def test_stages_beside_the_others_are_told_with_them(tmp_path, capsys):
    """In the order of the story, whichever ends first; what they made is kept with the rest."""
    stages = [beside("scenes"), stage("audit", recorded.audit())]
    found, clock = demo.tell(tmp_path / "out", stages, SHORT)
    assert demo.holds(found)
    assert list(clock.seconds) == ["scenes", "audit"]
    assert list((tmp_path / "out" / "kept" / "scenes").iterdir())
    lines = capsys.readouterr().err.splitlines()
    assert "1 of 2: draw a data set of scenes; beside the others" in lines
    assert clock.now() > clock.seconds["scenes"]


def test_a_stage_beside_that_ends_is_kept_when_another_breaks_off(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))

    def broken(story):
        story.first(of_result(recorded.audit()).result)
        (said,) = own.glob("demo-*/said")
        while not said.read_text():
            time.sleep(0.1)
        raise KeyboardInterrupt

    out = tmp_path / "out"
    stages = [Stage("b", "b", 1, 1.0, 1.0, broken), beside("scenes")]
    with pytest.raises(KeyboardInterrupt):
        demo.tell(out, stages, SHORT)
    assert {path.name for path in (out / "kept").iterdir()} == {"scenes", "stages.json"}
    assert list(own.iterdir()) == []


def test_a_stage_beside_that_fails_ends_the_story(tmp_path):
    """An evaluation has nothing to evaluate where nothing was trained."""
    with pytest.raises(RuntimeError, match=r"beside ended with 1.*not enough values"):
        demo.tell(tmp_path / "out", [beside("evaluation"), stage("audit", recorded.audit())], SHORT)
    assert not (tmp_path / "out" / "report.html").exists()


def a_run(story):
    """Records a run as a trainer would that reads and writes in the demo's folder."""
    story.data.mkdir()
    initial = story.kept / "initial.safetensors"
    initial.touch()
    settings = {"config": "scenes_tiny", "data": str(story.data), "initial": str(initial)}
    said = {**dict.fromkeys(REQUIRED), "side": "torch", "versions": {}, "settings": settings}
    said["command"] = shlex.join(["parity", "train", "--data", str(story.data), "--out", "DIR"])
    with RunRecord.open(story.kept / "run", said) as record:
        record.write(1, "train", {"loss": 1.0, "step_seconds": 0.5, "data_wait_share": 0.1})
    return [story.kept / "run"]


def paths_in(words):
    """Words of a command that are paths, without the places that a reader fills in."""
    found = [word for word in words if "/" in word and not word.startswith("DIR/")]
    assert all(not word.startswith("-") for word in found)
    return [Path(word) for word in found]


def test_what_is_recorded_names_the_final_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [stage("audit", recorded.audit()), Stage("run", "run", 0, 1.0, 1.0, a_run)]
    demo.tell(Path("some/out"), stages, SHORT)
    check_places(Path("some/out"))
    report = (tmp_path / "some/out/report.md").read_text()
    assert "some/out/kept/scenes" in report


def check_places(out):
    """No file of a report has a temporary name; what its settings and commands name is there."""
    for file in (*out.glob("report.*"), *(out / "evidence").rglob("*")):
        if file.suffix in (".html", ".md", ".json", ".jsonl"):
            assert not TEMPORARY.search(file.read_text(encoding="utf-8")), file
    for file in (out / "evidence").rglob("run.json"):
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
        assert Path(settings["data"]).is_dir()
        assert list(Path(settings["initial"]).parent.glob(f"{Path(settings['initial']).name}*"))
    commands = {one["command"] for one in json.loads((out / "report.json").read_text())["claims"]}
    named = [path for command in commands for path in paths_in(shlex.split(command))]
    assert [path for path in named if not path.exists()] == []
    return commands


def test_a_story_that_breaks_off_leaves_the_earlier_report(tmp_path):
    def broken(story):
        (story.kept / "half").touch()
        raise KeyboardInterrupt

    out = tmp_path / "out"
    demo.tell(out, [stage("audit", recorded.audit())])
    before = (out / "report.html").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        demo.tell(out, [Stage("b", "b", 1, 1.0, 1.0, broken)])
    assert (out / "report.html").read_bytes() == before
    assert not (out / "kept").exists()


def test_one_process_at_a_time_fills_a_folder_and_removes_what_a_killed_one_left(tmp_path):
    out = tmp_path / "out"
    (out / "kept" / "left").mkdir(parents=True)
    with kept_folder(out, "kept") as folder:
        assert folder == out / "kept"
        assert list(folder.iterdir()) == []
        (folder / "new").touch()
        with pytest.raises(InputError, match="is being written"), kept_folder(out, "kept"):
            pass
        assert (folder / "new").exists()
    assert (out / "kept" / "new").exists()


def test_what_is_left_follows_the_pace_so_far():
    clock = demo.Clock([stage("a", None), stage("b", None), stage("c", None)], FULL)
    assert clock.left() == 90.0
    clock.seconds["a"] = 60.0
    assert clock.left() == 120.0
    assert demo.Clock([stage("a", None)], SHORT).left() == 10.0


@pytest.mark.slow
def test_the_small_demo_tells_the_whole_story(tmp_path, monkeypatch, parity):
    monkeypatch.chdir(tmp_path)
    status, out, _ = parity("demo", "--small", "--out", "reports/out/small", "--json")
    result = json.loads(out)
    assert (status, result["verdict"], result["problems"]) == (0, "equal", [])
    assert list(result["seconds"]) == [one.name for one in STAGES]
    commands = check_places(Path("reports/out/small"))
    assert any("--data reports/out/small/kept/scenes" in command for command in commands)
    report = json.loads((tmp_path / "reports/out/small/report.json").read_text())
    kinds = {one["schema"] for one in report["evidence"] if one["file"].endswith(".json")}
    assert len(kinds) >= 7
    assert kinds <= set(KINDS)
    assert {one["rung"] for one in report["ladder"] if one["verdict"] == "not run"} == set()
    assert any(one["file"].endswith(EVALUATED) for one in report["evidence"])

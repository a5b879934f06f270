"""`parity preflight`: the search for a batch, the estimate of a schedule, and what it prints."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model import zoo
from parity.errors import InputError
from replication.cli import app
from replication.tpu import preflight as preflight_run
from replication.tpu import published
from replication.tpu.preflight import (
    LargestBatch,
    Request,
    fewest_parts,
    largest_batch,
    matcher_bound,
    schedule,
)
from reports.chapters.preflight import Topology
from tf_impl.tpu import preflight as compiler
from tf_impl.tpu.lowering import NotCompilableError, Program
from tf_impl.tpu.preflight import CHIPS, Compiled

GIB = 1 << 30


def compiled(used, topology="v5e:2x2", flops=1e12, told=False):
    """A result as the compiler gives it: it fits where the chip's memory holds `used` bytes."""
    if used > CHIPS["v5e"].hbm:
        reason = f"Ran out of memory: {used}"
        return Compiled(topology, False, reason, "memory", int(used) if told else 0)
    return Compiled(
        topology,
        True,
        seconds=1.0,
        memory={"temporaries": int(used)},
        flops=flops,
        bytes_accessed=1e9,
    )


@given(
    base=st.floats(0.1, 20.0),
    each=st.floats(0.02, 6.0),
    bend=st.floats(-0.3, 0.3),
    first=st.integers(1, 600),
    told=st.booleans(),
)
def test_largest_batch_is_the_largest_that_fits(base, each, bend, first, told):
    def used(batch):
        return (base + each * batch ** (1.0 + bend)) * GIB

    asked = []

    def compile_batch(batch):
        asked.append(batch)
        return compiled(used(batch), told=told)

    found = largest_batch(compile_batch, first)
    fitting = [n for n in range(1, preflight_run.LARGEST_BATCH + 1) if used(n) <= CHIPS["v5e"].hbm]
    assert found == LargestBatch(max(fitting) if fitting else 0)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(
    ("first", "each", "asked"),
    [(1, 0.9, [1, 8, 16, 17]), (4, 0.25, [4, 32, 60, 61]), (30, 0.9, [30, 17, 16])],
)
def test_few_compilations_find_a_batch_that_grows_evenly(first, each, asked):
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        return compiled((1.0 + each * batch) * GIB, told=True)

    assert largest_batch(compile_batch, first) == LargestBatch(int(15 / each))
    assert tried == asked


def test_a_batch_that_cannot_be_judged_is_not_said_to_be_too_large():
    def compile_batch(batch):
        if batch > 8:
            return Compiled("v5e:2x2", False, "the compiler ended: killed", "other")
        return compiled((1.0 + 0.9 * batch) * GIB)

    assert largest_batch(compile_batch) == LargestBatch(8, "16 images: the compiler ended: killed")


@given(
    each=st.floats(0.05, 6.0), room=st.integers(1, 40), first=st.integers(1, 60), told=st.booleans()
)
def test_what_has_no_room_on_this_machine_is_not_known(each, room, first, told):
    """Smaller batches are tried: the most that fits is found, or the most that can be compiled."""
    asked = []

    def compile_batch(batch):
        asked.append(batch)
        if batch >= room:
            return Compiled("v5e:2x2", False, "no room", "machine")
        return compiled((1.0 + each * batch) * GIB, told=told)

    found = largest_batch(compile_batch, first)
    fitting = min(int(15 / each), preflight_run.LARGEST_BATCH)
    if fitting < room - 1:
        assert found == LargestBatch(fitting)
    else:
        assert found == LargestBatch(room - 1, f"{room} images: no room")
    assert len(asked) == len(set(asked))


def test_a_search_without_room_ends_after_as_many_compilations():
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        if batch > 40:
            return Compiled("v5p:2x2x1", False, "no room", "machine")
        return Compiled("v5p:2x2x1", True, memory={"temporaries": int((0.5 + 0.5 * batch) * GIB)})

    assert largest_batch(compile_batch, 4, 4) == LargestBatch(32, "110 images: no room")
    assert tried == [4, 32, 189, 110]


def test_the_last_compilation_leaves_a_margin_below_what_does_not_fit():
    """The compiler's own account of what is lacking may be off by an image."""
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        fits = batch <= 104
        used = 15.5 if fits and batch > 90 else 1.0 + 0.14 * batch
        return compiled((used if fits else 16.1) * GIB, told=True)

    found = largest_batch(compile_batch, 4, 4)
    assert tried[:3] == [4, 32, 107]
    assert found.batch == tried[3] == 101


@pytest.mark.parametrize(
    ("most", "asked"),
    [(60, [4, 32, 107, 101, 66, 49]), (70, [4, 32, 107, 101, 66]), (3, [4, 2, 3])],
)
def test_a_search_whose_last_program_does_not_fit_goes_on_until_one_does(most, asked):
    """The compiler may need much more than the line through smaller batches says."""
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        return compiled((1.0 + 0.14 * batch if batch <= most else 20.0) * GIB)

    found = largest_batch(compile_batch, 4, 4)
    assert tried == asked
    assert found.batch == max(batch for batch in tried if batch <= most)
    assert bool(found.unknown) == (most > 4)


def test_a_search_ends_after_so_many_compilations():
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        return compiled((1.0 + 0.9 * batch) * GIB)

    found = largest_batch(compile_batch, 1, 3)
    assert found == LargestBatch(16, "3 programs were compiled, 17 images are next")
    assert tried == [1, 8, 16]


@pytest.mark.parametrize(
    ("images", "each", "told", "tried"),
    [
        (16, 0.5, True, [1]),
        (16, 2.0, True, [1, 4]),  # needs 33 GiB at once: two parts cannot do
        (16, 2.0, False, [1, 2, 4]),
        (6, 7.0, True, [1, 3]),
        (4, 20.0, True, [1, 4]),
    ],
)
def test_the_fewest_parts_that_fit_are_found(images, each, told, tried):
    asked = []

    def compile_parts(parts):
        asked.append(parts)
        return compiled((1.0 + each * images / parts) * GIB, told=told)

    request = Request(zoo.get("coco_r50"), ("v5e:2x2",), (640, 640), images, micro_batches=None)
    parts, step = fewest_parts(compile_parts, request)
    assert asked == tried
    assert parts == tried[-1]
    assert step.compiles == (1.0 + each < 16)


def test_parts_that_this_machine_has_no_room_to_compile_are_not_said_to_be_too_few(
    without_compiling, monkeypatch
):
    answers = [Compiled("v5e:2x2", False, "no room", "machine"), compiled(GIB), compiled(GIB)]
    monkeypatch.setattr(compiler, "compile_for", lambda *_: answers.pop(0))
    words = ("--config", "coco_r50", "--per-core-batch", "4", "--micro-batches", "0", "--json")
    (row,) = json.loads(run(*words).stdout)["topologies"]
    assert (row["micro_batches"], row["fewer_parts"]) == (2, "in 1: no room")
    assert Topology(topology="v5e:2x2", passed=True, micro_batches=2, fewer_parts="x").parts == (
        "2 or fewer"
    )


def test_a_step_in_parts_takes_as_long_as_all_of_them(without_compiling):
    """The compiler counts the body of the loop over parts once."""
    words = ("--config", "coco_r50", "--per-core-batch", "4", "--json")
    whole, parts = (
        json.loads(run(*words, "--micro-batches", count).stdout)["topologies"][0]
        for count in ("1", "4")
    )
    assert (whole.get("micro_batches", 1), parts["micro_batches"]) == (1, 4)
    assert parts["schedule"]["hours"] == pytest.approx(4 * whole["schedule"]["hours"])
    assert parts["schedule"]["steps"] == whole["schedule"]["steps"]


def test_schedule_counts_the_published_images():
    request = Request(zoo.get("coco_r50"), ("v3:2x2",), (640, 640), 2, replicas=8)
    plan = schedule(request, "v3:2x2", 0.5)
    assert plan.images == 554_400 * 64
    assert plan.steps == 554_400 * 4
    assert plan.hours == pytest.approx(554_400 * 4 * 0.5 / 3600)
    assert plan.chip_hours == pytest.approx(4 * plan.hours)  # 8 cores are 4 chips


def test_matching_is_bounded_by_the_number_of_targets():
    few, many = (
        matcher_bound(Request(zoo.get("coco_r50"), (), (640, 640), targets=count), 819e9)
        for count in (40, 100)
    )
    assert few.most_steps == 40 * (2 * 40 + 1) + 2 * 40
    assert few.seconds < many.seconds < 0.01
    per_pixel = Request(zoo.get("ade20k_pp"), (), (512, 512))
    assert matcher_bound(per_pixel, 819e9).most_steps == 0


@pytest.fixture
def without_compiling(monkeypatch):
    """The command with programs and compiler replaced; returns what the compiler answers."""
    answers = {}

    def compile_for(program, topology, effort=0.0):
        return answers.get(topology) or compiled(3 * GIB, topology)

    monkeypatch.setattr(compiler, "compile_for", compile_for)
    monkeypatch.setattr(published, "in_fresh_process", lambda done, *words, **_: done(*words))
    program = Program(b"", 1)
    monkeypatch.setattr(preflight_run.Programs, "train", lambda self, batch, parts=1: program)
    monkeypatch.setattr(preflight_run.Programs, "evaluation", lambda self, batch: program)
    return answers


def run(*arguments):
    return CliRunner().invoke(app, ["preflight", *arguments], env={"COLUMNS": "160"})


def test_command_prints_a_row_per_step(without_compiling):
    found = run("--config", "coco_r50", "--topology", "v5e:2x2", "--topology", "v6e:2x2")
    assert found.exit_code == 0, found.output
    assert (
        len(re.findall(r"v5e:2x2 +│ (train|evaluation) +│ +yes │ +3\.00 │ +19%", found.output)) == 2
    )
    assert "published schedule, estimate from below" in found.output


def test_command_says_why_a_step_does_not_fit(without_compiling):
    without_compiling["v5e:2x2"] = compiled(17 * GIB)
    found = run("--experiment", "maskformer_coco_panoptic_r50", "--json")
    assert found.exit_code == 1
    result = json.loads(found.stdout)
    assert result["config"] == "coco_r50"
    (row,) = result["topologies"]
    assert row["train"]["kind"] == "memory"
    assert row["train"]["reason"].startswith("Ran out of memory")
    assert "schedule" not in row


def test_command_says_why_a_step_cannot_be_lowered(without_compiling, monkeypatch):
    def refuse(self, batch, parts):
        raise NotCompilableError("no XLA kernel", "EagerPyFunc", "replace it")

    monkeypatch.setattr(preflight_run.Programs, "train", refuse)
    found = run("--config", "tiny")
    assert found.exit_code == 1
    assert "EagerPyFunc" in found.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "takes one of --config and --experiment"),
        (["--config", "tiny", "--precision", "int8"], "--precision is 'int8'"),
        (["--config", "tiny", "--topology", "v9:1"], "no TPU kind 'v9'"),
        (["--experiment", "nothing"], "no experiment 'nothing'"),
        (["--config", "tiny", "--micro-batches", "2"], "a core has 1 images"),
    ],
)
def test_wrong_requests_are_refused(arguments, words):
    found = run(*arguments)
    assert isinstance(found.exception, InputError)
    assert words in str(found.exception)


def test_the_published_table_is_filled_once(without_compiling, tmp_path, monkeypatch):
    """A row per target, precision and kind; what is there is read, and a batch asked for is not."""
    without_compiling["v3:2x2"] = compiled(17 * GIB, "v3:2x2")
    out = tmp_path / "table"
    words = ("--published", "--out", str(out))
    found = run(*words, "--price", "v5e=2")
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[0:1] == "|"]
    assert len(table) == 2 + 25
    assert {len(row) for row in table} == {len(table[0])}
    by_name = dict(zip(table[0], table[4], strict=True))
    assert by_name["model"] == "ade20k_r50, 512x512"
    assert (by_name["four chips"], by_name["fits"]) == ("v5e:2x2", "yes")
    assert (by_name["HBM of a core, GiB"], by_name["share"]) == ("3.00", "19%")
    hours = 160_000 * 1e12 / CHIPS["v5e"].flops / 3600
    assert by_name["chip-hours"] == f"{4 * hours:.0f}"
    assert by_name["USD"] == f"{8 * hours:.0f}"
    assert dict(zip(table[0], table[2], strict=True))["fits"] == "no"
    assert "- ade20k_r50, bf16, v3:2x2, train: Ran out of memory: 18253611008" in lines
    assert len(list(out.glob("*.json"))) == 25

    def broken(*_):
        raise AssertionError("compiled again")

    first = (out / "coco_r50-float32-v6e.json").read_bytes()
    (out / "coco_r50-float32-v6e.json").write_bytes(first[:50])  # torn: this one is compiled
    monkeypatch.setattr(compiler, "compile_for", lambda *a: compiled(2 * GIB, "v6e:2x2"))
    result = json.loads(run(*words, "--json").stdout)
    steps = [one["topologies"][0]["train"] for one in result["results"]]
    used = [step["hbm_used"] for step in steps if step["compiles"]]
    assert used == [3 * GIB] * 15 + [2 * GIB] + [3 * GIB] * 4
    monkeypatch.setattr(compiler, "compile_for", broken)
    assert run(*words).stdout.count("| yes |") == 20
    assert isinstance(run(*words, "--find-batch").exception, AssertionError)


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--published"], "--published needs --out"),
        (["--price", "v5e=1"], "need --published"),
        (["--published", "--out", "x", "--price", "v5e"], "--price 'v5e' is no price"),
        (["--published", "--out", "x", "--price", "v9=1"], "is no price"),
        (["--published", "--out", "x", "--price", "v4=nan"], "is no price"),
    ],
)
def test_wrong_words_of_the_table_are_refused(words, fact):
    found = run(*words)
    assert isinstance(found.exception, InputError)
    assert fact in str(found.exception)


def _killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_row_whose_process_is_killed_is_one_error(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "preflight", _killed)
    with pytest.raises(InputError, match="ade20k_r50 for v3:2x2 was killed"):
        published.fill(tmp_path, False, 0.0, print)
    assert [path.name for path in tmp_path.iterdir()] == [published.LOCKED]


HOLDER = """
import fcntl, sys
from pathlib import Path
lock, number, path = open(sys.argv[1], "w"), int(sys.argv[2]), Path(sys.argv[3])
fcntl.lockf(lock, fcntl.LOCK_EX, 1, number)
print("held", flush=True)
path.write_bytes(sys.stdin.buffer.read())
"""


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_row_that_another_process_makes_is_waited_for(without_compiling, tmp_path, is_killed):
    """Other rows are made first; a row of a process that was killed is made after all."""
    published.fill(tmp_path, False, 0.0, lambda text: None)
    names = [cell.file for cell in published.cells()]
    third, last = (tmp_path / names[number] for number in (3, -1))
    row = third.read_bytes()
    third.unlink()
    last.unlink()
    words = [sys.executable, "-c", HOLDER, str(tmp_path / published.LOCKED), "3", str(third)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        said = []

        def note(text):
            said.append(text)
            if text == "coco_swin_large, bf16, v6e:2x2" and is_killed:
                other.kill()
            elif text == "coco_swin_large, bf16, v6e:2x2":
                other.stdin.write(row)
                other.stdin.close()

        results = published.fill(tmp_path, False, 0.0, note)
    rows = [text for text in said if ", " in text and "compiling" not in text]
    made = ["coco_swin_large, bf16, v6e:2x2", "ade20k_r50, bf16, v5p:2x2x1"]
    assert [text for text in rows if "lowering" not in text] == made[: 1 + is_killed]
    assert [one.command for one in results] == [
        cell.request(False, 0.0).command for cell in published.cells()
    ]
    assert third.read_bytes() == row

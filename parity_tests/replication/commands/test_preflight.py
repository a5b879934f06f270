"""`parity preflight`: the search for a batch, the estimate of a schedule, and what it prints."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model import zoo
from parity.errors import InputError
from parity_tests.reports.verification.edits import edited, leaves
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
from reports.chapters import preflight as preflight_chapter
from reports.chapters.preflight import (
    KIND,
    PreflightResult,
    Topology,
    busy_chips,
    chips_of,
    recheck_preflight,
)
from reports.given import is_given
from reports.loading import of_result
from tf_impl.tpu import preflight as compiler
from tf_impl.tpu.lowering import NotCompilableError, Program
from tf_impl.tpu.preflight import CHIPS, Compiled

GIB = 1 << 30
ROOT = Path(__file__).parents[3]


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
    last = max(preflight_run.LARGEST_BATCH, first)
    fitting = max((n for n in range(1, last + 1) if used(n) <= CHIPS["v5e"].hbm), default=0)
    unknown = f"more than {last} images are not tried" if fitting == last else ""
    assert found == LargestBatch(fitting, unknown)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("first", [1, 512, 600])
def test_a_search_that_ends_at_its_bound_knows_of_no_limit(first):
    """Nor is anything below a first batch that fits called the largest."""
    found = largest_batch(lambda batch: compiled(GIB), first)
    assert found.batch == max(first, preflight_run.LARGEST_BATCH)
    assert found.unknown == f"more than {found.batch} images are not tried"


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


@pytest.mark.parametrize("last", ["memory", "machine", "fits"])
def test_fewer_parts_that_are_known_not_to_fit_are_not_left_open(
    without_compiling, monkeypatch, last
):
    """Where two parts need too much, one does; where nothing fits, no number of parts is told."""
    refused = [Compiled("v5e:2x2", False, "", kind) for kind in ("machine", "memory")]
    end = compiled(GIB) if last == "fits" else Compiled("v5e:2x2", False, "x", last)
    answers = [*refused, end, compiled(GIB)]
    monkeypatch.setattr(compiler, "compile_for", lambda *_: answers.pop(0))
    words = ("--config", "coco_r50", "--per-core-batch", "4", "--micro-batches", "0", "--json")
    (row,) = json.loads(run(*words).stdout)["topologies"]
    assert row["micro_batches"] == 4
    assert "fewer_parts" not in row


def test_figures_of_a_batch_in_parts_say_so(without_compiling, tmp_path):
    words = ("--config", "coco_r50", "--per-core-batch", "16", "--out", str(tmp_path))
    told = "evaluation is of the images of one part"
    for parts, count in (("4", 1), ("1", 0)):
        printed = run(*words, "--micro-batches", parts).stdout
        one = of_result(json.loads((tmp_path / "preflight.json").read_text()))
        drawn = repr(preflight_chapter.chapter(one, one.result.claims))
        assert [" ".join(text.split()).count(told) for text in (printed, drawn)] == [count] * 2


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


@pytest.mark.parametrize(
    ("topology", "replicas", "chips"),
    [
        ("v5e:2x4", 1, 8),
        ("v5e:16x16", 4, 256),
        ("v3:2x2", 1, 4),
        ("v5p:2x2x2", 8, 8),
        ("v3:some", 3, 2),  # the shape says nothing: those that hold the replicas
    ],
)
def test_all_chips_of_a_slice_are_paid_for(topology, replicas, chips):
    request = Request(zoo.get("coco_r50"), (topology,), (640, 640), replicas=replicas)
    plan = schedule(request, topology, 0.5)
    assert plan.hours == pytest.approx(554_400 * 64 / replicas * 0.5 / 3600)
    assert plan.chip_hours == pytest.approx(chips * plan.hours)


def test_the_published_rows_use_every_core_that_is_paid_for():
    assert all(
        chips_of(cell.topology) == busy_chips(cell.topology, cell.cores) == 4
        for cell in published.cells()
    )


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
    return replaced(monkeypatch)


def replaced(monkeypatch):
    answers = {}

    def compile_for(program, topology, effort=0.0):
        return answers.get(topology) or compiled(3 * GIB, topology)

    monkeypatch.setattr(compiler, "compile_for", compile_for)
    monkeypatch.setattr(compiler, "missing_compiler", lambda: None)
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


@pytest.mark.parametrize("what", ["a larger batch", "evaluation"])
def test_what_is_known_is_kept_where_another_program_cannot_be_lowered(
    without_compiling, monkeypatch, what
):
    def refuse(self, batch, parts=1):
        if what == "evaluation" or batch > 1:
            raise NotCompilableError("it cannot be lowered", "a tensor is too large", "shrink it")
        return Program(b"", 1)

    name = "evaluation" if what == "evaluation" else "train"
    monkeypatch.setattr(preflight_run.Programs, name, refuse)
    found = run("--config", "tiny", "--find-batch", "--json")
    (row,) = json.loads(found.stdout)["topologies"]
    reason = "it cannot be lowered; a tensor is too large; shrink it"
    assert row["train"]["compiles"]
    assert "schedule" in row
    if what == "evaluation":
        assert (found.exit_code, row["evaluation"]["reason"]) == (1, reason)
    else:
        assert (found.exit_code, row["largest_per_core_batch"]) == (0, 1)
        assert row["larger_batches"] == f"5 images: {reason}"


def test_a_step_above_the_memory_of_a_core_does_not_fit(without_compiling, monkeypatch):
    """The compiler may make a program that takes more than there is: searches pass it by."""

    def compile_for(program, topology, effort=0.0):
        return replace(compiled(3 * GIB), memory={"temporaries": (15 + program) * GIB})

    monkeypatch.setattr(compiler, "compile_for", compile_for)
    monkeypatch.setattr(preflight_run.Programs, "train", lambda self, batch, parts=1: batch / parts)
    monkeypatch.setattr(preflight_run.Programs, "evaluation", lambda self, batch: 1)
    words = ("--config", "coco_r50", "--per-core-batch", "2")
    found = run(*words)
    assert found.exit_code == 1
    assert "v5e:2x2, train: takes 17.00 GiB, 106% of a core's memory" in found.stdout
    (row,) = json.loads(run(*words, "--find-batch", "--json").stdout)["topologies"]
    assert (row["passed"], row["largest_per_core_batch"]) == (False, 1)
    (row,) = json.loads(run(*words, "--micro-batches", "0", "--json").stdout)["topologies"]
    assert (row["passed"], row["micro_batches"]) == (True, 2)


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
    note = run(*words).stdout.splitlines()[-1]
    assert note in (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8").splitlines()
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


def test_tables_of_other_options_stand_beside_each_other(without_compiling, tmp_path, monkeypatch):
    """Each is what it made itself, whatever another writes to the folder meanwhile."""
    tables = [(False, 0.0), (False, -1.0), (False, 1.0), (False, 0.5), (True, 0.0), (True, -1.0)]
    for table in tables:
        published.fill(tmp_path, *table, lambda text: None)
    first = [next(published.cells()).file(*table) for table in tables]
    assert first[0] == "ade20k_r50-bf16-v3.json"
    assert first[-1] == "ade20k_r50-bf16-v3-largest-effort-1.json"
    assert len(list(tmp_path.glob("*.json"))) == 25 * len(set(first)) == 25 * len(tables)
    monkeypatch.setattr(compiler, "compile_for", None)
    for find_batch, effort in tables:
        results = published.fill(tmp_path, find_batch, effort, lambda text: None)
        assert {one.effort for one in results} == {effort}
    monkeypatch.setattr(compiler, "compile_for", lambda *_: compiled(GIB))
    monkeypatch.setattr(published, "write_json", lambda *_: None)
    assert len(published.fill(tmp_path / "other", False, 0.0, lambda text: None)) == 25


@pytest.mark.parametrize("step", ["train", "evaluation"])
@pytest.mark.parametrize("kind", ["machine", "other"])
def test_a_row_that_could_not_be_compiled_here_is_not_known_and_tried_again(
    without_compiling, tmp_path, monkeypatch, kind, step
):
    asked = []

    def refuse(program, topology, effort=0.0):
        asked.append(topology)
        is_meant = topology == "v5e:2x2" and program == step
        return Compiled(topology, False, "no room", kind) if is_meant else compiled(GIB, topology)

    programs = preflight_run.Programs
    monkeypatch.setattr(programs, "train", lambda self, batch, parts=1: "train")
    monkeypatch.setattr(programs, "evaluation", lambda self, batch: "evaluation")
    monkeypatch.setattr(compiler, "compile_for", refuse)
    words = ("--published", "--out", str(tmp_path))
    found = run(*words)
    parts = "" if step == "train" else "1"
    line = f"| ade20k_r50, 512x512 | bf16 | v5e:2x2 | 4 | {parts} | not known |"
    assert found.exit_code == 1
    assert line in found.stdout
    assert f"- ade20k_r50, bf16, v5e:2x2, {step}: no room" in found.stdout.splitlines()
    monkeypatch.setattr(compiler, "compile_for", lambda *_: compiled(GIB))
    in_parts = 2 * 3 + 3 * 5 if (kind, step) == ("machine", "train") else 5
    assert len(asked) == 2 * 20 + in_parts + 5  # once each
    found = run(*words)
    assert found.exit_code == 0
    assert found.stdout.count("| yes |") == 25


def _row_of(content):
    return content["topologies"][0]


EDITS = {
    "no topology": lambda row: row.update(topologies=[]),
    "two topologies": lambda row: row.update(topologies=row["topologies"] * 2),
    "unknown kind": lambda row: _row_of(row).update(topology="v9:2x2"),
    "no evaluation": lambda row: _row_of(row).pop("evaluation"),
    "no training": lambda row: _row_of(row).pop("train"),
    "no schedule": lambda row: _row_of(row).pop("schedule"),
    "no bound of the matching": lambda row: _row_of(row).pop("matcher"),
    "no chip": lambda row: _row_of(row).pop("chip"),
    "no memory of the chip": lambda row: _row_of(row)["chip"].update(hbm=0),
    "hours": lambda row: _row_of(row)["schedule"].update(hours="nan"),
    "all of the schedule": lambda row: _row_of(row)["schedule"].update(
        hours=1.0, chip_hours=1.0, steps=3
    ),
    "images": lambda row: _row_of(row)["schedule"].update(images=64, steps=1, hours=1.0),
    "memory": lambda row: _row_of(row)["train"].update(hbm_used=1),
    "passed": lambda row: row.update(passed=False),
    "passed, of the row": lambda row: _row_of(row).update(passed=False),
    "a batch": lambda row: row.update(per_core_batch=1),
    "no claims": lambda row: row.update(claims=[]),
    "no versions": lambda row: row.pop("provenance"),
    "another jax": lambda row: row["provenance"]["packages"].update(jax="0.0.1"),
    "another libtpu": lambda row: row["provenance"]["packages"].update(libtpu="0.0.1"),
    "another TensorFlow": lambda row: row["provenance"]["packages"].update(tensorflow="1.0"),
    "a largest batch": lambda row: _row_of(row).update(largest_per_core_batch=9),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with all rows, as text by name; `without_compiling` is of one test."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        replaced(patch)
        out = tmp_path_factory.mktemp("rows")
        published.fill(out, False, 0.0, lambda text: None)
        for path in out.glob("*.json"):
            found[path.name] = path.read_text(encoding="utf-8")
    return found


@pytest.mark.parametrize("edit", EDITS)
def test_a_row_that_was_edited_is_made_again(without_compiling, tmp_path, rows, edit):
    for name, text in rows.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = tmp_path / "coco_r50-bf16-v5e.json"
    content = json.loads(rows[path.name])
    EDITS[edit](content)
    path.write_text(json.dumps(content), encoding="utf-8")
    said = []
    results = published.fill(tmp_path, False, 0.0, said.append)
    assert said[0] == "coco_r50, bf16, v5e:2x2"
    assert len([text for text in said if "lowering" in text]) == 2
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(rows[path.name])
    assert all(one.passed for one in results)


def test_a_table_that_is_whole_is_printed_where_nothing_can_be_written(
    without_compiling, tmp_path, rows, monkeypatch
):
    for name, text in rows.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(published, "version", lambda name: None)  # nor is the compiler needed
    monkeypatch.setattr(published, "_locks", None)
    assert run("--published", "--out", str(tmp_path)).stdout.count("| yes |") == 25
    assert not (tmp_path / published.LOCKED).exists()


def test_a_file_that_the_lock_is_a_link_to_stays_as_it_is(without_compiling, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    (tmp_path / published.LOCKED).symlink_to(other)
    published.fill(tmp_path, False, 0.0, lambda text: None)
    assert other.read_text() == "mine"


def test_a_folder_without_locks_is_refused_before_anything_is_compiled(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(published.fcntl, "lockf", lockf)
    with pytest.raises(InputError, match="cannot be locked"):
        published.fill(tmp_path, False, 0.0, print)


def test_every_edit_of_what_follows_from_the_compilers_answers_is_caught(without_compiling):
    """Every number and word that is not taken as it was recorded, and what is left out."""
    without_compiling["v6e:2x4"] = compiled(40 * GIB, "v6e:2x4")
    words = ("--config", "coco_r50", "--topology", "v5e:2x4", "--topology", "v6e:2x4")
    content = json.loads(run(*words, "--find-batch", "--json").stdout)
    assert {"jax", "libtpu", "tensorflow"} <= content["provenance"]["packages"].keys()

    def is_sound(changed):
        try:
            return not any(recheck_preflight(PreflightResult.from_json(changed)))
        except InputError:
            return False

    assert is_sound(content)
    own = [
        place
        for place in leaves(content)
        if place[0] in ("topologies", "passed") and not is_given(KIND.taken, place)
    ]
    names = {place[-1] for place in own}
    assert {"compiles", "hbm_used", "roofline_seconds", "steps", "chip_hours", "passed"} <= names
    assert [
        (*place, how) for place in own for how in range(5) if is_sound(edited(content, place, how))
    ] == []
    row = content["topologies"][0]
    for name in ("train", "evaluation", "schedule", "matcher"):
        assert not is_sound(edited_row(content, **{name: None})), name
    assert not is_sound(edited_row(content, chip={}))
    for name, value in (("claims", []), ("claims", content["claims"][:1]), ("topologies", [])):
        assert not is_sound({**content, name: value})
    assert not is_sound({**content, "topologies": [], "claims": []})
    for number in (0, 2, 511, 600, None):
        assert not is_sound(edited_row(content, largest_per_core_batch=number))
    assert not is_sound(edited_row(content, tried=[]))
    assert not is_sound(edited_row(content, larger_batches=""))
    assert not is_sound(edited_row(content, schedule={**row["schedule"], "chips": None}))
    for hbm in (0, -1, "x", math.inf, True):
        assert not is_sound(edited_row(content, chip={**row["chip"], "hbm": hbm}))


def edited_row(content, **parts):
    """The result with other parts of its first row."""
    first, *rest = content["topologies"]
    return {**content, "topologies": [{**first, **parts}, *rest]}


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


def test_a_row_without_a_compiler_is_refused_before_it_is_lowered(without_compiling, monkeypatch):
    monkeypatch.setattr(compiler, "missing_compiler", lambda: "no libtpu")
    request = next(published.cells()).request(False, 0.0)
    with pytest.raises(InputError, match="the TPU compiler is not there"):
        published._made(request, pytest.fail)


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
    names = [cell.file() for cell in published.cells()]
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

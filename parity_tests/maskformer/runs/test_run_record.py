"""The record of a run: complete rows, exact continuation, one clear error for each misuse."""

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskformer.runs.run_record import DESCRIPTION, METRICS, REQUIRED, RunRecord, has_run, read_run
from parity.errors import InputError

SAID = {**dict.fromkeys(REQUIRED), "side": "torch", "settings": {"steps": 9}, "versions": {}}


def record(folder, steps, resume=None):
    """Writes a training row for each step, and an evaluation after step 4."""
    with RunRecord.open(folder, SAID, resume) as run:
        for step in steps:
            run.write(step, "train", {"loss": step / 3, "learning_rate/head": 1e-4})
            if step == 4:
                run.write(step, "eval", {"panoptic_quality": 12.5})


def test_what_is_written_is_read(tmp_path):
    record(tmp_path / "run", range(1, 6))
    run = read_run(tmp_path / "run")
    assert run.description["side"] == "torch"
    steps, values = run.column("loss")
    assert steps.tolist() == [1, 2, 3, 4, 5]
    assert values.tolist() == [step / 3 for step in range(1, 6)]
    assert run.last("panoptic_quality") == 12.5
    assert run.last("mean_iou") is None
    assert run.names("train") == ["loss", "learning_rate/head"]
    assert re.fullmatch("[0-9a-f]{64}", run.sha256)


def test_a_value_that_is_not_finite_is_null(tmp_path):
    with RunRecord.open(tmp_path, SAID) as run:
        run.write(1, "train", {"loss": math.nan, "gradient_norm": math.inf})
    assert json.loads((tmp_path / METRICS).read_text())["loss"] is None
    assert math.isnan(read_run(tmp_path).rows[0].values["gradient_norm"])


def test_resuming_cuts_off_later_rows_and_goes_on(tmp_path):
    record(tmp_path, range(1, 8))
    record(tmp_path, range(4, 10), resume=3)
    run = read_run(tmp_path)
    assert run.column("loss")[0].tolist() == list(range(1, 10))
    assert run.column("panoptic_quality", "eval")[0].tolist() == [4]
    assert [r["step"] for r in run.description["resumed"]] == [3]
    assert all(a.seconds <= b.seconds for a, b in zip(run.rows, run.rows[1:], strict=False))


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1))
def test_a_file_torn_anywhere_is_read_and_mended(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("torn")
    record(folder, range(1, 6))
    content = (folder / METRICS).read_bytes()
    cut = round(share * len(content))
    (folder / METRICS).write_bytes(content[:cut])
    complete = content[:cut].count(b"\n")
    assert len(read_run(folder).rows) == complete
    record(folder, range(2, 6), resume=1)
    steps = read_run(folder).column("loss")[0].tolist()
    assert steps == ([1, 2, 3, 4, 5] if complete else [2, 3, 4, 5])


def test_a_broken_line_inside_is_named(tmp_path):
    record(tmp_path, range(1, 4))
    lines = (tmp_path / METRICS).read_bytes().splitlines(keepends=True)
    (tmp_path / METRICS).write_bytes(lines[0] + b'{"step": 2\n' + lines[2])
    with pytest.raises(InputError, match="line 2 is not a row of a record"):
        read_run(tmp_path)


def test_a_run_that_saved_no_checkpoint_begins_again(tmp_path):
    record(tmp_path, [1, 2])
    record(tmp_path, [1], resume=0)
    assert read_run(tmp_path).column("loss")[0].tolist() == [1]


def _holds_a_run(folder):
    record(folder, [1])
    record(folder, [1])


def _resumes_nothing(folder):
    record(folder, [6], resume=5)


def _resumes_the_other_side(folder):
    record(folder, [1])
    RunRecord.open(folder, {**SAID, "side": "tf"}, 1)


def _is_a_file(folder):
    (folder / "file").touch()
    record(folder / "file" / "run", [1])


def _says_too_little(folder):
    RunRecord.open(folder, {"side": "tf"})


def _reads_nothing(folder):
    read_run(folder)


def _reads_other_json(folder):
    (folder / DESCRIPTION).write_text("{}")
    read_run(folder)


def _reads_no_json(folder):
    (folder / DESCRIPTION).write_text("{")
    read_run(folder)


@pytest.mark.parametrize(
    ("act", "fact"),
    [
        (_holds_a_run, "already holds a run"),
        (_resumes_nothing, "holds no run to resume at step 5"),
        (_resumes_the_other_side, "is a run of the torch side"),
        (_is_a_file, "cannot be written"),
        (_says_too_little, "the description does not say: settings"),
        (_reads_nothing, "holds no run"),
        (_reads_other_json, "is not the description of a run"),
        (_reads_no_json, "cannot be read"),
    ],
)
def test_misuse_is_one_clear_error(tmp_path, act, fact):
    with pytest.raises(InputError, match=fact):
        act(tmp_path)


def test_a_full_disk_is_one_clear_error(tmp_path):
    run = RunRecord.open(tmp_path, SAID)
    run.close()
    with open("/dev/full", "ab", buffering=0) as full:
        run._stream = full
        with pytest.raises(InputError, match="the record of step 3 cannot be written") as error:
            run.write(3, "train", {"loss": 1.0})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("name", ["Loss", "loss_ce_", "lr", "learning_rate", "pq"])
def test_an_unknown_name_is_refused(tmp_path, name):
    with RunRecord.open(tmp_path, SAID) as run, pytest.raises(ValueError, match="is no name"):
        run.write(1, "train", {name: 1.0})


def test_a_folder_has_a_run_once_it_is_started(tmp_path):
    assert not has_run(tmp_path)
    record(tmp_path, [])
    assert has_run(tmp_path)
    assert read_run(tmp_path).rows == ()

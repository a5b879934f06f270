"""Detectron2's metrics.json and TensorBoard event files as runs of our record."""

import json

import pytest

from maskformer.model import zoo
from maskformer.runs.event_files import EventWriter, read_scalars
from maskformer.runs.run_record import read_run
from parity.errors import InputError
from replication.runs.imported import import_run

LINES = [
    {
        "iteration": 19,
        "total_loss": 98.5,
        "loss_ce": 5.1,
        "loss_mask": 2.0,
        "loss_dice": 4.5,
        "loss_ce_0": 5.2,
        "loss_mask_0": 3.0,
        "loss_dice_0": 4.6,
        "lr": 1e-4,
        "time": 0.5,
        "data_time": 0.1,
        "eta_seconds": 1000.0,
    },
    {"iteration": 39, "total_loss": 90.0, "loss_mask": 1.0, "time": 0.5, "data_time": 0.2},
    {
        "iteration": 39,
        "panoptic_seg/PQ": 40.5,
        "panoptic_seg/PQ_th": 44.0,
        "panoptic_seg/PQ_st": 35.0,
        "panoptic_seg/SQ": 80.0,
        "sem_seg/mIoU": 50.0,
    },
]


def write(path, lines):
    """A metrics.json of these lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_detectron2s_log_becomes_a_run(tmp_path):
    import_run(write(tmp_path / "metrics.json", LINES), tmp_path / "run", "coco_r50")
    run = read_run(tmp_path / "run")
    assert run.description["side"] == "imported"
    assert run.description["settings"] == {"config": "coco_r50"}
    command = f"parity import-run {tmp_path}/metrics.json --config coco_r50 --out DIR"
    assert run.description["command"] == command
    steps, losses = run.column("loss")
    assert (steps.tolist(), losses.tolist()) == ([20, 40], [98.5, 90.0])
    first = run.rows[0]
    assert first.values["loss_mask"] == 2.0 / 20
    assert first.values["loss_mask_0"] == 3.0 / 20
    assert first.values["loss_ce"] == 5.1
    assert first.values["learning_rate/head"] == 1e-4
    assert first.values["step_seconds"] == 0.5
    assert first.values["data_wait_share"] == 0.1 / 0.5
    assert first.values["other/eta_seconds"] == 1000.0
    assert first.seconds == 10.0
    assert run.last("panoptic_quality") == 40.5
    assert run.last("panoptic_quality_things") == 44.0
    assert run.last("mean_iou") == 50.0
    assert run.last("other/panoptic_seg/SQ", "train") == 80.0


def test_a_resumed_log_replaces_what_it_repeats(tmp_path):
    lines = [{"iteration": i, "total_loss": float(n)} for n, i in enumerate([9, 19, 29, 19, 39])]
    import_run(write(tmp_path / "metrics.json", lines), tmp_path / "run", "coco_r50")
    steps, losses = read_run(tmp_path / "run").column("loss")
    assert steps.tolist() == [10, 20, 40]
    assert losses.tolist() == [0, 3, 4]


def test_a_log_that_is_being_written_loses_its_torn_line(tmp_path):
    path = write(tmp_path / "metrics.json", LINES)
    path.write_text(path.read_text()[:-30])
    import_run(path, tmp_path / "run", "coco_r50")
    assert read_run(tmp_path / "run").column("loss")[0].tolist() == [20, 40]


def test_detectron2s_events_give_the_same_run_as_its_json(tmp_path):
    events = EventWriter(tmp_path / "log")
    for line in LINES:
        events.scalars(line["iteration"], {k: v for k, v in line.items() if k != "iteration"})
    events.close()
    import_run(tmp_path / "log", tmp_path / "a", "coco_r50")
    import_run(write(tmp_path / "metrics.json", LINES), tmp_path / "b", "coco_r50")
    ours, theirs = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    assert [(row.step, row.split) for row in ours.rows] == [(r.step, r.split) for r in theirs.rows]
    for mine, other in zip(ours.rows, theirs.rows, strict=True):
        assert mine.values == pytest.approx(dict(other.values), rel=1e-6)


def test_our_own_events_keep_their_steps_and_names(tmp_path):
    events = EventWriter(tmp_path / "log", 3)
    events.scalars(3, {"loss": 2.5, "loss_mask": 0.5}, "train/")
    events.scalars(3, {"mean_iou": 50.0}, "eval/")
    events.close()
    import_run(tmp_path / "log", tmp_path / "run", "scenes_tiny")
    rows = read_run(tmp_path / "run").rows
    assert [(row.step, row.split, dict(row.values)) for row in rows] == [
        (3, "train", {"loss": 2.5, "loss_mask": 0.5}),
        (3, "eval", {"mean_iou": 50.0}),
    ]


@pytest.mark.slow
def test_tensorboard_itself_reads_what_is_written(tmp_path):
    """Slow, because TensorBoard loads TensorFlow; the others read the file by themselves."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = EventWriter(tmp_path)
    for step in (1, 2, 3):
        events.scalars(step, {"loss": step / 2}, "train/")
    events.close()
    resumed = EventWriter(tmp_path, 3)
    resumed.scalars(3, {"loss": 7.0}, "train/")
    resumed.close()
    loaded = accumulator.EventAccumulator(str(tmp_path))
    loaded.Reload()
    found = [(scalar.step, scalar.value) for scalar in loaded.Scalars("train/loss")]
    assert found == [(1, 0.5), (2, 1.0), (3, 7.0)]


def test_a_damaged_event_file_is_noticed_and_a_torn_one_read(tmp_path):
    events = EventWriter(tmp_path)
    for step in (1, 2):
        events.scalars(step, {"loss": 1.0})
    events.close()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    assert [scalar.step for scalar in read_scalars(path)] == [1]
    path.write_bytes(content[:60] + b"\xff" + content[61:])
    with pytest.raises(InputError, match="does not have its checksum"):
        list(read_scalars(path))


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("metrics.json", "", "holds no values"),
        ("metrics.json", "[1]\n[2]\n", "line 1 is not one of Detectron2's"),
        ("metrics.json", '{"total_loss": 1}\n', "line 1 is not one of Detectron2's"),
        ("metrics.json", '{"iteration": 0}\n{"iter\n{}\n', "line 2 is not one of"),
        ("events.out.tfevents.1", "no events but enough bytes", "it is not an event file"),
        ("other.txt", "x", "holds no log"),
        (None, None, "does not exist"),
    ],
)
def test_a_source_that_is_no_log_is_one_clear_error(tmp_path, name, content, fact):
    source = tmp_path / "source"
    if name:
        source.mkdir()
        (source / name).write_text(content)
    with pytest.raises(InputError, match=fact):
        import_run(source, tmp_path / "run", "coco_r50")
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_left_alone(tmp_path):
    source = write(tmp_path / "metrics.json", LINES)
    import_run(source, tmp_path / "run", "coco_r50")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="already holds a run"):
        import_run(source, tmp_path / "run", "coco_r50")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_the_command_prints_what_it_found(tmp_path, parity):
    source = write(tmp_path / "metrics.json", LINES)
    words = ["import-run", source, "--config", "coco_r50", "--out", tmp_path / "run"]
    status, out, _ = parity(*words, "--json")
    assert status == 0
    result = json.loads(out)
    assert result["last_step"] == 40
    assert result["eval"]["panoptic_quality"] == 40.5
    status, _, err = parity(*words, "--config", "coco_r5")
    assert status == 2
    assert zoo.names()[0] in err

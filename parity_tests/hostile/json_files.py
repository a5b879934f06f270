"""Every reader of JSON, and what no JSON of a stranger may do to it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_impl.storage.tfrecord import FORMAT, MANIFEST, RecordFolder

Read = Callable[[Path], Any]
JSON: dict[str, tuple[str, Read]] = {}
"""By what is read: the file's path in a folder, and what reads the folder."""

HOSTILE = {
    "nested 100,000 deep": "[" * 100_000 + "]" * 100_000,
    "opened 1,000,000 times": '{"a":' * 1_000_000,
    "a number of 400 digits": '{"schema": ' + "9" * 400 + "}",
    "half a letter": '{"schema": "\\udc00"}',
    "a key twice": '{"schema": 1, "schema": 2}',
    "a number": "1e999",
    "cut short": '{"schema": "',
}


def reader(file: str) -> Callable[[Read], Read]:
    """Registers what reads a folder in which `file` is JSON of a stranger."""

    def register(read: Read) -> Read:
        JSON[read.__name__] = (file, read)
        return read

    return register


def made(name: str, text: str, folder: Path) -> Callable[[], Any]:
    """Writes the file that a reader takes; returns what reads it."""
    file, read = JSON[name]
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return lambda: read(folder)


@reader("w.safetensors.index.json")
def index_of_shards(folder):
    from weight_conversion.checkpoints import open_source

    return open_source(folder / "w.safetensors.index.json")


@reader("config.json")
def library_config(folder):
    from weight_conversion.checkpoints import open_source

    (folder / "model.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    return open_source(folder)


@reader("receipt.json")
def receipt(folder):
    from weight_conversion.verification import verify

    return verify(folder / "receipt.json")


@reader("own_config.json")
def own_config(folder):
    from maskformer.model.detectron2_config import entry_of

    return entry_of(str(folder / "own_config.json"))


@reader("annotations/panoptic_val.json")
def panoptic(folder):
    from maskformer.data.dataset_layout import open_split

    for name in ("val", "panoptic_val"):
        (folder / name).mkdir()
    return open_split(folder, "val")


@reader("instances.json")
def instances(folder):
    from maskformer.data.conversion import Place, from_instances

    return from_instances(folder / "instances.json", folder, Place(folder / "out", "val"))


@reader("classes.json")
def classes(folder):
    from maskformer.data.conversion import classes_of

    return classes_of(str(folder / "classes.json"))


@reader("panoptic.json")
def predictions(folder):
    from maskformer.data.panoptic_format import read_dataset

    return read_dataset(folder / "panoptic.json", folder)


@reader("evidence.json")
def result(folder):
    from reports.loading import load

    return load([folder / "evidence.json"])


@reader("report.json")
def report(folder):
    """`verify` names it as a problem of the report: it must not be believed, nor raise."""
    from parity.errors import InputError
    from reports.verification.verify import verify

    (folder / "evidence").mkdir()
    found = verify(folder)
    raise InputError(str(found.problems[0]))


@reader("run.json")
def description_of_a_run(folder):
    from maskformer.runs.run_record import read_run

    return read_run(folder)


@reader("metrics.jsonl")
def record_of_a_run(folder):
    from maskformer.runs.run_record import SCHEMA, read_run

    known = {"schema": SCHEMA, "side": "torch"}
    named = ("settings", "versions", "data_sha256", "checkpoint_sha256", "git_commit")
    (folder / "run.json").write_text(json.dumps(known | {key: {} for key in named}))
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text() + "\n")
    return read_run(folder).rows


@reader("metrics.json")
def log_of_detectron2(folder):
    from replication.runs.imported import import_run

    path = folder / "metrics.json"
    path.write_text(path.read_text() + "\n")
    return import_run(path, folder / "out", "tiny")


@reader("trace.json")
def trace(folder):
    from parity.trace import Trace

    return Trace.load(folder)


@reader("capture.json")
def capture(folder):
    from parity.captures import kept

    (folder / kept.FILE).write_text((folder / "capture.json").read_text())
    return kept.read(folder, "port")


@reader("header.json")
def header_of_taps(folder):
    from parity.captures.stored import _opened

    text = (folder / "header.json").read_bytes()
    (folder / "taps").write_bytes(len(text).to_bytes(8, "little") + text)
    return _opened(folder / "taps")


@reader("audit.part.json")
def unfinished_audit(folder):
    from parity.auditing import unfinished

    (folder / unfinished.FILE).write_text((folder / "audit.part.json").read_text())
    return unfinished.read_unfinished(folder)


@reader("description.json")
def torch_training(folder):
    from torch_reference import checkpointing

    (folder / checkpointing.DESCRIPTION).write_text((folder / "description.json").read_text())
    return checkpointing.load(folder)


@reader("manifest.json")
def records(folder):
    return RecordFolder(folder)


@reader("val.json")
def index_of_records(folder):
    (folder / "val.tfrecord").write_bytes(b"")
    shard = {"file": "val.tfrecord", "images": 1, "bytes": 0, "sha256": ""}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "shards": [shard]}))
    return RecordFolder(folder)

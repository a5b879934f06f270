"""What is fuzzed: each target reads bytes as a file of one kind, and may raise InputError only."""

import contextlib
import json
import pickle
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.errors import InputError


@dataclass(frozen=True)
class Target:
    """A reader: `read` takes bytes, `seeds` are good files, `modules` are instrumented."""

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    modules: tuple[str, ...]


@contextlib.contextmanager
def _file(content: bytes, name: str = "file.any") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        yield path


def _loaded(path: Path) -> None:
    from weight_conversion.checkpoints import open_source

    with open_source(path) as source:
        for tensor in source.tensors.values():
            tensor.load()


def read_checkpoint(content: bytes) -> None:
    """A file of weights of whatever kind its first bytes say."""
    with _file(content) as path, contextlib.suppress(InputError):
        _loaded(path)


def read_pickle(content: bytes) -> None:
    """The same, with the first bytes of a pickle before it."""
    read_checkpoint(b"\x80\x02" + content)


def read_yaml(content: bytes) -> None:
    """The original's configuration."""
    from maskformer.model import detectron2_config

    with _file(content, "a.yaml") as path, contextlib.suppress(InputError):
        detectron2_config.read(path)


def read_evidence(content: bytes) -> None:
    """A recorded result, which is judged again."""
    from reports.loading import load
    from reports.verification.recheck import unfounded

    with _file(content, "audit.json") as path, contextlib.suppress(InputError):
        unfounded(load([path]))


def read_panoptic(content: bytes) -> None:
    """A panoptic JSON, a zero byte, and the PNG of its first image."""
    from maskformer.data.panoptic_dataset import read_panoptic_images

    text, _, png = content.partition(b"\0")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "a.json").write_bytes(text)
        (root / "a.png").write_bytes(png)
        with contextlib.suppress(InputError):
            images = read_panoptic_images(root / "a.json", root, root)
            for index in range(min(len(images), 2)):
                list(images.faults(index))


def read_record(content: bytes) -> None:
    """One tf.train.Example of a record."""
    from tf_impl.storage.tfrecord import deserialize

    with contextlib.suppress(InputError):
        deserialize(content)


def read_tf_index(content: bytes) -> None:
    """The index of a TF checkpoint, beside a data file of a few bytes."""
    from weight_conversion.checkpoints import open_source

    with _file(content, "ckpt.index") as path, contextlib.suppress(InputError):
        path.with_suffix(".data-00000-of-00001").write_bytes(b"\0" * 64)
        with open_source(path) as source:
            for tensor in source.tensors.values():
                tensor.load()


def _recordings() -> list[bytes]:
    from parity_tests.reports import recorded

    made = (recorded.training_step(), recorded.execution(), recorded.timings())
    return [json.dumps(one).encode() for one in made]


def _tf_indexes() -> list[bytes]:
    """A whole index, whose data file is another, and one of which nothing but the end is right."""
    import tensorflow as tf

    import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

    with tempfile.TemporaryDirectory() as folder:
        model = tf.Module()
        model.a = tf.Variable(np.ones((2, 3), np.float32))
        prefix = tf.train.Checkpoint(model=model).save(str(Path(folder, "ckpt")))
        whole = Path(f"{prefix}.index").read_bytes()
    return [whole, b"\0" * 40 + whole[-8:]]


def _torch_zip() -> bytes:
    import io

    from weight_conversion import torch_files

    stream = io.BytesIO()
    torch_files.write_zip(stream, [("a.weight", (2, 3), "float32")], [np.ones((2, 3), np.float32)])
    return stream.getvalue()


def _safetensors() -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"a": entry}).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 8


def _panoptic() -> bytes:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 1, "width": 1}],
        "annotations": [
            {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 7, "category_id": 1}]}
        ],
        "categories": [{"id": 1, "name": "x", "isthing": 1}],
    }
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\7\0\0")) + chunk(b"IEND", b"")
    return json.dumps(content).encode() + b"\0" + b"\x89PNG\r\n\x1a\n" + png


def _pickles() -> list[bytes]:
    content = {"model": {"a": np.ones(3, np.float32)}, "n": [1, (2.5, None)], "s": {1}}
    return [pickle.dumps(content, protocol)[2:] for protocol in (2, 3, 4)]


def _records() -> list[bytes]:
    """A record of panoptic data, and one of semantic data, each of one pixel."""
    import io

    import tensorflow as tf
    from PIL import Image

    import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

    def ints(*values: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def picture(mode: str) -> tf.train.Feature:
        stream = io.BytesIO()
        Image.new(mode, (1, 1), 1 if mode == "L" else (1, 1, 1)).save(stream, "PNG")
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[stream.getvalue()]))

    common = {"image/encoded": picture("RGB"), "image/height": ints(1), "image/width": ints(1)}
    panoptic = {
        "image/panoptic/instance_mask": picture("L"),
        "image/object/class/label": ints(3),
        "image/object/is_crowd": ints(0),
    }
    return [
        tf.train.Example(features=tf.train.Features(feature=common | more)).SerializeToString()
        for more in (panoptic, {"image/segmentation/class/encoded": picture("L")})
    ]


_WEIGHTS = ("weight_conversion",)
TARGETS = {
    "pickle": Target(read_pickle, _pickles, _WEIGHTS),
    "zip": Target(read_checkpoint, lambda: [_torch_zip()], _WEIGHTS),
    "safetensors": Target(read_checkpoint, lambda: [_safetensors()], _WEIGHTS),
    "yaml": Target(
        read_yaml, lambda: [b"MODEL:\n  WEIGHTS: x\nSOLVER: {STEPS: (1, 2)}\n"], ("maskformer",)
    ),
    "evidence": Target(read_evidence, _recordings, ("reports", "parity")),
    "panoptic": Target(read_panoptic, lambda: [_panoptic()], ("maskformer", "parity")),
    "tfrecord": Target(read_record, _records, ("tf_impl", "maskformer")),
    "tf_index": Target(read_tf_index, _tf_indexes, _WEIGHTS),
}

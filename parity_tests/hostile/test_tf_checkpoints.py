"""TF checkpoints that were cut, grown, exchanged, or whose object graph is odd: one error each."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity.errors import InputError
from parity_tests.hostile.checkpoint_files import read_all
from parity_tests.weight_conversion.samples import CONFIG, state, write_safetensors
from weight_conversion import tf_checkpoint
from weight_conversion.convert import convert


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tf")
    convert(write_safetensors(folder / "a.safetensors", state()), folder / "tf", "tf", CONFIG)
    return folder / "tf"


def _resized(name: str, change: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = next(folder.glob(f"ckpt.{name}*"))
        content = path.read_bytes()
        path.write_bytes(content[:change] if change < 0 else content + b"\0" * change)

    return spoil


def _elsewhere(folder: Path) -> None:
    shutil.copy(folder / "ckpt.index", folder / "other.index")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/etc/passwd"\n')


def _footer(folder: Path) -> None:
    """The index names a block that is larger than any memory: 280 TB."""
    path = next(folder.glob("ckpt.index"))
    content = path.read_bytes()
    path.write_bytes(content[:-48] + b"\0\0\0" + b"\xff" * 6 + b"\x3f" + b"\0" * 30 + content[-8:])


def _inner_block(folder: Path) -> None:
    """A table of one block, which lists one of 3 GB."""
    path = next(folder.glob("ckpt.index"))
    handle = b"\0" + b"\x80\x80\x80\x80\x0c"
    block = b"\0\1" + bytes([len(handle)]) + b"a" + handle + struct.pack("<II", 0, 1)
    footer = b"\0\0\0" + bytes([len(block)])
    path.write_bytes(block + b"\0" * 5 + footer.ljust(40, b"\0") + path.read_bytes()[-8:])


SPOILED = {
    "index cut": (_resized("index", -40), "does not end as a table does"),
    "index cut to nothing": (_resized("index", -(10**9)), "does not end as a table does"),
    "index longer": (_resized("index", 8), "does not end as a table does"),
    "block of 280 TB": (_footer, "names a block of"),
    "block of 3 GB among the others": (_inner_block, "names a block of"),
    "data cut": (_resized("data", -2000), "is damaged"),
    "state that points elsewhere": (_elsewhere, "holds 2 checkpoints"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_checkpoint_gives_one_error(name: str, good: Path, tmp_path: Path) -> None:
    spoil, message = SPOILED[name]
    folder = tmp_path / "tf"
    shutil.copytree(good, folder)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        read_all(folder)


def graph(children: list[list[tuple[str, int]]], last: str = "") -> object:
    """An object graph: the children of each node, and a variable at the last one."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    found = trackable_object_graph_pb2.TrackableObjectGraph()
    for of_node in children:
        node = found.nodes.add()
        for name, number in of_node:
            node.children.add(local_name=name, node_id=number)
    if last:
        found.nodes[-1].attributes.add(name="VARIABLE_VALUE", checkpoint_key=last)
    return found


GRAPHS = {
    "no node": (lambda: graph([]), "is damaged"),
    "a child that is not there": (lambda: graph([[("model", 99)]]), "is damaged"),
    "a negative child": (lambda: graph([[("model", -7)]]), "is damaged"),
    "a key that is not there": (lambda: graph([[("model", 1)], []], "nowhere"), "index does not"),
    "a chain without end": (
        lambda: graph([[("model", 1)], *([("x", n + 2)] for n in range(3000)), []], "v"),
        "nested too deeply",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_an_odd_object_graph_gives_one_error(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    make, message = GRAPHS[name]
    tensors = {
        "_CHECKPOINTABLE_OBJECT_GRAPH": tf.constant(make().SerializeToString()),
        "v": tf.constant(np.ones(3, np.float32)),
    }
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "ckpt"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    with pytest.raises(InputError, match=message):
        tf_checkpoint.read(tmp_path / "ckpt")


def test_a_graph_that_is_a_number_gives_one_error(tmp_path: Path) -> None:
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "ckpt"),
        tensor_names=["_CHECKPOINTABLE_OBJECT_GRAPH"],
        shape_and_slices=[""],
        tensors=[tf.constant(1.0)],
    )
    with pytest.raises(InputError, match="is damaged"):
        tf_checkpoint.read(tmp_path / "ckpt")

"""TensorFlow checkpoints whose object graph is the model's attribute path: read and written.

Written checkpoints are what ``tf.train.Checkpoint(model=model).save(...)`` would write, without a
model in memory: the tensors pass through in groups, and TensorFlow's own operations write them.
"""

import contextlib
import importlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_bytes
from weight_conversion.stored import DTYPES, StoredTensor, check_shape, damaged, refused
from weight_conversion.torch_files import Declared

NAME = "ckpt"
"""Prefix of the files in a written checkpoint folder."""

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
_SAVE_COUNTER_KEY = f"save_counter/.ATTRIBUTES/{_VALUE}"
_PART = "part-"
_GROUP_BYTES = 16 << 20
_TABLE_END = bytes.fromhex("57fb808b247547db")  # of a table of LevelDB, which an index is
_FOOTER, _TRAILER = 48, 5  # bytes behind all blocks of a table, and behind each
_TRAINING_STATE = ("optimizer", "global_step", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH")


def _tensorflow() -> Any:
    # importing it selects tf_keras, which must come before TensorFlow
    return importlib.import_module("tf_impl") and importlib.import_module("tensorflow")


def prefix_of(path: Path) -> Path | None:
    """The checkpoint prefix that `path` names: a folder, an `.index` file or the prefix itself.

    None where there is no checkpoint. A folder's state file decides between several.

    Raises:
        InputError: a folder holds several checkpoints and no usable state file.
    """
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        state = path / "checkpoint"
        if len(found) > 1 and state.is_file():
            read_bytes(state, bounds.SETTINGS_BYTES, "checkpoint state")
            latest = _tensorflow().train.latest_checkpoint(str(path))
            if latest and Path(latest).parent.resolve() == path.resolve():
                return Path(latest)
        if len(found) > 1:
            raise InputError(
                f"{path} holds {len(found)} checkpoints",
                ", ".join(file.stem for file in found),
                f"name one, for example {found[-1].with_suffix('')}",
            )
        return found[0].with_suffix("") if found else None
    if path.suffix == ".index" and path.is_file():
        return path.with_suffix("")
    return path if Path(f"{path}.index").is_file() else None


def files_of(prefix: Path) -> list[Path]:
    """The files of one checkpoint, sorted: its index and its data."""
    return sorted([Path(f"{prefix}.index"), *prefix.parent.glob(f"{prefix.name}.data-*")])


def read(prefix: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The model's tensors by attribute path, in TF's layout, and what else the checkpoint holds.

    The second value gives each other entry's reason to be left out (training state).

    Raises:
        InputError: it is damaged, or was not written by `tf.train.Checkpoint`.
    """
    tf = _tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    _check_index(Path(f"{prefix}.index"))
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        if _GRAPH_KEY not in shapes:
            raise InputError(
                f"{prefix} is a TF1 checkpoint without an object graph",
                f"it holds {len(shapes)} variables by name",
                "expected: a checkpoint of tf.train.Checkpoint(model=...)",
            )
        graph.ParseFromString(reader.get_tensor(_GRAPH_KEY))
        keys = _model_keys(graph)
    except (tf.errors.OpError, DecodeError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(prefix, error) from None
    except RuntimeError as error:
        raise _damaged(prefix, error) from None
    tensors = {}
    for name, key in keys.items():
        if key not in shapes:
            raise _damaged(prefix, f"its graph names {key}, its index does not")
        tensors[name] = _stored(tf, reader, prefix, key, tuple(shapes[key]), dtypes[key].name)
    left_out = {}
    for key in sorted(set(shapes) - set(keys.values())):
        if not key.startswith(_TRAINING_STATE) and "/.OPTIMIZER_SLOT/" not in key:
            raise InputError(
                f"{prefix} holds {key}, which belongs to no model attribute",
                f"{len(keys)} others do",
                "expected: a checkpoint of tf.train.Checkpoint(model=...)",
            )
        if key not in (_GRAPH_KEY, _SAVE_COUNTER_KEY):
            left_out[key] = "training state"
    return tensors, left_out


def _check_index(path: Path) -> None:
    """Raises InputError for a table that is too large, or that TensorFlow would not call one.

    TensorFlow makes room for as many bytes as a table says that a block has, so every block that it
    names is looked up here: in its last 48 bytes two, and in the second of these all others.
    """
    size = path.stat().st_size
    if size > bounds.HEADER_BYTES:
        raise refused(path, f"its table has {size:,} bytes")
    table = path.read_bytes()
    if not table.endswith(_TABLE_END) or size < _FOOTER:
        raise damaged(path, "it does not end as a table does")
    try:
        place = _block(table, table, _block(table, table, size - _FOOTER)[2])
        block = table[place[0] : place[0] + place[1]]
        if table[place[0] + place[1]] != 0:
            raise ValueError("its blocks are compressed, as TensorFlow writes none")
        restarts = int.from_bytes(block[-4:], "little")
        position, end = 0, len(block) - 4 - 4 * restarts
        while position < end:
            _, position = _varint(block, position)
            fresh, position = _varint(block, position)
            length, position = _varint(block, position)
            _block(table, block[: position + fresh + length], position + fresh)
            position += fresh + length
    except ValueError as error:
        raise damaged(path, str(error)) from None


def _block(table: bytes, within: bytes, position: int) -> tuple[int, int, int]:
    """Offset and length of the block of a table that is named at a position, and what follows it.

    Raises ValueError where the table has no such block.
    """
    offset, position = _varint(within, position)
    length, position = _varint(within, position)
    if offset + length + _TRAILER > len(table) - _FOOTER:
        raise ValueError(f"it names a block of {length:,} bytes, and has {len(table):,}")
    return offset, length, position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and the position behind it. Raises ValueError for none."""
    found = 0
    for index in range(10):
        if position + index >= len(content):
            break
        byte = content[position + index]
        found |= (byte & 127) << (7 * index)
        if byte < 128:
            return found, position + index + 1
    raise ValueError("its table is cut off")


def _damaged(prefix: Path, reason: object) -> InputError:
    evidence = str(reason).splitlines()[0][:300]
    return InputError(f"TF checkpoint {prefix} is damaged", evidence, "obtain the files again")


def _stored(
    tf: Any, reader: Any, prefix: Path, key: str, shape: tuple[int, ...], dtype: str
) -> StoredTensor:
    if dtype not in DTYPES:
        raise InputError(f"{prefix} holds {key} as {dtype}", f"known: {', '.join(DTYPES)}")
    if any(side < 0 for side in shape) or check_shape(shape):
        raise refused(prefix, f"{key} has the shape {list(shape)[:40]}")

    def load() -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(key))
        except (tf.errors.OpError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(prefix, error) from None

    return StoredTensor(shape, dtype, load)


def _model_keys(graph: Any) -> dict[str, str]:
    """Checkpoint key by attribute path below the model; every variable once."""
    children = {child.local_name: child.node_id for child in graph.nodes[0].children}
    start = next((children[name] for name in ("model", "backbone") if name in children), None)
    if start is None:
        raise ValueError(f"its root has {', '.join(children) or 'nothing'}, but no model")
    prefix = () if "model" in children else ("backbone",)
    keys: dict[str, str] = {}
    seen = {start}
    queue: list[tuple[int, tuple[str, ...]]] = [(start, prefix)]
    for node, path in queue:
        if len(path) > bounds.DEEPEST or len(keys) > bounds.MOST_NAMES:
            raise refused(Path("the graph"), "its objects are too many, or nested too deeply")
        for attribute in graph.nodes[node].attributes:
            if attribute.name == _VALUE:
                keys[".".join(path)] = attribute.checkpoint_key
        for child in graph.nodes[node].children:
            if child.node_id not in seen:
                seen.add(child.node_id)
                queue.append((child.node_id, (*path, child.local_name)))
    return keys


def write_parts(
    folder: Path, declared: Sequence[Declared], arrays: Iterable[np.ndarray]
) -> Iterator[Path]:
    """Writes a checkpoint into `folder`, which exists, in parts that `merge_parts` makes whole.

    `declared` are state-dict keys with TF shapes; `arrays` gives them in that order, in TF's
    layout. Tensors of at most `_GROUP_BYTES` together are held at a time. Yields the data file of
    each part once it is complete.

    Raises:
        InputError: TensorFlow could not write, for example on a full disk.
    """
    tf = _tensorflow()
    names = [name for name, _, _ in declared]
    graph = _object_graph(names).SerializeToString(deterministic=True)
    state = [(_GRAPH_KEY, tf.constant(graph)), (_SAVE_COUNTER_KEY, tf.constant(1, tf.int64))]
    keys = (_checkpoint_key(name) for name in names)
    groups = itertools.chain(_groups(zip(keys, arrays, strict=True)), [state])
    for index, group in enumerate(groups):
        part = folder / f"{_PART}{index:05d}"
        with _writing(folder):
            tf.raw_ops.SaveV2(
                prefix=str(part),
                tensor_names=[key for key, _ in group],
                shape_and_slices=[""] * len(group),
                tensors=[_tensor(tf, value) for _, value in group],
            )
        yield Path(f"{part}.data-00000-of-00001")


def merge_parts(folder: Path) -> list[Path]:
    """Makes the parts in `folder` one checkpoint named `NAME`, with its state file.

    Returns the data files, which are those of the parts, in their order, under new names.

    Raises:
        InputError: as `write_parts`.
    """
    tf = _tensorflow()
    parts = sorted(str(file.with_suffix("")) for file in folder.glob(f"{_PART}*.index"))
    with _writing(folder):
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=parts, destination_prefix=str(folder / NAME), delete_old_dirs=False
        )
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{NAME}"\nall_model_checkpoint_paths: "{NAME}"\n'
    )
    return sorted(folder.glob(f"{NAME}.data-*"))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns TensorFlow's errors into one InputError."""
    tf = _tensorflow()
    try:
        yield
    except tf.errors.OpError as error:
        reason = str(error).splitlines()[0][:300]
        raise InputError(f"{folder} cannot be written", reason, "nothing was kept") from None


def _tensor(tf: Any, value: Any) -> Any:
    """`value` for an operation of TensorFlow; a large array shares its memory."""
    if isinstance(value, np.ndarray) and value.flags.writeable and value.size:
        return tf.experimental.dlpack.from_dlpack(value.__dlpack__())
    return value


def _groups(
    items: Iterable[tuple[str, np.ndarray]],
) -> Iterator[list[tuple[str, np.ndarray]]]:
    group: list[tuple[str, np.ndarray]] = []
    size = 0
    for key, array in items:
        if group and size + array.nbytes > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append((key, array))
        size += array.nbytes
    if group:
        yield group


def _checkpoint_key(name: str) -> str:
    return f"model/{name.replace('.', '/')}/.ATTRIBUTES/{_VALUE}"


def _object_graph(names: Sequence[str]) -> Any:
    """The graph of a root with one `model`, a node for each attribute on the way to a variable.

    The root also has the backbone as a child, so that ``Checkpoint(backbone=...)`` finds it.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for part in name.split("."):
            node = node.setdefault(part, {})
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.nodes.add().has_checkpoint_values.value = True

    def add(children: Mapping[str, Any], path: str) -> int:
        index = len(graph.nodes)
        node = graph.nodes.add()
        node.has_checkpoint_values.value = True
        if not children:
            node.attributes.add(
                name=_VALUE,
                full_name=path.rpartition(".")[2],
                checkpoint_key=_checkpoint_key(path),
            )
        for local_name, below in children.items():
            child = add(below, f"{path}.{local_name}" if path else local_name)
            graph.nodes[index].children.add(node_id=child, local_name=local_name)
        return index

    graph.nodes[0].children.add(node_id=add(tree, ""), local_name="model")
    backbone = [child for child in graph.nodes[1].children if child.local_name == "backbone"]
    for child in backbone:
        graph.nodes[0].children.add(node_id=child.node_id, local_name="backbone")
    # `restore` looks for the counter that `save` writes
    counter = graph.nodes.add()
    counter.has_checkpoint_values.value = True
    counter.attributes.add(name=_VALUE, full_name="save_counter", checkpoint_key=_SAVE_COUNTER_KEY)
    graph.nodes[0].children.add(node_id=len(graph.nodes) - 1, local_name="save_counter")
    return graph

"""Both checkpoints of a receipt decoded by other programs' readers, and compared bit by bit.

What reads, lays out and hashes here is not what converted: safetensors files are read by the
library of that name, PyTorch's by PyTorch, TensorFlow's by TensorFlow, pickles by Python. A mistake
in this package's own readers, as a rounding through float16, would else be derived again and hold.
"""

import hashlib
import importlib.util
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weight_conversion.receipt import Checkpoint, Entry, Receipt, Tensor

Arrays = dict[str, np.ndarray]

AXES = {"OIHW to HWIO": (2, 3, 1, 0), "[out,in] to [in,out]": (1, 0)}
"""How a stated rule turns axes; its inverse where " inverted" follows. Others keep them."""

_PLAIN = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    *((f"numpy{core}.multiarray", "_reconstruct") for core in (".core", "._core")),
    *((f"numpy{core}.multiarray", "scalar") for core in (".core", "._core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


@dataclass(frozen=True)
class SecondReading:
    """What disagrees with the receipt, and what no second reader could say."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read_again(receipt: Receipt, folder: Path) -> SecondReading:
    """Compares each target tensor with its sources as other readers decode them.

    Args:
        receipt: of files that this package's own readers accept.
        folder: where the receipt lies; its paths are relative to it.
    """
    sides = {}
    for side, one in (("source", receipt.source), ("target", receipt.target)):
        found = _decoded(one, folder)
        if isinstance(found, str):
            return SecondReading((), (f"the {side} was not read a second time: {found}",))
        sides[side] = found
    by_bits = {_digest(array): array for array in sides["source"].values()}
    problems, computed = [], 0
    for entry in receipt.tensors:
        problems += _sources(entry, by_bits)
        arrays = [by_bits.get(one.sha256) for one in entry.sources]
        for index, stated in enumerate(entry.targets):
            stored = _stored(sides["target"], stated)
            if isinstance(stored, str):
                problems.append(stored)
            elif not _is_moved(entry, stated):
                computed += 1
            elif all(one is not None for one in arrays):
                wanted = _laid_out(entry, index, arrays, receipt.options["dtype"])
                problems += _compared(stated, stored, wanted)
    told = f"{computed} tensors are computed, not moved; no second reader knows their values"
    return SecondReading(tuple(problems), (told,) if computed else ())


def _sources(entry: Entry, by_bits: Mapping[str, np.ndarray]) -> Iterator[str]:
    for stated in entry.sources:
        array = by_bits.get(stated.sha256)
        if array is None:
            yield f"{stated.name}: a second reader finds no tensor of these bits in the source"
        elif (array.shape, array.dtype.name) != (stated.shape, stated.dtype):
            yield f"{stated.name}: has another shape or type in the source for a second reader"


def _stored(target: Arrays, stated: Tensor) -> np.ndarray | str:
    """The target's tensor; a sentence where it is not what the receipt states."""
    variable = f"model/{stated.name.replace('.', '/')}/.ATTRIBUTES/VARIABLE_VALUE"
    array = target.get(stated.name, target.get(variable))
    if array is None:
        return f"{stated.name}: a second reader does not find it in the target"
    if (array.shape, array.dtype.name) != (stated.shape, stated.dtype):
        return f"{stated.name}: is {array.dtype.name} {list(array.shape)} for a second reader"
    return array


def _is_moved(entry: Entry, stated: Tensor) -> bool:
    """Whether its values are the source's, and not computed."""
    rules = {"same", "three parts joined", "one of three parts", *AXES}
    return bool(entry.sources) and {entry.rule.removesuffix(", inverted"), stated.rule} <= rules


def _laid_out(entry: Entry, index: int, sources: Sequence[Any], dtype: str | None) -> np.ndarray:
    """What target `index` must hold, from the sources alone."""
    value = np.concatenate(sources) if len(sources) > 1 else sources[0]
    if entry.rule.endswith(", inverted"):
        value = value.transpose(np.argsort(AXES[entry.rule.removesuffix(", inverted")]))
    stated = entry.targets[index]
    if len(entry.targets) > 1:
        value = np.split(value, len(entry.targets))[index]
    if stated.rule in AXES:
        value = value.transpose(AXES[stated.rule])
    return value.astype(dtype) if dtype and value.dtype.kind in "fV" else value


def _compared(stated: Tensor, stored: np.ndarray, wanted: np.ndarray) -> Iterator[str]:
    wanted = wanted.reshape(stored.shape) if wanted.size == stored.size else wanted
    if (wanted.shape, wanted.dtype) != (stored.shape, stored.dtype):
        yield f"{stated.name}: is {stored.dtype.name}, its source {wanted.dtype.name}"
        return
    differing = int(np.count_nonzero((_bytes(wanted) != _bytes(stored)).any(-1)))
    if differing:
        yield (
            f"{stated.name}: {differing} of {stored.size} values have other bits than the source's "
            "for a second reader"
        )


def _bytes(array: np.ndarray) -> np.ndarray:
    """[values, bytes of each]"""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(array.size, array.dtype.itemsize)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _decoded(one: Checkpoint, folder: Path) -> Arrays | str:
    """Every tensor of a checkpoint; why it is not read where it is not."""
    path = folder / one.path
    parent = path if path.is_dir() else path.parent
    found: Arrays = {}
    for stated in one.files:
        file = parent / Path(stated.name).name
        reader = _reader(file)
        if reader is None:
            continue
        library, read = reader
        if library and importlib.util.find_spec(library) is None:
            return f"{library} is not installed"
        try:
            found |= read(file)
        except (ValueError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            return f"{library or 'pickle'} does not read {file.name}: {str(error).splitlines()[0]}"
    return found


def _reader(file: Path) -> tuple[str, Callable[[Path], Arrays]] | None:
    """The library that reads a file, and how; None for one without tensors of its own."""
    if file.suffix == ".index":
        return "tensorflow", _read_tensorflow
    if file.suffix in (".json", ".yaml") or ".data-" in file.name or file.name == "checkpoint":
        return None
    with file.open("rb") as stream:
        start = stream.read(9)
    if start[8:9] == b"{":
        return "safetensors", _read_safetensors
    return ("torch", _read_torch) if start.startswith(b"PK") else ("", _read_pickle)


def _read_safetensors(file: Path) -> Arrays:
    from safetensors.numpy import load_file

    return load_file(file)


def _read_tensorflow(file: Path) -> Arrays:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(file.with_suffix("")))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: np.asarray(reader.get_tensor(name)) for name in names}


def _read_torch(file: Path) -> Arrays:
    import torch

    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return dict(
        _leaves(content, lambda one: isinstance(one, torch.Tensor), lambda one: one.numpy())
    )


def _read_pickle(file: Path) -> Arrays:
    with file.open("rb") as stream:
        content = _Plain(stream).load()
    return dict(_leaves(content, lambda one: isinstance(one, np.ndarray), lambda one: one))


class _Plain(pickle.Unpickler):
    """Python's own reader, of arrays in mappings and lists and of nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return super().find_class(module, name)


def _leaves(
    content: Any, is_array: Callable[[Any], bool], array: Callable[[Any], np.ndarray], at: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Every array in nested mappings; one in a wrapper has its name behind the wrapper's key."""
    if is_array(content):
        yield at, array(content)
    elif isinstance(content, Mapping):
        for name, one in content.items():
            wrapped = isinstance(one, Mapping)
            yield from _leaves(one, is_array, array, "" if wrapped else str(name))

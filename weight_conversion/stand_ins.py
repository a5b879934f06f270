"""What a pickle's names stand for here: values that hold data and never run anything.

`ADMITTED` has every name that means something to a reader of weights. A name in `RUNS_CODE` makes
the whole file refused; any other name becomes an `Inert` value, which takes whatever the pickle
does to it and is left out of the result.
"""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.reading import bounds
from weight_conversion.stored import DTYPES, Region, StoredTensor, check_shape, tensor_in

_DTYPE_CODES = {
    f"{kind.kind}{kind.itemsize}": name for name, kind in DTYPES.items() if name != "bfloat16"
}
_RUNNING_MODULES = frozenset(
    (
        *("os", "posix", "nt", "posixpath", "ntpath", "subprocess", "sys", "importlib", "runpy"),
        *("pty", "socket", "shutil", "ctypes", "webbrowser", "code", "codeop", "builtins", "bdb"),
        *("__builtin__", "commands", "popen2", "platform", "pdb", "timeit", "trace", "profile"),
        *("cProfile", "multiprocessing", "threading", "asyncio", "signal", "pip", "pydoc", "imp"),
        *("pkgutil", "zipimport", "linecache", "marshal", "pickle", "_pickle", "cPickle", "types"),
        *("operator", "functools", "urllib", "http", "requests", "tempfile", "io", "_io", "dill"),
    )
)
_HARMLESS = frozenset(
    (
        *("builtins.object", "builtins.int", "builtins.float", "builtins.complex", "builtins.str"),
        *("builtins.bool", "builtins.list", "builtins.tuple", "builtins.dict", "builtins.type"),
        *("builtins.slice", "builtins.range", "builtins.bytearray", "builtins.Ellipsis"),
        *("functools.partial", "types.SimpleNamespace", "operator.or_", "builtins.NoneType"),
    )
)


class MalformedError(Exception):
    """The pickle contradicts itself."""


class BeyondError(Exception):
    """The pickle is whole, and asks for more than is read."""


@dataclass(frozen=True)
class Inert:
    """An object of the class or function `name`, which is neither imported nor called."""

    name: str


@dataclass
class LazyBytes:
    """Bytes still in the file; `is_utf8` where they are stored as Latin-1 text in UTF-8."""

    region: Region
    is_utf8: bool = False

    def read(self) -> bytes:
        """The bytes; raises BeyondError above `bounds.TEXT_BYTES`."""
        if self.region.size > bounds.TEXT_BYTES:
            raise BeyondError(f"a byte string has {self.region.size:,} bytes")
        raw = self.region.read()
        return raw.decode("utf-8").encode("latin-1") if self.is_utf8 else raw


@dataclass
class LazyText:
    """A long text still in the file, as UTF-8."""

    region: Region

    def read(self) -> str:
        """The text."""
        return self.region.read().decode("utf-8")


@dataclass
class Dtype:
    """A numpy element type by its code, such as f4."""

    code: str
    byte_order: str = "<"
    is_record: bool = False

    @property
    def name(self) -> str | None:
        """A key of `DTYPES`; None where an array of it is not one of numbers."""
        return None if self.is_record else _DTYPE_CODES.get(self.code)

    def build(self, state: Any) -> None:
        """Takes what follows the code: version, byte order, and parts of records."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise MalformedError(f"an array type has the state {shown(state)}")
        self.is_record = any(part is not None for part in state[2:5])
        self.byte_order = ">" if state[1] == ">" else "<"


@dataclass
class Array:
    """A numpy array; `build` gives it its shape, type and data."""

    value: "StoredTensor | Inert | None" = None

    def build(self, state: Any) -> None:
        """Takes version, shape, type, order and data."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise MalformedError("an array's state is not version, shape, type, order and data")
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, fortran is True or fortran == 1)


class Ordered(dict):
    """A dict that may have attributes beside its items, which are left out."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__()
        if not isinstance(items, list | tuple):
            raise MalformedError("an ordered dict is made of something else than pairs")
        for pair in items:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise MalformedError("an ordered dict is made of something else than pairs")
            set_item(self, *pair)

    def build(self, state: Any) -> None:
        """Takes the attributes."""
        if not isinstance(state, dict):
            raise MalformedError("an ordered dict's state is not a dict")


class Fields(dict):
    """A plain object's fields by name, or by number where its state is a tuple."""

    def build(self, state: Any) -> None:
        """Takes the fields."""
        if not isinstance(state, dict | tuple):
            raise MalformedError(f"an object's state is {shown(state)}")
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for name, value in items:
            set_item(self, name, value)

    def key(self) -> Any:
        """What stands for it where it is a key: the name of a tensor and where a piece begins."""
        offset = self.get("offset")
        return (self.get("fqn"), *(offset if isinstance(offset, tuple) else ()))


def shown(value: Any) -> str:
    """`value` for a message: short, whatever is inside."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother = 2, 100, 100
    return brief.repr(value)


def key_of(value: Any) -> Any:
    """`value` as a key or member of a set: a number, a text or a flat tuple of them.

    Anything deeper could take for ever to hash. Raises MalformedError.
    """
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        if isinstance(part, (LazyBytes, LazyText)) or (
            isinstance(part, str | bytes) and len(part) > bounds.NAME_BYTES
        ):
            raise MalformedError("a key is longer than a name")
        if not isinstance(part, str | bytes | int | float | bool | None):
            raise BeyondError(f"a key is {shown(value)}")
    return value


def set_item(target: dict, key: Any, value: Any) -> None:
    """Sets what is not there yet. Raises MalformedError for a key that is no key, or is there."""
    if isinstance(key, Inert | Array | StoredTensor):
        key = f"an object of {key.name}" if isinstance(key, Inert) else "an array"
        target.setdefault(key, Inert("a key that is no text"))
        return
    if isinstance(key, Fields):
        key = key.key()
    if key_of(key) in target:
        raise MalformedError(f"the key {shown(key)} is there twice")
    target[key] = value


def shape_of(value: Any) -> tuple[int, ...]:
    """A shape or stride. Raises MalformedError for anything else, BeyondError above the bounds."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(type(side) is int and side >= 0 for side in sides):
        raise MalformedError(f"{shown(value)} is not a shape")
    if reason := check_shape(sides):
        raise BeyondError(reason)
    return sides


def _array(data: Any, dtype: Any, shape: Any, fortran: bool) -> "StoredTensor | Inert":
    if not isinstance(dtype, Dtype):
        raise MalformedError("an array's type is missing")
    name = dtype.name
    if name is None:
        return Inert(f"numpy.ndarray of {'records' if dtype.is_record else dtype.code!r}")
    shape = shape_of(shape)
    if isinstance(data, LazyBytes) and not data.is_utf8:
        return tensor_in(data.region, shape, name, byte_order=dtype.byte_order, fortran=fortran)
    kind = DTYPES[name].newbyteorder(dtype.byte_order)
    wanted = math.prod(shape) * kind.itemsize

    def load() -> np.ndarray:
        raw = _bytes(data)
        if len(raw) != wanted:
            raise InputError(
                "the pickle is damaged",
                f"an array {list(shape)} of {name} has {len(raw):,} bytes, not {wanted:,}",
            )
        values = np.frombuffer(raw, kind).astype(DTYPES[name], copy=False)
        return values.reshape(shape, order="F" if fortran else "C")

    if not isinstance(data, LazyBytes) and len(_bytes(data)) != wanted:
        raise MalformedError(f"an array {list(shape)} of {name} has {len(_bytes(data)):,} bytes")
    return StoredTensor(shape, name, load)


def _bytes(value: Any) -> bytes:
    if isinstance(value, LazyBytes):
        return value.read()
    if isinstance(value, str):  # Python 2 wrote byte strings as text
        return value.encode("latin-1")
    if isinstance(value, bytes):
        return value
    raise MalformedError(f"array data is {type(value).__name__}")


def _reconstruct(subtype: Any, shape: Any, code: Any) -> Array:
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return Array(_array(data, dtype, shape, order == "F"))


def _dtype(code: Any, align: Any = False, copy: Any = False) -> Dtype:
    text = code if isinstance(code, str) else _bytes(code).decode("latin-1")
    return Dtype(text.lstrip("<>|=")[:64], ">" if text.startswith(">") else "<")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    value = _array(data, dtype, (), False)
    return value if isinstance(value, Inert) else value.load().item()


def _encode(text: Any, encoding: Any = "latin1") -> LazyBytes | bytes:
    if encoding not in ("latin1", "latin-1"):
        raise MalformedError(f"bytes are encoded as {shown(encoding)}")
    if isinstance(text, LazyText):
        return LazyBytes(text.region, is_utf8=True)
    if not isinstance(text, str):
        raise MalformedError(f"bytes are made of {type(text).__name__}")
    return text.encode("latin-1")


def _only_bytes(content: Any = b"", encoding: Any = "latin1") -> LazyBytes | bytes:
    """What `bytes` is called with in pickles: nothing, bytes, or a text in Latin-1."""
    if isinstance(content, LazyBytes | bytes):
        return content
    return _encode(content, encoding)


def _only_items(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | set | frozenset):
            raise MalformedError(f"a {kind.__name__} is made of {type(items).__name__}")
        return kind(items if kind is tuple else map(key_of, items))

    return make


def dict_with(*_: Any) -> dict:
    """A dict whatever it makes for absent keys."""
    return Ordered()


def _counter(counts: Any = None) -> dict:
    if not isinstance(counts, dict | None):
        raise MalformedError(f"a counter is made of {type(counts).__name__}")
    return dict(counts or {})


ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": Ordered,
    "collections.defaultdict": dict_with,
    "collections.Counter": _counter,
    **{
        f"{builtins}.{name}": kind
        for builtins in ("builtins", "__builtin__")
        for name, kind in (
            ("set", _only_items(set)),
            ("frozenset", _only_items(frozenset)),
            ("bytes", _only_bytes),
        )
    },
    "_codecs.encode": _encode,
    "numpy.ndarray": object(),
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
    "torch.Size": _only_items(tuple),
    **{
        f"torch.distributed.checkpoint.{name}": Fields
        for name in (
            *("metadata.Metadata", "metadata.MetadataIndex", "metadata.TensorProperties"),
            *("metadata.TensorStorageMetadata", "metadata.ChunkStorageMetadata"),
            *("metadata.BytesStorageMetadata", "filesystem._StorageInfo"),
        )
    },
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties": Fields,
}
"""Stand-ins of Python's and numpy's names, and of the plain objects of distributed checkpoints;
`torch_stand_ins` has those of torch's tensors."""


def runs_code(name: str) -> bool:
    """Whether a pickle that names this asks to run something, whoever wrote it."""
    module = name.partition(".")[0]
    return module in _RUNNING_MODULES and name.replace("__builtin__", "builtins") not in _HARMLESS

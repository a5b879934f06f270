"""Reads pickles of arrays, numbers, texts and containers, and nothing else.

A pickle is a program for a stack machine; Python's own machine imports and calls whatever the file
names. This one has a fixed table of inert stand-ins: no name leads to an import, no call leaves
this module, and array data stays in the file until it is needed. A name outside the table is
refused, and the error lists every refused name. The opcodes are those of Python's `pickletools`.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.errors import InputError
from weight_conversion.stored import DTYPES, Region, StoredTensor, damaged, tensor_in

LEGACY_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_SHORT = 1024  # shorter texts are read at once
_SHORT_BYTES = 64  # so are shorter byte strings; even an empty torch storage is longer

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_DTYPE_CODES = {
    f"{kind.kind}{kind.itemsize}": name for name, kind in DTYPES.items() if name != "bfloat16"
}


class _MalformedError(Exception):
    """The pickle contradicts itself."""


class _Mark:
    """The stack machine's mark."""


@dataclass
class _Refused:
    """What a refused name, or a call of it, leaves on the stack."""

    name: str


@dataclass
class _LazyBytes:
    """Bytes still in the file; `is_utf8` where they are stored as Latin-1 text in UTF-8."""

    region: Region
    is_utf8: bool = False

    def read(self) -> bytes:
        raw = self.region.read()
        return raw.decode("utf-8").encode("latin-1") if self.is_utf8 else raw


@dataclass
class _LazyText:
    """A long text still in the file, as UTF-8."""

    region: Region


@dataclass
class _Dtype:
    code: str
    byte_order: str = "<"

    @property
    def name(self) -> str:
        if self.code not in _DTYPE_CODES:
            raise _MalformedError(f"the array type {self.code!r} is not one of numbers")
        return _DTYPE_CODES[self.code]

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _MalformedError(f"an array type has the state {state!r}")
        if any(part is not None for part in state[2:5]):
            raise _MalformedError("an array of records is not one of numbers")
        self.byte_order = ">" if state[1] == ">" else "<"


@dataclass
class _Array:
    """A numpy array; `build` gives it its shape, type and data."""

    tensor: StoredTensor | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _MalformedError("an array's state is not version, shape, type, order and data")
        _, shape, dtype, fortran, data = state
        self.tensor = _array(data, dtype, shape, bool(fortran))


@dataclass
class Storage:
    """A torch storage: `count` elements of `dtype` in `region` (None until it is found)."""

    dtype: str
    count: int
    region: Region | None = None
    byte_order: str = "<"
    crc: int | None = None


@dataclass
class _StorageType:
    dtype: str


class _OrderedDict(dict):
    """A dict that may have attributes beside its items, which are left out."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__()
        for key, value in items:
            if key in self:
                raise _MalformedError(f"the key {key!r} is there twice")
            self[key] = value

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _MalformedError("an ordered dict's state is not a dict")


def _shape(value: Any) -> tuple[int, ...]:
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(type(side) is int and side >= 0 for side in sides):
        raise _MalformedError(f"{value!r} is not a shape")
    return sides


def _array(data: Any, dtype: Any, shape: Any, fortran: bool) -> StoredTensor:
    if not isinstance(dtype, _Dtype):
        raise _MalformedError("an array's type is missing")
    shape, name = _shape(shape), dtype.name
    if isinstance(data, _LazyBytes) and not data.is_utf8:
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

    if not isinstance(data, _LazyBytes) and len(_bytes(data)) != wanted:
        raise _MalformedError(f"an array {list(shape)} of {name} has {len(_bytes(data)):,} bytes")
    return StoredTensor(shape, name, load)


def _bytes(value: Any) -> bytes:
    if isinstance(value, _LazyBytes):
        return value.read()
    if isinstance(value, str):  # Python 2 wrote byte strings as text
        return value.encode("latin-1")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise _MalformedError(f"array data is {type(value).__name__}")


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(data, dtype, shape, order == "F"))


def _dtype(code: Any, align: Any = False, copy: Any = False) -> _Dtype:
    text = code if isinstance(code, str) else _bytes(code).decode("latin-1")
    return _Dtype(text.lstrip("<>|="), ">" if text.startswith(">") else "<")


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    return _array(data, dtype, (), False).load().item()


def _encode(text: Any, encoding: Any = "latin1") -> _LazyBytes | bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _MalformedError(f"bytes are encoded as {encoding!r}")
    if isinstance(text, _LazyText):
        return _LazyBytes(text.region, is_utf8=True)
    return text.encode("latin-1")


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    size, stride = _shape(size), _shape(stride)
    if not isinstance(storage, Storage) or type(offset) is not int or len(size) != len(stride):
        raise _MalformedError("a torch tensor has no storage, offset, size and stride")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if offset < 0 or (math.prod(size) and last >= storage.count):
        raise _MalformedError(f"a torch tensor {list(size)} exceeds its {storage.count} elements")
    if math.prod(size) > max(storage.count, 1):
        raise _MalformedError(f"a torch tensor {list(size)} repeats elements of its storage")

    def load() -> np.ndarray:
        if storage.region is None:
            raise InputError("the checkpoint is damaged", "the data of a tensor is missing")
        whole = tensor_in(
            storage.region,
            (storage.count,),
            storage.dtype,
            byte_order=storage.byte_order,
            crc=storage.crc,
        ).load()
        if offset == 0 and size and stride == _contiguous(size) and math.prod(size) == whole.size:
            return whole.reshape(size)
        steps = tuple(step * whole.itemsize for step in stride)
        view = np.lib.stride_tricks.as_strided(whole[offset:], size, steps, writeable=False)
        return np.ascontiguousarray(view).reshape(size)

    return StoredTensor(size, storage.dtype, load)


def _contiguous(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _storage_from_bytes(data: Any) -> Storage:
    if not isinstance(data, _LazyBytes):
        raise _MalformedError("a torch storage has no bytes")
    storage = load_legacy_torch(data.region)
    if not isinstance(storage, Storage):
        raise _MalformedError("a torch storage is something else")
    return storage


_ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": _OrderedDict,
    "collections.Counter": dict,
    **{
        f"{builtins}.{name}": kind
        for builtins in ("builtins", "__builtin__")
        for name, kind in (("set", set), ("frozenset", frozenset), ("bytes", bytes))
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
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.storage._load_from_bytes": _storage_from_bytes,
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in STORAGES.items()},
}
_CALLABLE = {id(value) for value in _ADMITTED.values() if callable(value)}


def load(region: Region, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object that the one pickle in `region` describes.

    Args:
        region: the pickle's bytes; what follows its end is ignored.
        persistent: gives the object of a persistent id (torch's storages).

    Returns:
        dicts, lists, tuples, sets, numbers, texts, bytes, None, and a `StoredTensor` for each
        array; a dict's attributes, such as a state dict's `_metadata`, are left out.

    Raises:
        InputError: the pickle names anything else, is truncated, or contradicts itself.
    """
    value, _ = load_next(region, 0, persistent)
    return value


def load_next(
    region: Region, start: int, persistent: Callable[[Any], Any] | None = None
) -> tuple[Any, int]:
    """As `load`, for the pickle that begins at `start`; also returns where it ends."""
    machine = _Machine(region, start, persistent)
    try:
        value = machine.run()
        if machine.refused:
            raise InputError(
                f"{region.path} is refused: it asks to run code",
                f"names outside arrays, numbers and containers: {', '.join(machine.refused)}",
                "nothing was run; use a file that holds weights only",
            )
        return _plain(value, {}), machine.position
    except _MalformedError as error:
        raise damaged(region.path, str(error)) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"the pickle is inconsistent near byte {region.offset + machine.position:,}"
        raise damaged(region.path, f"{reason} ({error})") from None
    except (MemoryError, RecursionError) as error:
        raise damaged(region.path, f"the pickle is not readable: {error or 'too large'}") from None


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """`value` with the stand-ins of this module replaced; shared and cyclic parts stay shared."""
    if isinstance(value, _Array):
        if value.tensor is None:
            raise _MalformedError("an array has no data")
        return value.tensor
    if isinstance(value, _LazyBytes):
        return value.read()
    if isinstance(value, _LazyText):
        return value.region.read().decode("utf-8")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        copy: Any = {}
        done[id(value)] = copy
        copy.update((key, _plain(item, done)) for key, item in value.items())
        return copy
    if isinstance(value, list):
        copy = []
        done[id(value)] = copy
        copy.extend(_plain(item, done) for item in value)
        return copy
    if isinstance(value, tuple):
        return tuple(_plain(item, done) for item in value)
    return value


def load_legacy_torch(region: Region) -> Any:
    """The object in a torch file of before version 1.6: four pickles, then the storages' data.

    Raises:
        InputError: as `load`; or the file is not of this kind.
    """
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        kind, storage_type, key, _, count, *view = reference
        if kind != "storage" or not isinstance(storage_type, _StorageType) or (view and view[0]):
            raise _MalformedError(f"a reference to {kind!r}")
        return storages.setdefault(str(key), Storage(storage_type.dtype, int(count)))

    magic, position = load_next(region, 0)
    if magic != LEGACY_TORCH_MAGIC:
        raise damaged(region.path, "it has no torch header")
    _, position = load_next(region, position)
    system, position = load_next(region, position)
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    value, position = load_next(region, position, persistent)
    keys, position = load_next(region, position)
    for key in keys:
        storage = storages.get(str(key))
        if storage is None:
            raise damaged(region.path, f"it has data for an unknown storage {key!r}")
        (count,) = struct.unpack("<q", region.part(position, 8).read())
        if count != storage.count:
            raise damaged(region.path, f"a storage has {count} elements, not {storage.count}")
        size = count * DTYPES[storage.dtype].itemsize
        storage.region = region.part(position + 8, size)
        storage.byte_order = ">" if big_endian else "<"
        position += 8 + size
    return value


class _Machine:
    """The stack machine: one method per group of opcodes, the operands read from the region."""

    def __init__(self, region: Region, start: int, persistent: Callable[[Any], Any] | None) -> None:
        self.region = region
        self.position = start
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.refused: list[str] = []
        self._window = b""
        self._window_start = 0

    def run(self) -> Any:
        while True:
            opcode = self._take(1)
            if opcode == b".":
                return self.stack.pop()
            handler = _OPCODES.get(opcode)
            if handler is None:
                raise _MalformedError(
                    f"byte {self.region.offset + self.position - 1:,} is no admitted pickle "
                    f"instruction ({opcode!r})"
                )
            handler(self)

    def _take(self, count: int) -> bytes:
        """The next `count` bytes, through a window so that few reads are made."""
        begin = self.position - self._window_start
        if begin < 0 or begin + count > len(self._window):
            self.region.part(self.position, count)  # raises at the end of the region
            size = min(max(count, 65536), self.region.size - self.position)
            self._window = self.region.part(self.position, size).read()
            self._window_start, begin = self.position, 0
        self.position += count
        return self._window[begin : begin + count]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _raw_line(self) -> bytes:
        size = 256
        while True:
            size = min(size, self.region.size - self.position)
            ahead = self._take(size)
            end = ahead.find(b"\n")
            self.position -= size
            if end >= 0:
                self.position += end + 1
                return ahead[:end]
            if size == self.region.size - self.position:
                raise _MalformedError("a line has no end")
            size *= 16

    def _line(self) -> str:
        return self._raw_line().decode("utf-8")

    def _span(self, form: str, *, as_bytes: bool, is_utf8: bool = False) -> None:
        """Pushes a string with its length before it: a short one read, a long one left in place."""
        size = self._number(form)
        if size < 0 or size > self.region.size:
            raise _MalformedError(f"a string claims {size:,} bytes")
        if size > (_SHORT_BYTES if as_bytes else _SHORT):
            span = self.region.part(self.position, size)
            self.stack.append(_LazyText(span) if is_utf8 else _LazyBytes(span))
            self.position += size
            return
        raw = self._take(size)
        self.stack.append(raw if as_bytes else raw.decode("utf-8" if is_utf8 else "latin-1"))

    def _above_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _Mark:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise _MalformedError("a mark is missing")

    def _tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise _MalformedError("the stack is too short")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, _Refused):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise _MalformedError("items are set on something that is no dict")
        for key, value in _pairs(items):
            if isinstance(key, (_LazyBytes, _LazyText)):
                raise _MalformedError("a key is longer than a name")
            if key in target:
                raise _MalformedError(f"the key {key!r} is there twice")
            target[key] = value

    def _name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        if full not in _ADMITTED:
            if full not in self.refused:
                self.refused.append(full)
            self.stack.append(_Refused(full))
            return
        self.stack.append(_ADMITTED[full])

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(function, _Refused) or self.refused:
            self.stack.append(_Refused("a refused call"))
            return
        if id(function) not in _CALLABLE or not isinstance(arguments, tuple):
            raise _MalformedError("something that is no admitted function is called")
        self.stack.append(function(*arguments))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Refused) or self.refused:
            return
        if not isinstance(target, (_Array, _Dtype, _OrderedDict)):
            raise _MalformedError(f"a {type(target).__name__} is given a state")
        target.build(state)

    def _new_object(self) -> None:
        del self.stack[-2:]
        if not self.refused:
            self.refused.append("an instance of a class")
        self.stack.append(_Refused("an instance"))

    def _persistent(self) -> None:
        reference = self.stack.pop()
        if self.refused:
            self.stack.append(_Refused("a reference"))
            return
        if self.persistent is None or not isinstance(reference, tuple) or len(reference) < 5:
            raise _MalformedError("it refers to data outside of it")
        self.stack.append(self.persistent(reference))

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise _MalformedError(f"it refers to a value {index} that is not there")
        self.stack.append(self.memo[index])

    def _append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Refused):
            return
        if not isinstance(target, list):
            raise _MalformedError("items are appended to something that is no list")
        target.extend(items)

    def _long(self, form: str) -> None:
        size = self._number(form)
        if not 0 <= size <= _SHORT:
            raise _MalformedError(f"a number claims {size:,} bytes")
        self.stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _integer_line(self) -> None:
        text = self._line()
        special = {"00": False, "01": True}
        self.stack.append(special[text] if text in special else int(text.rstrip("L")))

    def _quoted_line(self) -> None:
        text = self._raw_line()
        if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
            raise _MalformedError("a text has no quotes")
        self.stack.append(text[1:-1].decode("unicode_escape"))

    def _add_to_set(self) -> None:
        items = self._above_mark()
        target = self.stack[-1]
        if not isinstance(target, set):
            raise _MalformedError("items are added to something that is no set")
        target.update(items)


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _dict_of(machine: _Machine) -> None:
    items, target = machine._above_mark(), {}
    machine._set_items(target, items)
    machine.stack.append(target)


def _set_one(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine._set_items(machine.stack[-1], [key, value])


def _set_many(machine: _Machine) -> None:
    items = machine._above_mark()
    machine._set_items(machine.stack[-1], items)


def _push(value: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value())


def _put(index: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    return lambda m: m.memo.__setitem__(index(m), m.stack[-1])


_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m._take(1),  # PROTO
    b"\x95": lambda m: m._take(8),  # FRAME
    b"(": _push(lambda: _Mark),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m._above_mark(),
    b"2": lambda m: m.stack.append(m.stack[-1]),
    b"N": _push(lambda: None),
    b"\x88": _push(lambda: True),
    b"\x89": _push(lambda: False),
    b"I": _Machine._integer_line,
    b"L": _Machine._integer_line,
    b"J": lambda m: m.stack.append(m._number("<i")),
    b"K": lambda m: m.stack.append(m._number("<B")),
    b"M": lambda m: m.stack.append(m._number("<H")),
    b"\x8a": lambda m: m._long("<B"),
    b"\x8b": lambda m: m._long("<i"),
    b"F": lambda m: m.stack.append(float(m._line())),
    b"G": lambda m: m.stack.append(m._number(">d")),
    b"S": _Machine._quoted_line,
    b"T": lambda m: m._span("<i", as_bytes=False),
    b"U": lambda m: m._span("<B", as_bytes=False),
    b"B": lambda m: m._span("<I", as_bytes=True),
    b"C": lambda m: m._span("<B", as_bytes=True),
    b"\x8e": lambda m: m._span("<Q", as_bytes=True),
    b"\x96": lambda m: m._span("<Q", as_bytes=True),
    b"V": lambda m: m.stack.append(m._raw_line().decode("raw_unicode_escape")),
    b"X": lambda m: m._span("<I", as_bytes=False, is_utf8=True),
    b"\x8c": lambda m: m._span("<B", as_bytes=False, is_utf8=True),
    b"\x8d": lambda m: m._span("<Q", as_bytes=False, is_utf8=True),
    b")": _push(tuple),
    b"t": lambda m: m.stack.append(tuple(m._above_mark())),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"]": _push(list),
    b"l": lambda m: m.stack.append(m._above_mark()),
    b"a": lambda m: m._append([m.stack.pop()]),
    b"e": lambda m: m._append(m._above_mark()),
    b"}": _push(dict),
    b"d": _dict_of,
    b"s": _set_one,
    b"u": _set_many,
    b"\x8f": _push(set),
    b"\x90": _Machine._add_to_set,
    b"\x91": lambda m: m.stack.append(frozenset(m._above_mark())),
    b"c": lambda m: m._name(m._line(), m._line()),
    b"\x93": lambda m: m._name(*reversed((m.stack.pop(), m.stack.pop()))),
    b"R": _Machine._reduce,
    b"b": _Machine._build,
    b"\x81": _Machine._new_object,
    b"Q": _Machine._persistent,
    b"p": _put(lambda m: int(m._line())),
    b"q": _put(lambda m: m._number("<B")),
    b"r": _put(lambda m: m._number("<I")),
    b"\x94": _put(lambda m: len(m.memo)),
    b"g": lambda m: m._get(int(m._line())),
    b"h": lambda m: m._get(m._number("<B")),
    b"j": lambda m: m._get(m._number("<I")),
}
"""Left out are INST, OBJ, NEWOBJ_EX, PERSID, EXT1 to EXT4 and out-of-band buffers."""

"""Reads pickles of arrays, numbers, texts and containers, and nothing else.

A pickle is a program for a stack machine; Python's own machine imports and calls whatever the file
names. This one has a fixed table of inert stand-ins: no name leads to an import, no call leaves
this package, and array data stays in the file until it is needed. A name that exists to run
something makes the file refused, and the error lists every such name; any other foreign object is
left out as `Inert`. The opcodes are those of Python's `pickletools`.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any

from parity.errors import InputError
from parity.reading import bounds
from weight_conversion.stand_ins import (
    ADMITTED,
    Array,
    BeyondError,
    Dtype,
    Fields,
    Inert,
    LazyBytes,
    LazyText,
    MalformedError,
    Ordered,
    dict_with,
    key_of,
    runs_code,
    set_item,
    shown,
)
from weight_conversion.stored import DTYPES, Region, damaged, refused
from weight_conversion.torch_stand_ins import Storage, StorageType, TorchDtype, stand_ins

LEGACY_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_SHORT = 1024  # shorter texts are read at once
_KEPT = 1 << 20  # a longer text or byte string that is no array's is left out
_SHORT_BYTES = 64  # so are shorter byte strings; even an empty torch storage is longer


class _Mark:
    """The stack machine's mark."""


def _storage_from_bytes(data: Any) -> Storage:
    if not isinstance(data, LazyBytes):
        raise MalformedError("a torch storage has no bytes")
    storage = load_legacy_torch(data.region)
    if not isinstance(storage, Storage):
        raise MalformedError("a torch storage is something else")
    return storage


_NAMES: dict[str, Any] = {**ADMITTED, **stand_ins(_storage_from_bytes)}
_MAKERS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__")
_CALLABLE = {id(value) for value in _NAMES.values() if callable(value)}


def load(region: Region, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object that the one pickle in `region` describes.

    Args:
        region: the pickle's bytes; what follows its end is ignored.
        persistent: gives the object of a persistent id (torch's storages).

    Returns:
        dicts, lists, tuples, sets, numbers, texts, bytes, None, a `StoredTensor` for each array,
        and an `Inert` for each foreign object; a dict's attributes, such as a state dict's
        `_metadata`, are left out.

    Raises:
        InputError: the pickle asks to run code, exceeds a bound of `parity.reading.bounds`, is
            truncated, or contradicts itself.
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
                f"names that exist to run something: {', '.join(machine.refused)}",
                "nothing was run; use a file that holds weights only",
            )
        return _plain(value, {}, 0), machine.position
    except BeyondError as error:
        raise refused(region.path, str(error)) from None
    except MalformedError as error:
        raise damaged(region.path, str(error)) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"the pickle is inconsistent near byte {region.offset + machine.position:,}"
        raise damaged(region.path, f"{reason} ({error})") from None
    except MemoryError:
        raise refused(region.path, "it does not fit into memory") from None


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """`value` with the stand-ins of this package replaced; shared and cyclic parts stay shared."""
    if isinstance(value, Array):
        if value.value is None:
            raise MalformedError("an array has no data")
        return value.value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, LazyBytes | LazyText):
        kept = done[id(value)] = (
            value.read() if value.region.size <= _KEPT else Inert("a long text")
        )
        return kept
    if not isinstance(value, dict | list | tuple):
        return value
    if depth >= bounds.DEEPEST:
        raise BeyondError(f"its values are nested deeper than {bounds.DEEPEST}")
    if isinstance(value, dict):
        copy: Any = {}
        done[id(value)] = copy
        copy.update((key, _plain(item, done, depth + 1)) for key, item in value.items())
    elif isinstance(value, list):
        copy = []
        done[id(value)] = copy
        copy.extend(_plain(item, done, depth + 1) for item in value)
    else:
        copy = done[id(value)] = tuple(_plain(item, done, depth + 1) for item in value)
    return copy


def load_legacy_torch(region: Region) -> Any:
    """The object in a torch file of before version 1.6: four pickles, then the storages' data.

    Raises:
        InputError: as `load`; or the file is not of this kind.
    """
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        kind, storage_type, key, _, count, *view = reference
        if kind != "storage" or not isinstance(storage_type, StorageType) or (view and view[0]):
            raise MalformedError(f"a reference to {shown(kind)}")
        if type(count) is not int or not 0 <= count <= bounds.MOST_ELEMENTS:
            raise MalformedError(f"a storage of {shown(count)} elements")
        return storages.setdefault(shown(key), Storage(storage_type.dtype, count))

    magic, position = load_next(region, 0)
    if magic != LEGACY_TORCH_MAGIC:
        raise damaged(region.path, "it has no torch header")
    _, position = load_next(region, position)
    system, position = load_next(region, position)
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    value, position = load_next(region, position, persistent)
    keys, position = load_next(region, position)
    if not isinstance(keys, list):
        raise damaged(region.path, "it has no list of storages")
    for key in keys:
        storage = storages.get(shown(key))
        if storage is None:
            raise damaged(region.path, f"it has data for an unknown storage {shown(key)}")
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
        for _ in range(bounds.MOST_STEPS):
            opcode = self._take(1)
            if opcode == b".":
                return self.stack.pop()
            handler = _OPCODES.get(opcode)
            if handler is None:
                raise MalformedError(
                    f"byte {self.region.offset + self.position - 1:,} is no admitted pickle "
                    f"instruction ({opcode!r})"
                )
            handler(self)
        raise BeyondError(f"its pickle has more than {bounds.MOST_STEPS:,} instructions")

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

    def _raw_line(self, most: int = bounds.NAME_BYTES) -> bytes:
        size = 256
        while True:
            size = min(size, most, self.region.size - self.position)
            ahead = self._take(size)
            end = ahead.find(b"\n")
            self.position -= size
            if end >= 0:
                self.position += end + 1
                return ahead[:end]
            if size == self.region.size - self.position:
                raise MalformedError("a line has no end")
            if size == most:
                raise BeyondError(f"a line has more than {most:,} bytes")
            size *= 16

    def _line(self) -> str:
        return self._raw_line().decode("utf-8")

    def _span(self, form: str, *, as_bytes: bool, is_utf8: bool = False) -> None:
        """Pushes a string with its length before it: a short one read, a long one left in place."""
        size = self._number(form)
        if size < 0 or size > self.region.size:
            raise MalformedError(f"a string claims {size:,} bytes")
        if size > (_SHORT_BYTES if as_bytes else _SHORT):
            span = self.region.part(self.position, size)
            self.stack.append(LazyText(span) if is_utf8 else LazyBytes(span))
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
        raise MalformedError("a mark is missing")

    def _tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise MalformedError("the stack is too short")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise MalformedError("items are set on something that is no dict")
        for key, value in _pairs(items):
            set_item(target, key, value)

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise MalformedError("a name is no text")
        full = f"{module}.{name}"
        if runs_code(full) and full not in _NAMES and full not in self.refused:
            self.refused.append(full)
        self.stack.append(_NAMES.get(full, Inert(full)))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._called(function, arguments))

    def _called(self, function: Any, arguments: Any) -> Any:
        """What a stand-in gives; an object where it is, or is given, something foreign."""
        if self.refused:
            return Inert("a refused call")
        if isinstance(arguments, Inert):
            return arguments
        if not isinstance(arguments, tuple):
            raise MalformedError("a function is called without a tuple of arguments")
        if isinstance(function, Inert) and function.name in _MAKERS and arguments:
            return arguments[0] if isinstance(arguments[0], Inert) else Inert("an object")
        if isinstance(function, Inert):
            return function
        if id(function) not in _CALLABLE:
            raise MalformedError("something that is no admitted function is called")
        if function is dict_with:
            return function()
        foreign = next(
            (a for a in arguments if isinstance(a, Inert) and not isinstance(a, TorchDtype)), None
        )
        return function(*arguments) if foreign is None else foreign

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert) or isinstance(state, Inert) or self.refused:
            return
        if not isinstance(target, (Array, Dtype, Fields, Ordered)):
            raise MalformedError(f"a {type(target).__name__} is given a state")
        target.build(state)

    def _new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.stack.append(self._called(kind, arguments))

    def _new_object_by_name(self) -> None:
        named, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Inert) or named is None:
            raise MalformedError("an admitted function is called with names")
        self.stack.append(self._called(kind, arguments))

    def _instance(self, kind: Any, arguments: list[Any]) -> None:
        """An object of a class of Python 2."""
        self.stack.append(self._called(kind, tuple(arguments)))

    def _instance_of_line(self) -> None:
        arguments = self._above_mark()
        self._name(self._line(), self._line())
        self._instance(self.stack.pop(), arguments)

    def _instance_of_stack(self) -> None:
        kind, *arguments = self._above_mark()
        self._instance(kind, arguments)

    def _persistent(self) -> None:
        reference = self.stack.pop()
        if self.refused:
            self.stack.append(Inert("a reference"))
            return
        if self.persistent is None or not isinstance(reference, tuple) or len(reference) < 5:
            raise MalformedError("it refers to data outside of it")
        self.stack.append(self.persistent(reference))

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise MalformedError(f"it refers to a value {index} that is not there")
        self.stack.append(self.memo[index])

    def _append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, list):
            raise MalformedError("items are appended to something that is no list")
        target.extend(items)

    def _long(self, form: str) -> None:
        size = self._number(form)
        if not 0 <= size <= _SHORT:
            raise MalformedError(f"a number claims {size:,} bytes")
        self.stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _integer_line(self) -> None:
        text = self._line()
        special = {"00": False, "01": True}
        self.stack.append(special[text] if text in special else int(text.rstrip("L")))

    def _quoted_line(self) -> None:
        text = self._raw_line(bounds.TEXT_BYTES)
        if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
            raise MalformedError("a text has no quotes")
        self.stack.append(text[1:-1].decode("unicode_escape"))

    def _add_to_set(self) -> None:
        items = self._above_mark()
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, set):
            raise MalformedError("items are added to something that is no set")
        target.update(_members(items))


def _members(items: list[Any]) -> Iterator[Any]:
    """What a set can hold; foreign objects are left out."""
    return (key_of(one) for one in items if not isinstance(one, Inert))


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
    b"V": lambda m: m.stack.append(m._raw_line(bounds.TEXT_BYTES).decode("raw_unicode_escape")),
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
    b"\x91": lambda m: m.stack.append(frozenset(_members(m._above_mark()))),
    b"c": lambda m: m._name(m._line(), m._line()),
    b"\x93": lambda m: m._name(*reversed((m.stack.pop(), m.stack.pop()))),
    b"R": _Machine._reduce,
    b"b": _Machine._build,
    b"\x81": _Machine._new_object,
    b"\x92": _Machine._new_object_by_name,
    b"i": _Machine._instance_of_line,
    b"o": _Machine._instance_of_stack,
    b"Q": _Machine._persistent,
    b"p": _put(lambda m: int(m._line())),
    b"q": _put(lambda m: m._number("<B")),
    b"r": _put(lambda m: m._number("<I")),
    b"\x94": _put(lambda m: len(m.memo)),
    b"g": lambda m: m._get(int(m._line())),
    b"h": lambda m: m._get(m._number("<B")),
    b"j": lambda m: m._get(m._number("<I")),
}
"""Left out are PERSID, EXT1 to EXT4 and out-of-band buffers."""

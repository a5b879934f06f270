"""What torch's names in a pickle stand for: storages, and the tensors that view them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.reading import bounds
from weight_conversion.stand_ins import BeyondError, Inert, MalformedError, shape_of
from weight_conversion.stored import DTYPES, Region, StoredTensor, check_sum, tensor_in

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
_ALIASES = {"double": "float64", "float": "float32", "half": "float16", "long": "int64"}


@dataclass
class Storage:
    """A torch storage: `count` elements of `dtype` in `region` (None until it is found)."""

    dtype: str
    count: int
    region: Region | None = None
    byte_order: str = "<"
    crc: int | None = None
    viewed: int = 0  # elements that the tensors made so far go over

    def checked(self) -> Region:
        """The bytes, whose checksum is looked at once, in pieces."""
        if self.region is None:
            raise InputError("the checkpoint is damaged", "the data of a tensor is missing")
        if self.crc is not None:
            check_sum(self.region, self.crc)
            self.crc = None
        return self.region


@dataclass(frozen=True)
class StorageType:
    """torch's class of a storage."""

    dtype: str


@dataclass(frozen=True)
class TorchDtype(Inert):
    """torch's name of an element type; beside weights it is left out as any other object."""

    dtype: str = ""
    name: str = field(default="torch.dtype")


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise MalformedError("a torch tensor has no storage")
    return _view(storage, storage.dtype, offset, shape_of(size), shape_of(stride))


def _view(
    storage: Storage, dtype: str, offset: Any, size: tuple[int, ...], stride: tuple[int, ...]
) -> StoredTensor:
    """The tensor of `dtype` that goes over elements of `storage`; loading reads that span only."""
    if type(offset) is not int or offset < 0 or len(size) != len(stride):
        raise MalformedError("a torch tensor has no offset, size and stride")
    item = DTYPES[dtype].itemsize
    count = storage.count * DTYPES[storage.dtype].itemsize // item
    elements = math.prod(size)
    span = 1 + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    span = span if elements else 0
    if offset + span > count:
        raise MalformedError(f"a torch tensor {list(size)} exceeds its {count} elements")
    if elements > span and elements * item > bounds.EXPANDED_BYTES:
        raise BeyondError(f"a torch tensor {list(size)} repeats elements of its storage")
    storage.viewed += span
    if storage.viewed > bounds.REPEATS * max(count, bounds.NAME_BYTES):
        raise BeyondError(f"its tensors go over one storage more than {bounds.REPEATS} times")

    def load() -> np.ndarray:
        part = storage.checked().part(offset * item, span * item)
        whole = tensor_in(part, (span,), dtype, byte_order=storage.byte_order).load()
        if span == elements and stride == _contiguous(size):
            return whole.reshape(size)
        # a stride that no step is made with may be any number
        steps = tuple(item * s if n > 1 else 0 for n, s in zip(size, stride, strict=True))
        view = np.lib.stride_tricks.as_strided(whole, size, steps, writeable=False)
        return np.ascontiguousarray(view).reshape(size)

    return StoredTensor(size, dtype, load)


def _contiguous(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Any:
    """A tensor of an untyped storage, whose elements the tensor itself names."""
    if not isinstance(dtype, TorchDtype) or not isinstance(storage, Storage):
        raise MalformedError("a torch tensor has no storage and type")
    if dtype.dtype not in DTYPES:
        return Inert(f"torch.Tensor of {dtype.dtype}")
    return _view(storage, dtype.dtype, offset, shape_of(size), shape_of(stride))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _rebuild_from_device(values: Any, dtype: Any = None, *_: Any) -> Any:
    """A tensor of a TPU (torch_xla) or another device, stored as an array of numpy or torch."""
    stored = getattr(values, "value", values)
    if not isinstance(stored, StoredTensor) or not isinstance(dtype, TorchDtype):
        raise MalformedError("a tensor of a device has no values and type")
    if dtype.dtype == stored.dtype or dtype.dtype not in DTYPES:
        return stored
    kind = DTYPES[dtype.dtype]  # bfloat16 lies there as float32
    return StoredTensor(stored.shape, dtype.dtype, lambda: stored.load().astype(kind))


def stand_ins(from_bytes: Callable[[Any], Storage]) -> dict[str, Any]:
    """Every name of torch; `from_bytes` reads a storage that is a torch file inside the pickle."""
    dtypes = {**{name: name for name in DTYPES}, **_ALIASES}
    others = ("complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "qint8", "quint8")
    return {
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch._utils._rebuild_device_tensor_from_numpy": _rebuild_from_device,
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_from_device,
        "torch._utils._rebuild_xla_tensor": _rebuild_from_device,
        "torch.storage._load_from_bytes": from_bytes,
        **{f"torch.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
        "torch.storage.UntypedStorage": StorageType("uint8"),
        **{f"torch.{name}": TorchDtype(dtype=dtype) for name, dtype in dtypes.items()},
        **{f"torch.{name}": TorchDtype(dtype=name) for name in others},
    }

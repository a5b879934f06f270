"""Finds the model in what a training program saved, and says by name what it leaves out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.errors import InputError
from parity.reading import bounds
from weight_conversion.stand_ins import Inert, shown
from weight_conversion.stored import StoredTensor, damaged, refused

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "weights")
EMA_WRAPPERS = ("ema_state", "model_ema", "state_dict_ema", "ema_model", "ema", "ema_state_dict")
_PREFIXES = ("model.", "ema.", "ema_model.", "online_model.", "net.", "network.")
_INSIDE = frozenset(
    (
        *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
        *("_forward_module", "_flat_module"),
    )
)
"""Parts that wrappers of torch put anywhere into a name; no model here has a part of that name."""

LIBRARY = "pixel_level_module."
"""How names of transformers begin, after their own `model.`."""

_DEPTH = 4  # wrappers inside each other


@dataclass(frozen=True)
class Choice:
    """Which of a file's weights are taken: the moving average, those at a key, or of a prefix."""

    ema: bool = False
    key: str | None = None
    prefix: str | None = None


@dataclass
class Found:
    """The model's tensors by name; why each other entry is left out; what was done to find them."""

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def unwrap(path: Path, kind: str, content: Any, choice: Choice) -> Found:
    """The model in `content`, which a file of this kind holds.

    Raises InputError, with the keys that there are, where no model is found, or not what `choice`
    asks for.
    """
    found = Found()
    state = _state(path, kind, content, choice, found)
    if len(state) > bounds.MOST_NAMES:
        raise refused(path, f"it has {len(state):,} names")
    for key, value in state.items():
        if not isinstance(key, str):
            raise damaged(path, f"a tensor's name is {shown(key)}")
        if len(key) > bounds.NAME_BYTES or not key.isprintable():
            raise refused(path, f"a tensor's name is {shown(key)}")
        if isinstance(value, StoredTensor):
            found.tensors[key] = value
        else:
            found.left_out[key] = f"no tensor ({_kind_of(value)})"
    if not found.tensors:
        raise InputError(f"{path} holds no tensors", f"it is a {kind} without weights")
    if choice.prefix is not None:
        _take_prefix(path, found, choice.prefix)
    _strip(path, found)
    return found


def _kind_of(value: Any) -> str:
    return value.name if isinstance(value, Inert) else type(value).__name__


def _state(path: Path, kind: str, content: Any, choice: Choice, found: Found) -> Mapping:
    asked = choice.key is not None
    for _ in range(_DEPTH):
        if isinstance(content, Inert):
            raise _object(path, content)
        if not isinstance(content, dict):
            raise InputError(
                f"{path} holds no weights by name", f"it is a {kind} of a {_kind_of(content)}"
            )
        key = choice.key if asked else _wrapper(path, content, choice.ema, found)
        if key is None:
            break
        if key not in content or not isinstance(content[key], dict):
            raise InputError(
                f"{path} has no weights at --key {key}", _keys(content), "choose one of its keys"
            )
        for other, value in content.items():
            if other != key:
                what = "beside the model" if isinstance(value, StoredTensor) else "not the model"
                reason = f"{what}: {value.name}" if isinstance(value, Inert) else what
                found.left_out[str(other)] = reason
        found.notes.append(f"taken from {key!r}")
        content, asked = content[key], False
    if choice.ema and not any("ema" in note for note in found.notes):
        raise InputError(
            f"{path} has no exponential moving average", "leave --ema out to use its weights"
        )
    return content


def _wrapper(path: Path, content: dict, ema: bool, found: Found) -> str | None:
    """The key below which the model lies; None where the tensors lie here."""
    taken = any("ema" in note for note in found.notes)
    first, second = (EMA_WRAPPERS, WRAPPERS) if ema and not taken else (WRAPPERS, EMA_WRAPPERS)
    for key in (*first, *second):
        if _holds_tensors(content.get(key), _DEPTH):
            return key
    if any(isinstance(value, StoredTensor) for value in content.values()):
        return None
    blobs = content.get("blobs")
    if isinstance(blobs, dict):
        raise caffe2(path, len(blobs))
    for key in WRAPPERS:
        if isinstance(content.get(key), Inert):
            raise _object(path, content[key])
    others = [str(key) for key, value in content.items() if _holds_tensors(value, _DEPTH)]
    raise InputError(
        f"{path} holds no model",
        _keys(content),
        f"take one with --key: {', '.join(others[:8])}"
        if others
        else f"expected: tensors, or one of {', '.join(WRAPPERS)}",
    )


def _keys(content: dict) -> str:
    return f"its keys are {', '.join(map(shown, list(content)[:8])) or 'none'}"


def _holds_tensors(value: Any, depth: int) -> bool:
    if not isinstance(value, dict) or not depth:
        return False
    return any(
        isinstance(one, StoredTensor) or _holds_tensors(one, depth - 1) for one in value.values()
    )


def _object(path: Path, value: Inert) -> InputError:
    return InputError(
        f"{path} is refused: its model is an object of {value.name}",
        "objects are not built from files; nothing was run",
        "save its state_dict() instead",
    )


def caffe2(path: Path, count: int) -> InputError:
    """The error for a model of Caffe2."""
    return InputError(
        f"{path} is a Caffe2 model",
        f"its {count} tensors have Caffe2's names and BGR channels",
        "use the torchvision weights of the published configs (R-50.pkl of detectron2)",
    )


def _take_prefix(path: Path, found: Found, prefix: str) -> None:
    kept = {name: t for name, t in found.tensors.items() if name.startswith(prefix)}
    if not kept:
        raise InputError(
            f"{path} has no tensor whose name begins with --prefix {prefix}",
            f"names begin with {', '.join(_beginnings(found.tensors))}",
            "choose another prefix",
        )
    for name in found.tensors:
        if name not in kept:
            found.left_out[name] = f"does not begin with {prefix!r}"
    found.tensors = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
    found.notes.append(f"taken from names that begin with {prefix!r}")


def _beginnings(names: Mapping[str, Any]) -> list[str]:
    return sorted({name.partition(".")[0] for name in names})[:8]


def _strip(path: Path, found: Found) -> None:
    """Removes what training wrappers put into names, and loose numbers beside such names."""
    parts = sorted({part for name in found.tensors for part in name.split(".") if part in _INSIDE})
    if parts:
        leads = {name for name in found.tensors if name.split(".")[0] in _INSIDE}
        for name in [n for n, t in found.tensors.items() if leads and n not in leads]:
            if found.tensors[name].shape == ():
                found.left_out[name] = "a number beside the model"
                del found.tensors[name]
        _rename(
            path,
            found,
            {n: ".".join(p for p in n.split(".") if p not in _INSIDE) for n in found.tensors},
        )
        found.notes.append(f"{', '.join(map(repr, parts))} removed from names")
    while prefix := _common_prefix(found.tensors):
        _rename(path, found, {name: name.removeprefix(prefix) for name in found.tensors})
        found.notes.append(f"prefix {prefix!r} removed from every name")
    is_library = any(LIBRARY in name for name in found.tensors)
    if not is_library and any("model" in name.split(".")[:-1] for name in found.tensors):
        _rename(
            path,
            found,
            {n: ".".join(p for p in n.split(".") if p != "model") for n in found.tensors},
        )
        found.notes.append("'model' removed from names")


def _common_prefix(tensors: Mapping[str, Any]) -> str | None:
    prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None)
    rest = [name.removeprefix(prefix) for name in tensors] if prefix else []
    # transformers' own prefix stays
    is_own = prefix == "model." and any(name.startswith(LIBRARY) for name in rest)
    return None if is_own else prefix


def _rename(path: Path, found: Found, names: Mapping[str, str]) -> None:
    tensors: dict[str, StoredTensor] = {}
    for old, new in names.items():
        if new in tensors:
            raise InputError(
                f"{path} holds two tensors that would be called {new}",
                f"one of them is {old}",
                "say which with --prefix",
            )
        tensors[new] = found.tensors[old]
    found.tensors = tensors

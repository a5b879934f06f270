"""Taps (named tensors of one run) and traces (ordered sets of taps), in memory and on disk."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_json

KINDS = ("input", "output", "grad_input", "grad_output", "param", "param_grad", "update")
FORMAT = 1

Axes = Callable[[str, str, str, int], str]
"""axes(path, kind, name, rank) names the axes of a tap, one letter each."""


class TraceError(InputError):
    """A trace cannot be built, written or read; the message says the fact, evidence and action."""


def shown(path: str) -> str:
    """The module path as people read it: the root module, whose path is empty, is `model`.

    A module that has that name itself is `.model`.
    """
    return {"": "model", "model": ".model"}.get(path, path)


def tap_key(path: str, kind: str, name: str = "", call: int = 0) -> str:
    """A tap's readable name, unique in a trace, such as `decoder.norm@3:input.query`."""
    repeat = f"@{call}" if call else ""
    place = f".{name}" if name else ""
    return f"{shown(path)}{repeat}:{kind}{place}"


def module_of(key: str) -> str:
    """The module that a tap's name begins with, as `shown`, whichever of its calls it is from."""
    return key.partition(":")[0].partition("@")[0]


@dataclass(frozen=True, eq=False)
class Tap:
    """One tensor of one run, with the place it was taken from and the names of its axes.

    Args:
        path: module path as in `torch.nn.Module.named_modules`; "" is the root module.
        kind: one of `KINDS`.
        name: place inside the call's arguments or results, such as `query` or `features.res5`;
            "" for a lone tensor.
        call: how many calls of this module came before this one in the run.
        axes: one letter per axis, all different, such as `NCHW`.
        array: the values; bfloat16 tensors are held as float32, which is exact.
        same_as: key of an earlier tap that is the very same tensor, or None.
    """

    path: str
    kind: str
    name: str
    call: int
    axes: str
    array: np.ndarray
    same_as: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TraceError(
                f"tap {self.key}: `{self.kind}` is no kind of tap", f"kinds: {', '.join(KINDS)}"
            )
        if len(self.axes) != self.array.ndim or len(set(self.axes)) != len(self.axes):
            raise TraceError(
                f"tap {self.key}: axes `{self.axes}` do not name the axes of its array",
                f"the array has shape {self.array.shape}",
                "give one distinct letter per axis, such as NCHW",
            )

    @property
    def key(self) -> str:
        return tap_key(self.path, self.kind, self.name, self.call)


@dataclass(frozen=True)
class Site:
    """Where a tap was taken and what its array looks like, without the values; as in `Tap`."""

    path: str
    kind: str
    axes: str
    shape: tuple[int, ...]


@dataclass
class Trace(Mapping[str, Tap]):
    """The taps of one run by key, in order of execution, with the run's provenance."""

    provenance: dict[str, Any] = field(default_factory=dict)
    _taps: dict[str, Tap] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: str) -> Tap:
        return self._taps[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._taps)

    def __len__(self) -> int:
        return len(self._taps)

    def places(self) -> dict[str, Site]:
        """What is known of each tap without its values, by key, in order of execution."""
        return {
            key: Site(tap.path, tap.kind, tap.axes, tap.array.shape)
            for key, tap in self._taps.items()
        }

    def add(self, tap: Tap) -> None:
        """Append a tap; a key that is already there raises TraceError."""
        if tap.key in self._taps:
            raise TraceError(
                f"two taps are called {tap.key}",
                "names of arguments and results joined by dots must stay different",
                "rename one of the dictionary keys",
            )
        self._taps[tap.key] = tap

    def without(self, keys: Collection[str]) -> "Trace":
        """The trace without some taps, whose arrays both share."""
        found = copy.copy(self)
        found._taps = {key: tap for key, tap in self._taps.items() if key not in keys}
        return found

    def save(self, folder: str | Path) -> None:
        """Write `trace.json` and `taps.safetensors` to a new folder, wholly or not at all.

        Arrays shared by several taps are written once. Raises TraceError where `folder` exists.
        """
        from safetensors.numpy import save_file

        folder = Path(folder)
        if folder.exists():
            raise TraceError(
                f"{folder} exists already", "a trace is never overwritten", "name a new folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        stored: dict[int, str] = {}
        arrays: dict[str, np.ndarray] = {}
        entries = []
        for tap in self.values():
            slot = stored.setdefault(id(tap.array), str(len(stored)))
            if slot not in arrays:
                arrays[slot] = np.ascontiguousarray(tap.array).reshape(tap.array.shape)
            entries.append(
                {
                    "path": tap.path,
                    "kind": tap.kind,
                    "name": tap.name,
                    "call": tap.call,
                    "axes": tap.axes,
                    "same_as": tap.same_as,
                    "array": slot,
                }
            )
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            save_file(arrays, temporary / "taps.safetensors")
            text = json.dumps(
                {"format": FORMAT, "provenance": self.provenance, "taps": entries}, indent=1
            )
            (temporary / "trace.json").write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @classmethod
    def load(cls, folder: str | Path) -> "Trace":
        """Read what `save` wrote, bit for bit; anything else raises TraceError."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        action = "name a folder written by Trace.save, or capture again"
        try:
            (folder / "trace.json").stat()
            description = read_json(folder / "trace.json", bounds.RECORD_BYTES, "trace")
            arrays = load_file(folder / "taps.safetensors")
        except OSError as error:
            raise TraceError(f"{folder} is no trace", str(error), action) from error
        except (InputError, SafetensorError, ValueError) as error:
            raise TraceError(f"{folder} is a damaged trace", error, action) from error
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            found = description.get("format") if isinstance(description, dict) else None
            raise TraceError(
                f"{folder} is a trace of another format",
                f"its format is {found}, this program reads {FORMAT}",
                action,
            )
        try:
            trace = cls(provenance=description["provenance"])
            for entry in description["taps"]:
                trace.add(Tap(**{**entry, "array": arrays[entry["array"]]}))
        except (KeyError, TypeError) as error:
            raise TraceError(
                f"{folder} is a damaged trace", f"trace.json: {error!r}", action
            ) from error
        return trace

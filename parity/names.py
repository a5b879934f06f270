"""A declared map between two models whose modules and tensors have other names."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from parity.errors import InputError
from parity.trace import tap_key

Places = Mapping[tuple[str, str], Sequence[str]]
BY_IDENTITY = "both module trees have the same names: pairing is by identity"


@dataclass(frozen=True)
class View:
    """How one side holds a tensor that the reference holds in another shape or order.

    Args:
        axes: the reference's axis names, one letter each.
        to_reference: the port's array as the reference has it, axes in the order of `axes`.
        to_port: the inverse.
    """

    axes: str
    to_reference: Callable[[np.ndarray], np.ndarray]
    to_port: Callable[[np.ndarray], np.ndarray]


class Naming(Protocol):
    """What a recorder asks about the modules and tensors of its side."""

    def modules(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The modules to record, of those `found`, by the path to record them under."""

    def tensors(self, path: str, kind: str, names: Sequence[str]) -> Sequence[str | None]:
        """The name to record each tensor of a call under; None for those that stay unrecorded."""

    def call(self, path: str, count: int) -> int | None:
        """The number to record a call under, `count` calls after the first; None for none."""

    def view(self, path: str, kind: str, name: str) -> View | None:
        """How the tensor is to be seen; None where both sides have it in one shape."""


class Declared(Protocol):
    """How the modules and tensors of two models belong together."""

    @property
    def reasons(self) -> list[str]:
        """What is declared to be on one side only, and why, for people."""

    @property
    def pairing(self) -> str:
        """How modules and tensors are paired, for people."""

    def reference_side(self) -> Naming | None:
        """For the reference's recorder; None where it records everything under its own name."""

    def port_side(self, places: Places) -> Naming | None:
        """For the port's recorder; `places` are the names of the reference's tensors by path and
        kind."""


def reasons(
    what: str, reference_only: Mapping[str, str], port_only: Mapping[str, str]
) -> list[str]:
    """A sentence for each declared place that one side alone has, such as "weight of"."""
    sides = (("reference", reference_only), ("port", port_only))
    return [
        f"{place}, {what} the {side} only: {why}"
        for side, places in sides
        for place, why in places.items()
    ]


@dataclass(frozen=True)
class Names:
    """Which module of the port is which of the reference, and where their tensors differ.

    In paths of modules a `*` stands for one part, the same on both sides, such as an index. The
    whole models belong together without being declared. Tensors that go into or come out of a
    module are paired by their names, or, where one is left on both sides, by being the only one.
    All other places are declared. A place is a key such as `decoder.layers.*:input.mask`, always
    with the reference's path (the whole model is `model`); there a `*` stands for anything.

    Args:
        modules: the port's path to the reference's; None where both have the same paths.
        tensors: place with the port's name to the reference's name.
        calls: the reference's path to {the port's call: the reference's call}, counted from 0; a
            call of either side that is not listed is a part of the module that makes it, such as
            one on a stack of what the other side makes in several. Without an entry, the first
            belongs to the first and so on.
        views: place with the reference's name to the `View` of the port's tensor.
        reference_only: place that has no counterpart in the port, to the reason.
        port_only: place with the port's name that has none in the reference, to the reason.
        complete: False where this is a part of the map, and the rest is to be found.

    Example:
        >>> names = parity.Names(
        ...     modules={"stem": "conv1", "blocks.*.mix": "layers.*.mlp"},
        ...     reference_only={"layers.*.mlp:input.mask": "always all true"},
        ... )
        >>> names.reasons
        ['layers.*.mlp:input.mask, in the reference only: always all true']
    """

    modules: Mapping[str, str] | None = None
    tensors: Mapping[str, str] = field(default_factory=dict)
    calls: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    reference_only: Mapping[str, str] = field(default_factory=dict)
    port_only: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True

    @property
    def reasons(self) -> list[str]:
        """What is declared to be on one side only, and why, for people."""
        return reasons("in", self.reference_only, self.port_only)

    @property
    def pairing(self) -> str:
        """How modules and tensors are paired, for people."""
        places = len(self.tensors) + len(self.calls) + len(self.views)
        alone = len(self.reference_only) + len(self.port_only)
        text = BY_IDENTITY
        if self.modules is not None:
            text = f"modules are paired by a declared map of {len(self.modules)} patterns"
        if places:
            text += f"; {places} patterns of their tensors have another name, count or shape"
        if alone:
            text += f"; {alone} patterns of tensors are declared to be on one side only"
        return text

    def reference_side(self) -> Naming:
        """For the reference's recorder."""
        return _ReferenceSide(self)

    def port_side(self, places: Places) -> Naming:
        """For the port's recorder; see `Declared`."""
        return _PortSide(self, places)


@dataclass(frozen=True)
class SameNames:
    """Both sides have the same names: a tensor with another name has no counterpart.

    In contrast to `Names()`, no lone tensor is paired with another, and private attributes of the
    port are left out.
    """

    pairing: str = BY_IDENTITY
    reasons: tuple[str, ...] = ()

    def reference_side(self) -> None:
        """Every module and tensor is recorded."""

    def port_side(self, places: Places) -> None:
        """Every module and tensor is recorded."""


@dataclass(frozen=True)
class _ReferenceSide:
    names: Names

    def modules(self, found: Mapping[str, Any]) -> dict[str, Any]:
        if self.names.modules is None:
            return dict(found)
        ours = matched(self.names.modules.values(), found, "reference")
        # In the model's own order, which is that of the trace's reader.
        return {path: module for path, module in found.items() if path == "" or path in ours}

    def tensors(self, path: str, kind: str, names: Sequence[str]) -> list[str | None]:
        only = self.names.reference_only
        return [None if _listed(only, tap_key(path, kind, name)) else name for name in names]

    def call(self, path: str, count: int) -> int | None:
        calls = self.names.calls.get(path)
        return count if calls is None or count in calls.values() else None

    def view(self, path: str, kind: str, name: str) -> None:
        return None


@dataclass(frozen=True)
class _PortSide:
    names: Names
    places: Places

    def modules(self, found: Mapping[str, Any]) -> dict[str, Any]:
        if self.names.modules is None:
            return dict(found)
        renamed: dict[str, str] = {"": ""}
        for pattern, theirs in self.names.modules.items():
            for path, parts in matched([pattern], found, "port").items():
                renamed[path] = filled(theirs, parts)
        named: dict[str, Any] = {}
        for path, module in found.items():
            theirs = renamed.get(path)
            if theirs in named:
                raise InputError(
                    f"two modules of the port are declared to be `{theirs}` of the reference",
                    f"the second is `{path}`",
                    "let each pattern in `modules` lead to a path of its own",
                )
            if theirs is not None:
                named[theirs] = module
        return named

    def tensors(self, path: str, kind: str, names: Sequence[str]) -> list[str | None]:
        theirs = self.places.get((path, kind), ())
        found: dict[str, str | None] = {}
        for name in names:
            key = tap_key(path, kind, name)
            declared = _listed(self.names.tensors, key)
            if declared is not None:
                found[name] = declared
            elif _listed(self.names.port_only, key) is not None:
                found[name] = None
            elif name in theirs:
                found[name] = name
        left = [name for name in names if name not in found]
        free = [name for name in theirs if name not in found.values()]
        if len(left) == len(free) == 1:
            found[left[0]] = free[0]
        return [found.get(name, name) for name in names]

    def call(self, path: str, count: int) -> int | None:
        calls = self.names.calls.get(path)
        return count if calls is None else calls.get(count)

    def view(self, path: str, kind: str, name: str) -> View | None:
        return _listed(self.names.views, tap_key(path, kind, name))


def _listed(places: Mapping[str, Any], key: str) -> Any | None:
    """The entry of the first pattern that fits the key, or None."""
    if key in places:
        return places[key]
    return next((one for place, one in places.items() if fnmatch.fnmatchcase(key, place)), None)


def matched(
    patterns: Iterable[str],
    paths: Iterable[str],
    side: str,
    what: str = "module",
    table: str = "modules",
) -> dict[str, tuple[str, ...]]:
    """The paths that fit any pattern, each with what its stars stand for.

    Raises InputError for a pattern that fits none; `side`, `what` and `table` are for its text.
    """
    paths = list(paths)
    found: dict[str, tuple[str, ...]] = {}
    for pattern in patterns:
        expression = re.compile(r"([^.]+)".join(map(re.escape, pattern.split("*"))))
        matches = {path: one.groups() for path in paths if (one := expression.fullmatch(path))}
        if not matches:
            near = difflib.get_close_matches(pattern, paths, 3, 0.0)
            nearest = f"the nearest of its {len(paths)} {what}s: {', '.join(near)}"
            raise InputError(
                f"`{pattern}` is no {what} of the {side}",
                nearest if paths else f"no {what} of the {side} can be seen at all",
                f"mend the path in `{table}`",
            )
        found.update(matches)
    return found


def filled(pattern: str, parts: Sequence[str]) -> str:
    """The pattern with its stars replaced; raises InputError where their number differs."""
    texts = pattern.split("*")
    if len(texts) != len(parts) + 1:
        raise InputError(
            f"`{pattern}` has {len(texts) - 1} stars",
            f"its counterpart in the port has {len(parts)}",
            "give both sides of the entry the same number of stars",
        )
    return "".join(text + part for text, part in zip(texts, (*parts, ""), strict=True))

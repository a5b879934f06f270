"""What the recorders of all frameworks share: taps of a run, and modules that run alone."""

import dataclasses
import fnmatch
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from parity.calls.structures import STACKED, Slot, fill, needed, slots, whole
from parity.calls.watch import Call, Replaced, Watch
from parity.masks import Drawn, Feed, Keeps, Masks
from parity.names import Naming
from parity.pairing import align
from parity.trace import Axes, Tap, Trace, TraceError, shown, tap_key

Sink = Callable[[Tap], None]
Feeds = Mapping[str, Tap]


class IsolationError(TraceError):
    """A module cannot be run on the other side's inputs."""


def _unstacked(tap: Tap, naming: Naming, axes: Axes, parts: dict[str, dict]) -> Iterator[Tap]:
    """The taps that the reference has in place of one; those of a stack once all have come."""
    one, kind = whole(tap.name), tap.kind.removeprefix("grad_")
    if one is not None:
        name, index, count = one
        met = parts.setdefault(tap_key(tap.path, tap.kind, name, tap.call), {})
        met[index] = _seen(naming, tap).array
        if len(met) == count:
            letters = naming.view(tap.path, kind, name).axes
            array = np.stack([met[each] for each in range(count)])
            yield Tap(tap.path, tap.kind, name, tap.call, letters, array)
    elif STACKED in tap.name:
        for name, array in zip(needed(tap.name), tap.array, strict=True):
            letters = axes(tap.path, kind, name, array.ndim)
            yield Tap(tap.path, tap.kind, name, tap.call, letters, array)
    else:
        yield tap


def _seen(naming: Naming, tap: Tap) -> Tap:
    """A tap of this side as the reference has it."""
    found = naming.view(tap.path, tap.kind.removeprefix("grad_"), tap.name)
    if found is None:
        return tap
    array = found.to_reference(tap.array)
    back = found.to_port(array)
    if back.shape != tap.array.shape:
        raise TraceError(
            f"the view of {tap.key} does not lead back to the port's tensor",
            f"{list(tap.array.shape)} becomes {list(array.shape)}, and back {list(back.shape)}",
            "mend the view, or narrow the place that it is declared for in `views`",
        )
    return dataclasses.replace(tap, array=array, axes=found.axes, same_as=None)


def selector(only: str | None) -> Callable[[str], bool]:
    """Whether a module path is `only`, lies below it, or matches it as a glob; all for None."""
    if only is None:
        return lambda path: True
    return lambda path: (
        path == only or path.startswith(f"{only}.") or fnmatch.fnmatchcase(shown(path), only)
    )


class Collector:
    """Hands on taps of tensors, and knows a tensor that it has met before.

    Args:
        axes: axes(path, kind, name, rank) gives the axis names.
        sink: receives the taps.
        to_numpy: the values of a tensor; a copy where the framework may change the tensor later.
        stamp: changes whenever the values of a tensor change in place.
        keep: whether arrays may be held here, for tensors that are met again.
        guard: hold the tensors too, to see whether any changes before the run ends.
    """

    def __init__(
        self,
        axes: Axes,
        sink: Sink,
        to_numpy: Callable[[Any], np.ndarray],
        stamp: Callable[[Any], int] = lambda tensor: 0,
        *,
        keep: bool,
        guard: bool = False,
    ) -> None:
        self._axes = axes
        self._sink = sink
        self._to_numpy = to_numpy
        self._stamp = stamp
        self._keep = keep
        self._guard = guard
        self._met: dict[int, tuple[weakref.ref, int, str, np.ndarray | None]] = {}
        self._guarded: list[tuple[Any, int, str]] = []

    def __call__(self, path: str, kind: str, name: str, call: int, tensor: Any) -> None:
        """Make a tap of `tensor` and hand it on."""
        axes = self._axes(path, kind, name, len(tensor.shape))
        stamp = self._stamp(tensor)
        reference, met_stamp, first, array = self._met.get(id(tensor), (None, 0, None, None))
        met = reference is not None and reference() is tensor and met_stamp == stamp
        if not met:
            first, array = None, None
        if array is None:
            array = self._to_numpy(tensor)
        tap = Tap(path, kind, name, call, axes, array, first)
        if not met:
            held = array if self._keep else None
            self._met[id(tensor)] = (weakref.ref(tensor), stamp, tap.key, held)
            if self._guard:
                self._guarded.append((tensor, stamp, tap.key))
        self._sink(tap)

    def changed_in_place(self) -> str | None:
        """The key of the first guarded tap whose tensor has changed since, or None."""
        changed = (key for tensor, stamp, key in self._guarded if self._stamp(tensor) != stamp)
        return next(changed, None)


class Recorder(ABC):
    """What the recorders of all frameworks share: modules by path, calls, isolated runs."""

    def __init__(
        self,
        model: Any,
        axes: Axes,
        only: str | None,
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        self.model = model
        self.naming = naming
        self.axes = axes
        self.masks = masks
        self.calls: list[Call] = []
        self.drawn: dict[str, Drawn] = {}
        self._selected = selector(only)
        self.modules: dict[str, Any] = {}
        self._through: Collection[str] = ()

    def modules_of(self, inputs: tuple | dict) -> dict[str, Any]:
        """The modules by the path they are recorded under; a model that is not built yet is built
        by a call on `inputs`."""
        return self.modules

    def _watched(self, modules: Mapping[str, Any]) -> dict[str, Any]:
        """The modules that are recorded, by the path they are recorded under."""
        return dict(modules) if self.naming is None else self.naming.modules(modules)

    def viewed(self, sink: Sink) -> Sink:
        """A sink for taps as this side has them, which `sink` gets as the reference has them."""
        if self.naming is None:
            return sink
        naming = self.naming

        parts: dict[str, dict[int, np.ndarray]] = {}

        def view(tap: Tap) -> None:
            for one in _unstacked(tap, naming, self.axes, parts):
                sink(_seen(naming, one))

        return view

    def fed_array(self, path: str, kind: str, slot: Slot, taps: Feeds) -> np.ndarray | None:
        """The reference's tap as this side has it, or several in one; see `needed`.

        None where axes have other names.
        """
        one = whole(slot.name)
        if one is not None:
            view = self.naming.view(path, kind, slot.name)
            return view.to_port(taps[one[0]].array[one[1]])
        if STACKED in slot.name:
            names = needed(slot.name)
            arrays = [self._arranged(path, kind, name, taps[name]) for name in names]
            return None if any(one is None for one in arrays) else np.stack(arrays)
        return self._arranged(path, kind, slot.name, taps[slot.name])

    def _arranged(self, path: str, kind: str, name: str, tap: Tap) -> np.ndarray | None:
        view = None if self.naming is None else self.naming.view(path, kind, name)
        if view is None:
            return align(tap, self.axes(path, kind, name, tap.array.ndim))
        array = align(tap, view.axes)
        return None if array is None else view.to_port(array)

    @contextmanager
    def looking_through(self, paths: Collection[str]) -> Iterator[None]:
        """Inside it, modules at `paths` are a part of those that call them when these run alone:
        nothing stands in for them, and what they call counts as called by the others."""
        before, self._through = self._through, paths
        try:
            yield
        finally:
            self._through = before

    @contextmanager
    def _masked(self, watch: Watch) -> Iterator[None]:
        """Runs under `watch` take their dropout masks from `masks`, where there are any."""
        if self.masks is None:
            yield
            return
        with self._fed(Feed(self.masks, watch.place, watch.drawn)):
            yield

    @abstractmethod
    def _fed(self, keeps: Keeps) -> AbstractContextManager:
        """Inside it the framework's dropout takes what `keeps` gives."""

    @abstractmethod
    def _watch(self, emit: Callable, replace: Callable = lambda call: None) -> Watch:
        """The watch over the calls of this model's modules."""

    @abstractmethod
    def _run(self, watch: Watch, module: Any, args: tuple, kwargs: dict) -> Any:
        """The results of one call of `module`, watched."""

    @abstractmethod
    def _collector(self, sink: Sink) -> Collector:
        """What turns watched tensors into taps for `sink`."""

    @abstractmethod
    def _tensor(self, array: np.ndarray, slot: Slot | None) -> Any:
        """`array` as a tensor of the framework, in the dtype of `slot`."""

    def isolate(
        self,
        call: Call,
        feeds: Feeds,
        children: Mapping[tuple[str, int], Feeds] | None = None,
        moved: Callable[[Tap], Tap] = lambda tap: tap,
    ) -> Trace:
        """Run one module alone, and record its taps and those of the modules that it calls.

        Args:
            call: one of `calls`; gives the arguments that are no tensors.
            feeds: the tensors of its arguments by name, from any framework; a parameter that
                these lack is None. Axes are matched by name. Where no name is known but the number
                of tensors is right, the order decides.
            children: the tensors of the results of modules that it calls, by (path, ordinal
                within this call). They stand in for running these modules.
            moved: applied to each tap fed.
        Returns: taps whose `call` counts within this call.
        Raises: IsolationError where a tensor inside a structure has no counterpart in `feeds`, or
            axes have other names.
        """
        children = children or {}
        names = [slot.name for part in call.arguments.values.values() for slot in slots(part)]
        if not set(names) & set(feeds) and len(names) == len(feeds):
            feeds = dict(zip(names, feeds.values(), strict=True))
        trace = Trace()
        collect = self._collector(trace.add)

        def tensor(path: str, kind: str, slot: Slot, taps: Feeds) -> Any:
            if not set(needed(slot.name)) <= set(taps):
                raise IsolationError(
                    f"{shown(path)} cannot be run alone",
                    f"its {kind} `{slot.name}` has no counterpart: {', '.join(taps) or 'none'}",
                    "give the argument the same name on both sides",
                )
            given = {name: moved(taps[name]) for name in needed(slot.name)}
            array = self.fed_array(path, kind, slot, given)
            if array is None:
                tap = next(iter(given.values()))
                axes = self.axes(path, kind, slot.name, tap.array.ndim)
                raise IsolationError(
                    f"{shown(path)} cannot be run alone",
                    f"its {kind} `{slot.name}` has axes {axes}, the counterpart {tap.axes}",
                    "name the same axes on both sides",
                )
            return self._tensor(array, slot)

        through = self._through
        places: dict[int, int] = {}
        counts: Counter[str] = Counter()

        def ordinal(inner: Call) -> int | None:
            """The number of a call among those of its module that this one makes; else None."""
            parent = inner.parent
            if parent is None:
                return 0
            while parent.path in through and parent.parent is not None:
                parent = parent.parent
            if parent.parent is not None:
                return None
            if id(inner) not in places:
                places[id(inner)] = counts[inner.path]
                counts[inner.path] += 1
            return places[id(inner)]

        def emit(inner: Call, kind: str, name: str, value: Any) -> None:
            number = ordinal(inner)
            if number is not None:
                collect(inner.path, kind, name, number, value)

        def replace(inner: Call) -> Replaced | None:
            number = ordinal(inner)
            if inner.parent is None or number is None or inner.path in through:
                return None
            results = children.get((inner.path, number))
            known = call.siblings(inner.path, through)
            if results is None or number >= len(known):
                return None
            template = known[number].results
            names = {name for slot in slots(template) for name in needed(slot.name)}
            # Where no result is recorded, nothing stands in for the module, and it runs.
            if not names or not names <= set(results):
                return None
            return Replaced(
                fill(template, lambda slot: tensor(inner.path, "output", slot, results))
            )

        changes = {
            name: None
            for name, part in call.arguments.values.items()
            if isinstance(part, Slot) and part.name and not set(needed(part.name)) <= set(feeds)
        }
        for name, tap in feeds.items():
            wanted = name in call.arguments.signature.parameters
            if wanted and not slots(call.arguments.values.get(name)):
                changes[name] = tensor(call.path, "input", Slot(name, None), {name: tap})
        args, kwargs = call.arguments.build(
            lambda slot: tensor(call.path, "input", slot, feeds), **changes
        )
        watch = self._watch(emit, replace)
        watch.resume(call)
        self._run(watch, self.modules[call.path], args, kwargs)
        return trace

"""What all captures share: watching module calls, naming tensors, calling again."""

import dataclasses
import fnmatch
import inspect
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np

from parity.masks import Drawn, Feed, Keeps, Masks
from parity.metrics import gap
from parity.names import Naming
from parity.pairing import align
from parity.trace import Axes, Tap, Trace, TraceError, shown, tap_key

Sink = Callable[[Tap], None]
Feeds = Mapping[str, Tap]
NOT_NAMED = ("training",)


class IsolationError(TraceError):
    """A module cannot be run on the other side's inputs."""


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in a structure, with the tensor's name and dtype."""

    name: str
    dtype: Any


STACKED, PART = "␟", "␞"  # in names of tensors that the other side has in several, or in one


def joined(names: Sequence[str]) -> str:
    """The name of a tensor whose parts along the first axis the other side has under `names`."""
    return STACKED.join(names)


def part(name: str, index: int, count: int) -> str:
    """The name of one of `count` tensors that the other side has stacked as `name`."""
    return f"{name}{PART}{index}/{count}"


def whole(name: str) -> tuple[str, int, int] | None:
    """The inverse of `part`; None for a name that is none of a part."""
    stem, found, rest = name.rpartition(PART)
    index, _, count = rest.partition("/")
    return (stem, int(index), int(count)) if found else None


def needed(name: str) -> list[str]:
    """The names on the other side that a tensor called `name` is made of."""
    one = whole(name)
    return [one[0]] if one else name.split(STACKED)


@dataclass(frozen=True)
class Record:
    """A dataclass, such as the outputs of `transformers`, taken apart."""

    kind: type
    parts: dict[str, Any]


def flatten(
    value: Any, is_tensor: Callable[[Any], bool], name: str = "", *, records: bool = False
) -> tuple[Any, list[tuple[str, Any]]]:
    """`value` with a `Slot` for each tensor, and the tensors with their dotted names, in order.

    Mappings and dataclasses become dictionaries; with `records`, dataclasses become a `Record`, of
    which `fill` makes one of the same class.
    """
    if is_tensor(value):
        return Slot(name, value.dtype), [(name, value)]
    record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if isinstance(value, Mapping):
        items = list(value.items())
    elif record:
        items = [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return value, []
    parts, tensors = [], []
    for key, item in items:
        place = f"{name}.{key}" if name else str(key)
        part, found = flatten(item, is_tensor, place, records=records)
        parts.append((key, part))
        tensors += found
    if record and not tensors and not isinstance(value, Mapping):
        return value, []
    if isinstance(value, Mapping) or record:
        taken = dict(parts)
        return Record(type(value), taken) if records and record else taken, tensors
    values = [part for _, part in parts]
    if hasattr(value, "_fields"):
        return type(value)(*values), tensors
    return type(value)(values) if type(value) in (list, tuple) else values, tensors


def fill(template: Any, tensor: Callable[[Slot], Any]) -> Any:
    """The structure `template` with `tensor(slot)` in place of each slot."""
    if isinstance(template, Slot):
        return tensor(template)
    if isinstance(template, Record):
        return template.kind(**fill(template.parts, tensor))
    if isinstance(template, dict):
        return {key: fill(part, tensor) for key, part in template.items()}
    if isinstance(template, list):
        return [fill(part, tensor) for part in template]
    if isinstance(template, tuple):
        parts = [fill(part, tensor) for part in template]
        return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
    return template


def is_array(value: Any) -> bool:
    """Whether a value is a NumPy array."""
    return isinstance(value, np.ndarray)


def largest_gap(found: Any, expected: Any) -> float:
    """The largest l2 gap of any array of one structure from that of the same name in another."""
    ours, theirs = (dict(flatten(one, is_array)[1]) for one in (found, expected))
    return max(gap(ours[name], array).l2 for name, array in theirs.items())


def slots(template: Any) -> list[Slot]:
    """The slots of a structure, in order."""
    if isinstance(template, Slot):
        return [template]
    if isinstance(template, Record):
        return slots(template.parts)
    if isinstance(template, dict):
        return [slot for part in template.values() for slot in slots(part)]
    if isinstance(template, list | tuple):
        return [slot for part in template for slot in slots(part)]
    return []


def flatten_result(
    value: Any, is_tensor: Callable[[Any], bool]
) -> tuple[Any, list[tuple[str, Any]]]:
    """Like `flatten`; the one tensor of a tuple such as (output, None) has no name of its own."""
    template, tensors = flatten(value, is_tensor, records=True)
    if isinstance(template, list | tuple) and len(tensors) == 1:
        lone = [isinstance(part, Slot) for part in template]
        if any(lone):
            parts = [Slot("", p.dtype) if isinstance(p, Slot) else p for p in template]
            return type(template)(parts), [("", tensors[0][1])]
    return template, tensors


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call, by parameter name, with slots for tensors."""

    signature: inspect.Signature
    values: dict[str, Any]
    unnamed: dict[str, Any]

    def build(self, tensor: Callable[[Slot], Any], **changes: Any) -> tuple[tuple, dict]:
        """Positional and keyword arguments for a new call; `changes` replace parameters."""
        kept = {name: part for name, part in self.values.items() if name not in changes}
        values = {**{name: fill(part, tensor) for name, part in kept.items()}, **changes}
        bound = inspect.BoundArguments(self.signature, _ordered(self.signature, values))
        return bound.args, {**bound.kwargs, **self.unnamed}


def _ordered(signature: inspect.Signature, values: dict[str, Any]) -> Any:
    return {name: values[name] for name in signature.parameters if name in values}


def named_arguments(
    signature: inspect.Signature, args: tuple, kwargs: dict, is_tensor: Callable[[Any], bool]
) -> tuple[Arguments, list[tuple[str, Any]]]:
    """The arguments with slots, and their tensors named after the parameters of `signature`.

    The tensors of a module's only parameter need no parameter name: theirs begins inside it.
    """
    parameters = [p for p in signature.parameters.values() if p.name not in NOT_NAMED]
    signature = signature.replace(parameters=parameters)
    unnamed = {key: value for key, value in kwargs.items() if key in NOT_NAMED}
    bound = signature.bind(*args, **{k: v for k, v in kwargs.items() if k not in NOT_NAMED})
    values, tensors = {}, []
    for parameter in parameters:
        if parameter.name not in bound.arguments:
            continue
        bare = len(parameters) == 1 or parameter.kind is parameter.VAR_KEYWORD
        part, found = flatten(
            bound.arguments[parameter.name],
            is_tensor,
            "" if bare else parameter.name,
            records=True,
        )
        values[parameter.name] = part
        tensors += found
    return Arguments(signature, values, unnamed), tensors


@dataclass
class Call:
    """One call of one module: who made it, and the shapes of its arguments and results.

    `call` counts the calls of this module in the run, as the reference counts them; `count` as
    this side does. `parent` is the watched call that made this one, None for the root. `before`
    are the calls of each module that came before this one, where not all are recorded.
    """

    path: str
    call: int
    parent: "Call | None"
    count: int = 0
    before: Mapping[str, int] | None = None
    arguments: Arguments | None = None
    results: Any = None
    children: "list[Call]" = field(default_factory=list)

    def made(self, through: Collection[str] = ()) -> "Iterator[Call]":
        """The calls that this call made, in order; those of modules in `through`, and then what
        these made themselves, as if this call had made it."""
        for child in self.children:
            yield child
            if child.path in through:
                yield from child.made(through)

    def siblings(self, path: str, through: Collection[str] = ()) -> "list[Call]":
        """The calls of the module at `path` that this call made, in order; see `made`."""
        return [child for child in self.made(through) if child.path == path]


@dataclass
class Watch:
    """Turns the calls of watched modules into `Call`s and tensors.

    Args:
        paths: module path by `id(module)`.
        is_tensor: tells tensors of the framework.
        signature: the signature of a module's forward function, without self.
        emit: receives path, kind, name, call, tensor of each tap in order of execution.
        replace: called with the Call before the module runs; a `Replaced` result stands in for
            running it, None runs it.
        symbolic: tells arguments with which a module is only being built; such calls, and those
            made within, are no part of the run.
        naming: the names of modules, tensors and calls on the other side, where they differ.
    """

    paths: Mapping[int, str]
    is_tensor: Callable[[Any], bool]
    signature: Callable[[Any], inspect.Signature]
    emit: Callable[[Call, str, str, Any], None]
    replace: "Callable[[Call], Replaced | None]" = lambda call: None
    symbolic: Callable[[Any], bool] = lambda argument: False
    naming: Naming | None = None
    calls: list[Call] = field(default_factory=list)
    drawn: dict[str, Drawn] = field(default_factory=dict)
    _muted: bool = False
    _stack: list[tuple[int, Call]] = field(default_factory=list)
    _counts: Counter = field(default_factory=Counter)
    _signatures: dict[int, inspect.Signature] = field(default_factory=dict)

    def place(self) -> tuple[str, int] | None:
        """Path and number of the innermost call that is running, None outside any."""
        return (self._stack[-1][1].path, self._stack[-1][1].call) if self._stack else None

    def resume(self, call: Call) -> None:
        """Count the calls of the run to come as if it were `call`, in the midst of its own run."""
        if call.before is not None:
            self._counts = Counter(call.before)
            return
        for child in call.children:
            self._counts.setdefault(child.path, child.count)
        self._counts[call.path] = call.count

    def __call__(self, original: Callable, module: Any, args: tuple, kwargs: dict) -> Any:
        """Run `original(module, *args, **kwargs)`, recording it where the module is watched."""
        identity = id(module)
        path = None if self._muted else self.paths.get(identity)
        if path is not None and any(map(self.symbolic, args)):
            self._muted = True
            try:
                return original(module, *args, **kwargs)
            finally:
                self._muted = False
        # A class that extends its parent's __call__ passes here twice for one call.
        if path is None or (self._stack and self._stack[-1][0] == identity):
            return original(module, *args, **kwargs)
        count = self._counts[path]
        number = count if self.naming is None else self.naming.call(path, count)
        if number is None:
            self._counts[path] += 1
            return original(module, *args, **kwargs)
        parent = self._stack[-1][1] if self._stack else None
        before = None if self.naming is None else dict(self._counts)
        call = Call(path, number, parent, count, before)
        if identity not in self._signatures:
            self._signatures[identity] = self.signature(module)
        call.arguments, tensors = named_arguments(
            self._signatures[identity], args, kwargs, self.is_tensor
        )
        if self.naming is not None:
            values, tensors = named_as_reference(
                self.naming, path, "input", call.arguments.values, tensors
            )
            call.arguments = dataclasses.replace(call.arguments, values=values)
        self._counts[path] += 1
        self.calls.append(call)
        if parent is not None:
            parent.children.append(call)
        for name, tensor in tensors:
            self.emit(call, "input", name, tensor)
        del tensors
        self._stack.append((identity, call))
        try:
            replaced = self.replace(call)
            result = original(module, *args, **kwargs) if replaced is None else replaced.value
        finally:
            self._stack.pop()
        call.results, tensors = flatten_result(result, self.is_tensor)
        if self.naming is not None:
            call.results, tensors = named_as_reference(
                self.naming, path, "output", call.results, tensors
            )
        for name, tensor in tensors:
            self.emit(call, "output", name, tensor)
        return result


def named_as_reference(
    naming: Naming, path: str, kind: str, template: Any, tensors: list[tuple[str, Any]]
) -> tuple[Any, list[tuple[str, Any]]]:
    """The template and tensors under the names of `naming`; what has none stays as it is."""
    own = [name for name, _ in tensors]
    names = dict(zip(own, naming.tensors(path, kind, own), strict=True))
    arrange = getattr(naming, "arrange", None)
    if arrange is not None:
        names = arrange(path, kind, names, {name: tuple(t.shape) for name, t in tensors})
    values = dict(tensors)

    def renamed(slot: Slot) -> Any:
        name = names[slot.name]
        return values[slot.name] if name is None else Slot(name, slot.dtype)

    kept = [(names[name], tensor) for name, tensor in tensors if names[name] is not None]
    return _refill(template, renamed), kept


def _refill(template: Any, slot: Callable[[Slot], Any]) -> Any:
    """A template with `slot` applied to its slots; in contrast to `fill`, records stay apart."""
    if isinstance(template, Record):
        return Record(template.kind, _refill(template.parts, slot))
    if isinstance(template, dict):
        return {key: _refill(part, slot) for key, part in template.items()}
    if type(template) in (list, tuple):
        return type(template)(_refill(part, slot) for part in template)
    return fill(template, slot)


def _unstacked(tap: Tap, naming: Naming, axes: Axes, parts: dict[str, list[Tap]]) -> Iterator[Tap]:
    """The taps that the reference has in place of one; those of a stack once all have come."""
    one = whole(tap.name)
    if one is not None:
        name, _, count = one
        met = parts.setdefault(tap_key(tap.path, tap.kind, name, tap.call), [])
        met.append(_seen(naming, tap))
        if len(met) == count:
            letters = naming.view(tap.path, tap.kind, name).axes
            array = np.stack([each.array for each in met])
            yield Tap(tap.path, tap.kind, name, tap.call, letters, array)
    elif STACKED in tap.name:
        for name, array in zip(needed(tap.name), tap.array, strict=True):
            letters = axes(tap.path, tap.kind, name, array.ndim)
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


@dataclass(frozen=True)
class Replaced:
    """A value that stands in for a module's result."""

    value: Any


@contextmanager
def watching(types: Iterable[type], watch: Watch) -> Iterator[Watch]:
    """Send every call of objects of `types` through `watch` while the context lasts.

    The classes' `__call__` is wrapped, not the modules', so that the modules themselves stay
    untouched: hooks would switch off fast paths of PyTorch, and so change what is computed.
    """
    owners = {
        next(base for base in kind.__mro__ if "__call__" in vars(base)): None for kind in types
    }
    originals = {owner: vars(owner)["__call__"] for owner in owners}

    def wrapper(original: Callable) -> Callable:
        @wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return watch(original, self, args, kwargs)

        return call

    try:
        for owner, original in originals.items():
            owner.__call__ = wrapper(original)
        yield watch
    finally:
        for owner, original in originals.items():
            owner.__call__ = original


def selector(only: str | None) -> Callable[[str], bool]:
    """Whether a module path is `only`, lies below it, or matches it as a glob; all for None."""
    if only is None:
        return lambda path: True
    return lambda path: (
        path == only or path.startswith(f"{only}.") or fnmatch.fnmatchcase(shown(path), only)
    )


def split_inputs(inputs: Any) -> tuple[tuple, dict]:
    """Positional and keyword arguments: a tuple is positional, a dict is by name."""
    if isinstance(inputs, tuple):
        return inputs, {}
    if isinstance(inputs, dict):
        return (), inputs
    raise TraceError(
        f"inputs are a {type(inputs).__name__}",
        "a model is called with positional or with named arguments",
        "give a tuple for positional arguments, or a dict of names",
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

        parts: dict[str, list[Tap]] = {}

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
        Raises: IsolationError where no tensor of the arguments has a counterpart, where one inside
            a structure has none in `feeds`, or axes have other names.
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
        if not names and flatten(call.arguments.values, watch.is_tensor)[1]:
            raise IsolationError(
                f"{shown(call.path)} cannot be run alone",
                "nothing that it is given has a counterpart on the other side",
                "give the arguments the same names, or declare how the port holds them in `views`",
            )
        watch.resume(call)
        self._run(watch, self.modules[call.path], args, kwargs)
        return trace

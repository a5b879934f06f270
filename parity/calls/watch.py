"""Watching the calls of modules: who made each, with which tensors, and what it returned."""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from parity.calls.arguments import Arguments, named_arguments
from parity.calls.structures import Record, Slot, State, fill, flatten_result
from parity.masks import Drawn
from parity.names import Naming


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
    """The template and tensors under the names of `naming`.

    What has none stays as it is, unless the same tensor is given under a name besides.
    """
    own = [name for name, _ in tensors]
    names = dict(zip(own, naming.tensors(path, kind, own), strict=True))
    arrange = getattr(naming, "arrange", None)
    if arrange is not None:
        names = arrange(path, kind, names, {name: tuple(t.shape) for name, t in tensors})
    values = dict(tensors)

    named = {id(values[own]): name for own, name in names.items() if name is not None}

    def renamed(slot: Slot) -> Any:
        value = values[slot.name]
        name = names[slot.name]
        name = named.get(id(value)) if name is None else name
        if name is not None:
            return Slot(name, slot.dtype)
        # a constant where the module runs alone
        return value.detach() if hasattr(value, "detach") else value

    kept = [(names[name], tensor) for name, tensor in tensors if names[name] is not None]
    return _refill(template, renamed), kept


def _refill(template: Any, slot: Callable[[Slot], Any]) -> Any:
    """A template with `slot` applied to its slots; in contrast to `fill`, records stay apart and
    states as they were."""
    if isinstance(template, State):
        return template
    if isinstance(template, Record):
        return Record(template.kind, _refill(template.parts, slot))
    if isinstance(template, dict):
        return {key: _refill(part, slot) for key, part in template.items()}
    if type(template) in (list, tuple):
        return type(template)(_refill(part, slot) for part in template)
    return fill(template, slot)


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

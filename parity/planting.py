"""Changes methods of a class while a fault is planted, and puts them back."""

import ast
import inspect
import itertools
import linecache
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from parity.errors import InputError

_CHANGES = itertools.count()


def rewritten(function: Callable, old: str, new: str) -> Callable:
    """A function whose source has `new` in place of `old`; raises InputError unless it has it once.

    Names are looked up where `function` was defined. Functions with closures have none here.
    """
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise InputError(
            f"{function.__qualname__} has {source.count(old)} places to change",
            f"expected `{old}` exactly once",
            "bring the fault up to date with the code that it is planted in",
        )
    changed = source.replace(old, new)
    name = f"<{function.__qualname__}, changed {next(_CHANGES)}>"
    # AutoGraph, and whoever reads a traceback, look for the source there.
    linecache.cache[name] = (len(changed), None, changed.splitlines(keepends=True), name)
    code = compile(changed, name, "exec")
    # A method may be called as a function that it uses.
    defined: dict[str, Any] = {}
    exec(code, function.__globals__, defined)
    return defined[function.__name__]


@contextmanager
def changed_method(instance: Any, name: str, old: str, new: str) -> Iterator[None]:
    """`instance` alone has a method whose source is changed, see `rewritten`."""
    changed = rewritten(inspect.unwrap(getattr(type(instance), name)), old, new)
    with replaced(instance, name, types.MethodType(changed, instance)):
        yield


@contextmanager
def edited(
    module: types.ModuleType, old: str, new: str, *users: types.ModuleType
) -> Iterator[types.ModuleType]:
    """`users` see a copy of `module` whose source has `new` in place of `old`; others do not.

    Gives the copy. As if its file had been copied, edited and imported in place of the original.
    Classes that are not edited are those of the original, so that both sides can still exchange
    objects.
    Raises InputError unless the source has `old` exactly once, and where nobody uses the module.
    """
    source = inspect.getsource(module)
    if source.count(old) != 1:
        raise InputError(
            f"{module.__name__} has {source.count(old)} places to change",
            f"expected `{old}` exactly once",
            "bring the fault up to date with the code that it is planted in",
        )
    changed = source.replace(old, new)
    name = f"<{module.__name__}, changed {next(_CHANGES)}>"
    linecache.cache[name] = (len(changed), None, changed.splitlines(keepends=True), name)
    copied = types.ModuleType(module.__name__)
    copied.__dict__.update(__file__=name, __package__=module.__package__)
    # Dataclasses look for the module that they are defined in.
    exec(compile(changed, name, "exec"), copied.__dict__)
    shared = _classes_apart(source, source[: source.index(old)].count("\n") + 1)
    for key in shared:
        setattr(copied, key, vars(module)[key])
    with ExitStack() as stack:
        taken = 0
        for user in users:
            for key, value in list(vars(user).items()):
                if value is module:
                    stack.enter_context(replaced(user, key, copied))
                    taken += 1
                elif (
                    getattr(value, "__module__", None) == module.__name__
                    and vars(module).get(getattr(value, "__name__", "")) is value
                ):
                    stack.enter_context(replaced(user, key, vars(copied)[value.__name__]))
                    taken += 1
        if not taken:
            raise InputError(
                f"nothing of {module.__name__} is used by what it was edited for",
                f"users: {', '.join(user.__name__ for user in users)}",
                "name the modules that import from it",
            )
        yield copied


def _classes_apart(source: str, line: int) -> list[str]:
    """The names of the classes of a module that do not include a line of its source."""
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and not node.lineno <= line <= node.end_lineno
    ]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner` has `value` as attribute `name`, past any bookkeeping of its class."""
    own = vars(owner)
    if isinstance(own, types.MappingProxyType) or isinstance(owner, types.ModuleType):
        put, remove = partial(setattr, owner), partial(delattr, owner)
    else:
        put, remove = own.__setitem__, own.__delitem__
    held, before = name in own, own.get(name)
    put(name, value)
    try:
        yield
    finally:
        if held:
            put(name, before)
        else:
            remove(name)

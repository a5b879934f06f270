"""Mistakes that a port could have made, made one at a time in the source of plain Python functions.

What runs on the host, data pipelines, post-processing, metrics and schedules, is no sequence of
tensor operations. There a mistake is an edit of one expression of the reference: another number,
`<` for `<=`, a condition or a statement left out, arguments exchanged. Where the reference, so
edited, gives what the port gives, the edit is the cause.
"""

import ast
import copy
import dataclasses
import inspect
import itertools
import linecache
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import numpy as np

INSTALLED = (str(Path(ast.__file__).parent), str(Path(np.__file__).parents[1]))
"""The folders of Python's own modules and of installed packages."""

MEMORY = 1 << 29  # bytes that an edited program may ask for
ENOUGH, MOST = 1, 6  # mistakes that explain all results, and mistakes that explain some
SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
NAMES = (
    ("BILINEAR", "NEAREST", "BICUBIC", "LANCZOS", "BOX", "HAMMING"),
    ("bilinear", "nearest", "nearest-exact", "bicubic", "area"),
    ("pillow", "torch"),
    ("min", "max", "minimum", "maximum", "argmin", "argmax"),
    ("sum", "mean", "nansum", "nanmean"),
    ("floor", "ceil", "round", "rint"),
    ("height", "width"),
    ("top", "left"),
    ("rows", "columns"),
    ("tp", "fp", "fn"),
    ("true", "predicted", "right"),
)
"""Names that are taken for one another; those of one row."""
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Div,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
Planted = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Mistake:
    """One way to be wrong: in words, and as a context in which the reference is wrong so."""

    text: str
    planted: Planted


def edits(
    functions: Sequence[Callable],
    numbers: Sequence[float] = (),
    lines: Mapping[CodeType, set[int]] | None = None,
) -> Iterator[Mistake]:
    """Every edit of one expression or statement of each function, the smallest first.

    Args:
        functions: plain functions and methods, decorated or not; those without source, and those
            that need a cell of another function, have no edits.
        numbers: besides the usual ones, values that a constant may have by mistake.
        lines: those of each function that matter, by code; all unless given.
    """
    for function in functions:
        function = inspect.unwrap(function)
        found = _parsed(function)
        if found is None:
            continue
        tree, name, first = found
        wanted = None if lines is None else lines[function.__code__]
        for node, text, changed in _changed_trees(tree, numbers, function.__globals__):
            own = range(first + node.lineno - 1, first + node.end_lineno)
            if wanted is not None and not wanted.intersection(own):
                continue
            code = _compiled(changed(), function, name)
            if code is not None and code.co_freevars == function.__code__.co_freevars:
                line = first + node.lineno - 1
                whole = linecache.getline(function.__code__.co_filename, line).strip()
                title = f"{name}:{line}, {function.__name__}, `{whole}`: {text}"
                yield Mistake(title, partial(_recoded, function, code))


def functions_of(*modules: Any) -> list[FunctionType]:
    """The functions and methods that each module defines itself, in the order of its source."""
    found = []
    for module in modules:
        for value in vars(module).values():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if isinstance(value, type):
                methods = (inspect.unwrap(one) for one in vars(value).values() if callable(one))
                found += [one for one in methods if isinstance(one, FunctionType)]
            elif callable(value) and isinstance(inspect.unwrap(value), FunctionType):
                found.append(inspect.unwrap(value))
    return [one for one in found if one.__code__.co_filename != "<string>"]


def reached(functions: Iterable[Callable]) -> list[FunctionType]:
    """Plain functions, and those that they name, however far: of the same package or of no
    installed one."""
    found: dict[FunctionType, None] = {}
    left = [inspect.unwrap(one) for one in functions]
    packages = {_package(one) for one in left}
    while left:
        one = left.pop(0)
        if not isinstance(one, FunctionType) or one in found:
            continue
        if _package(one) in packages or not one.__code__.co_filename.startswith(INSTALLED):
            found[one] = None
            left += filter(inspect.isfunction, map(one.__globals__.get, _names(one.__code__)))
    return list(found)


def _names(code: CodeType) -> Iterator[str]:
    """What a function names, also in its comprehensions."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _package(function: Callable) -> str:
    return function.__module__.partition(".")[0]


def _parsed(function: Callable) -> tuple[ast.Module, str, int] | None:
    """The tree of a function without its decorators, its file's name, and its first line there."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    if not tree.body or not isinstance(tree.body[0], ast.FunctionDef):
        return None
    tree.body[0].decorator_list = []
    return tree, Path(function.__code__.co_filename).name, first


def _compiled(tree: ast.Module, function: Callable, name: str) -> CodeType | None:
    """The code of the function that `tree` defines, or None where it is no program."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            whole = ast.fix_missing_locations(tree)
            module = compile(whole, function.__code__.co_filename, "exec")
    except (SyntaxError, ValueError, TypeError):
        return None
    for value in module.co_consts:
        if isinstance(value, CodeType) and value.co_name == function.__name__:
            return value
    return None


@contextmanager
def _recoded(function: FunctionType, code: CodeType) -> Iterator[None]:
    """Whoever calls `function` runs other code."""
    before = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = before


def _changed_trees(
    tree: ast.Module, numbers: Sequence[float], known: Mapping[str, Any]
) -> Iterator[tuple[ast.AST, str, Callable[[], ast.Module]]]:
    """(where, what in words, makes the tree with that changed), edits of expressions first.

    An edit that could be made alike at several places is also made at all of them.
    """
    body = tree.body[0]
    skipped = _documentation(body) | _annotations(body) | _messages(body)
    places = [
        (_Place(parent, field, index), node)
        for parent in ast.walk(body)
        for field, index, node in _children(parent)
        if id(node) not in skipped
    ]
    own = sorted(set(_assigned(body)))
    for offers in (_expressions, _statements, partial(_ratios, own)):
        alike: dict[str, list[tuple[_Place, ast.AST, ast.AST]]] = {}
        for place, node in places:
            for replacement in offers(node, numbers, known):
                text = f"`{_shown(replacement)}` instead of `{_shown(node)}`"
                if isinstance(replacement, ast.Pass):
                    text = f"without `{_shown(node)}`"
                alike.setdefault(text, []).append((place, node, replacement))
                yield node, text, partial(_with, tree, [(place, replacement)])
        for text, found in alike.items():
            changes = [(place, replacement) for place, _, replacement in found]
            if len(changes) > 1 and len({place for place, _ in changes}) == len(changes):
                yield found[0][1], f"{text}, {len(changes)} times", partial(_with, tree, changes)


@dataclass(frozen=True, eq=False)
class _Place:
    """A field of a node, or one element of a field that is a list."""

    parent: ast.AST
    field: str
    index: int | None

    def get(self) -> ast.AST:
        value = getattr(self.parent, self.field)
        return value if self.index is None else value[self.index]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _with(tree: ast.Module, changes: Sequence[tuple[_Place, ast.AST]]) -> ast.Module:
    """A copy of `tree` with other nodes at some places."""
    before = [(place, place.get()) for place, _ in changes]
    try:
        for place, replacement in changes:
            place.put(replacement)
        return copy.deepcopy(tree)
    finally:
        for place, node in reversed(before):
            place.put(node)


def _children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, list):
            for index, one in enumerate(value):
                if isinstance(one, ast.expr | ast.stmt):
                    yield field, index, one
        elif isinstance(value, ast.expr | ast.stmt):
            yield field, None, value


def _documentation(body: ast.FunctionDef) -> set[int]:
    return {
        id(one)
        for node in ast.walk(body)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for one in (node, node.value)
    }


def _annotations(body: ast.FunctionDef) -> set[int]:
    """Nodes that say types, and defaults, which code of a function does not hold."""
    roots: list[ast.AST | None] = [body.returns, *body.args.defaults, *body.args.kw_defaults]
    for node in ast.walk(body):
        if isinstance(node, ast.arg | ast.AnnAssign):
            roots.append(node.annotation)
    return {id(one) for root in roots if root is not None for one in ast.walk(root)}


def _messages(body: ast.FunctionDef) -> set[int]:
    """What is within f-strings."""
    return {
        id(one)
        for node in ast.walk(body)
        if isinstance(node, ast.JoinedStr)
        for one in ast.walk(node)
    }


def _shown(node: ast.AST) -> str:
    """The source of a node; of a statement with a body, its first line."""
    return ast.unparse(node).splitlines()[0]


def _expressions(
    node: ast.AST, numbers: Sequence[float], known: Mapping[str, Any]
) -> Iterator[ast.AST]:
    """What may stand in place of an expression."""
    if isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _constants(node.value, numbers))
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [other()], node.comparators)
        yield from _always(node)
        if _is_variable(node.comparators[0]):
            yield ast.Compare(node.left, node.ops, [ast.Constant(0)])
    elif isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
        for operator in OPERATORS.get(type(node.op), ()):
            yield ast.BinOp(node.left, operator(), node.right)
        for delta in (1, -1):
            if _is_variable(node.left):
                yield ast.BinOp(_moved(node.left, delta), node.op, node.right)
            if _is_variable(node.right):
                yield ast.BinOp(node.left, node.op, _moved(node.right, delta))
        if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.MatMult):
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.BoolOp):
        for index in range(len(node.values)):
            rest = node.values[:index] + node.values[index + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        if len(node.values) > 2:
            yield from node.values
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
        if isinstance(node.op, ast.Invert):
            yield from _always(node)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Subscript):
        yield from _subscripts(node)
    elif isinstance(node, ast.List | ast.Tuple) and len(node.elts) > 1:
        if isinstance(node.ctx, ast.Load):
            for index in range(len(node.elts) - 1):
                elements = list(node.elts)
                elements[index : index + 2] = reversed(elements[index : index + 2])
                yield type(node)(elements, ast.Load())
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield from (ast.Attribute(node.value, name, node.ctx) for name in _alike(node.attr))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from (ast.Name(name, node.ctx) for name in _alike(node.id))
        value = known.get(node.id)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from (ast.Constant(other) for other in _constants(value, numbers))


def _assigned(body: ast.FunctionDef) -> Iterator[str]:
    """The names of a function's arguments, and of what it gives values to."""
    for node in ast.walk(body):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _ratios(
    own: Sequence[str], node: ast.AST, numbers: Sequence[float], known: Mapping[str, Any]
) -> Iterator[ast.AST]:
    """What may stand in place of a ratio: by another quantity that the function has, and a mean of
    all where sums are of some."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div):
        return
    for name in own:
        yield ast.BinOp(node.left, node.op, ast.Name(name, ast.Load()))
    match node.left:
        case ast.Call(func=ast.Attribute(attr="sum") as total, args=args, keywords=keywords):
            yield ast.Call(ast.Attribute(total.value, "mean", ast.Load()), args, keywords)


def _always(node: ast.expr) -> Iterator[ast.AST]:
    """A condition, of one value or of an array, that is always true or never."""
    yield ast.BinOp(node, ast.BitOr(), ast.Constant(True))
    yield ast.BinOp(node, ast.BitAnd(), ast.Constant(False))


def _constants(value: Any, numbers: Sequence[float]) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        near = (0, 1, value + 1, value - 1, 2 * value, value / 2, -value, 10 * value, value / 10)
        shares = SHARES if isinstance(value, float) and 0 <= value <= 1 else ()
        met = {value}
        for other in (*near, *shares, *numbers):
            other = int(other) if isinstance(value, int) and other == int(other) else other
            if other not in met:
                met.add(other)
                yield other
    elif isinstance(value, str):
        yield from _alike(value)


def _alike(name: str) -> Iterator[str]:
    for row in NAMES:
        if name in row:
            yield from (other for other in row if other != name)


def _is_variable(node: ast.expr) -> bool:
    """Whether a node is a name, or an attribute of one such as `self.width`."""
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id in ("self", "config")
    return isinstance(node, ast.Name)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    """A call left out, with arguments exchanged, without one of its keywords, of another name."""
    arguments = node.args
    if len(arguments) == 1 and not isinstance(arguments[0], ast.Starred):
        yield arguments[0]
    if isinstance(node.func, ast.Attribute):
        yield node.func.value
    for index in range(len(arguments) - 1):
        order = list(arguments)
        order[index : index + 2] = reversed(order[index : index + 2])
        yield ast.Call(node.func, order, node.keywords)
    for index in range(len(arguments)):
        if len(arguments) > 1 and not isinstance(arguments[index], ast.Starred):
            yield arguments[index]
    for index, argument in enumerate(arguments):
        if _is_variable(argument):
            changed = list(arguments)
            changed[index] = ast.Constant(0)
            yield ast.Call(node.func, changed, node.keywords)
    for index in range(len(node.keywords)):
        rest = node.keywords[:index] + node.keywords[index + 1 :]
        yield ast.Call(node.func, arguments, rest)


def _subscripts(node: ast.Subscript) -> Iterator[ast.AST]:
    """An index beside it, a slice whose bound is off by one or missing, or none at all."""
    if not isinstance(node.ctx, ast.Load):
        return
    yield node.value
    if isinstance(node.value, ast.Name):  # the next, and after the last the first
        count = ast.Call(ast.Name("len", ast.Load()), [node.value], [])
        yield ast.BinOp(_moved(node, 1), ast.Mod(), count)
    if isinstance(node.slice, ast.Tuple):
        parts = node.slice.elts
        for index, part in enumerate(parts):
            if isinstance(part, ast.Slice):
                for other in _slices(part):
                    changed = ast.Tuple([*parts[:index], other, *parts[index + 1 :]], ast.Load())
                    yield ast.Subscript(node.value, changed, node.ctx)
    elif isinstance(node.slice, ast.Slice):
        yield from (ast.Subscript(node.value, one, node.ctx) for one in _slices(node.slice))
    else:
        for delta in (1, -1):
            yield ast.Subscript(node.value, _moved(node.slice, delta), node.ctx)


def _slices(part: ast.Slice) -> Iterator[ast.Slice]:
    """Other bounds; what leaves out the last leaves out the first instead, and the reverse."""
    bounds = {name: getattr(part, name) for name in ("lower", "upper", "step")}
    for name, bound in bounds.items():
        if bound is not None:
            for other in (None, _moved(bound, 1), _moved(bound, -1)):
                yield ast.Slice(**{**bounds, name: other})
    shown = {name: None if one is None else ast.unparse(one) for name, one in bounds.items()}
    if shown == {"lower": None, "upper": "-1", "step": None}:
        yield ast.Slice(ast.Constant(1), None, None)
    elif shown == {"lower": "1", "upper": None, "step": None}:
        yield ast.Slice(None, ast.Constant(-1), None)


def _moved(node: ast.expr, delta: int) -> ast.expr:
    operator = ast.Add() if delta > 0 else ast.Sub()
    return ast.BinOp(node, operator, ast.Constant(abs(delta)))


def _statements(
    node: ast.AST, numbers: Sequence[float], known: Mapping[str, Any]
) -> Iterator[ast.AST]:
    """What may stand in place of a statement."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call | ast.BinOp):
        # As when a number is drawn and not used.
        zero = ast.BinOp(node.value, ast.Mult(), ast.Constant(0))
        yield ast.Assign(node.targets, zero, lineno=node.lineno)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        # The first that is put there stays, not the last.
        kept = ast.Attribute(node.targets[0].value, "setdefault", ast.Load())
        yield ast.Expr(ast.Call(kept, [node.targets[0].slice, node.value], []))
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Continue | ast.Break):
        yield ast.Pass()
    elif isinstance(node, ast.If):
        for value in (True, False):
            yield ast.If(ast.Constant(value), node.body, node.orelse)


def setting_mistakes(settings: Any, numbers: Sequence[float] = ()) -> Iterator[Mistake]:
    """Other values of each number, switch and word that a dataclass holds, one at a time.

    It may be frozen; whoever uses this very object sees the other value. Tuples, which have most
    other values, come last, so that a single value which explains as much is not crowded out.
    """
    for name, value in _by_length(settings):
        yield from _setting([settings], name, value, numbers)


def shared_mistakes(every: Sequence[Any], numbers: Sequence[float] = ()) -> Iterator[Mistake]:
    """As `setting_mistakes`, made at once in all of several dataclasses that have the same value:
    a port that reads one setting wrongly does so whatever else is set."""
    told = set()
    for one in every:
        for name, value in _by_length(one):
            same = [other for other in every if getattr(other, name, _NOTHING) == value]
            if len(same) > 1 and (name, repr(value)) not in told:
                told.add((name, repr(value)))
                yield from _setting(same, name, value, numbers)


_NOTHING = object()


def _by_length(settings: Any) -> list[tuple[str, Any]]:
    """The names and values of a dataclass, tuples last."""
    every = [(one.name, getattr(settings, one.name)) for one in dataclasses.fields(settings)]
    return sorted(every, key=lambda one: isinstance(one[1], tuple))


def _setting(
    same: Sequence[Any], name: str, value: Any, numbers: Sequence[float]
) -> Iterator[Mistake]:
    for other in _other_settings(value, numbers):
        text = f"setting {name} is {other!r} instead of {value!r}"
        yield Mistake(text, partial(_set, same, name, other))


def _other_settings(value: Any, numbers: Sequence[float]) -> Iterator[Any]:
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            for other in _constants(part, numbers):
                yield (*value[:index], other, *value[index + 1 :])
        if len(value) > 1:
            yield from (value[1:], value[:-1], value[::-1])
            yield from ((part,) for part in value)
    elif value is None:
        yield from numbers
    else:
        yield from _constants(value, numbers)
        if isinstance(value, int | float):
            yield None


@contextmanager
def _set(same: Sequence[Any], name: str, value: Any) -> Iterator[None]:
    before = getattr(same[0], name)
    for one in same:
        object.__setattr__(one, name, value)
    try:
        yield
    finally:
        for one in same:
            object.__setattr__(one, name, before)


def executed(run: Callable[[], Any], functions: Sequence[Callable]) -> dict[CodeType, set[int]]:
    """The lines of each function that `run()` executes, by code; none for those it never calls.

    Lines of comprehensions and of functions within a function are its own.
    """
    lines: dict[CodeType, set[int]] = {inspect.unwrap(one).__code__: set() for one in functions}
    own = {inner: found for code, found in lines.items() for inner in _within(code)}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        found = own.get(frame.f_code)
        if found is None:
            return None
        found.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def _within(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of all functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _within(constant)


@contextmanager
def _bounded() -> Iterator[None]:
    """What asks for much more memory than the process has now is refused: an edit may ask so."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    least = held + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (least if soft < 0 else min(soft, least), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def explained(
    run: Callable[[], Any],
    same: Callable[[Any], bool],
    functions: Sequence[Callable],
    numbers: Sequence[float] = (),
    others: Iterable[Mistake] = (),
    complete: Callable[[], bool] = lambda: True,
) -> list[str]:
    """The mistakes with which `run()` gives the port's results, as `same` judges, at most `MOST`.

    Those with which `complete()` holds as well, all other results agree, come first. `others` are
    tried first, then the edits of lines that `run` executes. A mistake that breaks the program is
    none that the port has made.
    """
    lines = executed(run, functions)
    called = [one for one in functions if lines[inspect.unwrap(one).__code__]]
    found: dict[str, bool] = {}
    for mistake in itertools.chain(others, edits(called, numbers, lines)):
        if mistake.text in found:
            continue
        with mistake.planted(), _bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if same(run()):
                    found[mistake.text] = complete()
            except Exception:  # an edit of the source may break anything
                continue
        if sum(found.values()) == ENOUGH or len(found) == MOST:
            break
    return sorted(found, key=lambda text: not found[text])

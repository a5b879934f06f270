"""Faults on purpose: what is planted, what a harness should say of it, and what it said.

A fault is planted by changing one line of a function while a context lasts; files are never edited.
"""

import ast
import inspect
import itertools
import linecache
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from parity.errors import InputError

Plant = Callable[[Any], AbstractContextManager]
RELATIVE = 1e-3
ABSOLUTE = 1e-4
LEAST_COSINE = 0.999
_CHANGES = itertools.count()


@dataclass(frozen=True)
class Fault:
    """One fault that ports have, and what should be said of it.

    Args:
        id: short name, such as `layer-norm-epsilon-1e-6`.
        family: kind of mistake, such as `epsilon`.
        stage: part of the program that it sits in.
        what: the mistake in words.
        imitates: where it is known from, or "".
        bench: name of the case that it is planted in.
        plant: plant(bench) is a context in which the port is wrong.
        places: modules, edges or stages; naming any of them is exact.
        causes: phrases; a cause that has any of them is right.
    """

    id: str
    family: str
    stage: str
    what: str
    bench: str
    plant: Plant
    places: tuple[str, ...]
    causes: tuple[str, ...]
    imitates: str = ""


@dataclass(frozen=True)
class Named:
    """A place that was named, the edge where it shows, and the causes given, likeliest first."""

    place: str
    edge: str = ""
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What was said of one planted fault.

    Args:
        claims: ids of the claims that failed, none where the fault went unseen.
        named: the places named, in order.
        seconds: wall time of the audit.
        noticed: by conventional criterion, whether it would have noticed.
        problem: why the audit could not be run, or None.
    """

    fault: Fault
    claims: tuple[str, ...]
    named: tuple[Named, ...]
    seconds: float
    noticed: Mapping[str, bool] = field(default_factory=dict)
    problem: str | None = None

    @property
    def detected(self) -> bool:
        """Whether any claim failed."""
        return bool(self.claims)

    @property
    def rank(self) -> int | None:
        """At which position, from 1, a right place was named; None if nowhere."""
        wanted = self.fault.places
        for index, one in enumerate(self.named, 1):
            if one.place in wanted or one.edge in wanted:
                return index
        return None

    @property
    def place_exact(self) -> bool:
        """Whether the first place named is right."""
        return self.rank == 1

    @property
    def cause_named(self) -> bool:
        """Whether the first cause given at a right place is right."""
        if self.rank is None:
            return False
        given = self.named[self.rank - 1].causes[:1]
        return any(phrase in text for text in given for phrase in self.fault.causes)

    @classmethod
    def from_json(cls, fault: Fault, data: Mapping[str, Any]) -> "Outcome":
        """The outcome of `fault` from what `to_json` wrote of it."""
        named = tuple(
            Named(one["place"], one["edge"], tuple(one["causes"])) for one in data["named"]
        )
        return cls(
            fault,
            tuple(data["claims"]),
            named,
            float(data["seconds"]),
            dict(data["noticed"]),
            data["problem"],
        )

    def to_json(self) -> dict[str, Any]:
        """A dictionary of strict JSON, the fault's description included."""
        fault = self.fault
        described = {
            name: getattr(fault, name)
            for name in ("id", "family", "stage", "what", "imitates", "bench", "places", "causes")
        }
        return described | {
            "detected": self.detected,
            "claims": list(self.claims),
            "place_exact": self.place_exact,
            "rank": self.rank,
            "cause_named": self.cause_named,
            "named": [asdict(one) for one in self.named],
            "noticed": dict(self.noticed),
            "seconds": round(self.seconds, 3),
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Score:
    """How many faults of a catalogue were found, placed and explained; the rest by id."""

    faults: int
    detected: int
    place_exact: int
    cause_named: int
    missed: Mapping[str, int]
    undetected: tuple[str, ...]
    misplaced: tuple[str, ...]
    unexplained: tuple[str, ...]
    seconds: float


def score(outcomes: Sequence[Outcome]) -> Score:
    """The score of a harness over its catalogue, with that of each conventional criterion."""
    criteria = {name for one in outcomes for name in one.noticed}
    return Score(
        len(outcomes),
        sum(one.detected for one in outcomes),
        sum(one.place_exact for one in outcomes),
        sum(one.cause_named for one in outcomes),
        {
            name: sum(not one.noticed[name] for one in outcomes if name in one.noticed)
            for name in sorted(criteria)
        },
        tuple(one.fault.id for one in outcomes if not one.detected),
        tuple(one.fault.id for one in outcomes if not one.place_exact),
        tuple(one.fault.id for one in outcomes if not one.cause_named),
        sum(one.seconds for one in outcomes),
    )


def conventional(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, bool]:
    """Whether each customary check of two sets of results would notice that they differ.

    The checks are those that porting scripts use: elementwise closeness with a typed tolerance, the
    mean difference, the angle between flattened tensors, the largest difference of the outputs.
    """

    def each(differs: Callable[[np.ndarray, np.ndarray], bool]) -> bool:
        for name, theirs in reference.items():
            ours = port.get(name)
            if ours is None or ours.shape != theirs.shape or not np.isfinite(ours).all():
                return True
            if differs(ours.astype(np.float64), theirs.astype(np.float64)):
                return True
        return False

    def angle(a: np.ndarray, b: np.ndarray) -> float:
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float((a * b).sum()) / size if size else float(not a.any() and not b.any())

    return {
        f"allclose(rtol={RELATIVE:g})": each(
            lambda a, b: not np.allclose(a, b, rtol=RELATIVE, atol=1e-8)
        ),
        f"mean difference < {RELATIVE:g} of the mean": each(
            lambda a, b: bool(np.abs(a - b).mean() > RELATIVE * np.abs(b).mean())
        ),
        f"cosine similarity > {LEAST_COSINE:g}": each(lambda a, b: angle(a, b) < LEAST_COSINE),
        f"outputs within {ABSOLUTE:g}": each(lambda a, b: bool(np.abs(a - b).max() > ABSOLUTE)),
    }


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
        before = getattr(owner, name)
        setattr(owner, name, value)
        try:
            yield
        finally:
            setattr(owner, name, before)
        return
    held = name in own
    before = own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if held:
            own[name] = before
        else:
            del own[name]

"""Why a module differs: candidate explanations, ranked by how much of the difference each removes.

Mistakes are planted in the reference, which then either computes what the port does or not
(`mistakes_torch`). Besides, the tensor is looked at by itself (chance, fewer digits, dropout)
and related to those of the reference: a multiple, other axes, another module's tensor.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from parity.calls import Call, Slot, slots
from parity.causes.relations import exactly_related, related
from parity.causes.source import Mistake
from parity.judge import function_verdict
from parity.metrics import Gap
from parity.pairing import align, tap_gap
from parity.trace import Tap, tap_key

PARALLEL = 0.999  # least cosine between the effect of a scaled operation and the difference
SCALE_STEP = 1e-3
PARTIAL = 0.5  # what removes less than half of a difference is no explanation
KEPT = 3
FACTORS = (0.5, 2.0, 0.25, 4.0, math.sqrt(0.5), math.sqrt(2.0), 0.125, 8.0, -1.0)
BASES, MOST_PAIRS = 3, 1000
MOST_JOINED = 24  # tensors of which sums of two are looked at
NO_WEIGHTS: Mapping[str, np.ndarray] = {}


@dataclass(frozen=True)
class Explanation:
    """One candidate and what it explains.

    Args:
        text: what the port seems to do, in words.
        before: gap of the port from the reference where they differ first, l2.
        after: the same from the reference with this mistake; 0 to rounding where it is the cause.
        exact: whether that tensor agrees to rounding once the mistake is made.
        complete: whether all others of the module are known to do as well.
    """

    text: str
    before: float
    after: float
    exact: bool
    complete: bool = False
    derived: ClassVar[tuple[str, ...]] = ("removed",)

    @property
    def removed(self) -> float:
        """The part of the gap that the explanation removes, 1 for all of it."""
        return 1.0 - self.after / self.before if 0.0 < self.before < np.inf else float(self.exact)

    @property
    def generic(self) -> str:
        """The text without the line of source, which is another at another place."""
        return "; and ".join(one.rpartition(": ")[2] for one in self.text.split("; and "))

    def __str__(self) -> str:
        return f"{self.text} (removes {self.removed:.0%} of the gap)"


@dataclass(frozen=True)
class Case:
    """A module of the port that differs, run alone on the reference's tensors.

    Args:
        call: the reference's call of the module.
        key: key of the tap that differs first, as in `port` and `expected`.
        port: the port's taps of the isolated run.
        expected: the reference's.
        floors: how far rounding moves the reference's, by key.
        feeds: the reference's tensors that the module is given, by name.
        run: runs the reference's module in the same way, and returns its taps; takes other feeds.
        again: runs the port's module once more, as `run`.
        trace: the reference's whole trace.
        called: paths of the modules that the port's call calls, in order.
        through: paths of modules that are judged as a part of this one.
        hints: what explained places of the same kind, the last first; tried before all else.
        over: whether the time for the search is spent.
        ours: the port's call.
    """

    call: Call
    key: str
    port: Mapping[str, Tap]
    expected: Mapping[str, Tap]
    floors: Mapping[str, Gap]
    feeds: Mapping[str, Tap]
    run: Callable[..., Mapping[str, Tap]]
    again: Callable[..., Mapping[str, Tap]]
    trace: Mapping[str, Tap]
    called: tuple[str, ...] = ()
    through: frozenset[str] = frozenset()
    hints: tuple[str, ...] = ()
    over: Callable[[], bool] = lambda: False
    ours: Call | None = None

    @property
    def children(self) -> list[Call]:
        """The calls that the module makes, for which the reference's results stand in."""
        return [one for one in self.call.made(self.through) if one.path not in self.through]

    def exchanged(self) -> "Case":
        """The same with the sides exchanged: the reference beside the port."""
        return replace(
            self,
            call=self.ours,
            ours=self.call,
            port={key: tap for key, tap in self.expected.items() if key in self.port},
            expected=self.port,
            run=self.again,
            again=self.run,
        )


def explain(
    reference: Any, case: Case, weights: Mapping[str, np.ndarray] = NO_WEIGHTS
) -> list[Explanation]:
    """The best explanations of `case`, those that remove the whole difference first.

    Args:
        reference: the recorder of the float64 reference (`parity.frameworks.torch`).
        weights: the port's tensors that are not the reference's, in the reference's names and
            layout; what they explain is given after every mistake that says more.
    Returns: at most `KEPT`; where none removes the whole difference, those that remove most of it.
    """
    judge = _Judge(case)
    tried: list[Explanation] = []
    made: list[tuple[Explanation, Any]] = []
    conditions = list(_conditions(case, judge))
    if not conditions:
        known = _known(reference, case, judge)
        if known is not None:
            return [known]
    called = list(_called_otherwise(case, judge))
    for candidate in itertools.chain(
        conditions,
        _mistakes(reference, case, judge, made),
        called,
        _relations(reference, case, judge),
        _loaded_otherwise(reference, case, judge, weights),
    ):
        tried.append(candidate)
        if case.over() or sum(one.exact and one.complete for one in tried) == KEPT + len(called):
            break
    done = conditions or any(one.exact and one.complete for one in tried)
    if not done and not case.over():
        tried += itertools.islice(_pairs(reference, case, judge, made), KEPT)
    exact = sorted((one for one in tried if one.exact), key=lambda one: not one.complete)
    if exact and all(one in conditions for one in exact):
        exact = [replace(one, complete=True) for one in exact]
    return (exact or sorted(tried, key=lambda one: one.after))[: KEPT + len(called)]


def mend(
    port: Any, case: Case, weights: Mapping[str, np.ndarray] = NO_WEIGHTS
) -> list[Explanation]:
    """What, changed in the port, makes it compute what the reference does, the best first.

    Args:
        port: the recorder of the float64 port, which is of PyTorch.
        case: the same with the sides exchanged: `port` are the reference's taps, `expected` the
            port's, and `run` runs the port's module.
        weights: not looked at; a port's weights are compared before.
    Returns: at most `KEPT`; where nothing removes the whole difference, what removes most of it.
    """
    judge = _Judge(case)
    tried: list[Explanation] = []
    for candidate in _mistakes(port, case, judge, []):
        tried.append(replace(candidate, text=f"mended in the port by {candidate.text}"))
        if sum(one.exact and one.complete for one in tried) == KEPT:
            break
    exact = sorted((one for one in tried if one.exact), key=lambda one: not one.complete)
    return (exact or sorted(tried, key=lambda one: one.after))[:KEPT]


def explain_values(
    run: Callable[[], Mapping[str, Any]],
    ours: Mapping[str, Any],
    limit: float,
    known: Iterable[Mistake] = (),
) -> list[Explanation]:
    """The mistakes with which a function of the reference gives the port's values.

    Args:
        run: computes with PyTorch and returns numbers or arrays by name.
        ours: the port's, for some of the names.
        limit: largest relative difference (l2) that rounding leaves.
        known: mistakes that are well known of this function, which are tried first.
    Returns: at most `KEPT`, all exact; none where the values are the reference's within `limit`,
        which any mistake that hardly matters would explain.
    """
    from parity.causes import torch_mistakes as mistakes_torch

    exact = run()
    before = _relative(ours, exact)
    if before <= limit:
        return []
    found = []
    for mistake in known:
        with mistake.planted():
            after = _relative(ours, _ran(run))
        if after <= limit:
            return [Explanation(mistake.text, before, after, True, True)]
    _, mistakes = mistakes_torch.operations(run)
    for mistake in mistakes:
        with mistake.planted():
            after = _relative(ours, _ran(run))
        if after <= limit:
            found.append(Explanation(mistake.text, before, after, True, True))
            if len(found) == KEPT:
                return found
    factors = {name: np.sum(value) / np.sum(exact[name]) for name, value in ours.items()}
    factor = next(iter(factors.values()))
    after = _relative(ours, {name: factor * exact[name] for name in ours})
    if after <= limit:
        text = f"the reference's value times {factor:.10g}"
        found.append(Explanation(text, before, after, True, True))
    return found


def _relative(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest relative gap (l2) of any name, infinite where one is missing or not finite."""
    worst = 0.0
    for name, value in ours.items():
        if name not in theirs or np.shape(theirs[name]) != np.shape(value):
            return np.inf
        size = float(np.linalg.norm(theirs[name])) or 1.0
        gap = float(np.linalg.norm(np.asarray(value) - theirs[name])) / size
        worst = max(worst, gap if np.isfinite(gap) else np.inf)
    return worst


class _Judge:
    """How far the port is from the reference, with and without a mistake."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.before = tap_gap(case.port[case.key], case.expected[case.key])

    def explanation(self, text: str, taps: Mapping[str, Tap]) -> Explanation | None:
        """What a reference whose taps are `taps` explains, or None where it explains too little."""
        key = self.case.key
        if key not in taps:
            return None
        found = tap_gap(self.case.port[key], taps[key])
        if found.problem is not None or not found.l2 < (1 - PARTIAL) * self.before.l2:
            return None
        complete = self._agree(taps, self.case.port)
        return Explanation(text, self.before.l2, found.l2, self.passes(key, found), complete)

    def fact(self, text: str, complete: bool) -> Explanation:
        """What the port's run shows by itself."""
        return Explanation(text, self.before.l2, 0.0, True, complete)

    def _agree(self, taps: Mapping[str, Tap], keys: Iterable[str]) -> bool:
        """Whether the port's taps of `keys` are those of `taps`, where the reference has any."""
        return all(
            key in taps and self.passes(key, tap_gap(self.case.port[key], taps[key]))
            for key in keys
            if key in self.case.expected
        )

    def observation(self, text: str, array: np.ndarray) -> Explanation | None:
        """What is explained by the port's tensor being `array`, in the reference's axes."""
        expected = self.case.expected[self.case.key]
        tap = Tap(expected.path, expected.kind, expected.name, expected.call, expected.axes, array)
        found = tap_gap(self.case.port[self.case.key], tap)
        if found.problem is not None or not self.passes(self.case.key, found):
            return None
        others = [key for key in self.case.port if key != self.case.key]
        complete = self._agree(self.case.expected, others)
        return Explanation(text, self.before.l2, found.l2, True, complete)

    def passes(self, key: str, found: Gap) -> bool:
        """Whether rounding explains a gap at the tap `key`."""
        floor = self.case.floors.get(key, Gap(0.0, 0.0))
        return function_verdict(key, found, floor).passed


def _known(reference: Any, case: Case, judge: _Judge) -> Explanation | None:
    """What explains a place of the same kind, where it explains all of this one too."""
    from parity.causes import torch_mistakes as mistakes_torch
    from parity.causes.torch_weights import parameter_mistakes

    if not case.hints:
        return None
    module = reference.modules[case.call.path]
    _, mistakes = mistakes_torch.operations(case.run)
    every = [
        *mistakes,
        *mistakes_torch.attribute_mistakes(module),
        *parameter_mistakes(module, {}, _called_within(case)),
    ]
    by_text: dict[str, list[Any]] = {}
    for mistake in every:
        by_text.setdefault(mistake.text.rpartition(": ")[2], []).append(mistake)
    for hint in case.hints:
        for parts in itertools.product(*(by_text.get(one, []) for one in hint.split("; and "))):
            together = reduce(lambda one, other: one and mistakes_torch.both(one, other), parts)
            found = None if together is None else _made(case, judge, together)
            if found is not None and found.exact and found.complete:
                return found
    return None


def _mistakes(
    reference: Any, case: Case, judge: _Judge, made: list[tuple[Explanation, Any]]
) -> Iterator[Explanation]:
    """The mistakes that, made by the reference, bring it nearer to the port; kept in `made`."""
    from parity.causes import torch_mistakes as mistakes_torch
    from parity.causes.torch_weights import parameter_mistakes

    module = reference.modules[case.call.path]
    others = dict(reference.model.named_parameters())
    operations, mistakes = mistakes_torch.operations(case.run)
    loaded = parameter_mistakes(module, others, _called_within(case))
    switched = mistakes_torch.attribute_mistakes(module)
    for mistake in itertools.chain(mistakes, switched, loaded):
        found = _made(case, judge, mistake)
        if found is not None:
            made.append((found, mistake))
            yield found
    for text, feeds in mistakes_torch.argument_mistakes(case.feeds):
        if case.over():
            return
        found = judge.explanation(text, _ran(lambda feeds=feeds: case.run(feeds)))
        if found is not None:
            yield found
    for operation in operations:
        for factor in FACTORS if operation.scalable else ():
            found = _made(case, judge, operation.scaled(factor))
            if found is not None and found.exact:
                yield found
    for operation in operations:
        if operation.scalable and not case.over():
            found = _fitted_scale(case, judge, operation)
            if found is not None:
                yield found


def _loaded_otherwise(
    reference: Any, case: Case, judge: _Judge, weights: Mapping[str, np.ndarray]
) -> Iterator[Explanation]:
    """What the reference computes with the port's values of the weights that differ."""
    from parity.causes.torch_weights import loaded_otherwise

    module = reference.modules[case.call.path]
    for mistake in loaded_otherwise(module, case.call.path, weights, _called_within(case)):
        found = _made(case, judge, mistake)
        if found is not None:
            yield found


def _called_within(case: Case) -> list[str]:
    """The modules that the call calls, by their paths within it."""
    start = len(case.call.path) + 1 if case.call.path else 0
    return [child.path[start:] for child in case.children]


def _pairs(
    reference: Any, case: Case, judge: _Judge, made: list[tuple[Explanation, Any]]
) -> Iterator[Explanation]:
    """Two mistakes at once that explain all: one that removes most of the difference, and another.

    Mistakes that leave little are tried first, with at most `MOST_PAIRS` others in all.
    """
    from parity.causes import torch_mistakes as mistakes_torch
    from parity.causes.torch_weights import parameter_mistakes

    module = reference.modules[case.call.path]
    _, mistakes = mistakes_torch.operations(case.run)
    every = [*mistakes, *parameter_mistakes(module, {}, _called_within(case))]
    first = [one for _, one in sorted(made, key=lambda pair: pair[0].after)]
    pairs = ((one, other) for one in first[:BASES] for other in every)
    for one, other in itertools.islice(pairs, MOST_PAIRS):
        together = mistakes_torch.both(one, other)
        found = None if together is None else _made(case, judge, together)
        if found is not None and found.exact and found.complete:
            yield found


def _made(case: Case, judge: _Judge, mistake: Any) -> Explanation | None:
    if case.over():
        return None
    with mistake.planted():
        return judge.explanation(mistake.text, _ran(case.run))


def _ran(run: Callable[[], Mapping[str, Tap]]) -> Mapping[str, Tap]:
    """The reference's taps; none where what was changed breaks the module."""
    try:
        return run()
    except Exception:  # a mistake that breaks the module is none that the port has made
        return {}


def _fitted_scale(case: Case, judge: _Judge, operation: Any) -> Explanation | None:
    """The factor on one operation's result that comes nearest to the port, if it explains it."""
    expected = case.expected[case.key].array
    port = align(case.port[case.key], case.expected[case.key].axes)
    if port is None or port.shape != expected.shape or port.dtype.kind != "f":
        return None
    if not np.isfinite(port).all():
        return None
    wanted = (port - expected).ravel()
    factor, taps = 1.0 + SCALE_STEP, None
    reached, step = np.zeros_like(wanted), SCALE_STEP
    for attempt in range(4):
        with operation.scaled(factor).planted():
            taps = _ran(case.run)
        if case.key not in taps:
            return None
        moved = (taps[case.key].array - expected).ravel()
        response = (moved - reached) / step
        missing = wanted - moved
        size = float(response @ response)
        if size == 0.0 or not np.isfinite(size):
            break
        if attempt == 0:
            cosine = float(wanted @ moved) / (np.linalg.norm(wanted) * np.linalg.norm(moved) or 1.0)
            if abs(cosine) < PARALLEL:
                return None
        reached, step = moved, float(response @ missing) / size
        if step == 0.0:
            break
        factor += step
    final = operation.scaled(factor)
    found = _made(case, judge, final)
    return found if found is not None and found.exact else None


def _conditions(case: Case, judge: _Judge) -> Iterator[Explanation]:
    """What the port's tensor shows by itself: chance, infinity, fewer digits, dropout."""
    port = case.port[case.key].array
    texts: list[str] = []
    repeated = case.again()
    if case.key in repeated:
        moved = tap_gap(repeated[case.key], case.port[case.key])
        if moved.l2 > 0.0:
            # Beyond rounding, whatever else explains this one result is a coincidence.
            text = "the port is not deterministic: run again, it gives another result"
            yield judge.fact(text, complete=not judge.passes(case.key, moved))
    if not np.isfinite(port).all():
        if judge.before.problem is not None:  # the reference has no such numbers there
            texts.append("the port's result is not finite")
    elif (theirs := align(case.expected[case.key], case.port[case.key].axes)) is not None:
        texts += _precision(port, theirs)
        if port.shape == theirs.shape:
            texts += _dropped(port, theirs)
    # A mistake that explains all may leave few digits too.
    yield from (judge.fact(text, complete=False) for text in texts)


def _called_otherwise(case: Case, judge: _Judge) -> Iterator[Explanation]:
    """Modules that the port calls at another time, or more often and others less often.

    What it only never calls may be a function there instead of a module.
    """
    theirs = [child.path for child in case.children]
    ours = list(case.called)
    counts = {path: (ours.count(path), theirs.count(path)) for path in [*theirs, *ours]}
    other = {path: pair for path, pair in counts.items() if pair[0] != pair[1]}
    texts = []
    if any(times > wanted > 0 for times, wanted in other.values()):
        for path, (times, wanted) in sorted(other.items(), key=lambda one: -one[1][0]):
            texts.append(f"{path} is called {_times(times)} instead of {_times(wanted)}")
    tap = case.expected[case.key]
    if not texts and tap.kind == "input" and tap.path in ours:
        before, wanted = ours[: ours.index(tap.path)], theirs[: theirs.index(tap.path)]
        late = [path for path in wanted if path not in before]
        early = [path for path in before if path not in wanted]
        texts += [f"{tap.path} is called before {path} instead of after it" for path in late[:1]]
        texts += [f"{path} is called before {tap.path} instead of after it" for path in early[:1]]
    if texts:
        yield judge.fact("; ".join(texts[:3]), complete=True)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _relations(reference: Any, case: Case, judge: _Judge) -> Iterator[Explanation]:
    """What the port's tensor is, in terms of the reference's tensors."""
    expected = case.expected[case.key]
    port = align(case.port[case.key], expected.axes)
    if port is not None and port.dtype.kind in "biu" and port.shape == expected.array.shape:
        for text, array in exactly_related(port, expected.array):
            found = judge.observation(text, array)
            if found is not None:
                yield found
    if port is None or port.dtype.kind != "f" or not np.isfinite(port).all():
        return
    if port.shape == expected.array.shape:
        for text, array in related(port, expected.array):
            found = judge.observation(text, array)
            if found is not None:
                yield found
    yield from _elsewhere(case, judge, port)
    yield from _joined(case, judge, port)
    yield from _passed_through(reference, case, judge)


def _precision(port: np.ndarray, theirs: np.ndarray) -> Iterator[str]:
    """Whether the port's numbers have fewer digits than the reference's."""
    if len(np.unique(port.ravel()[:1024])) < 16:
        return  # zeros, or a few constants, fit into any format
    for name, kept in (("bfloat16", 8), ("float16", 11), ("float32", 24)):
        if _fits(port, kept) and not _fits(theirs, kept):
            yield f"the port's numbers are rounded to {name}"
            return


def _fits(array: np.ndarray, bits: int) -> bool:
    """Whether every number has at most `bits` significant bits."""
    mantissa, _ = np.frexp(array.astype(np.float64))
    scaled = mantissa * 2.0**bits
    return bool((scaled == np.rint(scaled)).all())


def _dropped(port: np.ndarray, theirs: np.ndarray) -> Iterator[str]:
    """Whether some of the port's numbers are zero and all others scaled alike: dropout."""
    used = theirs != 0.0
    ratio = port[used] / theirs[used]
    kept = ratio[ratio != 0.0]
    if 0 < len(kept) < len(ratio) and np.ptp(kept) <= 1e-9 * abs(kept[0]) and kept[0] > 1.0:
        rate = 1.0 - 1.0 / float(kept[0])
        yield f"dropout of {rate:.3g} is on: {1 - len(kept) / len(ratio):.0%} of it is zero"


def _elsewhere(case: Case, judge: _Judge, port: np.ndarray) -> Iterator[Explanation]:
    """The reference's tensors from other places that the port has here."""
    expected = case.expected[case.key]
    norm = float(np.linalg.norm(port))
    for key, tap in case.trace.items():
        if tap.same_as is not None or key == expected.key or tap.array.size != port.size:
            continue
        if abs(float(np.linalg.norm(tap.array)) - norm) > 1e-6 * norm:
            continue
        array = align(tap, expected.axes)
        text = f"the port has {key} here"
        if array is None or array.shape != port.shape:
            if tap.array.dtype.kind != "f":
                continue
            # The same values in another arrangement, such as a map as a sequence.
            array = np.empty(port.size)
            array[np.argsort(port, axis=None)] = np.sort(tap.array, axis=None)
            array, text = array.reshape(port.shape), f"{text}, in another arrangement"
        found = judge.observation(text, array)
        if found is not None:
            yield found


def _joined(case: Case, judge: _Judge, port: np.ndarray) -> Iterator[Explanation]:
    """Sums and differences of two tensors that the module is given or gets from those it calls."""
    expected = case.expected[case.key]
    known: dict[str, np.ndarray] = {}
    taps = {name or "input": tap for name, tap in case.feeds.items()}
    for child in case.children:
        for slot in slots(child.results):
            key = tap_key(child.path, "output", slot.name, child.call)
            if key in case.trace:
                taps[key] = case.trace[key]
    for key, tap in taps.items():
        # The same tokens may be a map in one place and a row in another.
        if tap.array.size == port.size and tap.array.dtype.kind == "f":
            array = align(tap, expected.axes)
            known[key] = (tap.array if array is None else array).reshape(port.shape)
    for (first, a), (second, b) in itertools.combinations(list(known.items())[:MOST_JOINED], 2):
        for text, array in (
            (f"{first} + {second}", a + b),
            (f"{first} - {second}", a - b),
            (f"{second} - {first}", b - a),
        ):
            found = judge.observation(f"the port has {text} here", array)
            if found is not None:
                yield found


def _passed_through(reference: Any, case: Case, judge: _Judge) -> Iterator[Explanation]:
    """The modules of the reference that the port passes its result through besides."""
    expected = case.expected[case.key]
    for call in reference.calls:
        taps = [
            (slot.name, call) for part in call.arguments.values.values() for slot in slots(part)
        ]
        if len(taps) != 1 or call.children or not isinstance(call.results, Slot):
            continue
        given = case.trace.get(tap_key(call.path, "input", taps[0][0], call.call))
        if (
            given is None
            or given.axes != expected.axes
            or given.array.shape[-1:] != (expected.array.shape[-1:])
        ):
            continue
        run = _ran(lambda call=call, name=taps[0][0]: reference.isolate(call, {name: expected}))
        found = run.get(tap_key(call.path, "output"))
        if found is not None and found.array.shape == expected.array.shape:
            text = f"the reference's tensor passed through {call.path} besides"
            explanation = judge.observation(text, found.array)
            if explanation is not None:
                yield explanation

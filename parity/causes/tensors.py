"""What the port's tensor is by itself, and in terms of the reference's tensors."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.calls import Slot, slots
from parity.causes.case import Case, Explanation, Judge, ran
from parity.causes.relations import exactly_related, related
from parity.pairing import align, tap_gap
from parity.trace import Tap, tap_key

MOST_JOINED = 24  # tensors of which sums of two are looked at
MOST_TAKEN = 300  # runs with another tensor in place of one
CHANCE = 5.0  # deviations of a count, beyond which it is none of chance: once in a million


def conditions(case: Case, judge: Judge) -> Iterator[Explanation]:
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


def called_otherwise(case: Case, judge: Judge) -> Iterator[Explanation]:
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


def relations(reference: Any, case: Case, judge: Judge) -> Iterator[Explanation]:
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
    if port.shape == expected.array.shape:
        yield from _masked(case, judge, port)
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
    """Whether some of the port's numbers are zero, as many as their scale tells, and all others
    scaled alike: dropout."""
    used = theirs != 0.0
    ratio = port[used] / theirs[used]
    kept = ratio[ratio != 0.0]
    if not 0 < len(kept) < len(ratio) or np.ptp(kept) > 1e-9 * abs(kept[0]) or kept[0] <= 1.0:
        return
    rate, share = 1.0 - 1.0 / float(kept[0]), 1.0 - len(kept) / len(ratio)
    if abs(share - rate) <= CHANCE * np.sqrt(rate * (1.0 - rate) / len(ratio)):
        yield f"dropout of {rate:.3g} is on: {share:.0%} of it is zero"


def _elsewhere(case: Case, judge: Judge, port: np.ndarray) -> Iterator[Explanation]:
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


def _joined(case: Case, judge: Judge, port: np.ndarray) -> Iterator[Explanation]:
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


def _masked(case: Case, judge: Judge, port: np.ndarray) -> Iterator[Explanation]:
    """A mask that the port adds to the tensor, or to one that it is given: a number for each
    position, which all channels get."""
    expected = case.expected[case.key]
    bases = {"the reference's tensor": expected.array}
    for name, tap in case.feeds.items():
        array = align(tap, expected.axes)
        if array is not None and array.shape == port.shape and array.dtype.kind == "f":
            bases[f"argument {name or 'input'}"] = array
    masks = {
        name or "input": spread
        for name, tap in case.feeds.items()
        if (spread := _spread(tap, expected.axes, port.shape)) is not None
    }
    for (name, mask), (base, array) in itertools.product(masks.items(), bases.items()):
        for text, added in ((name, mask), (f"the opposite of {name}", 1.0 - mask)):
            size = float((added * added).sum())
            factor = float(((port - array) * added).sum()) / size if size else 0.0
            if factor:
                times = "" if abs(factor - 1.0) < 1e-12 else f" times {factor:.10g}"
                found = judge.observation(f"{base} plus {text}{times}", array + factor * added)
                if found is not None:
                    yield found


def _spread(tap: Tap, axes: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """A smaller tensor in the shape of another: along the axes that it has by name, or else from
    the first on; None where it does not fit, or is as large."""
    array = tap.array.astype(np.float64)
    if array.size >= np.prod(shape) or array.ndim == 0 or tap.array.dtype.kind not in "biuf":
        return None
    named = [axis in axes for axis in tap.axes]
    if all(named) and [axes.index(one) for one in tap.axes] == sorted(map(axes.index, tap.axes)):
        sizes = [size if axis in tap.axes else 1 for axis, size in zip(axes, shape, strict=True)]
        if np.prod(sizes) == array.size and any(size > 1 for size in sizes):
            return np.broadcast_to(array.reshape(sizes), shape)
    if array.shape == shape[: array.ndim]:
        return np.broadcast_to(array.reshape(*array.shape, *[1] * (len(shape) - array.ndim)), shape)
    if array.shape == (shape[0], *shape[2:]):  # of pixels, where channels come before them
        return np.broadcast_to(np.expand_dims(array, 1), shape)
    return None


def taken_elsewhere(case: Case, judge: Judge) -> Iterator[Explanation]:
    """Other tensors of the reference in place of one that the module is given, or gets from a
    module that it calls; those that it has at hand first. All of them explain everything."""
    given = {("input", name): tap for name, tap in case.feeds.items()}
    for place, results in case.results.items():
        given |= {(place, name): tap for name, tap in results.items()}
    at_hand = {tap.key: tap for tap in given.values()}
    runs = itertools.count()
    for candidates in (at_hand, {k: t for k, t in case.trace.items() if k not in at_hand}):
        for (place, name), tap in given.items():
            for key, other in candidates.items():
                if not _replaces(other, tap) or case.over():
                    continue
                if next(runs) >= MOST_TAKEN:
                    return
                taken = Tap(tap.path, tap.kind, tap.name, tap.call, tap.axes, other.array)
                feeds, results = case.feeds, case.results
                if place == "input":
                    feeds = {**feeds, name: taken}
                else:
                    results = {**results, place: {**results[place], name: taken}}
                found = judge.explanation(
                    f"{key} is taken in place of {tap.key}",
                    ran(lambda feeds=feeds, results=results: case.run(feeds, results)),
                    in_part=True,
                )
                if found is not None and found.exact and found.complete:
                    yield found


def _replaces(other: Tap, tap: Tap) -> bool:
    """Whether a tensor is another one that could stand in the place of `tap`."""
    return (
        other.same_as is None
        and other.axes == tap.axes
        and other.array.shape == tap.array.shape
        and other.array.dtype == tap.array.dtype
        and other.array is not tap.array
        and not np.array_equal(other.array, tap.array)
    )


def _passed_through(reference: Any, case: Case, judge: Judge) -> Iterator[Explanation]:
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
        run = ran(lambda call=call, name=taps[0][0]: reference.isolate(call, {name: expected}))
        found = run.get(tap_key(call.path, "output"))
        if found is not None and found.array.shape == expected.array.shape:
            text = f"the reference's tensor passed through {call.path} besides"
            explanation = judge.observation(text, found.array)
            if explanation is not None:
                yield explanation

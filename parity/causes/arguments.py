"""Mistakes in what makes the arguments of a module, outside of every module that is compared."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parity.calls import Call, slots
from parity.causes.case import FACTORS, Case, Explanation, Judge, ran
from parity.judging.calls import children_of, feeds_of
from parity.trace import Tap, Trace, tap_key

MOST_MADE = 600  # mistakes that are tried in one call
NOTHING: frozenset[str] = frozenset()


def made_otherwise(reference: Any, case: Case, judge: Judge) -> Iterator[Explanation]:
    """The mistakes of a caller in what it makes for this module, such as tables of positions that
    the port makes within it. All of them explain everything."""
    from parity.causes import torch_mistakes

    for maker, names in _makers(reference, case):
        feeds, children = feeds_of(case.trace, maker), children_of(case.trace, maker, NOTHING)

        def run(maker: Call = maker, feeds: Any = feeds, children: Any = children) -> Trace:
            with reference.looking_through(NOTHING):
                return reference.isolate(maker, feeds, children)

        operations, mistakes = torch_mistakes.operations(run)
        scaled = (
            operation.scaled(factor)
            for operation in operations
            if operation.scalable
            for factor in FACTORS
        )
        for mistake in itertools.islice(itertools.chain(mistakes, scaled), MOST_MADE):
            if case.over():
                return
            with mistake.planted():
                taps = ran(run)
            changed = _changed(case.feeds, names, taps)
            if changed:
                found = judge.explanation(
                    mistake.text,
                    ran(lambda changed=changed: case.run({**case.feeds, **changed})),
                    in_part=True,
                )
                if found is not None and found.exact and found.complete:
                    yield found


def _makers(reference: Any, case: Case) -> Iterator[tuple[Call, dict[str, str]]]:
    """The calls that made tensors of the module's arguments themselves, and by name of the argument
    under which key an isolated run of that call shows the tensor."""
    first = {name: tap.same_as or tap.key for name, tap in case.feeds.items()}
    made: dict[int, tuple[Call, dict[str, str]]] = {}
    for call in reference.calls:
        maker = call.parent
        if maker is None:
            continue
        for part in call.arguments.values.values():
            for slot in slots(part):
                key = tap_key(call.path, "input", slot.name, call.call)
                ordinal = next(i for i, one in enumerate(maker.siblings(call.path)) if one is call)
                for name in (name for name, one in first.items() if one == key):
                    shown = tap_key(call.path, "input", slot.name, ordinal)
                    made.setdefault(id(maker), (maker, {}))[1][name] = shown
    yield from made.values()


def _changed(
    feeds: Mapping[str, Tap], names: Mapping[str, str], taps: Mapping[str, Tap]
) -> dict[str, Tap]:
    """The arguments that a mistake changes."""
    found = {}
    for name, key in names.items():
        tap, own = taps.get(key), feeds[name]
        unlike = tap is None or tap.array.shape != own.array.shape
        if not unlike and not np.array_equal(tap.array, own.array):
            found[name] = Tap(own.path, own.kind, own.name, own.call, own.axes, tap.array)
    return found

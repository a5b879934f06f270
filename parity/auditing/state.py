"""Whether a run changes the variables of the port, as batch statistics in training mode do."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.auditing.pair import Built, Inputs
from parity.calls import Recorder, flatten, is_array
from parity.judge import function_verdict
from parity.metrics import Gap, gap
from parity.trace import tap_key

KEPT = 1 << 16  # elements of a variable whose values are kept, to put them back


@dataclass(frozen=True)
class Before:
    """A variable before a run: a checksum, and its values where they are few."""

    checksum: int
    values: np.ndarray | None


def state_before(built: Built) -> dict[str, Before]:
    """All float variables of a built model, by path."""
    found = {}
    for path, variable in built.framework.variables(built.model).items():
        array = np.array(variable.read())
        found[path] = Before(_checksum(array), array if array.size <= KEPT else None)
    return found


def put_back(built: Built, before: dict[str, Before]) -> tuple[str, ...]:
    """Paths of the variables that have other values than before; those that were kept come back."""
    changed = []
    for path, variable in built.framework.variables(built.model).items():
        one = before.get(path)
        if one is not None and _checksum(variable.read()) != one.checksum:
            changed.append(path)
            if one.values is not None:
                variable.assign(one.values)
    return tuple(changed)


def others_by_default(
    built: Built, recorder: Recorder, inputs: Inputs, outputs: Any
) -> tuple[int, tuple[str, ...]]:
    """What is another after a call that does not say whether the model trains.

    Args:
        outputs: those of a run that was told not to train.
    Returns: how many variables and outputs there are, and those that are others.
    """
    called = getattr(built.framework, "by_default", None)
    if called is None:
        return 0, ()
    before = state_before(built)
    found = dict(flatten(called(recorder, inputs), is_array)[1])
    changed = put_back(built, before)
    told = dict(flatten(outputs, is_array)[1])
    verdicts = (
        function_verdict(tap_key("", "output", name), gap(found[name], array), Gap(0.0, 0.0))
        for name, array in told.items()
    )
    others = [one.key for one in verdicts if one.fails]
    return len(before) + len(told), (*changed, *others)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)

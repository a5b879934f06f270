"""Whether a run changes the variables of the port, as batch statistics in training mode do."""

import zlib
from dataclasses import dataclass

import numpy as np

from parity.auditing.pair import Built

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


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)

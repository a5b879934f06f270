"""Two sequences of layers laid beside each other: what can only be paired in one way."""

import re
from collections.abc import Callable, Hashable, Sequence


def aligned(
    theirs: Sequence[Hashable], ours: Sequence[Hashable]
) -> tuple[list[tuple[int, int]], list[int]]:
    """The pairs of indices that the longest common subsequence has, whichever way it is laid.

    Returns: these, and the indices of `theirs` that could be paired in more than one way.
    """
    rows, columns = len(theirs), len(ours)
    lengths = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        below, here = lengths[i + 1], lengths[i]
        for j in range(columns - 1, -1, -1):
            here[j] = below[j + 1] + 1 if theirs[i] == ours[j] else max(below[j], here[j + 1])

    def walk(skips_first: bool) -> dict[int, int]:
        i = j = 0
        found = {}
        while i < rows and j < columns:
            here = lengths[i][j]
            by_row, by_column = lengths[i + 1][j] == here, lengths[i][j + 1] == here
            if theirs[i] == ours[j] and not (skips_first and (by_row or by_column)):
                found[i], i, j = j, i + 1, j + 1
            elif by_row:
                i += 1
            else:
                j += 1
        return found

    early, late = walk(False), walk(True)
    pairs = [(i, j) for i, j in early.items() if late.get(i) == j]
    unsure = [i for i in range(rows) if early.get(i) != late.get(i)]
    return pairs, unsure


def misnamed(
    pairs: Sequence[tuple[str, str]], same: Callable[[int, int], bool]
) -> list[tuple[int, int]]:
    """Those pairs of pairs whose names fit better when their partners are exchanged.

    Args:
        pairs: paths of the reference and of the port.
        same: whether the partners of two pairs, by index, could be exchanged.
    """
    words = [(_words(theirs), _words(ours)) for theirs, ours in pairs]
    found = []
    for i, (theirs, ours) in enumerate(words):
        for j, (others, ours_there) in enumerate(words[:i]):
            if same(i, j) and (
                _common(theirs, ours_there) + _common(others, ours)
                > _common(theirs, ours) + _common(others, ours_there)
            ):
                found.append((j, i))
    return found


def _words(path: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1_\2", path).lower())


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words of one path begin a word of the other, or the other way round."""
    return sum(
        any(a == b if a.isdigit() else (a.startswith(b) or b.startswith(a)) for b in other)
        for a in one
    )

"""All faults of a data set together: by kind, the first of each spelled out."""

import re

from parity.errors import InputError

LISTED = 50
"""Faults of one kind that are spelled out."""

_PARTICULAR = re.compile(r"'[^']*'|\[[^\]]*\]|\b\S*\d\S*|\S*/\S*")


class Faults:
    """Collects the errors that a reader reports."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[InputError]] = {}
        self._counts: dict[str, int] = {}

    def add(self, fault: InputError) -> None:
        """Counts a fault, and keeps the first of its kind."""
        kind = _PARTICULAR.sub("N", str(fault).splitlines()[0])
        self._counts[kind] = self._counts.get(kind, 0) + 1
        kept = self._kinds.setdefault(kind, [])
        if len(kept) < LISTED:
            kept.append(fault)

    def check(self, name: str) -> None:
        """Raises the one fault that was added, or one InputError that lists them all."""
        count = sum(self._counts.values())
        if count == 1:
            raise next(iter(self._kinds.values()))[0]
        if not count:
            return
        lines = []
        for kind, kept in self._kinds.items():
            lines.append(
                f"{self._counts[kind]} of one kind:" if len(kept) > 1 else "one of its kind:"
            )
            lines += [f"  {' '.join(str(fault).split())}" for fault in kept]
            if self._counts[kind] > len(kept):
                lines.append(f"  and {self._counts[kind] - len(kept):,} more")
        raise InputError(f"{name} has {count:,} faults of {len(self._kinds)} kinds", *lines)

"""One thing that is not as it was in an earlier recording, and how much an error may grow."""

import math
from dataclasses import dataclass

from parity.judge import PRECISION_FACTOR
from reports.document import number


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was; `regression` where it is worse than rounding explains."""

    kind: str
    name: str
    before: str
    after: str
    regression: bool
    reason: str = ""


def too_large(before: float, after: float, floor: float) -> str:
    """Why `after` is more than the precision claim's rule allows over `before`, or nothing."""
    limit = PRECISION_FACTOR * max(before, floor)
    if after <= limit or math.isnan(before):
        return ""
    times = after / max(before, floor) if max(before, floor) > 0 else math.inf
    return (
        f"{number(float(times))} times what it was or its rounding floor, at most "
        f"{PRECISION_FACTOR:g} expected"
    )

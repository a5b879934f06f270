"""Where gradients show that a ReLU or a maximum let another element through than in float64.

Next to a tie no run in float32 tells which is right, and what it changes behind has no bound.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from parity.judge import Verdict, decided_otherwise, precision_verdict
from parity.metrics import Gap, gap
from parity.pairing import Comparison, align
from parity.trace import Tap, module_of


class Kinks(Comparison):
    """A comparison of gradients that also counts the elements that are zero in one run only.

    `counts` holds their number for every key that has some, `rest` the gap of its other elements.
    Numbers below the smallest normal one of the narrower dtype are neither zero nor not.
    """

    def __init__(self, reference: Mapping[str, Tap]) -> None:
        super().__init__(reference)
        self.counts: dict[str, int] = {}
        self.rest: dict[str, Gap] = {}

    def __call__(self, tap: Tap) -> None:
        super().__call__(tap)
        found = self.gaps.get(tap.key)
        if found is None or found.problem is not None or not found.max:
            return
        theirs = self._reference[tap.key]
        ours, exact = align(tap, theirs.axes), theirs.array
        least = max(float(np.finfo(one.dtype).tiny) for one in (ours, exact))
        otherwise = ((ours == 0) & (np.abs(exact) >= least)) | (
            (exact == 0) & (np.abs(ours) >= least)
        )
        count = int(np.count_nonzero(otherwise))
        if count:
            self.counts[tap.key] = count
            self.rest[tap.key] = gap(np.where(otherwise, exact, ours), exact)


def most_of(runs: Sequence[Kinks]) -> dict[str, int]:
    """The largest number of such elements in any of several runs, by key."""
    keys = {key for one in runs for key in one.counts}
    return {key: max(one.counts.get(key, 0) for one in runs) for key in keys}


def judged_behind(
    verdicts: Mapping[str, Verdict],
    port: Kinks,
    most: Mapping[str, int],
    errors: Mapping[str, Gap],
    floors: Mapping[str, Gap],
) -> dict[str, Verdict]:
    """Verdicts of `same_precision` on gradients, of which what lies behind such elements is not
    decided: where the first that fails is right but for as many as the reference's runs have there.

    Args:
        verdicts: by key.
        port: the port's run.
        most: how many elements of each gradient are zero on one side only in a run of the reference
            and in float64, at most.
        errors, floors: those of the reference in float32, by key in the order of its backward pass,
            parameters last.
    """
    order = {key: place for place, key in enumerate(errors) if ":grad_" in key}
    failing = [key for key, one in verdicts.items() if one.fails]
    first = min((key for key in failing if key in order), key=order.__getitem__, default=None)
    if first is None or first not in port.counts:
        return dict(verdicts)
    counted = port.counts[first], most.get(first, 0)
    modules: dict[str, int] = {}
    for key, place in order.items():
        modules.setdefault(module_of(key), place)
    behind = [
        key for key in failing if order.get(key, modules.get(module_of(key), -1)) >= order[first]
    ]
    rest = precision_verdict(first, port.rest[first], errors[first], floors[first])
    return dict(verdicts) | {
        key: decided_otherwise(verdicts[key], *counted, rest if key == first else None)
        for key in behind
    }

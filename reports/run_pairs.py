"""Runs of both sides that belong together, and how their scores compare."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from maskformer.metrics import statistics
from maskformer.metrics.run_scores import ImageCounts
from parity.errors import InputError
from reports.evidence import Evidence

SAME_RUN = (
    *("config", "steps", "batch", "seed", "capacity", "normalisation", "solver", "dtype"),
    "micro_batches",
)
"""Settings in which two runs agree that are compared as a pair."""

BEFORE = {"micro_batches": 1}
"""What a record means that was written before a setting was there."""


def pairs_of_runs(runs: Sequence[Evidence]) -> list[tuple[Evidence, Evidence]]:
    """(reference, port) of every two runs, one of each side, with the same settings."""
    return [
        (theirs, ours)
        for theirs, ours in itertools.product(runs, runs)
        if (theirs.result.side, ours.result.side) == ("torch", "tf")
        and all(
            theirs.result.settings.get(name, BEFORE.get(name))
            == ours.result.settings.get(name, BEFORE.get(name))
            for name in SAME_RUN
        )
    ]


@dataclass(frozen=True)
class Paired:
    """A score of two runs over the same images: ours - theirs, and whether that is equivalent."""

    difference: statistics.Interval
    equivalence: statistics.Equivalence


def compared(
    theirs: ImageCounts | None, ours: ImageCounts | None, margin: float = 0.001
) -> dict[str, Paired | statistics.Missing]:
    """The scores (0..1) of both runs' last evaluations compared over their images, by name.

    Without counts, or of other images, there is none.
    """
    if theirs is None or ours is None or theirs.names != ours.names:
        return {}
    found = {}
    for name in ours.values():
        try:
            samples = ours.samples()[name], theirs.samples()[name]
            if max(one.value for one in samples) <= margin:
                reason = f"both score below {100 * margin:g} points, which says nothing"
                found[name] = statistics.Missing(reason)
                continue
            found[name] = Paired(
                statistics.compare(*samples).interval,
                statistics.judge_equivalence(*samples, margin=margin),
            )
        except (InputError, KeyError) as error:
            found[name] = statistics.Missing(str(error).splitlines()[0])
    return found

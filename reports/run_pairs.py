"""Runs of both sides that belong together, and how their scores compare."""

import itertools
from collections.abc import Sequence
from typing import Any

from maskformer.metrics import statistics
from maskformer.metrics.run_scores import ImageCounts
from parity.errors import InputError
from reports.evidence import Evidence

SAME_RUN = ("config", "steps", "batch", "seed", "capacity", "normalisation", "solver", "dtype")
"""Settings in which two runs agree that are compared as a pair."""


def pairs_of_runs(runs: Sequence[Evidence]) -> list[tuple[Evidence, Evidence]]:
    """(reference, port) of every two runs, one of each side, with the same settings."""
    return [
        (theirs, ours)
        for theirs, ours in itertools.product(runs, runs)
        if (theirs.content["side"], ours.content["side"]) == ("torch", "tf")
        and all(
            theirs.content["settings"].get(name) == ours.content["settings"].get(name)
            for name in SAME_RUN
        )
    ]


def compared(
    theirs: ImageCounts | None, ours: ImageCounts | None, margin: float = 0.001
) -> dict[str, dict[str, Any]]:
    """By score: `difference` (an interval of ours - theirs), its `p_value`, and `equivalence`.

    In 0..1, over the images of both runs' last evaluations. A score that cannot be compared has a
    `reason` instead; without counts, or of other images, there is none.
    """
    if theirs is None or ours is None or theirs.names != ours.names:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name in ours.values():
        try:
            samples = ours.samples()[name], theirs.samples()[name]
            if samples[0].value == samples[1].value == 0:
                found[name] = {"reason": "both score 0, which says nothing"}
                continue
            one = statistics.compare(*samples)
            shown = statistics.judge_equivalence(*samples, margin=margin)
            found[name] = {
                "difference": one.interval,
                "p_value": one.p_value,
                "equivalence": shown,
            }
        except (InputError, KeyError) as error:
            found[name] = {"reason": str(error).splitlines()[0]}
    return found

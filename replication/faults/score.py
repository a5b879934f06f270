"""How many planted faults were detected, placed and explained."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from parity.claims import Claim, all_hold, claim
from parity.judge import DEFAULT
from parity.measurements import Findings, Missed
from parity.provenance import provenance
from replication.faults.lookup import benches_of
from reports.chapters.faults import FaultScoreResult

if TYPE_CHECKING:
    from parity.faults import Fault, Score
    from replication.faults.runs import Notes


def fault_score(
    chosen: "Sequence[Fault]", notes: "Notes", command: str, processes: int = 1
) -> FaultScoreResult:
    """The result of planting these faults one after another, or in several processes at once.

    `notes.case` has the configuration, the size and the catalogue; outcomes that it has are kept.
    Raises InputError where the sound port fails already.
    """
    from parity.faults import score
    from replication.faults.runs import run_faults

    config, size, catalogue = (notes.case[name] for name in ("config", "size", "catalogue"))
    begun = time.perf_counter()
    if processes > 1:
        from replication.faults.processes import run_in_processes

        run_in_processes(chosen, notes, processes)
    outcomes, sound = run_faults(chosen, config, size, benches_of(catalogue), notes)
    total = score(outcomes)
    claims = score_claims(total, command)
    return FaultScoreResult(
        config=config,
        size=size,
        verdict="holds" if all_hold(claims) else "does not hold",
        claims=tuple(claims),
        score=total,
        criteria_on_the_sound_port=sound,
        outcomes=tuple(outcomes),
        seconds=round(time.perf_counter() - begun, 1),
        command=command,
        provenance=provenance(),
    )


def score_claims(total: "Score", command: str) -> list[Claim]:
    """That every planted fault is detected, and most are placed and explained."""
    return [
        claim(
            "detected",
            "Every planted fault is detected",
            Findings(total.faults, list(total.undetected)),
            "planted faults at which no claim failed",
            command,
        ),
        *(
            claim(
                identity,
                f"Of {100 * getattr(DEFAULT, identity):g} % of the planted faults, {what}",
                Missed(total.faults, list(found), identity),
                "share of the planted faults of which this is not so",
                command,
            )
            for identity, what, found in (
                ("placed", "the place that is named first is right", total.misplaced),
                ("explained", "the first cause that is given there is right", total.unexplained),
            )
        ),
    ]
